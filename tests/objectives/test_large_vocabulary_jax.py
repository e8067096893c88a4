"""What products in JAX hold and compile where outputs are many: arrays as large as the logits, and nothing twice."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp
from jax import lax

import specop
from jax_cases import close, normal
from large_vocabulary import CLASSES, LABELS, ROWS, by_hand
from specop_jax.joined_products import joined_products
from specop_jax.likelihoods import FUNCTIONS
from specop_jax.repetitions import repetitions
from specop_jax.residuals import Split


def network(p, batch):
    return jnp.tanh(batch[0] @ p["w"]) @ p["v"]


def by_logarithms(z, y):
    return -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], axis=1).mean()


def by_normalizers(z, y):
    return (jax.nn.logsumexp(z, axis=1) - jnp.take_along_axis(z, y[:, None], axis=1)[:, 0]).mean()


@pytest.mark.parametrize("criterion", [by_logarithms, by_normalizers])
@pytest.mark.parametrize(("kind", "held"), [("ggn", 1), ("hessian", 2), ("fisher", 1)])
def test_what_products_hold(criterion, kind, held):
    """Probabilities, and for a Hessian the gradient: what derivatives of sums spread over all classes is held once."""
    params = {"w": normal(3, 2), "v": normal(2, CLASSES)}
    batch = normal(ROWS, 3), jnp.asarray(LABELS)
    objective = specop.objective(network, criterion, batch, params=params, likelihood="categorical")
    A, v = getattr(objective, kind)(), normal(objective.n)
    found = A @ v
    assert held <= A.plan().bytes / (ROWS * CLASSES * 8) < held + 0.05
    expected = by_hand(kind, params, batch[0], objective.unflatten(v))
    close(found, objective.flatten({name: jnp.asarray(part) for name, part in expected.items()}))


def test_points_that_show_a_likelihood_are_left_to_the_program():
    """Not computed by the compiler, on its one thread: of a large vocabulary that took ten seconds."""
    for make in (FUNCTIONS.steps, FUNCTIONS.zeros):
        text = jax.jit(lambda: jnp.sin(make(jnp.zeros((ROWS, CLASSES))))).lower().compile().as_text()  # noqa: B023
        assert "sine" in text


def spread(x):
    return jnp.broadcast_to(x[:, None], (2, 3))


REPEATED = {
    "new dimensions": (lambda x: lax.broadcast_in_dim(x, (3, 2, 4), (1,)), {0, 2}),
    "a dimension of one entry": (lambda x: lax.broadcast_in_dim(x[:1], (5,), (0,)), {0}),
    "a number": (lambda x: jnp.full((2, 3), 1.0), {0, 1}),
    "one after another": (lambda x: jnp.broadcast_to(spread(x), (4, 2, 3)), {0, 2}),
    "in a compiled function": (lambda x: jax.jit(spread)(x), {1}),
    "of a compiled function": (lambda x: jax.jit(lambda y: jnp.broadcast_to(y, (4, 2, 3)))(spread(x)), {0, 2}),
    "in another layout": (lambda x: spread(x).T, set()),
    "none": (lambda x: x, set()),
}


@pytest.mark.parametrize("case", REPEATED)
def test_repetitions(case):
    function, expected = REPEATED[case]
    x = jnp.asarray([1.0, 2.0])
    (found,) = repetitions(jax.make_jaxpr(function)(x).jaxpr)
    assert found == expected
    made = np.asarray(function(x))
    assert all((made == made.take([0], axis)).all() for axis in found)


def factors(*shapes):
    return [normal(*shape, seed=seed) for seed, shape in enumerate(shapes)]


def read_elsewhere(h, w, dh, dw):
    product = h @ dw
    return jnp.sin(product) * (product + dh @ w)


# With the number of products in the compiled program, and whether factors are put side by side.
SUMS = {
    "a layer": (lambda h, w, dh, dw: dh @ w + h @ dw, [(20, 2), (2, 30)] * 2, 1, True),
    "of steps": (lambda h, w, dh, dw: dh @ w + h @ dw, [(4, 5, 2), (2, 30)] * 2, 1, True),
    "a weight the other way": (lambda h, w, dh, dw: dh @ w.T + h @ dw.T, [(20, 2), (30, 2)] * 2, 1, True),
    "the first transposed": (lambda h, w, dh, dw: (dw.T @ h.T).T + dh @ w, [(20, 2), (2, 30)] * 2, 1, True),
    "the second transposed": (lambda h, w, dh, dw: dh @ w + (dw.T @ h.T).T, [(20, 2), (2, 30)] * 2, 1, True),
    "unlike widths": (lambda a, b, c, d: a @ b + c @ d, [(20, 2), (2, 30), (20, 3), (3, 30)], 1, True),
    "a square": (lambda a, b, c, d: a @ b + (c @ d).T, [(20, 2), (2, 20)] * 2, 1, True),
    "three": (lambda a, b, c, d: a @ b + c @ d + a @ d, [(20, 2), (2, 30)] * 2, 2, True),
    "read elsewhere": (read_elsewhere, [(20, 2), (2, 30)] * 2, 2, False),
    "small beside factors": (lambda h, w, dh, dw: dh @ w + h @ dw, [(20, 20), (20, 30)] * 2, 2, False),
}


@pytest.mark.parametrize("case", SUMS)
def test_sums_of_matrix_products_are_one_product(case):
    function, shapes, count, is_joined = SUMS[case]
    given = factors(*shapes)
    compiled = jax.jit(joined_products(lambda *given: {"sum": function(*given)})).lower(*given).compile()
    close(compiled(*given)["sum"], function(*map(np.asarray, given)))
    assert compiled.as_text().count(" dot(") == count
    assert ("concatenate" in compiled.as_text()) == is_joined


def probabilities(z):
    return jax.linearize(jax.nn.softmax, z)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("make", "is_taken"),
    [
        (probabilities, True),
        # What is held is the first argument itself: it goes on living as a result.
        (lambda z: (z.sum(), lambda u: z * u), True),
        # Nothing of that shape is held, so that nothing can take its place.
        (lambda z: (z.sum(), lambda u: 2 * u), False),
    ],
)
def test_what_is_given_away_makes_room(make, is_taken):
    """Logits make room for probabilities, and logits along a direction for what the criterion makes of them."""

    def linear(z):
        found, multiply = make(z)
        return found, jax.linearize(multiply, z)[1]

    split = Split(linear, lambda multiply, u: multiply(u), consumes=True)
    for seed in (0, 1):
        z, u, v = normal(ROWS, 3, seed=seed), normal(ROWS, 3, seed=2), normal(ROWS, 3, seed=3)
        expected = [np.asarray(make(jnp.array(z))[1](one)) for one in (u, v)]
        _, (multiply,), _ = split(z)
        assert z.is_deleted() == is_taken
        for operand, product in zip((u, v), expected, strict=True):
            close(multiply(operand), product)
            assert operand.is_deleted()
