"""What JAX compiles, and when; what memory it takes, moves and gives away."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp

import specop
from jax_cases import (
    Compilations,
    close,
    mlp,
    normal,
    problem,
    split,
)
from specop.errors import InvalidInputError, ParametersChangedError
from specop.objectives.autodiff import HESSIAN
from specop_jax import programs
from specop_jax.arrays import backend
from specop_jax.autodiff import make_autodiff
from specop_jax.loss_program import LossProgram

# --- Compiled once ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compilations():
    return Compilations()


def test_nothing_is_compiled_twice(compilations):
    loss, params, batch = problem("mlp", n=12)
    batches = split(batch, 4, 4, 4)

    def run(seed, k=2):
        objective = specop.objective(loss, data=batches, params=jax.tree.map(lambda array: array + seed, params))
        specop.eigsh(objective.hessian(), k=k, seed=seed)
        specop.trace(objective.hessian(), max_matvecs=16, seed=seed)
        specop.spectral_density(objective.hessian(), probes=2, steps=10, seed=seed)
        objective.gradient(), objective.loss()

    with compilations:
        run(0)
    assert compilations.count > 0
    with compilations:
        run(1)
    assert compilations.count == 0


def test_steps_and_restarts_compile_nothing_new(compilations):
    slow = specop.aslinearoperator(jnp.diag(jnp.arange(200.0)))
    few = specop.eigsh(slow, k=2, ncv=15, tol=1e-2).matvecs
    with compilations:
        assert specop.eigsh(slow, k=2, ncv=15, tol=1e-8, seed=1).matvecs > 1.5 * few
    assert compilations.count == 0


def test_a_function_that_reads_another_value_is_compiled_again():
    _, params, batch = problem("mlp")
    setting = {"scale": 1.0}

    def loss(p, batch):
        return setting["scale"] * mlp(p, batch)

    first = specop.objective(loss, data=batch, params=params).loss()
    setting["scale"] = 2.0
    close(specop.objective(loss, data=batch, params=params).loss(), 2 * first)


@pytest.mark.parametrize("kind", ["another array", "the same NumPy array"])
def test_a_captured_array_that_changes_is_seen_by_the_next_objective(kind):
    _, params, batch = problem("mlp")
    captured = [np.ones(3)]

    def loss(p, batch):
        return mlp(p, (batch[0] * captured[0], batch[1]))

    specop.objective(loss, data=batch, params=params).loss()
    if kind == "another array":
        captured[0] = normal(3, seed=5)
    else:
        captured[0] += 2
    close(specop.objective(loss, data=batch, params=params).loss(), loss(params, batch))


def test_constants_that_the_loss_does_not_use_are_not_compiled_for(compilations):
    _, params, (x, y) = problem("mlp", n=10)

    def loss(p, batch):
        return mlp(p, (batch["x"], batch["y"]))

    def run(*names):
        data = [
            {"name": name, "x": part_x, "y": part_y, "key": jax.random.key(0)}
            for name, (part_x, part_y) in zip(names, split((x, y), 5, 5), strict=True)
        ]
        specop.objective(loss, data=data, params=params).hessian() @ jnp.ones(28)

    run("a", "b")
    with compilations:
        run("c", "d")
    assert compilations.count == 0


def test_programs_are_shared_by_equal_objectives_only():
    loss, params, batch = problem("mlp")

    def program(**keywords):
        autodiff = make_autodiff(loss, None, params=params, **keywords)
        return autodiff._program(LossProgram, None, batch)[0]

    assert program() is program()
    assert program() is not program(select="layers.0")


# --- Memory, exchange and donation ------------------------------------------------------------------------------------


def test_a_linearization_holds_no_parameters():
    weights = [normal(64, 64, seed=i) / 8 for i in range(3)]

    def loss(p, batch):
        for w in p:
            batch = jnp.tanh(batch @ w)
        return (batch**2).mean()

    x = normal(2, 64)
    autodiff = make_autodiff(loss, None, params=weights)
    made = autodiff.linearize(None, x, jnp.ones(autodiff.layout.n), HESSIAN)
    # Activations and their derivatives, far below one matrix of 32,768 bytes.
    assert 0 < made.bytes < 32_768


def test_vectors_handed_in_are_never_donated():
    # The Hessian is the identity, which a compiled function would hand straight through.
    objective = specop.objective(lambda x, _: 0.5 * (x * x).sum(), params=jnp.zeros(5))
    vector, theta = normal(5), normal(5, seed=1)
    before = np.asarray(vector).copy()
    for H in (objective.hessian(), objective.hessian(theta)):
        close(H @ vector, before, 0)
        close((H + 2 * specop.identity_like(H)) @ vector, 3 * before, 1e-15)
        specop.eigsh(H, k=1, v0=vector)
    objective.gradient(theta)
    assert not vector.is_deleted() and not theta.is_deleted()
    np.testing.assert_array_equal(vector, before)


def test_rows_are_written_in_place():
    layout = backend.layout(normal(1000))
    basis = backend.allocate(layout, 8, 3)
    basis = backend.set_row_(basis, 0, normal(1000), 1.0)
    before = basis.blocks[0].unsafe_buffer_pointer()
    basis = backend.set_row_(basis, 2, normal(1000), -2.0)
    assert basis.blocks[0].unsafe_buffer_pointer() == before
    vector = backend.copy(normal(1000, seed=3))
    address = vector.unsafe_buffer_pointer()
    assert backend.axpy_(backend.scale_(vector, 2.0), 1.0, normal(1000)).unsafe_buffer_pointer() == address


def test_one_transfer_for_the_scalars_of_a_step(monkeypatch):
    basis = backend.allocate(backend.layout(normal(50)), 20, 3)
    for i in range(12):
        basis = backend.set_row_(basis, i, normal(50, seed=i), 0.1)
    _, *scalars = backend.orthogonalize_(normal(50), basis, 12, [3, 11])
    assert len({id(part.buffer) for part in scalars}) == 1
    assert [part.shape for part in scalars] == [(2,), (12,), ()]


@pytest.mark.parametrize("count", [1, 2, 8, 9, 100])
def test_any_number_of_scalars_comes_in_one_transfer(count):
    values = [jnp.asarray(float(i)) for i in range(count)]
    assert [float(value) for value in backend.to_host(*values)] == list(range(count))


def test_deleted_parameters():
    loss, params, batch = problem("mlp")
    params = jax.tree.map(jnp.copy, params)
    objective = specop.objective(loss, data=batch, params=params)
    H = objective.hessian()
    jax.jit(lambda p: jax.tree.map(lambda array: 0.9 * array, p), donate_argnums=0)(params)
    with pytest.raises(ParametersChangedError, match=r"'layers.0.b' of the model was deleted: it was donated"):
        H @ jnp.ones(28)
    with pytest.raises(ParametersChangedError, match="was deleted"):
        objective.loss()


def test_deleted_vectors():
    A = specop.aslinearoperator(jnp.eye(3))
    vector = jnp.ones(3)
    backend.scale_(vector, 2.0)
    with pytest.raises(InvalidInputError, match=r"operand of a 3 x 3 operator was deleted"):
        A @ vector


def test_few_programs_outlive_their_objectives():
    assert programs._program.cache_parameters()["maxsize"] == 32
