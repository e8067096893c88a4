"""Checks of what is refused, in all processes, where two hold the parameters in parts."""

import time
import weakref
from datetime import timedelta

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import specop
from parallel.launch import place
from parallel.torch_arrays import MESH, hosted
from parallel.torch_shards import (
    COUNT,
    ERROR,
    PARTS,
    RANK,
    WHOLE,
    Words,
    bare,
    close,
    data,
    dense,
    fsdp,
    fully_sharded,
    model,
    refused,
    tensor_parallel,
)
from specop_torch.groups import Group


def check_refusals_of_models():
    whole, batches = PARTS[RANK], {"criterion": F.cross_entropy, "data": PARTS[RANK]}
    flat = FullyShardedDataParallel(model(), process_group=MESH.get_group(), device_id=torch.device("cpu"))
    hooked = fully_sharded(model())
    params = dict(hooked.named_parameters())
    plain = bare()
    for parallel in (False, True, MESH):
        refused("FSDP1", lambda: specop.objective(flat, F.cross_entropy, whole, parallel=parallel))  # noqa: B023
    for parallel in (False, True):
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
    refused("lies on.*one mesh", lambda: specop.objective(plain, **batches, params=params, parallel=two))
    over_two = {
        name: distribute_tensor(one.full_tensor().detach(), two, [Shard(0), Replicate()])
        for name, one in params.items()
    }
    refused("lies on.*one mesh", lambda: specop.objective(plain, **batches, params=over_two, parallel=MESH))
    refused("over tensor parallel", lambda: specop.objective(plain, **batches, params=over_two, parallel=two))
    three = init_device_mesh("cpu", (COUNT, 1, 1))
    refused("mesh of one dimension", lambda: specop.objective(plain, **batches, params=params, parallel=three))
    cut = parallelize_module(model(), MESH, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    refused("pass parallel=mesh", lambda: specop.objective(cut, **batches, parallel=True))
    refused("Pass parallel=mesh", lambda: specop.objective(cut, **batches, parallel=False))
    refused("fixed_randomness", lambda: fsdp(fixed_randomness=0))
    penalty = lambda z, y: F.cross_entropy(z, y) + plain.up.weight.square().sum()  # noqa: E731
    penalized = specop.objective(plain, penalty, whole, params=params, parallel=MESH)
    assert penalized.loss() > fsdp().loss()
    refused("reads the parameters itself", lambda: penalized.ggn() @ penalized.theta)


def check_a_norm_that_sees_some_of_the_tokens():
    plan = {
        "embedding": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
        "up": ColwiseParallel(input_layouts=Shard(1)),
        "down": RowwiseParallel(),
    }
    net = parallelize_module(model(), MESH, plan)
    objective = specop.objective(net, F.cross_entropy, WHOLE, parallel=MESH)
    refused("another gradient in 2 parameters, such as 'norm.weight'.*SequenceParallel", objective.loss)


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


class Failing(nn.Linear):
    """Fails in the last process, after so many of its calls."""

    left = None

    def forward(self, x):
        if Failing.left is not None and RANK == COUNT - 1:
            Failing.left -= 1
            if Failing.left < 0:
                raise KeyError("one layer")
        return super().forward(x)


class Fragile(Words):
    def __init__(self):
        super().__init__()
        self.up = Failing(5, 8)


def check_an_error_inside_of_a_layer_is_told_at_once():
    params = dict(fully_sharded(model()).named_parameters())
    objective = specop.objective(bare(Fragile), F.cross_entropy, PARTS[RANK], params=params, parallel=MESH)
    x = objective.theta
    H = objective.hessian()
    expected, longest = hosted(H @ x), 0.0

    def raises(call, after):
        nonlocal longest
        Failing.left, began = after, time.monotonic()
        inner = objective._autodiff.group._inner
        connections = None if inner is None else weakref.ref(inner)
        inner = None
        try:
            with pytest.raises(KeyError, match="one layer") as caught:
                call()
        finally:
            Failing.left = None
        # With more processes others would wait on what this one's traceback holds.
        assert RANK == COUNT - 1 or connections is None or connections() is None
        longest = max(longest, time.monotonic() - began)
        assert RANK == COUNT - 1 or f"process {COUNT - 1} of {COUNT}" in str(caught.value)

    # In a forward pass, in the gradient and in its derivative, in which layers run again.
    raises(objective.loss, 0)
    for after in range(2):
        raises(objective.gradient, after)
    with H.session():
        for after in range(4):
            raises(lambda: H @ x, after)
    # The group goes on, with the same numbers.
    close(H @ x, expected)
    print(f"an error inside of a layer is raised in all within {longest:.3f} s", flush=True)
    assert longest < 5.0


def check_no_process_goes_on_before_all_are_connected():
    store = distributed.FileStore(f"{place()[0]}/connected", COUNT)
    store.set_timeout(timedelta(seconds=0.3))
    own = distributed.new_group

    def slow(*arguments, **options):
        made = own(*arguments, **options)
        if RANK == 0:
            with pytest.raises(RuntimeError, match="Wait timeout"):
                store.wait(["inside"])
        return made

    group = Group(MESH)
    distributed.new_group = slow
    try:
        with group.inside():
            store.set("inside", "1")
    finally:
        distributed.new_group = own
        group._close()


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
