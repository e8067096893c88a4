"""inverse, and inverse-curvature products of objectives."""

import numpy as np
import pytest

import specop
import spectra
from cases import each_algorithm_case
from specop.errors import DomainError, InvalidInputError, NotConvergedError
from specop.solvers.decompositions import decomposed
from specop.solvers.inverse import SolvingOperator
from specop.testing import check_operator

N = 40
POSITIVE = spectra.with_spectrum(np.linspace(0.5, 4, N))
INDEFINITE = spectra.with_spectrum(np.concatenate([np.linspace(-3, -1, 20), np.linspace(0.5, 3, 20)]))
GENERAL = np.random.default_rng(0).normal(size=(N, N)) + 8 * np.eye(N)
DIAGONAL = np.linspace(1, 3, N)


def closed_forms(case):
    """Operators whose inverse needs no solve, each with its matrix."""
    diagonal = specop.DiagonalOperator(case.array(DIAGONAL))
    one = specop.identity_like(diagonal)
    dense = specop.DenseOperator(case.array(POSITIVE))
    low_rank = specop.LowRankOperator(case.array(np.eye(N)[:3]), case.array([1.0, 2.0, -1.5]))
    return {
        "diagonal": (diagonal, np.diag(DIAGONAL)),
        "identity": (one, np.eye(N)),
        "scaled": (-2.0 * diagonal, -2 * np.diag(DIAGONAL)),
        "diagonal and identity": (diagonal + 0.5 * one, np.diag(DIAGONAL + 0.5)),
        "positive": (dense, POSITIVE),
        "indefinite": (specop.DenseOperator(case.array(INDEFINITE)), INDEFINITE),
        "general": (specop.DenseOperator(case.array(GENERAL)), GENERAL),
        "sum": (dense + 3.0 * one, POSITIVE + 3 * np.eye(N)),
        "low rank and identity": (low_rank + one, np.diag([2.0, 3, -0.5, *np.ones(N - 3)])),
    }


@each_algorithm_case
def test_closed_forms(case):
    for name, (operator, matrix) in closed_forms(case).items():
        found = specop.inverse(operator)
        assert not isinstance(found, SolvingOperator), name
        case.close(found.to_dense(), np.linalg.inv(matrix))
        case.close(found.T.to_dense(), np.linalg.inv(matrix).T)


@each_algorithm_case
def test_a_long_diagonal_plus_low_rank_has_a_closed_form(case):
    n = 1500
    rows, weights, diagonal = case.normal(3, n), np.array([1.0, 2.0, -0.5]), np.linspace(1, 2, n)
    A = 0.1 * specop.LowRankOperator(rows, case.array(weights)) + specop.DiagonalOperator(case.array(diagonal))
    found, b = specop.inverse(A), case.normal(n, seed=1)
    assert not isinstance(found, SolvingOperator)
    case.close(A @ (found @ b), case.numpy(b))


@each_algorithm_case
def test_products_that_solve(case):
    for matrix in (POSITIVE, INDEFINITE):
        dense = specop.DenseOperator(case.array(matrix), is_symmetric=True)
        A = specop.FunctionOperator(dense._matvec, (N, N), like=case.array([0.0]), is_symmetric=True)
        found = specop.inverse(A, rtol=max(1e-12, 100 * case.eps))
        assert isinstance(found, SolvingOperator) and specop.inverse(found) is A
        b = np.random.default_rng(1).normal(size=N)
        case.close(found @ case.array(b), np.linalg.solve(matrix, b))
        assert found.matvecs > 5
        assert not case.numpy(found @ case.array(np.zeros(N))).any()


def test_a_solving_operator_is_an_operator():
    A = specop.FunctionOperator(lambda x: POSITIVE @ x, (N, N), like=np.zeros(1), is_symmetric=True)
    found = specop.inverse(A, rtol=1e-13)
    check_operator(found)
    assert found.precision == 1e-13
    # The smallest eigenvalues of A are the largest ones of the inverse.
    top = specop.eigsh(found, 2, which="LA", tol=1e-6)
    np.testing.assert_allclose(1 / top.eigenvalues, np.linspace(0.5, 4, N)[1::-1], rtol=1e-6)


def test_a_product_that_cannot_be_solved_raises():
    singular = specop.FunctionOperator(lambda x: np.append(x[:-1], 0.0), (N, N), like=np.zeros(1), is_symmetric=True)
    found = specop.inverse(singular)
    with pytest.raises(NotConvergedError, match="singular and b is not in its range"):
        found @ np.ones(N)
    with pytest.raises(NotConvergedError, match="Raise max_matvecs"):
        specop.inverse(specop.aslinearoperator(np.diag(np.geomspace(1e-3, 1, 2000))), max_matvecs=10) @ np.ones(2000)


def test_wrong_options_show_at_the_call():
    for A in (np.eye(3), specop.FunctionOperator(lambda x: x, (3, 3), like=np.zeros(1), is_symmetric=True)):
        with pytest.raises(TypeError, match="rtoll"):
            specop.inverse(A, rtoll=1e-8)
        with pytest.raises(InvalidInputError, match="method must be one of"):
            specop.inverse(A, method="gmres")
        with pytest.raises(InvalidInputError, match="rtol must lie below 1"):
            specop.inverse(A, rtol=2.0)
        with pytest.raises(InvalidInputError, match="preconditioner must be a symmetric operator"):
            specop.inverse(A, preconditioner=np.eye(2))


@each_algorithm_case
def test_a_wide_spectrum_is_not_taken_for_a_singular_one(case):
    values = np.geomspace(1e-5 if case.eps > 1e-10 else 1e-12, 1, 200)
    A = specop.DiagonalOperator(case.array(values)) + 0.0 * specop.DenseOperator(case.array(np.eye(200)))
    found = specop.inverse(A)
    assert not isinstance(found, SolvingOperator) and found.is_psd
    case.close(A @ (found @ case.normal(200)), case.numpy(case.normal(200)))


def test_the_least_damping_makes_a_matrix_positive_definite():
    for matrix in (INDEFINITE, POSITIVE, np.ones((N, N))):
        found = decomposed(specop.aslinearoperator(matrix))
        smallest = np.linalg.eigvalsh(matrix)[0]
        assert found.least_damping == pytest.approx(-smallest, abs=1e-12)
        operator, diagonal = found.inverse(found.least_damping + 1e-9)
        assert operator.is_psd
        np.testing.assert_array_equal(diagonal, operator.to_dense().diagonal())
    assert decomposed(specop.aslinearoperator(INDEFINITE)).inverse(1.5)[0].is_psd is False


def test_singular_matrices_are_refused_with_their_eigenvalue():
    with pytest.raises(DomainError, match=r"diagonal holds 0 at 2.*Add damping"):
        specop.inverse(specop.DiagonalOperator(np.array([1.0, 2.0, 0.0])))
    with pytest.raises(DomainError, match=r"singular to rounding: it has the eigenvalue .* beside one of 6"):
        specop.inverse(np.ones((6, 6)))
    with pytest.raises(DomainError, match=r"singular value"):
        specop.inverse(np.triu(np.ones((3, 3)), 1))
    with pytest.raises(InvalidInputError, match=r"needs a square operator, got shape \(2, 3\)"):
        specop.inverse(np.ones((2, 3)))
    with pytest.raises(InvalidInputError, match="NaN"):
        specop.inverse(np.full((2, 2), np.nan))
    with pytest.raises(InvalidInputError, match="needs a symmetric operator where it has to solve"):
        specop.inverse(specop.FunctionOperator(lambda x: x, (3, 3), like=np.zeros(1), is_symmetric=False))
