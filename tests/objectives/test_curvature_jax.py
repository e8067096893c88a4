"""Curvature matrices of JAX models: what the shared tests do not see."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp

import specop
from jax_cases import Compilations, close, cross_entropy, labels, normal, once, split
from parity.cases import fisher
from specop.errors import InvalidInputError


def network(p, batch):
    return jnp.tanh(batch[0] @ p["w"]) @ p["v"]


def backward_only(p, batch):
    return once(batch[0] @ p["w"]) @ p["v"]


def make(outputs=network, criterion=cross_entropy, sizes=(8,), likelihood="categorical", y=None, **keywords):
    params, x = {"w": normal(3, 4), "v": normal(4, 3)}, normal(8, 3)
    batches = split((x, labels(8) if y is None else y), *sizes)
    return specop.objective(outputs, criterion, batches, params=params, likelihood=likelihood, **keywords)


KINDS = ["ggn", "fisher", "mc", "empirical", "terms", "jacobian"]


def operator(objective, kind, seed=3):
    if kind in ("ggn", "jacobian"):
        return getattr(objective, kind)()
    return fisher(objective, "exact" if kind == "fisher" else kind, seed=seed, draws=2)


def reference(objective, batch):
    """Jacobian of the outputs by forward differentiation, their values, and the criterion's Hessian in them."""

    # One program: operation by operation each would be compiled.
    @jax.jit
    def found(theta):
        at = lambda theta: network(objective.unflatten(theta), batch)  # noqa: E731
        z = at(theta)
        return jax.jacfwd(at)(theta), z, jax.hessian(lambda z: cross_entropy(z, batch[1]))(z)

    J, z, H = found(objective.theta)
    return np.asarray(J).reshape(z.size, -1), z, np.asarray(H).reshape(z.size, z.size)


@pytest.mark.parametrize("budget", [2**30, 0])
def test_definitions_without_a_forward_derivative(budget):
    objective = make(backward_only, memory_budget=budget)
    J, _, H = reference(objective, (normal(8, 3), labels(8)))
    for kind, expected in (("ggn", J.T @ H @ J), ("fisher", J.T @ H @ J), ("jacobian", J)):
        close(operator(objective, kind).to_dense(), expected)
    close(objective.jacobian().T.to_dense(), J.T)


def test_nothing_is_compiled_twice():
    compilations, first, second = Compilations(), make(sizes=(4, 4)), make(sizes=(4, 4))
    x, y = jnp.ones(first.n), jnp.ones(24)

    def use(objective, seed):
        for kind in KINDS:
            A = operator(objective, kind, seed)
            for vector in (x, x + 1):
                A @ vector
        objective.jacobian().T @ y
        for _ in objective.per_sample_gradients(block_bytes=2 * first.n * 8):
            pass

    use(first, 3)
    with compilations:
        use(second, 4)
    assert compilations.count == 0


def test_outputs_that_read_another_value_are_compiled_again():
    factor = [1.0]

    def outputs(p, batch):
        return factor[0] * network(p, batch)

    before = np.asarray(make(outputs).jacobian().to_dense())
    factor[0] = 2.0
    close(make(outputs).jacobian().to_dense(), 2 * before)


def test_a_linearization_holds_no_parameters():
    large = {"w": normal(3, 500), "v": normal(500, 3)}
    objective = specop.objective(network, cross_entropy, (normal(2, 3), labels(2)), params=large)
    assert 0 < objective.ggn().plan().bytes < objective.n * 8


def test_half_precision_parameters_have_float32_vectors():
    params = {"w": normal(3, 4, dtype="bfloat16"), "v": normal(4, 3, dtype="bfloat16")}
    batch = (normal(8, 3, dtype="bfloat16"), labels(8))
    objective = specop.objective(network, cross_entropy, batch, params=params, likelihood="categorical")
    full = jax.tree.map(lambda array: array.astype("float64"), params)
    exact = specop.objective(
        network, cross_entropy, (batch[0].astype("float64"), batch[1]), params=full, likelihood="categorical"
    )
    for kind in ("ggn", "jacobian"):
        A, expected = operator(objective, kind), np.asarray(operator(exact, kind).to_dense())
        assert A.dtype == np.float32
        close(A.to_dense(), expected, tol=10 * A.precision)


# --- Likelihoods ------------------------------------------------------------------------------------------------------


def test_a_weighted_criterion_has_its_weights_in_the_fisher():
    weights = jnp.array([1.0, 0.2, 3.0])

    def weighted(z, y):
        found = jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1)[:, 0]
        return -(weights[y] * found).sum() / weights[y].sum()

    objective = make(criterion=weighted)
    close(objective.fisher().to_dense(), objective.ggn().to_dense())


# --- Samples ----------------------------------------------------------------------------------------------------------


def test_batch_normalization_in_training_mode_has_no_samples():
    nnx = pytest.importorskip("flax.nnx")
    model = nnx.Sequential(nnx.Linear(3, 3, rngs=nnx.Rngs(0)), nnx.BatchNorm(3, rngs=nnx.Rngs(0)))
    batch = (normal(8, 3, dtype="float32"), labels(8))
    objective = specop.objective(model, cross_entropy, batch, fixed_randomness=0)
    for call in (
        lambda: list(objective.per_sample_gradients()),
        objective.fisher(kind="empirical").to_dense,
    ):
        with pytest.raises(InvalidInputError, match=r"layer 'layers.1' \(BatchNorm\).*single samples do not exist"):
            call()
    assert np.isfinite(np.asarray(objective.ggn().to_dense())).all()


# --- What cannot be ---------------------------------------------------------------------------------------------------


def test_a_criterion_without_a_second_derivative_is_named():
    @jax.custom_vjp
    def opaque(z):
        return (z**2).sum()

    def backward(z, g):
        return (jax.pure_callback(lambda z, g: 2 * z * g, jax.ShapeDtypeStruct(z.shape, z.dtype), z, g),)

    opaque.defvjp(lambda z: (opaque(z), z), backward)
    with pytest.raises(InvalidInputError, match="JAX has no derivative that this matrix needs"):
        make(criterion=lambda z, y: opaque(z), likelihood=None).ggn().to_dense()
