"""Objectives on small JAX models: right answers, the model unharmed, and errors that say what to do."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp

import specop
from jax_cases import (
    MODELS,
    close,
    cross_entropy,
    dense,
    labels,
    normal,
    problem,
    split,
)
from specop.errors import InvalidInputError, ParametersChangedError

# --- Right answers on every path --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_derivatives_are_those_of_jax(name):
    loss, params, batch = problem(name)
    # Every size of a batch is compiled for: unequal ones with the smallest model only.
    batches = split(batch, *((5, 5, 1) if name == "mlp" else (11,)))
    objective = specop.objective(loss, data=batches, params=params)
    theta = objective.flatten(params)
    hessian = dense(objective, loss, batch, theta)
    close(objective.loss(), loss(params, batch))
    gradient = jax.jit(jax.grad(lambda vector: loss(objective.unflatten(vector), batch)))(theta)
    close(objective.gradient(), gradient)
    H = objective.hessian()
    close(H.to_dense(), hessian)
    close(H.to_dense(), hessian)
    assert objective.samples == 11 and H.is_symmetric and H.plan().recomputed == 0
    if name != "cnn":  # which compiles for long
        beyond = specop.objective(loss, data=batches, params=params, memory_budget=0).hessian()
        close(beyond.to_dense(), hessian)
        assert beyond.plan().linearized == 0
    other = theta + 0.3
    close(objective.hessian(other).to_dense(), dense(objective, loss, batch, other))


def test_integer_leaves_numbers_and_unused_leaves():
    loss, params, batch = problem("constants")
    objective = specop.objective(loss, data=batch, params=params)
    assert objective.names == ("host", "unused", "w") and objective.n == 10
    found = objective.hessian().to_dense()
    assert not np.asarray(found)[:4].any() and np.asarray(found)[4:, 4:].any()


def test_parameters_in_a_dataclass_that_jax_does_not_know():
    @dataclasses.dataclass
    class Layer:
        w: jax.Array
        name: str = "first"

    def loss(params, x):
        return (jnp.tanh(x @ params["layer"].w) ** 2).mean()

    w, x = normal(3, 2), normal(5, 3, seed=1)
    objective = specop.objective(loss, params={"layer": Layer(w)}, data=x)
    assert objective.names == ("layer.w",)
    close(objective.gradient(), jax.grad(lambda w: loss({"layer": Layer(w)}, x))(w).reshape(-1))
    assert objective.unflatten(objective.gradient())["layer"].name == "first"


def masked_cross_entropy(outputs, labels):
    """Mean over the tokens that have a label."""
    losses = -jnp.take_along_axis(jax.nn.log_softmax(outputs), jnp.maximum(labels, 0)[..., None], -1)[..., 0]
    return jnp.where(labels >= 0, losses, 0).sum() / (labels >= 0).sum()


def test_masked_tokens():
    """Batches count by their labels, and a Fisher matrix has terms for these only."""
    params = {"embedding": normal(6, 3), "head": normal(3, 6)}
    x = jnp.arange(24).reshape(8, 3) ** 2 % 6
    y = jnp.where(jnp.arange(24).reshape(8, 3) % 4 == 1, -100, x[:, ::-1]).at[4:, 1:].set(-100)
    batch = (x, y)

    def outputs(p, batch):
        return jnp.tanh(p["embedding"][batch[0]].cumsum(1)) @ p["head"]

    objective = specop.objective(
        outputs,
        masked_cross_entropy,
        split(batch, 4, 4),
        params=params,
        weight=lambda batch: (batch[1] >= 0).sum(),
        likelihood="categorical",
    )
    theta = objective.flatten(params)
    close(objective.loss(), masked_cross_entropy(outputs(params, batch), y))
    close(
        objective.hessian().to_dense(),
        dense(objective, lambda p, batch: masked_cross_entropy(outputs(p, batch), y), batch, theta),
    )

    # The Gauss-Newton matrix knows of the mask by the criterion's own derivatives.
    close(objective.fisher().to_dense(), objective.ggn().to_dense())


def test_fused_attention():
    params, batch = {"qkv": normal(4, 12), "head": normal(4, 3)}, (normal(5, 3, 4), labels(5))

    def loss(p, batch):
        q, k, v = jnp.split((batch[0] @ p["qkv"])[:, :, None], 3, -1)
        attended = jax.nn.dot_product_attention(q, k, v, is_causal=True)[:, :, 0]
        return cross_entropy(attended.mean(1) @ p["head"], batch[1])

    objective = specop.objective(loss, data=batch, params=params)
    # JAX itself computes attention weights in single precision, whatever it is given.
    close(objective.hessian().to_dense(), dense(objective, loss, batch, objective.flatten(params)), 1e-5)


# --- What changes under an operator -----------------------------------------------------------------------------------


def test_numpy_parameters_that_change():
    def loss(p, batch):
        return ((batch @ p["w"] * p["scale"]) ** 2).mean()

    params = {"w": normal(3), "scale": np.array(2.0)}
    objective = specop.objective(loss, data=normal(4, 3), params=params)
    H = objective.hessian()
    before = np.asarray(H.to_dense())
    params["scale"] *= 3
    with pytest.raises(ParametersChangedError, match="changed since this operator was made"):
        H @ jnp.ones(4)
    assert not np.allclose(objective.hessian().to_dense(), before)


# --- Losses that cannot be used ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda p, batch: p.sum() * 1j, "one real number, .* got complex128"),
        (lambda p, batch: p.sum() if p.sum() > 0 else -p.sum(), r"(?s)cannot be compiled by jax.jit.*jax.lax.cond"),
        (lambda p, batch: np.sum(np.asarray(p)), "cannot be compiled by jax.jit"),
        (
            lambda p, batch: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x * p, p).sum(),
            "JAX has no gradient of the loss: Reverse-mode .*while_loop.* Replace that operation by others",
        ),
    ],
)
def test_losses_that_are_none(loss, message):
    objective = specop.objective(loss, data=jnp.ones(3), params=jnp.ones(3))
    with pytest.raises(InvalidInputError, match=message):
        objective.loss()
    with pytest.raises(InvalidInputError, match=message):
        objective.hessian() @ jnp.ones(3)


def test_an_exception_of_the_loss_comes_as_it_is():
    def loss(p, batch):
        raise ValueError("of the loss")

    with pytest.raises(ValueError, match=r"^of the loss"):
        specop.objective(loss, data=jnp.ones(3), params=jnp.ones(3)).loss()


def test_random_keys_are_given_by_the_caller():
    loss, params, batch = problem("mlp")
    with pytest.raises(InvalidInputError, match=r"fixed_randomness is for modules.*random keys"):
        specop.objective(loss, data=batch, params=params, fixed_randomness=0)


def test_an_operation_without_a_second_derivative_is_named():
    @jax.custom_vjp
    def opaque(x):
        return (x**2).sum()

    def backward(x, g):
        return (
            g * jax.pure_callback(lambda x: 2 * x, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential"),
        )

    opaque.defvjp(lambda x: (opaque(x), x), backward)
    objective = specop.objective(lambda p, _: opaque(p), params=jnp.ones(3))
    close(objective.gradient(), 2 * np.ones(3))
    with pytest.raises(InvalidInputError, match="no second derivative of an operation of the loss"):
        objective.hessian() @ jnp.ones(3)


def test_float64_needs_to_be_switched_on():
    code = f"""
import sys; sys.path[:] = {sys.path!r}
import numpy as np, jax, jax.numpy as jnp, specop
A = np.diag(np.arange(1.0, 31.0))
print(specop.eigsh(jnp.asarray(A), k=1).eigenvalues[0], jnp.asarray(A).dtype)
def loss(p, x): return ((x @ p["w"] + p["b"]) ** 2).mean()
print(specop.objective(loss, data=A, params=dict(w=jnp.ones(30), b=jnp.ones(()))).hessian().dtype)
try: specop.objective(loss, data=A, params=dict(w=np.ones(30), b=jnp.ones(())))
except specop.errors.InvalidInputError as error: print(error)
from specop.arrays import backend_of, Layout
backend = backend_of(jnp.ones(1))
try: backend.from_host(np.ones(3), Layout(3, "float64", jax.devices()[0]))
except specop.errors.InvalidInputError as error: print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, env={"JAX_ENABLE_X64": "0"}
    )
    assert done.returncode == 0, done.stderr
    first, second, *errors = done.stdout.strip().splitlines()
    value, dtype = first.split()
    assert float(value) == pytest.approx(30, rel=1e-4) and dtype == second == "float32"
    assert errors[0].startswith("parameter 'w' is float64") and errors[1].startswith("a vector is float64")
    assert all("jax.config.update('jax_enable_x64', True)" in error for error in errors)
