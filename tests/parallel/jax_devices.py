"""Checks of vectors and models that are spread over four devices of one process, against one device."""

import re
import tempfile
from pathlib import Path

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding

import specop
from parallel.jax_problems import (
    DATA,
    GRADIENT,
    HESSIAN,
    LARGEST,
    LOSS,
    RAW,
    THETA,
    P,
    by_samples,
    close,
    criterion,
    loss,
    mesh,
    outputs,
    spread,
    tree,
)
from specop.arrays import backend_of
from specop.arrays.layout import Layout
from specop.errors import InvalidInputError
from specop_jax import kernels, mapped
from specop_jax.finding import backend_on
from specop_jax.loss_program import LossProgram
from specop_jax.order import Order, Spread
from specop_jax.output_program import OutputProgram, Variant
from specop_jax.spread_rows import rows_of

AUTO, EXPLICIT = AxisType.Auto, AxisType.Explicit
ORDERS = {
    "even": lambda on: Order.plain(on, 12),
    "uneven": lambda on: Order.plain(on, 41),
    "as fsdp has them": lambda on: Order.of(on, [(4, 6), (5,), (3, 4)], [P(("d", "m")), P(), P(None, "m")]),
    "as tensor parallel layers have them": lambda on: Order.of(
        on, [(4, 6), (5,), (4, 2)], [P("d", "m"), P(), P("m", "d")]
    ),
}


def vectors(on, order, rows):
    layout = Layout(order.n, np.dtype(np.float64), backend_on(on).device, Spread(on, order))
    return layout, [backend_on(on).from_host(row, layout) for row in rows]


def check_the_order_on_the_devices_keeps_all_entries():
    on = mesh("tensor")
    for name, order in ORDERS.items():
        order = order(on)
        entries = np.random.default_rng(1).standard_normal((3, order.n))
        close(order.to_logical(order.to_physical(entries)), entries, 0)
        assert sorted(order.places) == sorted(set(order.places)), name
        _, (x,) = vectors(on, order, entries[:1])
        close(x, entries[0], 0)
        # Every device has as much as the others.
        rows = getattr(x, "rows", x)
        assert {part.data.shape for part in rows.addressable_shards} == {(order.padded // 4,)}


def check_primitives_that_move_entries():
    on = mesh("tensor", EXPLICIT)
    backend, chosen = backend_on(on), np.array([5, 0, 7, 3, 2])
    for order in ORDERS.values():
        order = order(on)
        entries = np.random.default_rng(2).standard_normal((2, order.n))
        layout, (x, y) = vectors(on, order, entries)
        assert backend_of(x) is backend and backend.layout(x) == layout
        close(backend.gather(x, chosen), entries[0][chosen], 0)
        close(backend.section(x, 1, 8), entries[0][1:8], 0)
        expected = np.where(np.isin(np.arange(order.n), chosen), entries[0], 0)
        close(backend.scatter(backend.gather(x, chosen), chosen, layout), expected, 0)
        # Entries in their own order and as devices have them are the same vector.
        _, (other,) = vectors(on, Order.plain(on, order.n), entries[1:])
        close(
            backend.to_host(backend.dot(x, other), backend.norm(other)),
            [entries[0] @ entries[1], np.linalg.norm(entries[1])],
        )
        # What fills up never counts, whatever is done to entries.
        clipped = backend.clip(x, 3.0, 4.0)
        close(backend.to_host(backend.norm(clipped))[0], 3.0 * order.n**0.5)
        close(backend.axpy_(backend.copy(x), 2.0, y), entries[0] + 2 * entries[1])


def check_matrices_however_they_are_cut():
    on, rng = mesh("tensor"), np.random.default_rng(3)
    A, x = rng.standard_normal((8, 12)), rng.standard_normal(12)
    vector = jax.device_put(x, NamedSharding(on, P(("d", "m"))))
    for spec in (P(("d", "m")), P(None, "m"), P("d", "m"), P(), P("d")):
        operator = specop.DenseOperator(jax.device_put(A, NamedSharding(on, spec)))
        close(operator @ vector, A @ x)
        close(operator.T @ (operator @ vector), A.T @ (A @ x))
        close(operator.to_dense(), A)


def check_algorithms_on_an_uneven_vector():
    on, rng = mesh("data"), np.random.default_rng(4)
    entries = np.concatenate([np.geomspace(1.0, 100.0, 50), [-30.0]])
    Q = np.linalg.qr(rng.standard_normal((51, 51)))[0]
    A = (Q * entries) @ Q.T
    A = (A + A.T) / 2
    layout, (b,) = vectors(on, Order.plain(on, 51), [rng.standard_normal(51)])
    operator = specop.DenseOperator(backend_on(on).from_host(A, layout), is_symmetric=True)
    values = np.linalg.eigvalsh(A)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.npz"
        # Five rows: many restarts.
        found = specop.eigsh(operator, k=3, ncv=5, tol=1e-12, checkpoint=path)
        close(found.eigenvalues, np.sort(values[np.argsort(-abs(values))][:3]), 1e-11)
        found.save(Path(folder) / "found.npz")
        # A result without devices serves on several, and the other way round.
        loaded = specop.load(Path(folder) / "found.npz")
    for known in (found, loaded):
        again = specop.eigsh(operator, k=3, tol=1e-12, v0=known)
        close(again.eigenvalues, found.eigenvalues, 1e-11)
        assert again.matvecs < found.matvecs
    close(specop.trace(operator, deflate=loaded).estimate, np.trace(A), 1e-10)
    on_one = specop.DenseOperator(A, is_symmetric=True)
    close(specop.eigsh(on_one, k=3, tol=1e-12, v0=found).eigenvalues, found.eigenvalues, 1e-11)
    close(specop.diagonal(operator).x, np.diag(A))
    close(A @ np.asarray(specop.solve(operator, b, rtol=1e-12).x), b, 1e-9)
    close(specop.spectral_density(operator, seed=1).nodes, specop.spectral_density(on_one, seed=1).nodes, 1e-9)
    assert specop.rank(operator, threshold=20.0).estimate == np.sum(abs(values) > 20)


def _holds_the_derivatives(objective, params):
    H = objective.hessian()
    close(objective.theta, THETA, 0)
    close(objective.loss(), LOSS)
    close(objective.gradient(), GRADIENT)
    close(H.to_dense(), HESSIAN)
    product = H @ params
    for name, expected in {"b1": slice(0, 4), "w2": slice(39, 51)}.items():
        close(np.ravel(product[name]), (HESSIAN @ THETA)[expected])
        assert product[name].sharding.is_equivalent_to(params[name].sharding, product[name].ndim)
    return H


def _has_the_largest(H):
    found = specop.eigsh(H, k=3, tol=1e-11)
    close(found.eigenvalues, LARGEST)
    return found


def check_parameters_on_each_device():
    params, batch = spread("data", mesh("data"))
    objective = specop.objective(loss, params=params, data=batch)
    found = _has_the_largest(_holds_the_derivatives(objective, params))
    # Each device has a quarter of every row, filled up from 51 to 52.
    assert {part.data.shape for part in found.rows.rows.addressable_shards} == {(3, 13)}


def check_axes_of_the_type_explicit():
    params, batch = spread("data", mesh("data", EXPLICIT))
    _holds_the_derivatives(specop.objective(loss, params=params, data=batch), params)


def check_parameters_cut_as_fsdp_cuts_them():
    params, batch = spread("fsdp", mesh("fsdp"))
    objective = specop.objective(loss, params=params, data=batch)
    H = _holds_the_derivatives(objective, params)
    _has_the_largest(H)
    # Of the cut ones each device has its own pieces, of the others a part.
    assert objective.theta.order.local == 1 + 2 * 4 + 3 + 1
    shifted = H + 10.0 * specop.identity_like(H)
    found = specop.solve(shifted, objective.gradient(), rtol=1e-12)
    close(found.x, np.linalg.solve(HESSIAN + 10 * np.eye(51), GRADIENT), 1e-10)


def check_parameters_cut_by_tensor_parallel_layers():
    params, batch = spread("tensor", mesh("tensor"))
    _has_the_largest(_holds_the_derivatives(specop.objective(loss, params=params, data=batch), params))


def check_several_batches_and_a_batch_on_no_device():
    params, _ = spread("data", mesh("data"))
    halves = [tuple(array[part] for array in DATA) for part in (slice(0, 8), slice(8, 16))]
    for data in (DATA, halves):
        H = specop.objective(loss, params=params, data=data).hessian()
        close(np.asarray(H @ H.flatten(params)), HESSIAN @ THETA)


def check_matrices_of_the_outputs_and_of_samples():
    params, batch = spread("fsdp", mesh("fsdp"))
    objective = specop.objective(outputs, criterion, batch, params=params, likelihood="categorical")
    J, ggn, each = by_samples()
    close(objective.ggn().to_dense(), ggn)
    close(objective.jacobian().to_dense(), J.reshape(48, 51))
    close(objective.jacobian().T.to_dense(), J.reshape(48, 51).T)
    close(np.concatenate([*map(np.asarray, objective.per_sample_gradients())]), each)
    expected = np.linalg.solve(each.T @ each / 16 + 0.1 * np.eye(51), GRADIENT)
    close(objective.inverse_fisher(damping=0.1) @ objective.gradient(), expected, 1e-11)


def check_modules_of_flax_and_equinox():
    on = mesh("data", EXPLICIT)
    whole, batch = NamedSharding(on, P()), tuple(jax.device_put(array, NamedSharding(on, P("d"))) for array in DATA)
    layer, linear = nnx.Linear(8, 3, rngs=nnx.Rngs(0)), equinox.nn.Linear(8, 3, key=jax.random.key(0))
    for module, criterion_of, settings, kernel in (
        (
            nnx.merge(nnx.graphdef(layer), jax.device_put(nnx.state(layer), whole)),
            criterion,
            {},
            np.asarray(layer.kernel[...]),
        ),
        (
            jax.tree.map(lambda leaf: jax.device_put(leaf, whole) if equinox.is_array(leaf) else leaf, linear),
            lambda z, batch: criterion(z, batch[1]),
            {"forward": lambda module, batch: jax.vmap(module)(batch[0])},
            np.asarray(linear.weight).T,
        ),
    ):
        objective = specop.objective(module, criterion_of, batch, **settings)
        product = np.asarray(objective.hessian() @ objective.theta)
        # Of logistic regression, at its own parameters.
        (x, _), bias = DATA, np.asarray(module.bias[...])
        z = x @ kernel + bias
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        slopes = p * (z - (p * z).sum(1, keepdims=True)) / 16
        expected = {"bias": slopes.sum(0), "kernel": x.T @ slopes, "weight": slopes.T @ x}
        for name, place in objective.slices.items():
            # Parameters are of float32.
            close(product[place], expected[name.rpartition(".")[2]].ravel(), 1e-5)


def check_what_is_refused():
    params, batch = spread("data", mesh("data"))
    here = {name: jnp.asarray(value) for name, value in RAW.items()}
    with pytest.raises(InvalidInputError, match=r"batch is spread over 4 devices.*jax\.device_put\(params"):
        specop.objective(loss, params=here, data=batch).loss()
    H = specop.objective(loss, params=params, data=batch).hessian()
    with pytest.raises(InvalidInputError, match=r"operand.*spread over 4 devices of the mesh"):
        H @ jnp.ones(51)
    with pytest.raises(InvalidInputError, match="shape"):
        H @ jax.device_put(jnp.ones(52), NamedSharding(mesh("data"), P("d")))
    other = jax.device_put(jnp.ones(51), NamedSharding(mesh("tensor"), P()))
    with pytest.raises(InvalidInputError, match="whose sharding is"):
        H @ other
    with pytest.raises(InvalidInputError, match="same mesh"):
        specop.objective(loss, params=params, data=spread("tensor", mesh("tensor"))[1]).loss()


def check_vectors_are_what_they_look_like():
    params, batch = spread("fsdp", mesh("fsdp"))
    theta = specop.objective(loss, params=params, data=batch).theta
    assert theta.shape == (51,) and theta.size == len(theta) == 51 and theta.dtype == np.float64
    close(2 * theta - theta / 4, 1.75 * THETA)
    close(theta[3:7], THETA[3:7], 0)
    close(jnp.asarray(theta), THETA, 0)
    close(theta + jnp.asarray(THETA), 2 * THETA)


def collectives(compiled):
    """What a compiled program moves between devices: names of operations and entries of their results."""
    text = compiled.as_text()
    found = re.findall(
        r"= \w+\[([\d,]*)\]\S* (all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all)", text
    )
    # In tuples one operation has several results.
    assert not re.search(r"= \([^)]*\) (all-|reduce-scatter|collective)", text)
    return sorted((name, int(np.prod([int(size) for size in shape.split(",") if size]))) for shape, name in found)


def check_what_crosses_devices_in_a_product():
    expected = {
        # The vector comes to each device, and each gets its part of the sum: n numbers and those that fill up.
        "data": [("all-gather", 52), ("reduce-scatter", 13)],
        # The same, parameter by parameter, b2 in common; of the weights only those that a product reads.
        "fsdp": [
            *[("all-gather", size) for size in (4, 4, 12, 12, 32)],
            *[("reduce-scatter", size) for size in (1, 1, 3, 8)],
        ],
    }
    for kind, wanted in expected.items():
        params, batch = spread(kind, mesh(kind, EXPLICIT if kind == "data" else AUTO))
        autodiff = specop.objective(loss, params=params, data=batch)._autodiff
        program, arguments = autodiff._program(LossProgram, None, batch)
        apply = program.linearize(arguments, autodiff.point()).apply
        assert collectives(apply.func.lower(*apply.args, autodiff.point()).compile()) == wanted, kind


def check_what_crosses_devices_in_a_gauss_newton_product():
    for kind, wanted in {
        # Of all numbers a gathering and a sum that leaves each device its part; nothing between the Jacobians.
        "data": [("all-gather", 52), ("reduce-scatter", 13)],
        # The same, parameter by parameter, b2 in common; w2 besides, which J and its transpose read.
        "fsdp": [
            *[("all-gather", size) for size in (4, 4, 12, 12, 12, 32)],
            *[("reduce-scatter", size) for size in (1, 1, 3, 8)],
        ],
    }.items():
        params, batch = spread(kind, mesh(kind, EXPLICIT if kind == "data" else AUTO))
        autodiff = specop.objective(outputs, criterion, batch, params=params)._autodiff
        program, arguments = autodiff._program(OutputProgram, None, batch)
        x, found = autodiff.point(), []
        for part in program.linearize(arguments, x, Variant("ggn")).apply.parts:
            found += collectives(part.func.lower(*part.args, x).compile())
            x = part(x)
        assert sorted(found) == wanted, (kind, found)


def check_what_crosses_devices_in_a_step_of_lanczos():
    on = mesh("data", EXPLICIT)
    backend, order = backend_on(on), Order.plain(on, 51)
    x = rows_of(vectors(on, order, np.ones((1, 51)))[1][0], order)
    rows = jnp.zeros((8, 52), device=order.sharding(2))
    own, buffer = jnp.zeros(4 * 64, device=order.sharding()), jnp.zeros(64, device=backend.everywhere)

    def moved(kernel, kinds, *arguments, static=()):
        return collectives(mapped.mapped(on, kernel, kinds, *static).lower(*arguments).compile())

    assert moved(kernels.coefficients, "vamav>v", own, 2, rows, 8, x) == []
    assert moved(kernels.subtract_rows, "vmaaa>v", x, rows, 8, buffer, 2) == []
    assert moved(kernels.set_row, "mava>m", rows, 1, x, 1.0) == []
    assert moved(kernels.axpy, "vav>v", x, 1.0, x) == []
    assert moved(kernels.add_products, "maaama>m", rows, np.eye(64), 0, 0, rows, 0) == []
    # Two of them a step: of the near rows, and of all rows.
    assert moved(mapped.add_up, "v>a", own) == [("all-reduce", 64)]
    # One number of each device, where the norm does not follow from what is known.
    assert moved(mapped.store_remainder, "avaa>a", buffer, x, 2, 8, static=(0, 1)) == [("all-gather", 4)]


def check_a_loss_that_couples_its_samples():
    def coupled(params, batch):
        z = outputs(params, batch)
        weights = 1.0 + (batch[1] == 0)
        own = -(weights[:, None] * jax.nn.one_hot(batch[1], 3) * jax.nn.log_softmax(z)).sum()
        return own / weights.sum() + jnp.std(z)

    v = np.random.default_rng(6).standard_normal(51)
    slope = jax.grad(lambda vector: coupled(tree(vector), DATA))
    gradient, product = jax.jit(lambda at: jax.jvp(slope, (at,), (v,)))(THETA)
    params, batch = spread("data", mesh("data"))
    objective = specop.objective(coupled, params=params, data=batch)
    close(objective.gradient(), gradient)
    # The second one replays the first.
    H = objective.hessian()
    for _ in range(2):
        close(H @ objective.flatten(tree(v)), product)


def check_outputs_that_couple_their_samples():
    def coupled(params, batch):
        z = outputs(params, batch)
        return z - z.mean(0)

    params, batch = spread("data", mesh("data"))
    objective = specop.objective(coupled, criterion, batch, params=params)
    v = np.random.default_rng(5).standard_normal(51)
    close(objective.ggn() @ objective.flatten(tree(v)), by_samples(centred=True)[1] @ v)


def check_an_optimizer_whose_state_is_cut():
    # Of one setting each parameter tells another rounding.
    params = {name: spread("fsdp", mesh("fsdp"))[0][name] for name in ("b1", "b2")}
    optimizer = optax.adam(1e-3)

    def square(params, batch):
        return sum((batch.sum() * one**2).sum() for one in params.values())

    objective = specop.objective(square, params=params, data=np.ones(3))
    state = jax.jit(lambda at: optimizer.update(jax.grad(square)(at, np.ones(3)), optimizer.init(at), at)[1])(params)
    rule = objective.update_rule((optimizer, state), objective.gradient())
    assert rule.steps[0] == rule.steps[1]
    close(rule.steps[0].momentum, 0.9, 1e-6)
