"""SciPy in both directions: its algorithms on operators, and its operators in algorithms."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg as sla

import specop
from cases import ALGORITHM_CASES, each_algorithm_case
from specop.errors import InvalidInputError, SpecopError


def definite(n=30):
    """A well-conditioned symmetric positive definite matrix with separated eigenvalues."""
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))[0]
    return q @ np.diag(1 + np.arange(n) / 3) @ q.T


@pytest.fixture(params=ALGORITHM_CASES, ids=str)
def problem(request):
    """A SciPy view, its matrix, a right-hand side and the tolerance of answers."""
    case, a = request.param, definite()
    view = specop.DenseOperator(case.array(a), is_symmetric=True).to_scipy()
    return view, a, np.arange(30.0), 100 * case.tol


def test_scipy_view_products(problem):
    view, a, b, tol = problem
    assert isinstance(view, sla.LinearOperator) and view.shape == a.shape
    # Views of a workspace, columns, blocks that are not contiguous, and always float64.
    for operand in (b, b[:, None], np.stack([b, -b], axis=1), np.zeros((30, 7))[:, ::3], b[::-1]):
        product = view @ operand
        assert product.dtype == view.dtype and product.flags.writeable and product.shape == operand.shape
        np.testing.assert_allclose(product, a @ operand, atol=tol)
    np.testing.assert_allclose(b @ view, b @ a, atol=tol)
    with pytest.raises(InvalidInputError, match="complex"):
        view @ (1j * b)


def test_scipy_eigsh(problem):
    view, a, _, tol = problem
    np.testing.assert_allclose(sla.eigsh(view, k=3)[0], np.linalg.eigvalsh(a)[-3:], rtol=tol)


def test_scipy_lobpcg(problem):
    view, a, _, _ = problem
    start = np.random.default_rng(1).standard_normal((30, 3))
    values, _ = sla.lobpcg(view, start.astype(view.dtype), maxiter=200, tol=1e-4)
    np.testing.assert_allclose(np.sort(values), np.linalg.eigvalsh(a)[-3:], rtol=1e-4)


@pytest.mark.parametrize("method", [sla.cg, sla.minres, sla.gmres], ids=lambda method: method.__name__)
def test_scipy_solvers(problem, method):
    view, a, b, _ = problem
    x, info = method(view, b, rtol=1e-6)
    assert info == 0
    np.testing.assert_allclose(x, np.linalg.solve(a, b), atol=1e-3)


@pytest.fixture(params=ALGORITHM_CASES, ids=str)
def rectangle(request):
    case, a = request.param, np.random.default_rng(2).standard_normal((12, 8))
    return specop.DenseOperator(case.array(a)).to_scipy(), a, 100 * case.tol


def test_scipy_svds(rectangle):
    view, a, tol = rectangle
    found = sla.svds(view, k=2, return_singular_vectors=False)
    np.testing.assert_allclose(np.sort(found), np.linalg.svd(a)[1][1::-1], rtol=tol)


# SciPy's own lsmr casts 1e100 to float32.
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_scipy_lsmr(rectangle):
    view, a, tol = rectangle
    b = np.arange(12.0)
    np.testing.assert_allclose(sla.lsmr(view, b, atol=0, btol=0)[0], np.linalg.lstsq(a, b)[0], atol=tol)


@each_algorithm_case
def test_scipy_onenormest(case):
    a = definite() + np.triu(np.ones((30, 30)))
    view = specop.DenseOperator(case.array(a)).to_scipy()
    assert sla.onenormest(view) == pytest.approx(np.linalg.norm(a, 1), rel=case.tol)


def test_scipy_expm_multiply(problem):
    view, a, b, tol = problem
    expected = scipy.linalg.expm(-a / 10) @ b
    scaled = (view.operator * -0.1).to_scipy()
    found = sla.expm_multiply(scaled, b, traceA=-np.trace(a) / 10)
    np.testing.assert_allclose(found, expected, atol=tol)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_scipy_operators_in_ours(dtype):
    a = np.arange(6).reshape(2, 3).astype(dtype)
    for wrapped in (scipy.sparse.csr_array(a), scipy.sparse.coo_matrix(a), sla.aslinearoperator(a)):
        A = specop.aslinearoperator(wrapped)
        assert A.dtype == (np.float32 if dtype == "float32" else np.float64)
        np.testing.assert_array_equal(A @ np.ones(3, A.dtype), [3, 12])
        np.testing.assert_array_equal(A.T @ np.ones(2, A.dtype), [3, 5, 7])
        np.testing.assert_array_equal((A.T @ A).to_dense(), a.T @ a)


def test_scipy_operators_in_eigsh():
    a = definite()
    exact = np.linalg.eigvalsh(a)[-2:]
    for wrapped in (scipy.sparse.csr_array(a), sla.aslinearoperator(a), a, a.tolist()):
        np.testing.assert_allclose(specop.eigsh(wrapped, k=2, tol=1e-6).eigenvalues, exact, rtol=1e-6)


def test_a_round_trip_is_free():
    A = specop.DenseOperator(np.eye(3), is_symmetric=True)
    assert specop.aslinearoperator(A) is A and specop.aslinearoperator(A.to_scipy()) is A


def test_a_numpy_matrix_is_an_array():
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.asmatrix(np.eye(2))
    np.testing.assert_array_equal(specop.aslinearoperator(matrix) @ np.ones(2), [1.0, 1.0])


def test_a_scipy_operator_without_transpose_says_so():
    A = specop.aslinearoperator(sla.LinearOperator((2, 2), matvec=lambda x: x, dtype=float))
    with pytest.raises(SpecopError, match="no transposed product"):
        A.T @ np.ones(2)


@pytest.mark.parametrize("thing", [np.ones(3), "text", 3.0, None, np.ones((2, 2, 2))], ids=lambda x: type(x).__name__)
def test_what_is_no_operator(thing):
    with pytest.raises(InvalidInputError, match="cannot make an operator of"):
        specop.aslinearoperator(thing)


def test_complex_is_refused():
    with pytest.raises(InvalidInputError, match="complex"):
        specop.aslinearoperator(scipy.sparse.csr_array(1j * np.eye(2)))
    with pytest.raises(InvalidInputError, match=r"float32 or float64, got complex128"):
        specop.aslinearoperator(1j * np.eye(2))
    with pytest.raises(InvalidInputError, match="rows of real numbers of one length"):
        specop.aslinearoperator([[1j, 0], [0, 1]])


def test_complex_products_of_a_real_operator_are_refused():
    """NumPy would drop the imaginary parts, with a warning of its own at most."""
    H = np.array([[1.0, 1j], [-1j, 1.0]])
    A = specop.aslinearoperator(sla.LinearOperator((2, 2), matvec=H.__matmul__, rmatvec=H.__matmul__, dtype=float))
    for product in (lambda: A @ np.ones(2), lambda: A.T @ np.ones(2), lambda: specop.eigsh(A, 1)):
        with pytest.raises(InvalidInputError, match="returns complex products, while its dtype is real"):
            product()


COMPLEX = {
    "trace_function": lambda f: specop.trace_function(np.eye(3), f),
    "apply_function": lambda f: specop.apply_function(np.eye(3), f, np.ones(3)),
    "integrate": lambda f: specop.spectral_density(np.eye(3)).integrate(f),
}


@pytest.mark.parametrize("name", COMPLEX)
def test_functions_with_complex_values_are_refused(name):
    with pytest.raises(InvalidInputError, match="returned complex numbers, whose imaginary parts would be dropped"):
        COMPLEX[name](lambda x: np.exp(1j * x))


@pytest.mark.parametrize("make", [np.asarray, scipy.sparse.csr_array, sla.aslinearoperator], ids=lambda x: x.__name__)
def test_operators_are_made_of_any_matrix(make):
    matrix = np.eye(3)
    np.testing.assert_array_equal(specop.restrict(make(matrix), [2, 0]).to_dense(), matrix[np.ix_([2, 0], [2, 0])])
    np.testing.assert_array_equal(specop.identity_like(make(matrix)).to_dense(), np.eye(len(matrix)))
    np.testing.assert_array_equal(specop.on_host(make(matrix)).to_dense(), matrix)
