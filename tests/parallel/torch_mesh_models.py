"""A small block of a transformer on a mesh of two by two, fully_shard over tensor parallel, and its derivatives."""

import numpy as np
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional as F

import specop
from parallel.torch_arrays import spread
from parallel.torch_shards import Dense, close, data

RANK = distributed.get_rank()
MESH = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))


class Block(nn.Module):
    """Sizes that two does not divide, or not twice: 7 words, 5 channels, 6 hidden ones and 3 classes."""

    def __init__(self):
        super().__init__()
        self.embedding, self.norm = nn.Embedding(7, 5), nn.LayerNorm(5)
        self.up, self.down = nn.Linear(5, 6), nn.Linear(6, 5)
        self.last, self.head = nn.LayerNorm(5), nn.Linear(5, 3)

    def forward(self, x):
        x = self.embedding(x)
        x = x + self.down(torch.tanh(self.up(self.norm(x))))
        return self.head(self.last(x)).mean(1)


# Norms and the head are whole, and so is the bias that is added to a sum.
PLAN = {
    "embedding": RowwiseParallel(input_layouts=Replicate()),
    "up": ColwiseParallel(),
    "down": RowwiseParallel(),
}
PARTS = [data((5, 2)), data((3, 4), seed=2), data((1, 2), seed=3), data((2, 1), seed=4)]


def model(kind=Block):
    torch.manual_seed(0)
    return kind().double()


def sharded(plan=PLAN, kind=Block, mesh=MESH):
    """The model as it is trained: cut along one dimension of the mesh, and what is left along the other one."""
    net = parallelize_module(model(kind), mesh["tensor"], plan)
    for layer in net.children():
        fully_shard(layer, mesh=mesh["data"])
    return fully_shard(net, mesh=mesh["data"])


def bare(plan=PLAN, kind=Block, mesh=MESH):
    with torch.device("meta"):
        net = kind()
    return parallelize_module(net, mesh["tensor"], plan)


def parted(given=None, criterion=F.cross_entropy, plan=PLAN, kind=Block, mesh=MESH, net=None, params=None):
    """The objective of all processes; those of one line of tensor parallelism read the same part of the data."""
    params = params or dict(sharded(plan, kind, mesh).named_parameters())
    given = given or PARTS[mesh.get_local_rank("data")]
    return specop.objective(net or bare(plan, kind, mesh), criterion, given, params=params, parallel=mesh)


def one_process(parts=2, kind=Block, batches=2):
    """Derivatives by torch in one process that has as many parts of the data."""
    return Dense(model(kind), [batch for part in PARTS[:parts] for batch in part[:batches]])


def agrees(objective, exact, fishers=False):
    close(objective.theta, exact.theta.numpy(), 0)
    close(objective.loss(), float(exact.loss(exact.theta)))
    close(objective.gradient(), exact.gradient)
    v = np.random.default_rng(0).standard_normal(objective.n)
    matrices = [(objective.hessian(), exact.hessian), (objective.ggn(), exact.ggn)]
    if fishers:
        matrices += [
            (objective.fisher(), exact.ggn),
            (objective.fisher(kind="empirical", of="terms"), exact.empirical),
        ]
    for A, matrix in matrices:
        # The first product linearizes, the second one uses that.
        close(A @ spread(v), matrix @ v)
        close(A @ spread(v), matrix @ v)
