"""Checks of vectors and models that are spread over four devices of one process, against one device."""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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
    VALUES,
    P,
    close,
    criterion,
    loss,
    mesh,
    outputs,
    spread,
)
from specop.arrays import backend_of
from specop.arrays.layout import Layout
from specop.errors import InvalidInputError
from specop_jax.order import Order, Spread
from specop_jax.spread_backend import backend_on

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
    on, rng = mesh("data", EXPLICIT), np.random.default_rng(4)
    entries = np.concatenate([np.geomspace(1.0, 100.0, 40), [-30.0]])
    Q = np.linalg.qr(rng.standard_normal((41, 41)))[0]
    A = (Q * entries) @ Q.T
    A = (A + A.T) / 2
    layout, (b,) = vectors(on, Order.plain(on, 41), [rng.standard_normal(41)])
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
        close(specop.trace(operator, deflate=known).estimate, np.trace(A), 1e-10)
    on_one = specop.DenseOperator(jnp.asarray(A), is_symmetric=True)
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
    found = specop.eigsh(H, k=3, tol=1e-11)
    close(found.eigenvalues, LARGEST)
    close(specop.trace(H).estimate, VALUES.sum())
    tree = H @ params
    for name, expected in {"b1": slice(0, 4), "w2": slice(39, 51)}.items():
        close(np.ravel(tree[name]), (HESSIAN @ THETA)[expected])
        assert tree[name].sharding.is_equivalent_to(params[name].sharding, tree[name].ndim)
    return found


def check_parameters_on_each_device():
    on = mesh("data", EXPLICIT)
    params, batch = spread("data", on)
    objective = specop.objective(loss, params=params, data=batch)
    found = _holds_the_derivatives(objective, params)
    # Each device has a quarter of every row, filled up from 51 to 52.
    assert {part.data.shape for part in found.rows.rows.addressable_shards} == {(3, 13)}
    H = objective.hessian()
    shifted = H + 10.0 * specop.identity_like(H)
    found = specop.solve(shifted, objective.gradient(), rtol=1e-12)
    close(found.x, np.linalg.solve(HESSIAN + 10 * np.eye(51), GRADIENT), 1e-10)


def check_parameters_cut_as_fsdp_cuts_them():
    params, batch = spread("fsdp", mesh("fsdp"))
    objective = specop.objective(loss, params=params, data=batch)
    _holds_the_derivatives(objective, params)
    # Of the cut ones each device has its own pieces, of the others a part.
    assert objective.theta.order.local == 1 + 2 * 4 + 3 + 1


def check_parameters_cut_by_tensor_parallel_layers():
    params, batch = spread("tensor", mesh("tensor"))
    _holds_the_derivatives(specop.objective(loss, params=params, data=batch), params)


def check_several_batches_and_a_batch_on_no_device():
    params, _ = spread("data", mesh("data"))
    halves = [tuple(array[part] for array in DATA) for part in (slice(0, 8), slice(8, 16))]
    for data in (DATA, halves):
        H = specop.objective(loss, params=params, data=data).hessian()
        close(np.asarray(H @ H.flatten(params)), HESSIAN @ THETA)


def check_matrices_of_the_outputs_and_of_samples():
    here = {name: jnp.asarray(value) for name, value in RAW.items()}
    data = tuple(map(jnp.asarray, DATA))
    alone = specop.objective(outputs, criterion, data, params=here, likelihood="categorical")
    params, batch = spread("fsdp", mesh("fsdp"))
    objective = specop.objective(outputs, criterion, batch, params=params, likelihood="categorical")
    for made in (
        lambda o: o.ggn(),
        lambda o: o.fisher(kind="mc", seed=3),
        lambda o: o.fisher(kind="empirical"),
        lambda o: o.jacobian(),
    ):
        close(made(objective).to_dense(), made(alone).to_dense())
    close(objective.jacobian().T.to_dense(), alone.jacobian().T.to_dense())
    rows, expected = (np.concatenate([*map(np.asarray, o.per_sample_gradients())]) for o in (objective, alone))
    close(rows, expected)
    inverse, other = (o.inverse_fisher(damping=0.1) @ o.gradient() for o in (objective, alone))
    close(inverse, other, 1e-11)


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
