"""XTrace, XNysTrace and their errors against definitions that leave out each probe by brute force."""

import numpy as np
import pytest
from scipy.linalg import subspace_angles

import specop
import spectra
from specop.arrays import probes as probe_vectors
from specop.krylov.known import Complement
from specop.krylov.run import Run
from specop.spectral.jackknife import nystrom_error, sketch_error
from specop.spectral.nystrom import nystrom_estimates
from specop.spectral.sketch import Sketch

N, P = 40, 9


def sketch_of(matrix, p=P, drawn=None, **options):
    operator = specop.DenseOperator(matrix, is_symmetric=np.array_equal(matrix, matrix.T))
    sketch = Sketch(Complement(Run(operator, "test", seed=3), None), N, **options)
    # In parts, because every number must come out the same however the sketch is grown.
    for size in (4, p):
        sketch.draw(size - sketch.drawn)
        sketch.multiply(0 if options else size - sketch.multiplied)
    sketch.draw((drawn or p) - p)
    return sketch


def probes_of(sketch):
    return np.array([sketch.space.backend.row(sketch.Omega, i) for i in range(sketch.drawn)]).T


def xtrace_sample(matrix, probe, others):
    Q = np.linalg.qr(matrix @ others)[0] if others.size else np.zeros((N, 0))
    rest = probe - Q @ (Q.T @ probe)
    return np.trace(Q.T @ matrix @ Q) + (N - Q.shape[1]) * (rest @ matrix @ rest) / (rest @ rest)


def nystrom_sample(matrix, probe, others):
    approximation = matrix @ others @ np.linalg.solve(others.T @ matrix @ others, others.T @ matrix)
    rest = probe - others @ np.linalg.lstsq(others, probe)[0]
    lacking = probe @ (matrix - approximation) @ probe
    return np.trace(approximation) + (N - others.shape[1]) * lacking / (rest @ rest)


def left_out_errors(sample, matrix, probes):
    """Return the estimates of one probe left out, and their mean's error by the definition of the jackknife."""
    p = probes.shape[1]
    estimates = np.array([sample(matrix, probes[:, i], np.delete(probes, i, axis=1)) for i in range(p)])
    means = []
    for i in range(p):
        kept = np.delete(probes, i, axis=1)
        means.append(np.mean([sample(matrix, kept[:, j], np.delete(kept, j, axis=1)) for j in range(p - 1)]))
    jackknife = (p - 1) * np.var(means)
    return estimates, (jackknife * np.var(estimates, ddof=1) / p) ** 0.25


SYMMETRIC = spectra.with_spectrum(np.random.default_rng(1).normal(size=N) * 100 / np.arange(1.0, N + 1))
GENERAL = SYMMETRIC + np.random.default_rng(2).normal(size=(N, N))


@pytest.mark.parametrize("matrix", [SYMMETRIC, GENERAL], ids=["symmetric", "general"])
def test_xtrace_is_its_definition(matrix):
    sketch = sketch_of(matrix)
    estimates, error = left_out_errors(xtrace_sample, matrix, probes_of(sketch))
    np.testing.assert_allclose(sketch.left_out(), estimates, rtol=1e-10)
    assert sketch_error(sketch) == pytest.approx(error, rel=1e-8)


@pytest.mark.parametrize("matrix", [SYMMETRIC, GENERAL], ids=["symmetric", "general"])
def test_probes_that_came_later_see_the_whole_sketch(matrix):
    sketch = sketch_of(matrix, drawn=P + 5)
    probes = probes_of(sketch)
    expected = [xtrace_sample(matrix, probes[:, j], probes[:, :P]) for j in range(P, P + 5)]
    np.testing.assert_allclose(sketch.fresh(), expected, rtol=1e-10)
    probe = probe_vectors.sphere(sketch.space.backend, sketch.space.layout, 3, 77)
    assert sketch.sample(77) == pytest.approx(xtrace_sample(matrix, probe, probes[:, :P]), rel=1e-10)


def test_xnystrace_is_its_definition():
    matrix = spectra.with_spectrum(100 / np.arange(1.0, N + 1))
    sketch = sketch_of(matrix, nystrom=True)
    estimates, error = nystrom_estimates(sketch)
    expected, expected_error = left_out_errors(nystrom_sample, matrix, probes_of(sketch))
    np.testing.assert_allclose(estimates, expected, rtol=1e-9)
    assert error == pytest.approx(expected_error, rel=1e-6)
    assert np.isnan(nystrom_error(expected[:2], np.eye(2), np.eye(2), np.eye(2), N))


def test_rows_span_the_products_and_directions_leave_one_out():
    sketch = sketch_of(SYMMETRIC)
    products = SYMMETRIC @ probes_of(sketch)
    rows = np.array([sketch.space.backend.row(sketch.Q, i) for i in range(P)]).T
    np.testing.assert_allclose(rows.T @ rows, np.eye(P), atol=1e-12)
    np.testing.assert_allclose(rows @ sketch.R[:P, :P], products, atol=1e-10)
    np.testing.assert_allclose(np.triu(products.T @ rows @ sketch.directions(), 1), 0, atol=1e-9)
    assert subspace_angles(rows, products).max() < 1e-6


def test_an_exhausted_range_gives_rows_without_weight():
    matrix = spectra.with_spectrum(np.concatenate([np.linspace(1, 5, 6), np.zeros(N - 6)]))
    sketch = sketch_of(matrix, 12, 14)
    rows = np.array([sketch.space.backend.row(sketch.Q, i) for i in range(14)])
    np.testing.assert_allclose(rows @ rows.T, np.eye(14), atol=1e-12)
    np.testing.assert_allclose(np.concatenate([sketch.left_out(), sketch.fresh()]), 18, rtol=1e-12)
    zero = Sketch(Complement(Run(np.zeros((5, 5)), "test"), None), 5)
    zero.draw(4)
    zero.multiply(3)
    np.testing.assert_allclose([*zero.left_out(), *zero.fresh()], 0, atol=1e-100)


def test_gain_and_variance_are_those_of_the_matrix():
    n = 400
    values = np.concatenate([np.linspace(20, 40, 10), np.linspace(1, 3, n - 10)])
    A = specop.FunctionOperator(lambda x: values * x, (n, n), like=values, is_symmetric=True)
    found = []
    for seed in range(30):
        sketch = Sketch(Complement(Run(A, "test", seed=seed), None), 60)
        sketch.draw(8)
        early = sketch.gain()
        sketch.draw(40)
        sketch.multiply(40)
        found.append([np.var(sketch.fresh(), ddof=1), sketch.variance(), sketch.gain(), early])
    scatter, variance, gain, early = np.mean(found, axis=0)
    assert variance == pytest.approx(scatter, rel=0.25)
    # The first rows hold outliers, the last ones next to nothing.
    assert gain < 0.03 * variance < 0.1 * early


@pytest.mark.parametrize("nystrom", [False, True])
def test_what_rounding_hides_scales_with_the_matrix(nystrom):
    matrix = spectra.with_spectrum(100 / np.arange(1.0, N + 1))
    one, eight = (sketch_of(factor * matrix, **({"nystrom": True} if nystrom else {})) for factor in (1.0, 8.0))
    found = [(sketch.shift if nystrom else sketch.rounding()) for sketch in (one, eight)]
    assert found[1] == pytest.approx(8 * found[0], rel=1e-9)
    # A few roundings of what a product of a unit vector may be.
    assert 1e-16 < found[0] / np.linalg.norm(matrix) < 1e-14
    assert (one.shift > 0) == nystrom


def test_a_false_claim_of_symmetry_is_noted_before_it_is_refused():
    matrix = SYMMETRIC + 1e-6 * np.random.default_rng(2).normal(size=(N, N))
    sketch = Sketch(Complement(Run(specop.DenseOperator(matrix, is_symmetric=True), "test"), None), N)
    sketch.draw(P)
    sketch.multiply(P)
    assert 1e-9 < sketch.space.run.asymmetry < 1e-5
