"""More checks of fully_shard over tensor parallel: plans, meshes, algorithms, files, and parts of data and model."""

import numpy as np
import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import specop
from parallel.launch import place
from parallel.torch_arrays import hosted, same_everywhere, spread
from parallel.torch_mesh_models import (
    MESH,
    PARTS,
    PLAN,
    Block,
    agrees,
    bare,
    model,
    one_process,
    parted,
    sharded,
)
from parallel.torch_shards import Dense, close, data, refused


def check_all_matrices():
    agrees(parted(), one_process(), fishers=True)


def check_batches_of_one_shape():
    # Torch keeps the mask of an embedding's words that are in other processes with the shapes that it has met.
    parts = [data((3, 3), seed=seed) for seed in (5, 6)]
    objective = parted(parts[MESH.get_local_rank("data")])
    objective._autodiff.accepts_stopped_gradients = True
    exact, H = Dense(model(), parts[0] + parts[1]), objective.hessian()
    v = np.random.default_rng(0).standard_normal(objective.n)
    for _ in range(2):
        close(H @ spread(v), exact.hessian @ v)


def check_a_mesh_whose_dimensions_come_the_other_way():
    agrees(parted(mesh=init_device_mesh("cpu", (2, 2), mesh_dim_names=("tensor", "data"))), one_process())


class Even(Block):
    """Torch takes no hidden channels that tensor parallelism cuts unevenly."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(5, 8), nn.Linear(8, 5)


def check_meshes_of_one_line():
    for shape in ((4, 1), (1, 4)):
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("data", "tensor"))
        agrees(parted(kind=Even, mesh=mesh), one_process(shape[0], Even))


def check_copies_of_fully_sharded_layers():
    for shape in ((2, 1, 2), (1, 2, 2), (2, 2, 1)):
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("copies", "parts", "tensor"))
        net = parallelize_module(model(), mesh["tensor"], PLAN)
        for layer in (*net.children(), net):
            fully_shard(layer, mesh=mesh["copies", "parts"])
        own = PARTS[mesh.get_local_rank("copies") * shape[1] + mesh.get_local_rank("parts")]
        exact, params = one_process(shape[0] * shape[1]), dict(net.named_parameters())
        given = {"criterion": F.cross_entropy, "data": own, "parallel": mesh}
        agrees(specop.objective(bare(mesh=mesh), params=params, **given), exact)
        close(specop.objective(net, **given).gradient(), exact.gradient)
        for name in ("up.weight", "norm.bias") if shape[0] > 1 else ():
            with torch.no_grad():
                params[name].to_local()[:1] += 1e-9 * distributed.get_rank()
            refused("hold the same parts", specop.objective(bare(mesh=mesh), params=params, **given).loss)
            with torch.no_grad():
                params[name].to_local()[:1] -= 1e-9 * distributed.get_rank()


class Attending(Block):
    """Two heads, one in each process of a line, and a parameter that no layer of its own holds."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(5, 6) for _ in range(3))
        self.out = nn.Linear(6, 5)
        self.shift = nn.Parameter(torch.linspace(-1, 1, 5))

    def forward(self, x):
        x = self.embedding(x) + self.shift
        y = self.norm(x)
        heads = (one(y).unflatten(-1, (-1, 3)).transpose(1, 2) for one in (self.query, self.key, self.value))
        attended = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return self.head(self.last(x + self.down(torch.tanh(self.up(x))))).mean(1)


def check_attention_whose_heads_are_cut():
    plan = {**PLAN, **dict.fromkeys(("query", "key", "value"), ColwiseParallel()), "out": RowwiseParallel()}
    with sdpa_kernel(SDPBackend.MATH):
        exact = one_process(kind=Attending)
    agrees(parted(plan=plan, kind=Attending), exact)


TOKENS = {
    "embedding": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
    "norm": SequenceParallel(),
    "up": ColwiseParallel(input_layouts=Shard(1)),
    "down": RowwiseParallel(output_layouts=Shard(1)),
    "last": SequenceParallel(use_local_output=True),
    "head": PrepareModuleInput(input_layouts=Shard(1), desired_input_layouts=Replicate(), use_local_output=True),
}


def check_sequence_parallel():
    agrees(parted(plan=TOKENS), one_process())
    plan = {name: style for name, style in TOKENS.items() if name not in ("norm", "last")}
    refused("another gradient in 3 parameters", parted(plan=plan).loss)
    hooked = specop.objective(sharded(plan), F.cross_entropy, PARTS[MESH.get_local_rank("data")], parallel=MESH)
    refused("another gradient in 3 parameters", hooked.loss)


def check_a_layer_that_fully_shard_leaves_out():
    net = parallelize_module(model(), MESH["tensor"], PLAN)
    for name, layer in net.named_children():
        if name != "up":
            fully_shard(layer, mesh=MESH["data"])
    agrees(parted(params=dict(net.named_parameters())), one_process())


def check_inside_of_the_hooks():
    exact = one_process()
    hooked = specop.objective(sharded(), F.cross_entropy, PARTS[MESH.get_local_rank("data")], parallel=MESH)
    close(hooked.loss(), float(exact.loss(exact.theta)))
    close(hooked.gradient(), exact.gradient)
    v = np.random.default_rng(0).standard_normal(hooked.n)
    close(hooked.finite_difference_hessian() @ spread(v), exact.hessian @ v, 1e-6)


def check_single_precision():
    params = {name: one.float() for name, one in sharded().named_parameters()}
    v = np.random.default_rng(0).standard_normal(one_process().theta.shape[0]).astype(np.float32)
    H = parted(params=params).hessian()
    close(H @ spread(v), one_process().hessian @ v, 1e-5)
    assert H.notes == ()


def check_parts_of_the_parameters():
    exact, objective = one_process(), parted()
    part = objective.restrict("up")
    inside = slice(objective.slices["up.weight"].start, objective.slices["up.bias"].stop)
    v = np.random.default_rng(1).standard_normal(part.n)
    close(part.hessian() @ spread(v), exact.hessian[inside, inside] @ v)
    tree = objective.unflatten(objective.theta)
    own = dict(sharded().named_parameters())
    assert tree["up.weight"].placements == own["up.weight"].placements
    assert torch.equal(tree["up.weight"].full_tensor(), exact.net.up.weight)
    whole = dict(exact.net.named_parameters())
    copies = {
        name: DTensor.from_local(whole[name].detach(), one.device_mesh, [Replicate()] * one.device_mesh.ndim)
        for name, one in tree.items()
    }
    for one in (tree, whole, copies):
        close(objective.flatten(one), exact.theta.numpy(), 0)


def check_algorithms_and_files():
    exact, objective = one_process(), parted()
    values = np.linalg.eigvalsh(exact.hessian)
    size = np.abs(values).max()
    eigen = specop.eigsh(objective.hessian(), k=2, tol=1e-7)
    largest = values[np.argsort(-np.abs(values))[:2]]
    assert np.abs(np.sort(eigen.eigenvalues) - np.sort(largest)).max() < 1e-12 * size
    same_everywhere(eigen.eigenvalues, eigen.residuals, hosted(eigen.rows))
    path = f"{place()[0]}/eigen.npz"
    eigen.save(path)
    distributed.barrier()
    loaded = specop.load(path)
    close(loaded.rows, hosted(eigen.rows), 0)
    for A in (objective.hessian(), exact.hessian):
        assert specop.eigsh(A, k=2, tol=1e-6, v0=loaded, check_multiplicity=False).matvecs <= 6
    ours, own = (specop.trace(A, max_matvecs=8, seed=1) for A in (objective.ggn(), exact.ggn))
    assert abs(ours.estimate - own.estimate) < 1e-12 * np.trace(exact.ggn)
    x = objective.solve(objective.gradient(), matrix="ggn", damping=3.0, rtol=1e-11).x
    close(x, np.linalg.solve(exact.ggn + 3.0 * np.eye(len(exact.theta)), exact.gradient), 1e-10)


def check_samples():
    """Samples count batch after batch, and in a batch line after line of the mesh."""
    union = [tuple(torch.cat(arrays) for arrays in zip(*some, strict=True)) for some in zip(*PARTS[:2], strict=True)]
    ours, own = parted(), specop.objective(model(), F.cross_entropy, union, parallel=False)
    rng = np.random.default_rng(3)
    v = rng.standard_normal(own.n)
    for chosen in ([0, 4, 5, 8, 9, 12], [1, 2]):
        part, single = ours.subset(chosen), own.subset(chosen)
        close(part.loss(), float(single.loss()))
        close(part.importance(), single.importance())
        for matrix in (
            lambda one: one.hessian(),
            lambda one: one.fisher(kind="mc", draws=3, seed=1),
            lambda one: one.fisher(kind="empirical", of="samples"),
            lambda one: one.jacobian(),
        ):
            close(matrix(part) @ spread(v), hosted(matrix(single) @ torch.from_numpy(v)))
        J, K = part.jacobian(), single.jacobian()
        u = rng.standard_normal(K.shape[0])
        close(J.T @ spread(u), hosted(K.T @ torch.from_numpy(u)))


def check_an_error_of_one_is_an_error_of_all():
    rank = distributed.get_rank()

    def failing(outputs, y):
        if rank == 3:
            raise KeyError("no such label")
        return F.cross_entropy(outputs, y)

    with pytest.raises(KeyError, match="no such label"):
        parted(criterion=failing).loss()
    close(parted(net=bare()).gradient(), one_process().gradient)
