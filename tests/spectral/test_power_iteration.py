"""power_iteration: honest residuals with deflation and momentum."""

import numpy as np
import pytest

import specop
import spectra
from cases import each_algorithm_case
from specop.errors import ConvergenceWarning, InvalidInputError, NonFiniteError, NotConvergedError


def check_pairs(result, matrix, case):
    """Residuals and bounds cover the truth, and vectors are orthonormal."""
    vectors, values = case.numpy(result.eigenvectors).astype(float), result.eigenvalues
    assert (np.diff(values) >= 0).all()
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(len(values)), atol=100 * case.eps)
    true = np.linalg.norm(matrix @ vectors - vectors * values, axis=0)
    assert (true <= 1.01 * result.residuals + 1e-300).all()
    exact = np.linalg.eigvalsh(np.asarray(matrix, dtype=float))
    # The largest in magnitude, in ascending order: each is compared with that of its number.
    expected = np.sort(exact[np.argsort(-np.abs(exact), kind="stable")[: len(values)]])
    assert (np.abs(expected - values) <= result.bounds + 1e-13 * np.abs(exact).max()).all()


@each_algorithm_case
@pytest.mark.parametrize(("k", "share"), [(1, 0.0), (1, 0.8), (5, 0.0), (5, 0.8)])
def test_finds_the_largest_in_magnitude(case, k, share):
    values = np.concatenate([10 * 0.7 ** np.arange(6) * [1, -1, 1, 1, -1, 1], np.linspace(-0.5, 0.5, 60)])
    matrix = spectra.with_spectrum(values).astype(case.dtype)
    beyond = np.sort(np.abs(values))[-k - 1]
    result = specop.power_iteration(case.array(matrix), k=k, momentum=share * beyond**2 / 4)
    assert result.converged and result.which == "LM"
    check_pairs(result, matrix, case)
    np.testing.assert_allclose(result.eigenvalues, np.sort(values[:k]), rtol=1e-4)


def test_momentum_does_not_bend_the_rayleigh_quotient():
    # The quotient of x_t+1 = A x_t - beta x_t-1 with x_t would be off by about beta / lambda: 2.4 here.
    values = np.concatenate([[10.0], np.linspace(0, 9.9, 400)])
    operator = specop.DiagonalOperator(values)
    plain, fast = (specop.power_iteration(operator, tol=1e-5, momentum=m, max_matvecs=5000) for m in (0.0, 9.9**2 / 4))
    for result in (plain, fast):
        assert abs(result.eigenvalues[0] - 10) < 1e-6
    assert fast.matvecs < plain.matvecs / 3


@each_algorithm_case
def test_deflation_finds_all_copies(case):
    values = np.concatenate([np.full(4, 8.0), np.linspace(0, 3, 40)])
    matrix = spectra.with_spectrum(values).astype(case.dtype)
    result = specop.power_iteration(case.array(matrix), k=4)
    np.testing.assert_allclose(result.eigenvalues, 8, rtol=1e-4)
    check_pairs(result, matrix, case)


@pytest.mark.parametrize("matrix", [np.zeros((6, 6)), np.eye(6), 1e-30 * np.eye(6), np.array([[4.0]])])
def test_trivial_operators(matrix):
    result = specop.power_iteration(matrix, k=len(matrix))
    np.testing.assert_allclose(result.eigenvalues, np.diagonal(matrix), rtol=1e-12)
    assert result.converged


def test_what_does_not_converge_says_so():
    # Equal magnitudes with different signs: the iterate turns from one to the other for ever.
    signs = specop.DiagonalOperator(np.array([2.0, -2.0, 1.0]))
    with pytest.warns(ConvergenceWarning, match="different sign"):
        result = specop.power_iteration(signs, max_matvecs=50)
    assert not result.converged and result.matvecs == 50 and result.residuals[0] > 0.1
    with pytest.raises(NotConvergedError, match="2 of 5"):
        values = np.array([100.0, 50, 10, 9.99, 9.98, 9.97])
        specop.power_iteration(specop.DiagonalOperator(values), k=5, tol=1e-8, max_matvecs=120, raise_on_failure=True)


def test_needs_more_products_than_eigsh():
    operator = specop.DiagonalOperator(spectra.geo10())
    power, lanczos = specop.power_iteration(operator, k=5), specop.eigsh(operator, k=5)
    np.testing.assert_allclose(power.eigenvalues, lanczos.eigenvalues, rtol=1e-4)
    assert lanczos.matvecs < power.matvecs / 4
    assert specop.eigsh(operator, k=1, which="LA").matvecs <= 12


@each_algorithm_case
def test_same_seed_gives_the_same_bits(case):
    operator = specop.DiagonalOperator(case.array(spectra.geo10()))
    first, second = (specop.power_iteration(operator, k=2, seed=3) for _ in range(2))
    np.testing.assert_array_equal(case.numpy(first.rows), case.numpy(second.rows))


def test_bad_arguments():
    for arguments, text in [
        ({"k": 0}, "from 1 to n=5, got 0"),
        ({"tol": -1}, "tol must be"),
        ({"momentum": -0.1}, "momentum must be"),
        ({"momentum": float("nan")}, "momentum must be"),
        ({"k": 3, "max_matvecs": 2}, "at least 3, the number"),
        ({"seed": -1}, "seed must be"),
    ]:
        with pytest.raises(InvalidInputError, match=text):
            specop.power_iteration(np.eye(5), **arguments)
    with pytest.raises(InvalidInputError, match="symmetric operator"):
        specop.power_iteration(np.ones((3, 4)))
    with pytest.raises(NonFiniteError, match="product 1 "):
        specop.power_iteration(specop.DiagonalOperator(np.array([1.0, np.nan])))
