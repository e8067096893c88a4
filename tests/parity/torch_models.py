"""The models of `problems` in PyTorch, as functions of a list of tensors."""

import numpy as np
import torch
from torch.nn import functional as F

import specop
from parity.problems import HEADS, WIDTH


def objective(problem, dtype, *, data=None, scaled=None, **keywords):
    """Objective with the weights of the problem in this dtype, of its data or others; `scaled` multiplies outputs."""
    params = [array(weight, dtype) for weight in problem.weights.values()]
    data = [(array(x, dtype), array(y, dtype)) for x, y in problem.batches] if data is None else data
    outputs, criterion = MODELS[problem.name]
    function = outputs if scaled is None else lambda params, batch: scaled() * outputs(params, batch)
    return specop.objective(function, criterion, data, params=params, likelihood=problem.likelihood, **keywords)


def derivatives(problem, x, y):
    """Outputs z, their Jacobian, and the Hessians of the loss in parameters and in z, by torch.func in float64."""
    outputs, criterion = MODELS[problem.name]
    shapes = [weight.shape for weight in problem.weights.values()]
    theta, batch = torch.from_numpy(problem.vector), (array(x, "float64"), array(y, "float64"))

    def at(theta):
        pieces = theta.split([int(np.prod(shape)) for shape in shapes])
        return outputs([piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)], batch)

    # Fused attention has no second derivative.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        z = at(theta)
        hessian = torch.func.jacrev(torch.func.grad(lambda theta: criterion(at(theta), batch[1])))(theta)
        jacobian = torch.func.jacrev(at)(theta).reshape(z.numel(), -1)
    curvature = torch.func.jacrev(torch.func.grad(lambda z: criterion(z, batch[1])))(z)
    return z, jacobian, hessian, curvature.reshape(z.numel(), -1)


def slope(problem, z, y):
    """Gradient of the loss in the outputs z, at labels y."""
    _, criterion = MODELS[problem.name]
    return torch.func.grad(lambda z: criterion(z, array(y, "float64")))(torch.from_numpy(z))


def array(values, dtype):
    tensor = torch.from_numpy(np.array(values))
    return tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor.long()


def exhaust_memory():
    """Ask for more memory than there can be."""
    torch.empty(2**60)


def cross_entropy(logits, labels):
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())


squared_error, tanh, binary_cross_entropy = F.mse_loss, torch.tanh, F.binary_cross_entropy_with_logits


def centred(x):
    """Without the mean over samples."""
    return x - x.mean(0)


def swapped(x):
    """With the last two dimensions in the other order."""
    return x.transpose(-1, -2)


def mlp(params, batch):
    w1, b1, w2, b2, w3, b3 = params
    x, _ = batch
    x = torch.tanh(x @ w1 + b1)
    x = F.softplus(x @ w2 + b2)
    return x @ w3 + b3


def cnn(params, batch):
    kernel1, bias1, kernel2, bias2, dense, bias = params
    x, _ = batch
    x = F.conv2d(x.permute(0, 3, 1, 2), kernel1.permute(3, 2, 0, 1), bias1, padding=1)
    x = F.avg_pool2d(torch.tanh(x), 2)
    x = F.gelu(F.conv2d(x, kernel2.permute(3, 2, 0, 1), bias2, padding=1), approximate="tanh")
    return x.permute(0, 2, 3, 1).flatten(1) @ dense + bias


def transformer(params, batch):
    embedding, positions, scale1, shift1, qkv, out, scale2, shift2, up, up_bias, down, down_bias, head = params
    tokens, _ = batch
    x = F.embedding(tokens, embedding) + positions
    m, length, _ = x.shape
    normed = F.layer_norm(x, (WIDTH,), scale1, shift1)
    q, k, v = (part.view(m, length, HEADS, -1).transpose(1, 2) for part in (normed @ qkv).chunk(3, -1))
    attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + attended.transpose(1, 2).reshape(m, length, WIDTH) @ out
    normed = F.layer_norm(x, (WIDTH,), scale2, shift2)
    x = x + F.gelu(normed @ up + up_bias, approximate="tanh") @ down + down_bias
    return x @ head


def wide_and_deep(params, batch):
    table1, table2, w1, b1, w2, b2, wide1, wide2, wide_dense = params
    x, _ = batch
    i, j, dense = x[:, 0].long(), x[:, 1].long(), x[:, 2:]
    deep = torch.cat([F.embedding(i, table1), F.embedding(j, table2), dense], dim=1)
    deep = (F.softplus(deep @ w1 + b1) @ w2 + b2)[:, 0]
    return deep + wide1[i] + wide2[j] + dense @ wide_dense


# Outputs and criterion.
MODELS = {
    "mlp": (mlp, cross_entropy),
    "cnn": (cnn, cross_entropy),
    "transformer": (transformer, cross_entropy),
    "wide and deep": (wide_and_deep, binary_cross_entropy),
    "regression": (mlp, squared_error),
}
