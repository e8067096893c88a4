"""trace: unbiased, with an interval that covers, stopping on its standard error."""

import numpy as np
import pytest

import specop
import spectra
from cases import each_case
from specop.errors import ConvergenceWarning, InvalidInputError, NonFiniteError, NotConvergedError


def random_matrix(n=60, seed=0):
    square = np.random.default_rng(seed).normal(size=(n, n)) / n**0.5
    return square @ square.T


@each_case
def test_interval_and_error_of_a_dense_matrix(case):
    matrix = random_matrix().astype(case.dtype)
    result = specop.trace(case.array(matrix), rtol=0.02)
    assert result.converged and result.standard_error <= 0.02 * abs(result.estimate)
    assert abs(result.estimate - np.trace(matrix)) < 5 * result.standard_error
    assert result.interval[0] < result.estimate < result.interval[1]
    assert result.matvecs % 8 == 0 and result.matvecs == len(result.probes)


def test_variance_is_that_of_rademacher_probes():
    matrix = random_matrix()
    result = specop.trace(matrix, max_matvecs=2000)
    expected = 2 * (np.sum(matrix**2) - np.sum(np.diag(matrix) ** 2))
    assert abs(result.probes.var() / expected - 1) < 0.15


@pytest.mark.parametrize("values", [100 / np.arange(1.0, 101), np.linspace(1, 3, 100), np.repeat([5.0, 0.0], 50)])
def test_intervals_cover_the_truth(values):
    matrix = spectra.with_spectrum(values)
    covered = 0
    for seed in range(200):
        low, high = specop.trace(matrix, rtol=0.05, seed=seed).interval
        covered += low <= values.sum() <= high
    assert covered >= 180


@each_case
def test_deflation_takes_the_outliers_out(case):
    matrix = spectra.with_spectrum(spectra.geo10()[:300]).astype(case.dtype)
    top = specop.eigsh(case.array(matrix), k=10, tol=1e-5)
    plain = specop.trace(case.array(matrix), max_matvecs=16)
    deflated = specop.trace(case.array(matrix), max_matvecs=16, deflate=top)
    assert deflated.standard_error < 0.1 * plain.standard_error
    assert abs(deflated.estimate - np.trace(matrix)) < 5 * deflated.standard_error + 1e-3


@each_case
def test_exact(case):
    matrix = random_matrix(20).astype(case.dtype)
    result = specop.trace(case.array(matrix), method="exact")
    np.testing.assert_allclose(result.estimate, np.trace(matrix.astype(float)), rtol=1e-5)
    assert result.standard_error == 0 and result.matvecs == 20 and result.method == "exact"
    deflated = specop.trace(case.array(matrix), method="exact", deflate=specop.eigsh(case.array(matrix), k=3, tol=1e-6))
    np.testing.assert_allclose(deflated.estimate, np.trace(matrix.astype(float)), rtol=1e-4)
    assert specop.trace(case.array(matrix[:5, :5]), rtol=1e-3).method == "exact"


@each_case
def test_shift_law_with_the_same_probes(case):
    operator = specop.aslinearoperator(case.array(random_matrix().astype(case.dtype)))
    plain = specop.trace(operator, max_matvecs=8, seed=4)
    shifted = specop.trace(operator + 2.5 * specop.identity_like(operator), max_matvecs=8, seed=4)
    np.testing.assert_allclose(shifted.probes, plain.probes + 2.5 * 60, rtol=1e-5)


def test_one_probe_has_no_error_bar():
    result = specop.trace(random_matrix(), max_matvecs=1)
    assert np.isnan(result.standard_error) and result.interval == (-np.inf, np.inf)


def test_running_out_of_products_is_said():
    with pytest.warns(ConvergenceWarning, match="standard error of"):
        result = specop.trace(random_matrix(), rtol=1e-6, max_matvecs=24)
    assert not result.converged and result.matvecs == 24
    with pytest.raises(NotConvergedError) as caught:
        specop.trace(random_matrix(), rtol=1e-6, max_matvecs=24, raise_on_failure=True)
    assert caught.value.result.matvecs == 24


@each_case
def test_products_that_are_not_finite(case):
    values = np.ones(50)
    values[3] = np.nan
    with pytest.raises(NonFiniteError, match="product 1 "):
        specop.trace(specop.DiagonalOperator(case.array(values)))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"method": "guess"}, "auto, hutchinson, exact"),
        ({"rtol": -1}, "rtol must be"),
        ({"max_matvecs": 0}, "must be positive"),
        ({"confidence": 1.0}, "between 0 and 1"),
        ({"seed": 1.5}, "seed must be"),
        ({"deflate": np.eye(3)}, "EigenResult"),
        ({"method": "exact", "max_matvecs": 3}, "takes n=60"),
    ],
)
def test_bad_arguments(arguments, text):
    with pytest.raises(InvalidInputError, match=text):
        specop.trace(random_matrix(), **arguments)


def test_rectangular_operator_is_refused():
    with pytest.raises(InvalidInputError, match="square"):
        specop.trace(np.ones((3, 4)))
