"""What the curvature of `problems` is, by PyTorch's own autograd in float64, without specop."""

import functools

import torch

from parity import torch_models
from parity.cases import objective, operator
from parity.problems import PROBLEMS


@functools.cache
def reference(name):
    """Loss, gradient and dense Hessian of the mean over all samples."""
    params, passes, criterion = forward(name)
    samples = sum(len(z) for z, _ in passes)
    loss = sum(criterion(z, y) * len(z) / samples for z, y in passes)
    gradient = flat(torch.autograd.grad(loss, params, create_graph=True))
    unit = torch.eye(len(gradient), dtype=torch.float64)
    rows = torch.autograd.grad(gradient, params, unit, is_grads_batched=True)
    return loss.item(), gradient.detach().numpy(), torch.cat([block.flatten(1) for block in rows], dim=1).numpy()


@functools.cache
def matrices(name):
    """The same of curvature matrices, by their definitions; of the sampled Fisher matrix what torch's adapter makes."""
    params, passes, criterion = forward(name)
    samples = sum(len(z) for z, _ in passes)
    jacobians, rows, ggn = [], [], 0
    for z, y in passes:
        unit = torch.eye(z.numel(), dtype=torch.float64).reshape(-1, *z.shape)
        parts = torch.autograd.grad(z, params, unit, is_grads_batched=True)
        J = torch.cat([part.flatten(1) for part in parts], dim=1)
        share, z = len(z) / samples, z.detach()
        H = torch.autograd.functional.hessian(lambda z, y=y: criterion(z, y), z).reshape(z.numel(), z.numel())
        r = torch.autograd.functional.jacobian(lambda z, y=y: criterion(z, y), z)
        ggn += share * J.T @ H @ J
        rows.append(share * samples * (r.reshape(len(z), -1, 1) * J.reshape(len(z), -1, J.shape[1])).sum(1))
        jacobians.append(J)
    rows = torch.cat(rows)
    found = {"ggn": ggn, "fisher": ggn, "empirical": rows.T @ rows / samples, "rows": rows}
    found |= {"jacobian": torch.cat(jacobians), "mc": operator(objective("torch", name, "float64"), "mc").to_dense()}
    return {kind: matrix.numpy() for kind, matrix in found.items()}


def forward(name):
    """Leaves, outputs and labels of each batch, and the criterion."""
    problem = PROBLEMS[name]
    outputs, criterion = torch_models.MODELS[name]
    params = [torch_models.array(weight, "float64").requires_grad_() for weight in problem.weights.values()]
    batches = [tuple(torch_models.array(part, "float64") for part in batch) for batch in problem.batches]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return params, [(outputs(params, batch), batch[1]) for batch in batches], criterion


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])
