"""Checks of what layers of a fully sharded model may be, and of what running them piece by piece sends and holds."""

import ctypes

import numpy as np
import psutil
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

import specop
from parallel.torch_arrays import MESH, spread
from parallel.torch_shards import COUNT, PARTS, RANK, WHOLE, Words, bare, close, fsdp, model
from specop_torch.groups import Group


class Unusual(Words):
    """Parameters that are read outside of the layer that holds them, and layers that are more than a function."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(5, 1, batch_first=True)
        self.shift = nn.Parameter(torch.ones(5))
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.normed = weight_norm(nn.Linear(5, 5))
        self.memory = Remembering(5, 5)
        self.recurrent = nn.GRU(5, 5, batch_first=True)
        self.statistics = nn.BatchNorm1d(5).eval()

    def forward(self, x):
        x = self.embedding(x) + self.shift
        x = x + self.attention(x, x, x)[0] + self.memory(x) + self.recurrent(x)[0]
        x = x + F.relu_(self.statistics(self.normed(x).transpose(1, 2))).transpose(1, 2)
        return F.linear(self.head(self.norm(x)).mean(1), self.down.weight[:, :7]) + self.memory.kept


class Remembering(nn.Linear):
    """Keeps a part of what it computes in an attribute that others read."""

    def forward(self, x):
        y = super().forward(x)
        self.kept = y.mean((1, 2))[:, None]
        return y


def check_layers_that_are_more_than_functions():
    net = model(kind=Unusual).eval()
    for name in ("up.weight", "up.bias", "down.bias"):
        net.get_parameter(name).requires_grad_(False)
    # One group: a tied weight must not be cut twice.
    sharded = fully_shard(copy_of(net, Unusual), mesh=MESH)
    plain = copy_of(net, Unusual)
    with torch.no_grad():
        for one in plain.parameters():
            one.fill_(torch.nan)
    params = dict(sharded.named_parameters())
    ours = specop.objective(plain, F.cross_entropy, PARTS[RANK], params=params, parallel=MESH)
    own = specop.objective(net, F.cross_entropy, WHOLE, parallel=False)
    assert ours.names == own.names
    v = np.random.default_rng(4).standard_normal(own.n)
    close(ours.gradient(), own.gradient().numpy())
    A = ours.hessian()
    close(A @ spread(v), (own.hessian() @ torch.from_numpy(v)).numpy())
    close(A @ spread(v), (own.hessian() @ torch.from_numpy(v)).numpy())
    assert A.notes == ()
    whole = ours._autodiff.model.layers.whole
    assert {"shift", "attention.out_proj.weight", "memory.weight", "down.weight", "normed.bias"} <= whole
    # Only those that have to be: a tied weight is gathered by each of its layers.
    assert "embedding.weight" not in whole and "recurrent.weight_ih_l0" not in whole


def copy_of(net, kind):
    made = model(kind=kind).eval()
    made.load_state_dict(net.state_dict())
    for (_, one), (_, other) in zip(made.named_parameters(), net.named_parameters(), strict=True):
        one.requires_grad_(other.requires_grad)
    return made


def check_collectives_of_a_product():
    objective = fsdp()
    A, x = objective.hessian(), objective.theta
    calls = []
    own = Group._call

    def counted(group, collective, *arguments):
        calls.append(collective.__name__)
        own(group, collective, *arguments)

    with A.session():
        A @ x
        A @ x
        Group._call = counted
        try:
            A @ x
        finally:
            Group._call = own
    # Two batches. A layer gathers its parameters twice and the vector once, and adds up two parts of the product; a
    # vector and a product change hands once each. Before it, and after each batch, each
    # process tells where it is.
    layers, batches = 4, 2
    assert sum("gather" in name for name in calls) == 3 * layers * batches + batches + 1, calls
    assert sum("scatter" in name for name in calls) == 2 * layers * batches, calls
    assert sum("all_to_all" in name for name in calls) == 2 * batches, calls


def deep():
    return nn.Sequential(*(layer for _ in range(8) for layer in (nn.Linear(512, 512), nn.Tanh())))


def peak(mesh, samples):
    """Bytes that a product takes at most, with the parameters, in units of all parameters."""
    net = bare(deep)
    for layer in net[::2]:
        fully_shard(layer, mesh=mesh)
    fully_shard(net, mesh=mesh).to_empty(device="cpu")
    with torch.no_grad():
        for one in net.parameters():
            one.to_local().normal_(std=0.05)
    torch.manual_seed(RANK)
    batch = torch.randn(samples, 512), torch.randn(samples, 512)
    params = dict(net.named_parameters())
    objective = specop.objective(bare(deep), F.mse_loss, batch, params=params, parallel=mesh)
    # The check of a first product takes more, once.
    objective._autodiff.accepts_stopped_gradients = True
    A, v = objective.hessian(), objective.theta
    A @ v
    A @ v
    before = psutil.Process().memory_info().rss
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    A @ v
    with open("/proc/self/status") as status:
        most = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
    held = sum(one.to_local().nbytes for one in params.values()) + A.products[0].held_bytes
    return (most - before + held) / (4 * objective.n)


def check_memory_falls_with_the_processes():
    # Blocks of memory go back at once: what is measured is what is held.
    ctypes.CDLL(None).mallopt(-3, 65_536)
    alone = init_device_mesh("cpu", (COUNT, 1), mesh_dim_names=("other", "own"))["own"]
    one, several = peak(alone, 8), peak(MESH, 8 // COUNT)
    print(f"peak of a product, in n: {one:.2f} in one process, {several:.2f} in each of {COUNT}", flush=True)
    # A third in four processes; in two half of it and the layer that is whole, give or take what the allocator holds.
    assert several < 0.75 * one, (one, several)
