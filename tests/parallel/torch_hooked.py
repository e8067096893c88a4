"""Checks of models that run inside of fully_shard's hooks, by gradients alone, against derivatives in one process."""

import numpy as np
import torch
from torch import distributed, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn import functional as F

import specop
from parallel.torch_arrays import MESH, hosted, same_everywhere, spread
from parallel.torch_shards import PARTS, WHOLE, Dense, close, dense, fsdp, fully_sharded, model, refused

RANK = distributed.get_rank()


def hooked(net=None, criterion=F.cross_entropy, given=None, **options):
    net = fully_sharded(model()) if net is None else net
    return specop.objective(net, criterion, given or PARTS[RANK], parallel=MESH, **options)


def check_gradients_and_differences():
    exact, net = dense(), fully_sharded(model())
    objective = hooked(net)
    before = [one.to_local().clone() for one in net.parameters()]
    # What training has accumulated, and a forward pass that leaves the root's parameters whole.
    F.cross_entropy(net(PARTS[RANK][0][0]), PARTS[RANK][0][1]).backward()
    kept = [one.grad.to_local().clone() for one in net.parameters()]
    net.set_requires_gradient_sync(False)
    net(PARTS[RANK][0][0])
    close(objective.theta, exact.theta.numpy(), 0)
    close(objective.loss(), float(exact.loss(exact.theta)))
    close(objective.gradient(), exact.gradient)
    at = model()
    with torch.no_grad():
        torch.nn.utils.vector_to_parameters(0.5 * exact.theta, at.parameters())
    close(objective.gradient(spread(0.5 * exact.theta.numpy())), Dense(at, WHOLE).gradient)
    H = objective.finite_difference_hessian()
    v = np.random.default_rng(0).standard_normal(objective.n)
    assert H.precision < 1e-6
    close(H @ spread(v), exact.hessian @ v, 10 * H.precision)
    eigen = specop.eigsh(H, k=1, tol=1e-2)
    values = np.linalg.eigvalsh(exact.hessian)
    assert np.abs(eigen.eigenvalues[0] - values[np.argmax(np.abs(values))]) < 1e-2 * np.abs(values).max()
    assert eigen.converged
    assert "by differences of gradients" in eigen.notes
    same_everywhere(eigen.eigenvalues, hosted(objective.gradient()))
    assert all(torch.equal(one.to_local(), old) for one, old in zip(net.parameters(), before, strict=True))
    assert all(torch.equal(one.grad.to_local(), old) for one, old in zip(net.parameters(), kept, strict=True))
    # Training goes on as it was set.
    assert not net.up._get_fsdp_state()._fsdp_param_groups[0].reduce_grads
    part = objective.restrict("up")
    where = slice(objective.slices["up.weight"].start, objective.slices["up.bias"].stop)
    close(part.gradient(), exact.gradient[where])


def check_what_the_hooks_hide_is_refused():
    objective = hooked()
    for call in (
        lambda: objective.hessian() @ objective.theta,
        lambda: objective.ggn() @ objective.theta,
        lambda: objective.fisher() @ objective.theta,
        objective.jacobian,
        lambda: specop.eigsh(objective.hessian(), k=1),
    ):
        refused("finite_difference_hessian.*params=dict", call)
    refused("no gradient of single samples", lambda: next(objective.per_sample_gradients()))
    refused("no importance", objective.importance)
    close(objective.subset([1, 2]).gradient(), hosted(fsdp().subset([1, 2]).gradient()))
    refused("same first batch", lambda: hooked(given=PARTS[0]).loss())
    coupled = lambda z, y: F.cross_entropy(z - z.mean(0), y)  # noqa: E731
    refused("mean over its halves", lambda: hooked(criterion=coupled).loss())
    net = fully_sharded(model())
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    net.up.weight.register_post_accumulate_grad_hook(lambda _: optimizer.step())
    refused("'up.weight', have hooks", lambda: hooked(net).gradient())
    net = fully_sharded(model())
    net.up.set_all_reduce_hook(lambda reduced: reduced.mul_(3.0))
    refused("differences of the loss", lambda: hooked(net).gradient())


def check_a_model_in_mixed_precision():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 3))

        def forward(self, x):
            return self.layers(x)

    torch.manual_seed(0)
    net, twin = Wide(), Wide()
    twin.load_state_dict(net.state_dict())
    torch.manual_seed(1 + RANK)
    batch = torch.randn(8, 16), torch.randint(3, (8,))
    fully_shard(net, mesh=MESH, mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32))
    objective = hooked(net, given=batch)
    # Rounded to 16 bit inside, and it says so.
    assert objective.finite_difference_hessian().precision >= torch.finfo(torch.bfloat16).eps
