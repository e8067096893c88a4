"""What JAX users switch on, delete, trace and leave out: right, or refused by name."""

import itertools

import jax
import numpy as np
import pytest

import specop
from specop.errors import InvalidInputError, NondeterministicError

pytest.importorskip("jax")

import equinox as eqx
import jax.numpy as jnp
from flax import linen, nnx
from jax.experimental import sparse

X = np.random.default_rng(0).normal(size=(6, 4))
X[X < 0.3] = 0
Y = np.array([0, 1, 2, 0, 1, 2])
PARAMS = {"w": np.random.default_rng(1).normal(size=(4, 3)), "v": np.random.default_rng(2).normal(size=(3, 3))}


def outputs(params, batch):
    return jnp.tanh(batch[0] @ params["w"]) @ params["v"]


def cross_entropy(z, y):
    return jnp.mean(jax.nn.logsumexp(z, axis=1) - jnp.take_along_axis(z, y[:, None], 1)[:, 0])


def params():
    return {name: jnp.asarray(array) for name, array in PARAMS.items()}


def objective(data=(X, Y), **options):
    given = options.pop("params", None) or params()
    return specop.objective(outputs, cross_entropy, data, params=given, likelihood="categorical", **options)


def hessian(x=X, y=Y):
    flat, make = jax.flatten_util.ravel_pytree(params())
    # One program: operation by operation each would be compiled.
    return jax.jit(jax.hessian(lambda v: cross_entropy(outputs(make(v), (x, y)), y)))(flat)


# Sparse arrays
each_sparse = pytest.mark.parametrize("kind", [sparse.BCOO, sparse.BCSR], ids=["BCOO", "BCSR"])


@each_sparse
def test_sparse_data(kind):
    # In dicts, where no length of y shows that numbers and places are no samples.
    batches = [{"x": kind.fromdense(X[:2]), "y": Y[:2]}, {"x": kind.fromdense(X[2:]), "y": Y[2:]}]
    found = specop.objective(
        lambda p, batch: cross_entropy(outputs(p, (batch["x"],)), batch["y"]), params=params(), data=batches
    )
    assert found.samples == 6
    np.testing.assert_allclose(found.hessian() @ jnp.ones(21), hessian().sum(1), atol=1e-12)


@each_sparse
def test_samples_of_sparse_data_are_refused_by_name(kind):
    found = objective((kind.fromdense(X), Y))
    for call in (
        lambda: list(found.per_sample_gradients()),
        lambda: found.fisher(kind="empirical").to_dense(),
        lambda: found.subset([0, 3]).loss(),
    ):
        with pytest.raises(InvalidInputError, match=rf"holds a {kind.__name__}.*todense"):
            call()


# Deleted arrays
@pytest.mark.parametrize("is_used", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("sizes", [(6,), (2, 4)])
def test_deleted_data_are_named(is_used, sizes):
    cuts = np.cumsum((0, *sizes))
    batches = [(jnp.asarray(X[a:b]), jnp.asarray(Y[a:b])) for a, b in itertools.pairwise(cuts)]
    found = objective(batches)
    H, v = found.hessian(), jnp.ones(21)
    if is_used:
        H @ v
    batches[-1][0].delete()
    for call in (lambda: H @ v, found.loss, found.gradient):
        with pytest.raises(InvalidInputError, match="an array of the data was deleted: it was donated"):
            call()


def test_a_deleted_matrix_is_named():
    A = jnp.eye(5)
    A.delete()
    with pytest.raises(InvalidInputError, match="was deleted: it was donated"):
        specop.eigsh(A, 1)


# Settings
def everything():
    """Products of each kind, and an algorithm that restarts."""
    found = objective()
    H = found.hessian()
    for kind in ("exact", "mc", "empirical"):
        found.fisher(kind=kind) @ found.gradient()
    return np.asarray(H.to_dense()), specop.eigsh(H, 2, ncv=6).eigenvalues


def test_settings_that_forbid_promotion():
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        dense, top = everything()
    np.testing.assert_allclose(dense, hessian(), atol=1e-12)
    eigenvalues = np.linalg.eigvalsh(hessian())
    np.testing.assert_allclose(np.sort(top), np.sort(eigenvalues[np.argsort(-abs(eigenvalues))[:2]]), rtol=1e-5)


@pytest.mark.parametrize("level", ["disallow", "disallow_explicit"])
def test_a_transfer_guard_is_named(level):
    data, given, v = (jnp.asarray(X), jnp.asarray(Y)), params(), jnp.ones(21)
    found = objective(data, params=given)
    H = found.hessian()
    H @ v
    for call in (lambda: objective(data, params=given), lambda: H @ v, found.loss, lambda: specop.eigsh(H, 1)):
        with (
            jax.transfer_guard(level),
            pytest.raises(InvalidInputError, match=rf"is '{level}'.*inside jax.transfer_guard\('allow'\)"),
        ):
            call()
    with jax.transfer_guard(level), jax.transfer_guard("allow"):
        np.testing.assert_allclose(H @ v, hessian().sum(1), atol=1e-12)


def test_float64_that_is_switched_off_meanwhile_is_named():
    H, v = objective().hessian(), jnp.ones(21)
    with jax.enable_x64(False):
        for call in (lambda: H @ v, lambda: H @ jnp.ones(21), lambda: specop.eigsh(H, 1)):
            with pytest.raises(InvalidInputError, match="float64, which JAX has switched off"):
                call()
        narrow = objective().hessian()
        first = narrow @ jnp.ones(21)
    # And float32 that is switched on.
    assert first.dtype == np.float32
    np.testing.assert_allclose(narrow @ jnp.ones(21, np.float32), first, rtol=1e-5)
    np.testing.assert_allclose(H @ v, hessian().sum(1), atol=1e-12)


# Transformations
def test_tracing_is_named_where_numbers_are_needed():
    H, v = objective().hessian(), jnp.ones(21)
    with pytest.raises(InvalidInputError, match=r"is being traced, inside jax.jit"):
        jax.jit(lambda p: objective(params=p).hessian() @ v)(params())
    for _ in range(2):
        with pytest.raises(InvalidInputError, match=r"inside jax.jit no number can be looked at"):
            jax.jit(lambda v: H @ v)(v)
        H @ v
    np.testing.assert_allclose(jax.jit(lambda v: H @ v)(v), hessian().sum(1), atol=1e-12)
    np.testing.assert_allclose(jax.grad(lambda v: v @ (H @ v))(v), 2 * hessian().sum(1), atol=1e-12)


# Modules
@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda key: eqx.nn.Linear(4, 3, key=key), X),
        (lambda key: eqx.nn.MLP(4, 3, 5, 1, key=key), X),
        (lambda key: eqx.nn.Linear(4, 3, key=key), X[:4]),
        (lambda key: eqx.nn.Conv2d(1, 3, 2, key=key), np.ones((6, 1, 3, 3))),
    ],
    ids=["linear", "mlp", "as many samples as inputs", "conv"],
)
def test_equinox_modules_of_one_sample_are_told_of_vmap(make, x):
    found = specop.objective(make(jax.random.key(0)), cross_entropy, (x, Y[: len(x)]))
    with pytest.raises(InvalidInputError, match=r"fails on a whole batch.*jax.vmap\(model\)\(batch\[0\]\)"):
        found.loss()


class Recurrent(nnx.Module):
    def __init__(self):
        self.rnn = nnx.RNN(nnx.GRUCell(4, 3, rngs=nnx.Rngs(0), param_dtype=jnp.float64))

    def __call__(self, x):
        return self.rnn(x)[:, -1]


def test_recurrent_layers_of_nnx_are_told_of_their_carry():
    x = np.random.default_rng(3).normal(size=(6, 5, 4))
    model = Recurrent()
    model.eval()
    with pytest.raises(NondeterministicError, match=r"An nnx.RNN draws a key for its first carry.*fixed_randomness=0"):
        specop.objective(model, cross_entropy, (x, Y)).loss()
    found = specop.objective(model, cross_entropy, (x, Y), fixed_randomness=0)
    graph, state = nnx.split(model)
    np.testing.assert_allclose(found.loss(), cross_entropy(nnx.merge(graph, state)(x), Y), rtol=1e-12)


class Norm(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(3, param_dtype=jnp.float64)(linen.BatchNorm(use_running_average=True)(x))


def test_statistics_of_linen_modules_are_no_parameters():
    model = Norm()
    variables = model.init(jax.random.key(0), X)
    with pytest.raises(InvalidInputError, match=r"its statistics would count.*params=variables\['params'\]"):
        specop.objective(lambda p, batch: model.apply(p, batch[0]), cross_entropy, (X, Y), params=variables)
    chosen = specop.objective(
        lambda p, batch: model.apply(p, batch[0]), cross_entropy, (X, Y), params=variables, select="params.*"
    )
    assert chosen.n == 4 + 4 + 15
    # As it is advised.
    advised = specop.objective(
        lambda p, batch: model.apply({**variables, "params": p}, batch[0]), cross_entropy, (X, Y),
        params=variables["params"],
    )  # fmt: skip
    assert advised.n == chosen.n
