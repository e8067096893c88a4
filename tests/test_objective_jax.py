"""Objectives on small JAX models: right answers, compiled once, the model unharmed, and errors that say what to do."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

import specop  # noqa: E402
from specop.autodiff import HESSIAN  # noqa: E402
from specop.errors import InvalidInputError, NondeterministicError, NonFiniteError, ParametersChangedError  # noqa: E402
from specop_jax import programs  # noqa: E402
from specop_jax.arrays import backend  # noqa: E402
from specop_jax.autodiff import make_autodiff  # noqa: E402

# --- Models -----------------------------------------------------------------------------------------------------------


def normal(*shape, seed=0, dtype="float64"):
    return jnp.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape), dtype)


def labels(n, classes=3):
    return jnp.arange(n) % classes


def cross_entropy(outputs, y):
    return -jnp.take_along_axis(jax.nn.log_softmax(outputs), y[..., None], -1).mean()


def mlp(p, batch):
    x, y = batch
    hidden = jnp.tanh(x @ p["layers"][0]["w"] + p["layers"][0]["b"])
    return cross_entropy(hidden @ p["layers"][1]["w"], y)


def cnn(p, batch):
    x, y = batch
    hidden = jax.lax.conv_general_dilated(x, p["filters"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    pooled = jax.lax.reduce_window(jax.nn.softplus(hidden), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return cross_entropy(pooled.reshape(len(x), -1) @ p["head"], y)


def attention(p, batch):
    # The output layer is the embedding: tied weights.
    x, y = batch
    h = p["embedding"][x]
    q, k, v = jnp.split(h @ p["qkv"], 3, -1)
    scores = jnp.where(jnp.tril(jnp.ones((5, 5), bool)), q @ k.swapaxes(1, 2), -1e9)
    return cross_entropy((h + jax.nn.softmax(scores) @ v) @ p["embedding"].T, y)


def constants_and_unused(p, batch):
    x, y = batch
    return cross_entropy(jnp.sin(x[:, p["columns"]] @ p["w"]) * p["power"], y)


@jax.custom_vjp
def once(x):
    return jnp.tanh(x)


@jax.custom_vjp
def slope(x):
    return 1 - jnp.tanh(x) ** 2


slope.defvjp(lambda x: (slope(x), x), lambda x, g: (-2 * g * jnp.tanh(x) * (1 - jnp.tanh(x) ** 2),))
# A backward rule with a rule of its own: the gradient has no forward derivative.
once.defvjp(lambda x: (once(x), x), lambda x, g: (g * slope(x),))


def backward_only(p, batch):
    return cross_entropy(once(batch[0] @ p), batch[1])


def problem(name, n=11):
    """Loss, parameters and one batch; odd sizes, so that splits are uneven."""
    x, y = normal(n, 3), labels(n)
    tokens = jnp.arange(5 * n).reshape(n, 5) ** 2 % 6
    return {
        "mlp": (
            mlp,
            {"layers": [{"w": normal(3, 4), "b": normal(4)}, {"w": normal(4, 3, seed=1)}]},
            (x, y),
        ),
        "cnn": (cnn, {"filters": normal(3, 3, 1, 2), "head": normal(8, 3)}, (normal(n, 4, 4, 1), y)),
        "attention": (attention, {"embedding": normal(6, 4), "qkv": normal(4, 12)}, (tokens, tokens[:, ::-1])),
        "constants": (
            constants_and_unused,
            {"columns": jnp.array([2, 0]), "w": normal(2, 3), "power": 1.5, "host": np.ones(2), "unused": normal(2)},
            (x, y),
        ),
        "backward only": (backward_only, normal(3, 3), (x, y)),
    }[name]


# Attention compiles for long, and the transformer of the parity tests has it too.
MODELS = ["mlp", "cnn", pytest.param("attention", marks=pytest.mark.slow), "constants", "backward only"]


def split(batch, *sizes):
    ends = np.cumsum(sizes)[:-1]
    return list(zip(*(jnp.split(part, ends) for part in batch), strict=True))


def dense(objective, loss, batch, theta):
    """The Hessian by JAX itself, row by row backwards, as some functions have no forward derivative."""

    def at(vector):
        return loss(objective.unflatten(vector), batch)

    return jax.jit(jax.jacrev(jax.grad(at)))(theta)


def close(found, expected, tol=1e-10):
    found, expected = np.asarray(found), np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tol * max(1.0, np.abs(expected).max(initial=0)))


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
    close(objective.gradient(), jax.grad(lambda vector: loss(objective.unflatten(vector), batch))(theta))
    H = objective.hessian()
    close(H.to_dense(), hessian)
    close(H.to_dense(), hessian)
    assert objective.samples == 11 and H.is_symmetric and None not in H._products._linear
    beyond = specop.objective(loss, data=batches, params=params, memory_budget=0).hessian()
    close(beyond.to_dense(), hessian)
    assert beyond._products._linear == [None] * len(batches)
    other = theta + 0.3
    close(objective.hessian(other).to_dense(), dense(objective, loss, batch, other))


def test_integer_leaves_numbers_and_unused_leaves():
    loss, params, batch = problem("constants")
    objective = specop.objective(loss, data=batch, params=params)
    assert objective.names == ("host", "unused", "w") and objective.n == 10
    found = objective.hessian().to_dense()
    assert not np.asarray(found)[:4].any() and np.asarray(found)[4:, 4:].any()


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

    @jax.jit
    def definition(vector):
        def at(vector):
            return outputs(objective.unflatten(vector), batch).reshape(-1)

        def loss(z):
            return masked_cross_entropy(z.reshape(*x.shape, 6), y)

        J = jax.jacobian(at)(vector)
        return J.T @ jax.hessian(loss)(at(vector)) @ J

    expected = definition(theta)
    close(objective.fisher().to_dense(), expected)


def test_fused_attention():
    params, batch = {"qkv": normal(4, 12), "head": normal(4, 3)}, (normal(5, 3, 4), labels(5))

    def loss(p, batch):
        q, k, v = jnp.split((batch[0] @ p["qkv"])[:, :, None], 3, -1)
        attended = jax.nn.dot_product_attention(q, k, v, is_causal=True)[:, :, 0]
        return cross_entropy(attended.mean(1) @ p["head"], batch[1])

    objective = specop.objective(loss, data=split(batch, 4, 1), params=params)
    # JAX itself computes attention weights in single precision, whatever it is given.
    close(objective.hessian().to_dense(), dense(objective, loss, batch, objective.flatten(params)), 1e-5)


def test_select_and_restrict_give_principal_blocks():
    loss, params, batch = problem("mlp")
    whole = specop.objective(loss, data=batch, params=params)
    assert whole.names == ("layers.0.b", "layers.0.w", "layers.1.w")
    hessian = np.asarray(whole.hessian().to_dense())
    places = {"layers.0.b": slice(0, 4), "layers.0": slice(0, 16), "*.w": slice(4, 28)}
    for select, place in places.items():
        block = specop.objective(loss, data=batch, params=params, select=select)
        close(block.hessian().to_dense(), hessian[place, place])
        close(whole.restrict(select).hessian().to_dense(), hessian[place, place])
    for select in ([params["layers"][0]["b"]], lambda name, array: array.ndim == 1):
        assert whole.restrict(select).names == ("layers.0.b",)
    with pytest.raises(InvalidInputError, match=r"matches no parameter. There are: layers.0.b, layers.0.w"):
        whole.restrict("nothing")


def test_a_structure_times_the_operator_is_a_structure():
    loss, params, batch = problem("mlp")
    objective = specop.objective(loss, data=batch, params=params)
    product = objective.hessian() @ params
    theta = objective.flatten(params)
    close(objective.flatten(product), dense(objective, loss, batch, theta) @ theta)
    assert product["layers"][1]["w"].shape == (4, 3)
    with pytest.raises(InvalidInputError, match="a structure like params"):
        objective.flatten({"w": theta})


def test_a_function_with_a_criterion():
    loss, params, batch = problem("mlp")

    def outputs(p, batch):
        return jnp.tanh(batch[0] @ p["layers"][0]["w"] + p["layers"][0]["b"]) @ p["layers"][1]["w"]

    objective = specop.objective(outputs, cross_entropy, split(batch, 7, 4), params=params)
    close(objective.loss(), loss(params, batch))
    close(objective.hessian().to_dense(), specop.objective(loss, data=batch, params=params).hessian().to_dense())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_parameters_have_float32_vectors(dtype):
    loss, params, batch = problem("mlp")
    half = jax.tree.map(lambda array: array.astype(dtype), params)
    objective = specop.objective(loss, data=batch, params=half)
    H = objective.hessian()
    assert H.dtype == np.float32 and H.precision == float(jnp.finfo(dtype).eps)
    exact = specop.objective(loss, data=batch, params=jax.tree.map(lambda array: array.astype("float64"), half))
    # Data is float64, so only the parameters' own derivatives are rounded.
    close(H.to_dense(), exact.hessian().to_dense(), tol=10 * H.precision)


@dataclasses.dataclass
class Batch:
    inputs: object
    target: object
    note: str = "kept as it is"


@pytest.mark.parametrize("kind", ["dict", "dataclass", "numpy", "nested"])
def test_batches_of_any_structure(kind):
    loss, params, (x, y) = problem("mlp")
    data, pair = {
        "dict": ({"x": x, "y": y, "z": None}, lambda batch: (batch["x"], batch["y"])),
        "dataclass": (Batch(x, np.asarray(y)), lambda batch: (batch.inputs, batch.target)),
        "numpy": ((np.asarray(x), np.asarray(y)), lambda batch: batch),
        "nested": (
            ({"inner": [Batch(x, y)]},),
            lambda batch: (batch[0]["inner"][0].inputs, batch[0]["inner"][0].target),
        ),
    }[kind]
    objective = specop.objective(lambda p, batch: loss(p, pair(batch)), data=data, params=params)
    close(objective.hessian().to_dense(), specop.objective(loss, data=(x, y), params=params).hessian().to_dense())
    assert objective.samples == 11


# --- Compiled once ----------------------------------------------------------------------------------------------------


class Compilations:
    """Counts what XLA compiles inside a with statement."""

    def __init__(self):
        self.count = 0
        self.active = False
        jax.monitoring.register_event_duration_secs_listener(self.listen)

    def listen(self, event, duration, **_):
        self.count += self.active and event == "/jax/core/compile/backend_compile_duration"

    def __enter__(self):
        self.count, self.active = 0, True
        return self

    def __exit__(self, *_):
        self.active = False


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
    quick, slow = (specop.aslinearoperator(jnp.diag(d)) for d in (1.5 ** jnp.arange(200.0), jnp.arange(200.0)))
    few = specop.eigsh(quick, k=2, ncv=15, tol=1e-8).matvecs
    with compilations:
        assert specop.eigsh(slow, k=2, ncv=15, tol=1e-8).matvecs > 2 * few
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
        return autodiff._program(None, batch)[0]

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


def test_numpy_data_that_changes():
    loss, params, (x, y) = problem("mlp")
    x = np.array(x)
    H = specop.objective(loss, data=(x, y), params=params).hessian()
    H @ jnp.ones(28)
    x += 1
    with pytest.raises(specop.errors.NondeterministicError, match="batch 0 was written into"):
        H @ jnp.ones(28)


# --- Losses that cannot be used ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda p, batch: p * batch, r"one real number, .* got float64 of shape \(3,\)"),
        (lambda p, batch: p.sum() * 1j, "one real number, .* got complex128"),
        (lambda p, batch: jnp.int32(3), "one real number, .* got int32"),
        (lambda p, batch: {"loss": p.sum()}, "one real number, .* got dict"),
        (lambda p, batch: None, "one real number, .* got NoneType"),
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


def test_a_loss_that_is_not_finite_names_the_parameters():
    loss, params, batch = problem("mlp")
    params["layers"][0]["b"] = params["layers"][0]["b"].at[1].set(jnp.nan)
    objective = specop.objective(loss, data=batch, params=params)
    for call in (objective.loss, objective.gradient, lambda: objective.hessian() @ jnp.ones(28)):
        with pytest.raises(NonFiniteError, match=r"the loss is nan. These arrays.* layers.0.b. Restore"):
            call()
    fine = specop.objective(lambda p, x: jnp.log(p.sum() * 0 * x.sum()), data=jnp.ones(3), params=jnp.ones(3))
    with pytest.raises(NonFiniteError, match=r"the loss is -inf. All parameters are finite: look at the data"):
        fine.loss()


def test_functions_and_structures_that_cannot_be_used():
    loss, params, batch = problem("mlp")
    with pytest.raises(InvalidInputError, match="no floating-point array among the 1 leaves"):
        specop.objective(loss, data=batch, params={"n": jnp.arange(3)})
    with pytest.raises(InvalidInputError, match="params is empty"):
        specop.objective(loss, data=batch, params={"a": []})
    with pytest.raises(InvalidInputError, match="forward= is for modules"):
        specop.objective(loss, data=batch, params=params, forward=loss)
    with pytest.raises(InvalidInputError, match=r"fixed_randomness is for modules.*random keys"):
        specop.objective(loss, data=batch, params=params, fixed_randomness=0)
    with pytest.raises(InvalidInputError, match="numpy arrays have no derivatives"):
        specop.objective(loss, data=batch, params={"w": np.ones(3)})


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
from specop.backend import backend_of, Layout
backend = backend_of(jnp.ones(1))
try: backend.from_host(np.ones(3), Layout.whole(3, "float64", jax.devices()[0]))
except specop.errors.InvalidInputError as error: print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"JAX_ENABLE_X64": "0"})
    assert done.returncode == 0, done.stderr
    first, second, *errors = done.stdout.strip().splitlines()
    value, dtype = first.split()
    assert float(value) == pytest.approx(30, rel=1e-4) and dtype == second == "float32"
    assert errors[0].startswith("parameter 'w' is float64") and errors[1].startswith("a vector is float64")
    assert all("jax.config.update('jax_enable_x64', True)" in error for error in errors)


# --- Modules ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def nnx():
    return pytest.importorskip("flax.nnx")


def nnx_model(nnx):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(3, 4, param_dtype=jnp.float64, rngs=rngs)
            self.norm = nnx.BatchNorm(4, param_dtype=jnp.float64, dtype=jnp.float64, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
            self.second = nnx.Linear(4, 3, param_dtype=jnp.float64, rngs=rngs)

        def __call__(self, x):
            return self.second(self.dropout(jnp.tanh(self.norm(self.first(x)))))

    model = Net(nnx.Rngs(0))
    # Flax makes statistics in float32, which float64 data cannot update.
    model.norm.mean, model.norm.var = nnx.BatchStat(normal(4)), nnx.BatchStat(1 + normal(4, seed=1) ** 2)
    model.eval()
    return model


def state_of(nnx, model):
    graphdef, state = nnx.split(model)
    return graphdef, jax.tree.leaves(state)


def test_an_nnx_module(nnx):
    model, batch = nnx_model(nnx), (normal(11, 3), labels(11))
    graphdef, before = state_of(nnx, model)
    objective = specop.objective(model, cross_entropy, split(batch, 6, 5))
    assert objective.names[:2] == ("first.bias", "first.kernel") and objective.n == 39
    tree = {name: dict(nnx.to_flat_state(nnx.state(model)))[tuple(name.split("."))][...] for name in objective.names}
    theta = objective.flatten(tree)

    def loss(vector):
        state = nnx.state(model)
        flat = dict(nnx.to_flat_state(state))
        for name, value in objective.unflatten(vector).items():
            flat[tuple(name.split("."))] = flat[tuple(name.split("."))].replace(value)
        return cross_entropy(nnx.merge(graphdef, nnx.from_flat_state(flat))(batch[0]), batch[1])

    exact = jax.jit(jax.hessian(loss))
    hessian = exact(theta)
    H = objective.hessian()
    close(H.to_dense(), hessian)
    close(objective.restrict("second").hessian().to_dense(), np.asarray(hessian)[24:, 24:])
    assert objective.restrict(model.second).names == ("second.bias", "second.kernel")
    after_def, after = state_of(nnx, model)
    assert after_def == graphdef and all(a is b for a, b in zip(after, before, strict=True))
    model.first.bias[...] = model.first.bias[...] + 1
    with pytest.raises(ParametersChangedError, match="changed since this operator was made"):
        H @ theta
    close(
        objective.hessian().to_dense(),
        exact(objective.flatten(tree | {"first.bias": model.first.bias[...]})),
    )


def test_an_nnx_module_in_training_mode(nnx):
    model, batch = nnx_model(nnx), (normal(11, 3), labels(11))
    objective = specop.objective(model, cross_entropy, batch)
    model.dropout.deterministic = False
    with pytest.raises(InvalidInputError, match=r"layer 'dropout' \(Dropout\) has active dropout. Call model.eval"):
        objective.loss()
    model.train()
    before = state_of(nnx, model)[1]
    fixed = specop.objective(model, cross_entropy, batch, fixed_randomness=3)
    H = fixed.hessian()
    vector = normal(39)
    close(H @ vector, H @ vector, 0)
    matrix = np.asarray(H.to_dense())
    close(matrix, matrix.T)
    assert fixed.loss() == fixed.loss() != specop.objective(model, cross_entropy, batch, fixed_randomness=4).loss()
    assert all(a is b for a, b in zip(state_of(nnx, model)[1], before, strict=True))
    model.dropout.deterministic = True
    with pytest.raises(InvalidInputError, match=r"layer 'norm' \(BatchNorm\) is batch normalization in training mode"):
        specop.objective(model, cross_entropy, batch)


def test_draws_from_the_rngs_of_an_nnx_module(nnx):
    """Where no layer says so: the random counts of the copy that runs have moved."""

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.layer, self.rngs = nnx.Linear(3, 3, param_dtype=jnp.float64, rngs=rngs), rngs

        def __call__(self, x):
            return self.layer(x) * jax.random.bernoulli(self.rngs.dropout(), 0.5, (3,))

    model, batch = Net(nnx.Rngs(0, dropout=1)), (normal(11, 3), labels(11))
    objective = specop.objective(model, cross_entropy, batch)
    for call in (objective.loss, lambda: objective.ggn() @ objective.theta):
        with pytest.raises(NondeterministicError, match=r"draws from the module's nnx\.Rngs.*fixed_randomness=0"):
            call()
    fixed = specop.objective(model, cross_entropy, batch, fixed_randomness=0)
    assert fixed.loss() == fixed.loss()


def test_a_penalty_that_reads_the_module_is_refused(nnx):
    """The criterion's module is not the copy that is differentiated: the penalty would be a constant."""
    model, (x, y) = nnx_model(nnx), (normal(11, 3), labels(11))

    def penalty(model):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))

    objective = specop.objective(model, lambda outputs, y: cross_entropy(outputs, y) + penalty(model), (x, y))
    for call in (objective.loss, lambda: objective.ggn() @ objective.theta):
        with pytest.raises(InvalidInputError, match=r"reads the parameter 'first\.bias' of the module.*forward="):
            call()
    told = specop.objective(
        model,
        lambda outputs, batch: cross_entropy(outputs[0], batch[1]) + outputs[1],
        (x, y),
        forward=lambda model, batch: (model(batch[0]), penalty(model)),
    )
    plain = specop.objective(model, cross_entropy, (x, y)).hessian().to_dense()
    close(told.hessian().to_dense(), plain + 2 * jnp.eye(39))


def test_tied_nnx_weights_count_once(nnx):
    class Tied(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Embed(6, 3, param_dtype=jnp.float64, dtype=jnp.float64, rngs=rngs)
            self.again = self.embed

        def __call__(self, x):
            return self.again.attend(jnp.tanh(self.embed(x)))

    model, x = Tied(nnx.Rngs(0)), jnp.arange(11) % 6
    objective = specop.objective(model, cross_entropy, (x, x[::-1]))
    table = model.embed.embedding[...]

    def loss(flat):
        table = flat.reshape(6, 3)
        return cross_entropy(jnp.tanh(table[x]) @ table.T, x[::-1])

    assert objective.n == 18
    close(objective.hessian().to_dense(), jax.jit(jax.hessian(loss))(table.reshape(-1)))


def test_an_nnx_state_as_the_parameters_of_a_function(nnx):
    model, batch = nnx_model(nnx), (normal(11, 3), labels(11))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, batch):
        return cross_entropy(nnx.merge(graphdef, params, rest)(batch[0]), batch[1])

    found = specop.objective(loss, data=batch, params=params)
    close(found.hessian().to_dense(), specop.objective(model, cross_entropy, batch).hessian().to_dense())


def test_an_equinox_module():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(3, 3, 4, 1, activation=jnp.tanh, key=jax.random.key(0), dtype=jnp.float64)
    batch = (normal(11, 3), labels(11))

    def forward(model, batch):
        return jax.vmap(model)(batch[0])

    objective = specop.objective(
        model, lambda outputs, batch: cross_entropy(outputs, batch[1]), split(batch, 6, 5), forward=forward
    )
    assert objective.n == 31 and objective.names[0] == "layers.0.weight"
    theta = objective.flatten(model)
    exact = jax.hessian(lambda v: cross_entropy(jax.vmap(objective.unflatten(v))(batch[0]), batch[1]))
    hessian = jax.jit(exact)(theta)
    close(objective.hessian().to_dense(), hessian)
    close(objective.restrict("layers.1").hessian().to_dense(), np.asarray(hessian)[16:, 16:])
    assert isinstance(objective.hessian() @ model, eqx.nn.MLP)


def test_equinox_dropout_needs_a_key():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.Sequential([eqx.nn.Linear(3, 3, key=jax.random.key(0)), eqx.nn.Dropout(0.5)])
    with pytest.raises(InvalidInputError, match=r"layer 'layers.1' \(Dropout\) has active dropout.*inference_mode"):
        specop.objective(model, cross_entropy, (normal(3), labels(3)))


def test_modules_that_cannot_be_used(nnx):
    model, batch = nnx_model(nnx), (normal(11, 3), labels(11))
    with pytest.raises(InvalidInputError, match="a module needs a criterion"):
        specop.objective(model, data=batch)
    with pytest.raises(InvalidInputError, match=r"a batch must be a pair \(x, y\).*got tuple of 3"):
        specop.objective(model, cross_entropy, (*batch, 1)).loss()
    linen = pytest.importorskip("flax.linen")
    with pytest.raises(InvalidInputError, match=r"Dense does not hold its parameters.*model.apply"):
        specop.objective(linen.Dense(3), cross_entropy, batch)


def test_few_programs_outlive_their_objectives():
    assert programs._program.cache_parameters()["maxsize"] == 16
