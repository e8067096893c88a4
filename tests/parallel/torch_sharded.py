"""Checks of models whose parameters two processes hold in parts, against derivatives by torch in one process."""

import copy
import ctypes
import functools

import numpy as np
import psutil
import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import DataLoader, TensorDataset

import sharded_parameters
import specop
from parallel.torch_arrays import MESH, hosted, same_everywhere, spread
from specop_torch.groups import Group

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
PARTS = [data((5, 2)), data((3, 4), seed=2), data((1, 2), seed=3)][:COUNT]
WHOLE = [batch for part in PARTS for batch in part]


class Dense:
    """Gradient, Hessian and Gauss-Newton matrix of the mean over all samples, by torch's own derivatives."""

    def __init__(self, net, batches):
        self.net, self.batches = net, batches
        self.theta = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
        x, y = (torch.cat(arrays) for arrays in zip(*batches, strict=True))
        self.loss = lambda theta: F.cross_entropy(self.outputs(theta, x), y)
        self.gradient = torch.func.grad(self.loss)(self.theta).numpy()
        self.hessian = torch.func.jacrev(torch.func.grad(self.loss))(self.theta).numpy()
        jacobian = torch.func.jacrev(self.outputs)(self.theta, x).numpy()
        p = torch.softmax(self.outputs(self.theta, x), 1).detach().numpy()
        middle = np.einsum("ia,ab->iab", p, np.eye(3)) - np.einsum("ia,ib->iab", p, p)
        self.ggn = np.einsum("iap,iab,ibq->pq", jacobian, middle, jacobian) / len(y)
        slopes = p - np.eye(3)[y]
        rows = np.einsum("iap,ia->ip", jacobian, slopes)
        self.empirical = rows.T @ rows / len(y)

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


def fully_sharded(net):
    for layer in net.children():
        fully_shard(layer, mesh=MESH)
    return fully_shard(net, mesh=MESH)


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


def agrees_with_one_process(objective):
    exact = dense()
    n = len(exact.theta)
    own = slice(RANK * -(-n // COUNT), min((RANK + 1) * -(-n // COUNT), n))
    # The order is that of the model in one process, whatever is cut how.
    close(objective.theta, exact.theta.numpy(), 0)
    assert objective.theta.to_local().shape == (own.stop - own.start,)
    close(objective.loss(), float(exact.loss(exact.theta)))
    close(objective.gradient(), exact.gradient)
    v = np.random.default_rng(0).standard_normal(n)
    x = spread(v)
    fishers = {"empirical": objective.fisher(kind="empirical", of="terms"), "exact": objective.fisher()}
    for A, matrix in (
        (objective.hessian(), exact.hessian),
        (objective.ggn(), exact.ggn),
        (fishers["exact"], exact.ggn),
        (fishers["empirical"], exact.empirical),
    ):
        # The first product linearizes, the second one uses that.
        close(A @ x, matrix @ v)
        close(A @ x, matrix @ v)
        assert not A.notes or A.notes == ("empirical fisher of terms",), A.notes
    at = 0.5 * exact.theta.numpy()
    half = copy.deepcopy(exact.net)
    torch.nn.utils.vector_to_parameters(torch.from_numpy(at), half.parameters())
    close(objective.hessian(spread(at)) @ x, Dense(half, WHOLE).hessian @ v)


def check_fully_sharded_derivatives():
    objective = fsdp()
    agrees_with_one_process(objective)
    assert objective.samples == 14 if COUNT == 2 else 17
    # What layers gather is let go of, and the model is left as it was.
    assert not any("forward" in vars(layer) for layer in objective._autodiff.model.module.modules())


def check_tensor_parallel_derivatives():
    agrees_with_one_process(tensor_parallel())


def check_sequence_parallel_derivatives():
    # Samples' tokens are cut as well; gradients of the norm come as parts of a sum.
    plan = {
        "embedding": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
        "norm": SequenceParallel(),
        "up": ColwiseParallel(input_layouts=Shard(1)),
        "down": RowwiseParallel(),
    }
    net = parallelize_module(model(), MESH, plan)
    objective = specop.objective(net, F.cross_entropy, WHOLE, parallel=MESH)
    v = np.random.default_rng(8).standard_normal(objective.n)
    close(objective.gradient(), dense().gradient)
    close(objective.hessian() @ spread(v), dense().hessian @ v)
    close(objective.ggn() @ spread(v), dense().ggn @ v)


def _algorithms(make):
    exact, objective = dense(), make()
    size = np.abs(np.linalg.eigvalsh(exact.hessian)).max()
    eig = specop.eigsh(objective.hessian(), k=2, tol=1e-9)
    values = np.linalg.eigvalsh(exact.hessian)
    largest = values[np.argsort(-np.abs(values))[:2]]
    assert np.abs(np.sort(eig.eigenvalues) - np.sort(largest)).max() < 1e-12 * size
    rows = hosted(eig.rows)
    assert np.abs(rows @ exact.hessian - eig.eigenvalues[:, None] * rows).max() < 1e-8 * size
    same_everywhere(eig.eigenvalues, eig.residuals, rows)
    # Rows, as a file or another number of processes has them, start a run in one process.
    again = specop.eigsh(exact.hessian, k=2, tol=1e-6, v0=eig, check_multiplicity=False)
    assert again.matvecs <= 6
    ours, own = (specop.trace(A, max_matvecs=20, seed=1) for A in (objective.ggn(), exact.ggn))
    assert abs(ours.estimate - own.estimate) < 1e-12 * np.abs(np.linalg.eigvalsh(exact.ggn)).sum()
    ours, own = (specop.spectral_density(A, probes=1, steps=8, seed=1) for A in (objective.hessian(), exact.hessian))
    assert np.abs(ours.nodes - own.nodes).max() < 1e-10 * size
    x = objective.solve(objective.gradient(), matrix="ggn", damping=0.3, rtol=1e-12).x
    close(x, np.linalg.solve(exact.ggn + 0.3 * np.eye(len(exact.theta)), exact.gradient), 1e-10)
    same_everywhere(ours.nodes, hosted(x))


def check_fully_sharded_algorithms():
    _algorithms(fsdp)


def check_tensor_parallel_algorithms():
    _algorithms(tensor_parallel)


def check_parts_of_the_parameters():
    exact, objective = dense(), fsdp()
    place = objective.slices["up.weight"]
    part = objective.restrict("up")
    assert part.names == ("up.weight", "up.bias")
    inside = slice(place.start, objective.slices["up.bias"].stop)
    v = np.random.default_rng(1).standard_normal(part.n)
    close(part.hessian() @ spread(v), exact.hessian[inside, inside] @ v)
    tree = objective.unflatten(objective.theta)
    assert isinstance(tree["up.weight"], DTensor) and tree["up.weight"].placements == (Shard(0),)
    assert torch.equal(tree["up.weight"].full_tensor(), exact.net.up.weight)
    close(objective.flatten(tree), exact.theta.numpy(), 0)
    blocks = objective.hessian().block_diagonal()
    x = np.random.default_rng(2).standard_normal(len(exact.theta))
    expected = np.zeros_like(x)
    for name in ("embedding", "norm", "up", "down"):
        where = [place for key, place in objective.slices.items() if key.startswith(name)]
        own = slice(where[0].start, where[-1].stop)
        expected[own] = exact.hessian[own, own] @ x[own]
    close(blocks @ spread(x), expected)


def check_differences_of_gradients():
    exact, objective = dense(), fsdp()
    A = objective.finite_difference_hessian()
    v = np.random.default_rng(3).standard_normal(len(exact.theta))
    assert A.precision < 1e-6
    close(A @ spread(v), exact.hessian @ v, 1e-6)


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
    # vector and a product change hands once each.
    layers, batches = 4, 2
    assert sum("gather" in name for name in calls) == 3 * layers * batches, calls
    assert sum("scatter" in name for name in calls) == 2 * layers * batches, calls
    assert sum("all_to_all" in name for name in calls) == 2 * batches, calls


def check_a_model_that_moves():
    sharded = fully_sharded(model())
    params = dict(sharded.named_parameters())
    objective = specop.objective(bare(), F.cross_entropy, PARTS[RANK], params=params, parallel=MESH)
    A = objective.hessian()
    A @ objective.theta
    if RANK == 0:
        with torch.no_grad():
            params["up.weight"].to_local().mul_(2.0)
    # All processes see what has changed in one of them.
    with pytest.raises(specop.errors.ParametersChangedError):
        A @ objective.theta
    moved = model()
    with torch.no_grad():
        moved.up.weight[: -(-8 // COUNT)] *= 2.0
    v = np.random.default_rng(5).standard_normal(objective.n)
    close(objective.hessian() @ spread(v), Dense(moved, WHOLE).hessian @ v)
    assert all(one.grad is None for one in params.values())


def refused(match, call):
    with pytest.raises(ERROR, match=match):
        call()


def check_refusals_of_models():
    whole, batches = PARTS[RANK], {"criterion": F.cross_entropy, "data": PARTS[RANK]}
    flat = FullyShardedDataParallel(model(), process_group=MESH.get_group(), device_id=torch.device("cpu"))
    hooked = fully_sharded(model())
    params = dict(hooked.named_parameters())
    plain = bare()
    for parallel in (False, True, MESH):
        refused("FSDP1", lambda: specop.objective(flat, F.cross_entropy, whole, parallel=parallel))  # noqa: B023
        refused("FSDP2.*params=dict", lambda: specop.objective(hooked, F.cross_entropy, whole, parallel=parallel))  # noqa: B023
    refused("pass parallel=mesh", lambda: specop.objective(plain, **batches, params=params, parallel=True))
    refused(
        "module brings its own|parallel=mesh", lambda: specop.objective(plain, **batches, params=params, parallel=False)
    )
    few = {name: one for name, one in params.items() if name != "up.bias"}
    refused(
        "differ in 1 parameters, such as 'up.bias'",
        lambda: specop.objective(plain, **batches, params=few, parallel=MESH),
    )
    full = {name: one.full_tensor() for name, one in params.items()}
    refused("none of params is a DTensor", lambda: specop.objective(plain, **batches, params=full, parallel=MESH))
    two = init_device_mesh("cpu", (COUNT, 1), mesh_dim_names=("data", "tensor"))
    refused("mesh of one dimension", lambda: specop.objective(plain, **batches, params=params, parallel=two))
    over_two = {
        name: distribute_tensor(one.full_tensor().detach(), two, [Shard(0), Replicate()])
        for name, one in params.items()
    }
    refused("lies on.*one mesh", lambda: specop.objective(plain, **batches, params=over_two, parallel=MESH))
    cut = parallelize_module(model(), MESH, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    refused("pass parallel=mesh", lambda: specop.objective(cut, **batches, parallel=True))
    refused("Pass parallel=mesh", lambda: specop.objective(cut, **batches, parallel=False))
    refused("fixed_randomness", lambda: fsdp(fixed_randomness=0))


def check_refusals_of_data():
    refused("2 and 1.* batches", lambda: fsdp(given=PARTS[0][: 2 - min(RANK, 1)]))
    refused("as given", lambda: fsdp(batches="as given"))
    refused("same first batch", lambda: fsdp(given=PARTS[0]).loss())
    refused("different batches", lambda: tensor_parallel(given=PARTS[RANK]).loss())
    shuffled = DataLoader(TensorDataset(*PARTS[RANK][1]), batch_size=9, shuffle=True)
    refused("shuffles", lambda: fsdp(given=shuffled))
    refused("does not say how many", lambda: fsdp(given=Endless()))
    coupled = lambda z, y: F.cross_entropy(z - z.mean(0), y)  # noqa: E731
    refused("mean over its halves", lambda: fsdp(criterion=coupled).loss())
    objective = fsdp()
    refused("gradients of single samples", lambda: next(objective.per_sample_gradients()))
    refused("not available for sharded", lambda: objective.fisher(kind="mc") @ objective.theta)
    refused("not available for sharded", lambda: objective.fisher(kind="empirical", of="samples") @ objective.theta)
    refused("cannot be taken out", lambda: objective.subset([0, 1]).loss())


class Endless:
    def __iter__(self):
        return iter(PARTS[RANK])


def check_an_error_of_one_is_an_error_of_all():
    def failing(outputs, y):
        if RANK == COUNT - 1:
            raise KeyError("no such label")
        return F.cross_entropy(outputs, y)

    with pytest.raises(KeyError, match="no such label"):
        fsdp(criterion=failing).loss()
    labels = [(x, y if RANK else y.fill_(-100)) for x, y in data((3,), seed=RANK)]
    with pytest.raises((ERROR, specop.errors.NonFiniteError)):
        fsdp(given=labels).loss()
    # The group can be used further.
    close(fsdp().gradient(), dense().gradient)


def check_a_cut_along_another_dimension():
    net = model()
    other = lambda one: Shard(one.ndim - 1) if one.shape[-1] % COUNT == 0 else Shard(0)  # noqa: E731
    for layer in net.children():
        fully_shard(layer, mesh=MESH, shard_placement_fn=other)
    params = dict(fully_shard(net, mesh=MESH).named_parameters())
    assert params["down.weight"].placements == ((Shard(1),) if 8 % COUNT == 0 else (Shard(0),))
    ours = specop.objective(bare(), F.cross_entropy, PARTS[RANK], params=params, parallel=MESH)
    v = np.random.default_rng(6).standard_normal(ours.n)
    close(ours.theta, dense().theta.numpy(), 0)
    close(ours.hessian() @ spread(v), dense().hessian @ v)


def check_models_that_differ():
    class Normed(Words):
        def __init__(self):
            super().__init__()
            self.statistics = nn.BatchNorm1d(5).eval()

        def forward(self, x):
            return super().forward(x) + self.statistics(self.embedding(x).mean(1))[:, :3]

    sharded = fully_sharded(model(kind=Normed))
    own = model(kind=Normed)
    own.statistics.running_mean += RANK
    objective = specop.objective(
        own, F.cross_entropy, PARTS[RANK], params=dict(sharded.named_parameters()), parallel=MESH
    )
    refused("differ in 1 buffers.*'statistics.running_mean'", objective.loss)


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


def check_the_example():
    found = sharded_parameters.main(width=6, count=40, steps=3)
    torch.manual_seed(0)
    net = sharded_parameters.network(6)
    x, y = sharded_parameters.spirals(40)
    assert found.losses[0] == pytest.approx(F.cross_entropy(net(x), y).item(), rel=1e-5)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert found.losses[1] == pytest.approx(F.cross_entropy(net(x), y).item(), rel=1e-4)
    own = specop.objective(net, F.cross_entropy, (x, y), parallel=False)
    values = np.linalg.eigvalsh(hosted(own.hessian().to_dense()).astype(float))
    largest = values[np.argsort(-np.abs(values))[:2]]
    assert np.allclose(np.sort(found.eigen.eigenvalues), np.sort(largest), rtol=1e-3)
    assert abs(found.trace.estimate - values.sum()) < 5 * found.trace.standard_error + 1e-3 * abs(values).sum()


def check_jacobians():
    # Outputs come batch by batch, and in a batch process by process; those of tensor parallelism as in one process.
    together = [part[number] for number in range(2) for part in PARTS]
    for objective, batches in ((fsdp(), together), (tensor_parallel(), WHOLE)):
        x = torch.cat([x for x, _ in batches])
        jacobian = torch.func.jacrev(dense().outputs)(dense().theta, x).reshape(-1, objective.n).numpy()
        J = objective.jacobian()
        assert J.shape == jacobian.shape
        rng = np.random.default_rng(7)
        v, u = rng.standard_normal(objective.n), rng.standard_normal(len(jacobian))
        for _ in range(2):
            close(J @ spread(v), jacobian @ v)
            close(J.T @ spread(u), jacobian.T @ u)
