"""A small model whose parameters two processes hold in parts, in two ways, and its derivatives by torch in one."""

import functools

import numpy as np
import pytest
import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional as F

import specop
from parallel.torch_arrays import MESH, hosted, of_one

RANK, COUNT = distributed.get_rank(), distributed.get_world_size()
ERROR = specop.errors.InvalidInputError


class Words(nn.Module):
    """A norm before layers that are cut, and sizes that two does not divide."""

    def __init__(self):
        super().__init__()
        self.embedding, self.norm = nn.Embedding(7, 5), nn.LayerNorm(5)
        self.up, self.down = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.embedding(x)
        return self.down(torch.tanh(self.up(self.norm(x)))).mean(1)


def model(seed=0, kind=Words):
    torch.manual_seed(seed)
    return kind().double()


def data(sizes, seed=1):
    torch.manual_seed(seed)
    return [(torch.randint(7, (size, 4)), torch.randint(3, (size,))) for size in sizes]


# The batches that each process reads, of 5 and 2 samples, and of 3 and 4.
PARTS = [data((5, 2)), data((3, 4), seed=2), data((1, 2), seed=3), data((2, 1), seed=4)][:COUNT]
WHOLE = [batch for part in PARTS for batch in part]
# The batches as all processes read them.
UNION = [tuple(torch.cat(arrays) for arrays in zip(*parts, strict=True)) for parts in zip(*PARTS, strict=True)]


class Dense:
    """Gradient, Hessian and Gauss-Newton matrix of the mean over all samples, by torch's own derivatives."""

    def __init__(self, net, batches):
        self.net, self.batches = net, batches
        self.theta = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
        x, y = (torch.cat(arrays) for arrays in zip(*batches, strict=True))
        self.loss = lambda theta: F.cross_entropy(self.outputs(theta, x), y)
        self.gradient, self.hessian, self.ggn, self.empirical = of_one(lambda: self._derivatives(x, y))

    def _derivatives(self, x, y):
        gradient = torch.func.grad(self.loss)(self.theta).numpy()
        hessian = torch.func.jacrev(torch.func.grad(self.loss))(self.theta).numpy()
        jacobian = torch.func.jacrev(self.outputs)(self.theta, x).numpy()
        p = torch.softmax(self.outputs(self.theta, x), 1).detach().numpy()
        middle = np.einsum("ia,ab->iab", p, np.eye(3)) - np.einsum("ia,ib->iab", p, p)
        ggn = np.einsum("iap,iab,ibq->pq", jacobian, middle, jacobian) / len(y)
        slopes = p - np.eye(3)[y]
        rows = np.einsum("iap,ia->ip", jacobian, slopes)
        return gradient, hessian, ggn, rows.T @ rows / len(y)

    def outputs(self, theta, x):
        sizes = [one.numel() for one in self.net.parameters()]
        named = zip(self.net.named_parameters(), theta.split(sizes), strict=True)
        values = {name: piece.view(one.shape) for (name, one), piece in named}
        return torch.func.functional_call(self.net, values, (x,))


@functools.cache
def dense():
    return Dense(model(), WHOLE)


def bare(kind=Words):
    with torch.device("meta"):
        return kind()


def fully_sharded(net, mesh=MESH):
    for layer in net.children():
        fully_shard(layer, mesh=mesh)
    return fully_shard(net, mesh=mesh)


def fsdp(given=None, criterion=F.cross_entropy, **options):
    """The objective of a fully sharded model, whose layers are cut, and which reads its part of the data."""
    params = dict(fully_sharded(model()).named_parameters())
    return specop.objective(bare(), criterion, given or PARTS[RANK], params=params, parallel=MESH, **options)


def tensor_parallel(given=WHOLE):
    plan = {
        "embedding": RowwiseParallel(input_layouts=Replicate()),
        "up": ColwiseParallel(),
        "down": RowwiseParallel(),
    }
    net = parallelize_module(model(), MESH, plan)
    return specop.objective(net, F.cross_entropy, given, parallel=MESH)


def close(found, expected, tolerance=1e-12):
    error, size = np.abs(hosted(found) - expected).max(), np.abs(expected).max()
    assert error <= tolerance * size, (error, size)


def refused(match, call):
    with pytest.raises(ERROR, match=match):
        call()
