"""Likelihoods on arrays that refuse the core: all it may do is call the functions that it is given."""

import numpy as np
import pytest
import scipy.special

from specop.objectives.autodiff import Matrix
from specop.objectives.likelihoods import ArrayFunctions, by_sample, fits, label_noise, readings

SHAPE = (3, 4, 2)


@pytest.fixture
def functions(minicupy):
    def on_memory(function):
        def call(*arguments):
            held = [x.get() if isinstance(x, minicupy.ndarray) else x for x in arguments]
            return minicupy.asarray(np.asarray(function(*held)))

        return call

    def one_hot(labels, like, axis):
        labels = np.minimum(labels, like.shape[axis] - 1)
        return (labels == np.arange(like.shape[axis]).reshape([-1] + [1] * (-1 - axis))).astype(like.dtype)

    return ArrayFunctions(
        **{
            name: on_memory(function)
            for name, function in {
                "multiply": np.multiply,
                "subtract": np.subtract,
                "divide": np.divide,
                "less": np.less,
                "sin": np.sin,
                "sqrt": np.sqrt,
                "sigmoid": scipy.special.expit,
                "softmax": scipy.special.softmax,
                "cumsum": np.cumsum,
                "sum": lambda x, axis: x.sum(axis, keepdims=True),
                "mean": lambda x: x.mean(0),
                "norm": lambda x: np.sqrt((x**2).sum()),
                "least": np.min,
                "zeros": np.zeros_like,
                "steps": lambda x: np.arange(1, x.size + 1, dtype=np.float32).reshape(x.shape),
                "one_hot": one_hot,
                "rows": lambda x, like: x.reshape(-1, *like.shape),
                "cast": lambda x, like: x.astype(like.dtype),
                "wide": lambda x: x.astype(np.promote_types(x.dtype, np.float32)),
            }.items()
        }
    )


def block(name, z, axis):
    """The second derivative of the log-partition along axes of classes, by its definition."""
    if name == "categorical":
        p = np.moveaxis(scipy.special.softmax(z, axis), axis, -1)
        return p[..., None] * np.eye(z.shape[axis]) - p[..., None] * p[..., None, :]
    variance = np.ones_like(z) if name == "gaussian" else scipy.special.expit(z) * (1 - scipy.special.expit(z))
    return variance[..., None, None]


def product(name, axis, weights, z, u):
    if name != "categorical":
        return weights * block(name, z, axis)[..., 0, 0] * u
    moved = np.einsum("...ij,...j->...i", block(name, z, axis), np.moveaxis(u, axis, -1))
    return weights * np.moveaxis(moved, -1, axis)


CASES = [("categorical", -1), ("categorical", 1), ("bernoulli", -1), ("gaussian", -1)]


def problem(minicupy, name, axis, dtype=np.float64):
    rng = np.random.default_rng(0)
    z, u = rng.standard_normal((2, *SHAPE)).astype(dtype)
    kept = [1 if name == "categorical" and i == axis % 3 else size for i, size in enumerate(SHAPE)]
    weights = rng.uniform(0, 2, kept).astype(dtype)
    weights[0] = 0  # an ignored label

    def curvature(point):
        at = point.get()
        return lambda v: minicupy.asarray(product(name, axis, weights, at, v.get()))

    return z, u, weights, curvature


@pytest.mark.parametrize(("name", "axis"), CASES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_weights_are_read_off_the_criterion(functions, minicupy, name, axis, dtype):
    z, u, weights, curvature = problem(minicupy, name, axis, dtype)
    tolerance = np.finfo(dtype).eps ** 0.5
    found = []
    for likelihood in readings(functions, name, 3):
        c, measured = likelihood.terms(curvature, minicupy.asarray(z))
        if fits([one.get() for one in measured], tolerance):
            found.append((likelihood, c))
    ((likelihood, c),) = found
    np.testing.assert_allclose(c.get(), weights, rtol=tolerance, atol=tolerance)
    expected = product(name, axis, weights, z, u)
    close = likelihood.information(minicupy.asarray(z), c)(minicupy.asarray(u)).get()
    np.testing.assert_allclose(close, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "axis"), CASES)
@pytest.mark.parametrize("wrong", ["another family", "another scale", "negative", "not a number"])
def test_another_criterion_does_not_fit(functions, minicupy, name, axis, wrong):
    z, _, _, curvature = problem(minicupy, name, axis)

    def other(point):
        at = point.get()
        if wrong == "another scale":
            # That of A(2 z) + z^2, or of z^4.
            return lambda v: minicupy.asarray(4 * curvature(minicupy.asarray(2 * at))(v).get() + at**2 * v.get())
        factor = {"another family": np.cosh(at), "negative": -1.0, "not a number": np.nan}[wrong]
        return lambda v: minicupy.asarray(factor * curvature(point)(v).get())

    for likelihood in readings(functions, name, 3):
        _, measured = likelihood.terms(other, minicupy.asarray(z))
        assert not fits([one.get() for one in measured], 1e-8)


def test_one_term_is_told_from_another(functions, minicupy):
    # A direction or a point of zeros would show nothing.
    (likelihood,) = readings(functions, "bernoulli", 0)
    quadratic = lambda point: lambda v: v  # noqa: E731
    _, measured = likelihood.terms(quadratic, minicupy.asarray(np.array(0.3)))
    assert not fits([one.get() for one in measured], 1e-8)


@pytest.mark.parametrize(("name", "axis"), CASES)
def test_drawn_labels_have_the_moments_of_the_model(functions, minicupy, name, axis):
    z, u, weights, _ = problem(minicupy, name, axis)
    likelihood = next(one for one in readings(functions, name, 3) if one.axis % 3 == axis % 3)
    draws = 4000
    noise = label_noise(name, Matrix("sampled fisher", draws=draws, seed=1, first=5), SHAPE[0], weights.size)
    assert noise.shape == (draws, weights.size)
    given = [minicupy.asarray(x) for x in (z, weights, noise)]
    found = likelihood.sampled(*given)(minicupy.asarray(u)).get()
    # Five standard errors; fourth moments of scores are below 3, and entries of u below 3.
    np.testing.assert_allclose(found, product(name, axis, weights, z, u), atol=5 * 2 * 3 * 3 / draws**0.5)
    assert np.abs(found - product(name, axis, weights, z, u)).max() > 1e-6


def test_a_number_above_all_cumulated_probabilities_draws_the_last_class(functions, minicupy):
    (likelihood,) = readings(functions, "categorical", 2)
    given = [np.zeros((2, 3), np.float32), np.ones((2, 1), np.float32), np.array([[0.0, 1.0]], np.float32)]
    u = np.arange(6.0).reshape(2, 3)
    found = likelihood.sampled(*map(minicupy.asarray, given))(minicupy.asarray(u)).get()
    scores = np.full((2, 3), 1 / 3) - np.eye(3)[[0, 2]]
    np.testing.assert_allclose(found, scores * (scores * u).sum(1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("shape", [(5,), (5, 2), (5, 2, 3)])
def test_outer_products_by_sample(functions, minicupy, shape):
    r, u = np.random.default_rng(2).standard_normal((2, *shape))
    found = by_sample(functions, minicupy.asarray(r), len(shape))(minicupy.asarray(u)).get()
    expected = [a * (a * b).sum() for a, b in zip(r, u, strict=True)]
    np.testing.assert_allclose(found, np.reshape(expected, shape))
