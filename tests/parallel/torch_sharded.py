"""Checks of models whose parameters two processes hold in parts, against derivatives by torch in one process."""

import copy

import numpy as np
import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module
from torch.nn import functional as F

import sharded_parameters
import specop
from parallel.torch_arrays import MESH, hosted, of_one, same_everywhere, spread
from parallel.torch_shards import (
    COUNT,
    PARTS,
    RANK,
    UNION,
    WHOLE,
    Dense,
    bare,
    close,
    dense,
    fsdp,
    fully_sharded,
    model,
    refused,
    tensor_parallel,
)


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


def algorithms(make, part):
    """Compare with one process on a single batch: each one takes its own exchanges."""
    exact, objective = Dense(model(), UNION[:1]), make(part)
    size = np.abs(np.linalg.eigvalsh(exact.hessian)).max()
    eig = specop.eigsh(objective.hessian(), k=2, tol=1e-7)
    values = np.linalg.eigvalsh(exact.hessian)
    largest = values[np.argsort(-np.abs(values))[:2]]
    assert np.abs(np.sort(eig.eigenvalues) - np.sort(largest)).max() < 1e-12 * size
    rows = hosted(eig.rows)
    assert np.abs(rows @ exact.hessian - eig.eigenvalues[:, None] * rows).max() < 1e-6 * size
    same_everywhere(eig.eigenvalues, eig.residuals, rows)
    # Rows, as a file or another number of processes has them, start a run in one process.
    again = specop.eigsh(exact.hessian, k=2, tol=1e-6, v0=eig, check_multiplicity=False)
    assert again.matvecs <= 6

    def estimates(hessian, ggn):
        trace = specop.trace(ggn, max_matvecs=8, seed=1).estimate
        return trace, specop.spectral_density(hessian, probes=1, steps=8, seed=1).nodes

    trace, nodes = estimates(objective.hessian(), objective.ggn())
    own_trace, own_nodes = of_one(lambda: estimates(exact.hessian, exact.ggn))
    assert abs(trace - own_trace) < 1e-12 * np.abs(np.linalg.eigvalsh(exact.ggn)).sum()
    assert np.abs(nodes - own_nodes).max() < 1e-10 * size
    x = objective.solve(objective.gradient(), matrix="ggn", damping=3.0, rtol=1e-9).x
    close(x, np.linalg.solve(exact.ggn + 3.0 * np.eye(len(exact.theta)), exact.gradient), 1e-8)
    same_everywhere(nodes, hosted(x))


def check_fully_sharded_algorithms():
    algorithms(fsdp, PARTS[RANK][:1])


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
    whole = dict(exact.net.named_parameters())
    for one in (objective, tensor_parallel()):
        close(one.flatten(one.unflatten(one.theta)), exact.theta.numpy(), 0)
        # Of tensors that each process has whole it takes its parts.
        close(one.flatten(whole), exact.theta.numpy(), 0)
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


def check_copies_of_parameters_in_parts():
    """A mesh of copies times parts, in which either may be a single one."""
    exact, v = dense(), np.random.default_rng(9).standard_normal(len(dense().theta))
    for shape in sorted({(COUNT, 1), (1, COUNT), (COUNT // 2, 2)}):
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("copies", "parts"))
        net = fully_sharded(model(), mesh)
        params = dict(net.named_parameters())
        ours = specop.objective(bare(), F.cross_entropy, PARTS[RANK], params=params, parallel=mesh)
        ours._autodiff.accepts_stopped_gradients = True
        close(ours.theta, exact.theta.numpy(), 0)
        close(ours.gradient(), exact.gradient)
        A = ours.hessian()
        for _ in range(2):
            close(A @ spread(v), exact.hessian @ v)
        close(ours.ggn() @ spread(v), exact.ggn @ v)
        rows = np.concatenate([hosted(block) for block in ours.subset([1, 6]).per_sample_gradients()])
        own = specop.objective(model(), F.cross_entropy, UNION, parallel=False).subset([1, 6])
        close(rows, torch.cat(list(own.per_sample_gradients())).numpy())
        hooked = specop.objective(net, F.cross_entropy, PARTS[RANK], parallel=mesh)
        close(hooked.gradient(), exact.gradient)
        if shape[0] > 1:
            with torch.no_grad():
                params["up.bias"].to_local()[:1] += 1e-9 * RANK
            refused("hold the same parts", ours.loss)


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


def check_the_example():
    found = sharded_parameters.main(width=6, count=40, steps=3)

    def alone():
        torch.manual_seed(0)
        net = sharded_parameters.network(6)
        x, y = sharded_parameters.spirals(40)
        losses = [F.cross_entropy(net(x), y).item()]
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
        losses.append(F.cross_entropy(net(x), y).item())
        own = specop.objective(net, F.cross_entropy, (x, y), parallel=False)
        return losses, np.linalg.eigvalsh(hosted(own.hessian().to_dense()).astype(float))

    losses, values = of_one(alone)
    assert found.losses[0] == pytest.approx(losses[0], rel=1e-5)
    assert found.losses[1] == pytest.approx(losses[1], rel=1e-4)
    largest = values[np.argsort(-np.abs(values))[:2]]
    assert np.allclose(np.sort(found.eigen.eigenvalues), np.sort(largest), rtol=1e-3)
    assert abs(found.trace.estimate - values.sum()) < 5 * found.trace.standard_error + 1e-3 * abs(values).sum()


def check_a_monitor_beside_training():
    """The model without hooks has the parameters that the optimizer of the sharded one moves."""
    sharded, alone = fully_sharded(model()), model()
    params = dict(sharded.named_parameters())
    ours = specop.objective(bare(), F.cross_entropy, PARTS[RANK], params=params, parallel=MESH)
    own = specop.objective(alone, F.cross_entropy, UNION, parallel=False)
    what = {"stability": {"tol": 1e-3}}

    def history(net, objective, batch, factor):
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        monitor = specop.training.Monitor(objective, every=2, what=what, optimizer=optimizer)
        for step in range(2):
            monitor.record(step)
            optimizer.zero_grad()
            # The hooks take the mean over processes.
            loss = F.cross_entropy(net(batch[0]), batch[1], reduction="sum")
            (loss * factor / len(UNION[0][1])).backward()
            optimizer.step()
        monitor.record(2)
        return monitor.history

    found = history(sharded, ours, PARTS[RANK][0], COUNT)
    single = of_one(lambda: history(alone, own, UNION[0], 1))
    assert found.quantities == single.quantities and "ratio" in found.quantities
    assert np.allclose(found.values, single.values, rtol=1e-4, equal_nan=True)
    same_everywhere(found.values, found.errors)
