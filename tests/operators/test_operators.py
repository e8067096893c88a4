"""The algebra against dense matrices, and SciPy in both directions."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg as sla
from hypothesis import given, settings
from hypothesis import strategies as st

import specop
from cases import ALGORITHM_CASES, each_algorithm_case
from specop.errors import InvalidInputError, SpecopError

# --- Laws of the algebra ----------------------------------------------------------------------------------------------
# Entries are small integers, so that every product is exact in float32 and results are compared bit for bit.


def integers(rng, *shape):
    return rng.integers(-1, 2, size=shape).astype(float)


@st.composite
def leaves(draw, case, m, n):
    """An operator that holds its matrix, and the matrix."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    kinds = ["dense", "function"] + ["symmetric", "diagonal", "lowrank", "identity"] * (m == n)
    kind = draw(st.sampled_from(kinds))
    if kind == "diagonal":
        entries = integers(rng, n)
        return specop.DiagonalOperator(case.array(entries)), np.diag(entries)
    if kind == "lowrank":
        rows = integers(rng, draw(st.integers(1, 2)), n)
        weights = integers(rng, len(rows)) if draw(st.booleans()) else None
        operator = specop.LowRankOperator(case.array(rows), None if weights is None else case.array(weights))
        return operator, rows.T @ np.diag(np.ones(len(rows)) if weights is None else weights) @ rows
    if kind == "identity":
        return specop.identity_like(specop.DiagonalOperator(case.array(np.zeros(n)))), np.eye(n)
    matrix = integers(rng, m, n)
    if kind == "symmetric":
        matrix = np.tril(matrix) + np.tril(matrix, -1).T
        return specop.DenseOperator(case.array(matrix), is_symmetric=True), matrix
    dense = specop.DenseOperator(case.array(matrix))
    if kind == "dense":
        return dense, matrix
    operator = specop.FunctionOperator(dense.matvec, (m, n), like=case.array([0.0]), rmatvec=dense.rmatvec)
    return operator, matrix


@st.composite
def operators(draw, case, m, n, depth=2):
    """An operator of shape (m, n) made of others, and its matrix."""
    if depth == 0:
        return draw(leaves(case, m, n))
    node = draw(st.sampled_from(["leaf", "sum", "scale", "product", "transpose"] + ["restrict", "gram"] * (m == n)))
    if node == "leaf":
        return draw(leaves(case, m, n))
    if node == "sum":
        (A, a), (B, b) = draw(operators(case, m, n, depth - 1)), draw(operators(case, m, n, depth - 1))
        return (A + B, a + b) if draw(st.booleans()) else (A - B, a - b)
    if node == "product":
        inner = draw(st.integers(1, 3))
        (A, a), (B, b) = draw(operators(case, m, inner, depth - 1)), draw(operators(case, inner, n, depth - 1))
        return A @ B, a @ b
    if node == "scale":
        A, a = draw(operators(case, m, n, depth - 1))
        factor = draw(st.sampled_from([-2, -1.0, 0, 0.5, np.float32(3)]))
        return draw(st.sampled_from([(factor * A, factor * a), (A * factor, factor * a), (-A, -a), (A / 2, a / 2)]))
    if node == "transpose":
        A, a = draw(operators(case, n, m, depth - 1))
        return A.T, a.T
    if node == "gram":
        A, a = draw(operators(case, draw(st.integers(1, 3)), n, depth - 1))
        return A.T @ A, a.T @ a
    size = draw(st.integers(n, n + 2))
    A, a = draw(operators(case, size, size, depth - 1))
    indices = draw(st.permutations(range(size)))[:n]
    return specop.restrict(A, indices), a[np.ix_(indices, indices)]


@each_algorithm_case
@settings(max_examples=100)
@given(data=st.data(), m=st.integers(1, 4), n=st.integers(1, 4))
def test_algebra_of_operators_is_that_of_matrices(case, data, m, n):
    A, a = data.draw(operators(case, m, n))
    x, y, block = np.arange(1.0, n + 1), np.arange(1.0, m + 1), np.arange(2.0 * n).reshape(n, 2) - 2
    native = case.array(x)
    assert A.shape == a.shape and A.dtype == case.dtype
    np.testing.assert_array_equal(case.numpy(A.to_dense()), a)
    np.testing.assert_array_equal(case.numpy(A @ native), a @ x)
    np.testing.assert_array_equal(case.numpy(A @ case.array(block)), a @ block)
    np.testing.assert_array_equal(case.numpy(A.rmatvec(case.array(y))), a.T @ y)
    np.testing.assert_array_equal(case.numpy(A.T @ case.array(y)), a.T @ y)
    np.testing.assert_array_equal(case.numpy(A.T.T.to_dense()), a)
    # A product is in storage of its own: writing into it changes neither the operand nor the operator.
    case.backend.scale_(A.matvec(native), 0.0)
    case.backend.scale_(A.rmatvec(case.array(y)), 0.0)
    np.testing.assert_array_equal(case.numpy(native), x)
    np.testing.assert_array_equal(case.numpy(A @ native), a @ x)
    # What is claimed is true.
    assert not A.is_symmetric or (a == a.T).all()
    assert not A.is_psd or (A.is_symmetric and np.linalg.eigvalsh(a).min() > -1e-10)
    assert m == n or (A.is_symmetric is False and A.is_psd is False)


# --- Facts ------------------------------------------------------------------------------------------------------------


def symmetric(**facts):
    return specop.DenseOperator(np.eye(3), is_symmetric=True, **facts)


def test_symmetry_and_definiteness_propagate():
    unknown, known, definite = (
        specop.DenseOperator(np.eye(3)),
        symmetric(),
        specop.DenseOperator(np.eye(3), is_psd=True),
    )
    facts = {
        "definite implies symmetric": (definite, True, True),
        "unknown": (unknown, None, None),
        "sum": (definite + definite, True, True),
        "sum with indefinite": (definite + known, True, None),
        "sum with unknown": (definite + unknown, None, None),
        "shifted": (definite + 0.1 * specop.identity_like(definite), True, True),
        "scaled": (2 * definite, True, True),
        "negated": (-definite, True, None),
        "difference": (definite - definite, True, None),
        "transposed": (unknown.T, None, None),
        "gram": (unknown.T @ unknown, True, True),
        "other gram": (unknown @ unknown.T, True, True),
        "square": (known @ known, True, True),
        "square of unknown": (unknown @ unknown, None, None),
        "product": (definite @ known, None, None),
        "block": (specop.restrict(definite, [0, 2]), True, True),
        "identity": (specop.identity_like(unknown), True, True),
        "low rank": (specop.LowRankOperator(np.ones((1, 3))), True, True),
        "weighted": (specop.LowRankOperator(np.ones((1, 3)), np.ones(1)), True, None),
        "diagonal": (specop.DiagonalOperator(np.ones(3)), True, None),
    }
    found = {name: (A.is_symmetric, A.is_psd) for name, (A, _, _) in facts.items()}
    assert found == {name: (symmetric, psd) for name, (_, symmetric, psd) in facts.items()}


def test_a_symmetric_operator_is_its_own_transpose():
    A = symmetric()
    B = specop.DenseOperator(np.ones((2, 3)))
    assert A.T is A and B.T.T is B


@each_algorithm_case
def test_a_function_may_return_its_own_buffer(case):
    buffer = case.array([1.0, 2.0])
    A = specop.FunctionOperator(lambda x: buffer, (2, 2), like=buffer, is_symmetric=True)
    case.backend.scale_(A @ buffer, 0.0)
    case.close((A + A) @ buffer, [2.0, 4.0])
    case.close(buffer, [1.0, 2.0])


def test_repr_says_what_it_is():
    assert repr(symmetric(is_psd=True)) == "<DenseOperator 3 x 3, float64, numpy:cpu, symmetric, positive semidefinite>"


@each_algorithm_case
def test_array_times_operator(case):
    A, x, block = specop.DenseOperator(case.normal(3, 2)), case.normal(3), case.normal(4, 3)
    a = case.numpy(A.matrix)
    case.close(x @ A, case.numpy(x) @ a)
    case.close(block @ A, case.numpy(block) @ a)


# --- Bad input --------------------------------------------------------------------------------------------------------


@each_algorithm_case
def test_operands_that_do_not_fit(case):
    A = specop.DenseOperator(case.normal(3, 2))
    with pytest.raises(InvalidInputError, match=r"operand of a 3 x 2 operator must have shape \(2,\), got \(3,\)"):
        A @ case.normal(3)
    with pytest.raises(InvalidInputError, match=r"operand of a 2 x 3 operator must have shape \(3,\), got \(2,\)"):
        A.rmatvec(case.normal(2))
    with pytest.raises(InvalidInputError, match=r"each column of the operand must have shape \(2,\), got \(3,\)"):
        A @ case.normal(3, 2)
    with pytest.raises(InvalidInputError, match=r"must have shape \(2,\), got \(1, 2, 1\)"):
        A @ case.normal(1, 2, 1)
    with pytest.raises(InvalidInputError, match="no columns"):
        A @ case.normal(2, 0)
    with pytest.raises(InvalidInputError, match=f"dtype {case.dtype}, got .*{case.other_dtype.dtype}"):
        A @ case.other_dtype.normal(2)
    with pytest.raises(InvalidInputError, match="cannot multiply DenseOperator by list"):
        A @ [1.0, 2.0]


@each_algorithm_case
def test_operands_of_other_frameworks_are_not_converted(case):
    A, foreign = specop.DenseOperator(case.normal(2, 2)), case.foreign(np.ones(2))
    with pytest.raises(InvalidInputError, match=r"never moves a vector between frameworks|cannot multiply"):
        A @ foreign
    with pytest.raises((InvalidInputError, TypeError), match=r"never moves a vector between frameworks|unsupported"):
        foreign @ A


@each_algorithm_case
def test_operators_that_do_not_fit(case):
    A, B = specop.DenseOperator(case.normal(3, 2)), specop.DenseOperator(case.normal(2, 2))
    with pytest.raises(InvalidInputError, match=r"cannot add operators of shapes \(3, 2\) and \(2, 2\)"):
        A + B
    with pytest.raises(InvalidInputError, match=r"cannot multiply operators of shapes \(2, 2\) and \(3, 2\)"):
        B @ A
    with pytest.raises(InvalidInputError, match="must share framework, device, sharding and dtype"):
        B + specop.DenseOperator(case.other_dtype.normal(2, 2))
    with pytest.raises(InvalidInputError, match=r"square operator, got shape \(3, 2\)"):
        specop.identity_like(A)
    with pytest.raises(InvalidInputError, match=r"3 x 2 operator cannot be symmetric"):
        specop.DenseOperator(case.normal(3, 2), is_symmetric=True)


@pytest.mark.parametrize("factor", [np.nan, np.inf, -np.inf])
def test_factors_that_are_not_finite(factor):
    with pytest.raises(InvalidInputError, match=f"cannot scale an operator by {factor}"):
        factor * symmetric()


@pytest.mark.parametrize("other", [1j, "2", None, [1.0]])
def test_factors_that_are_no_real_numbers(other):
    for multiply in (lambda: symmetric() * other, lambda: symmetric() + other, lambda: symmetric() / other):
        with pytest.raises(TypeError, match=r"unsupported operand|can't multiply"):
            multiply()


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([], "non-empty"),
        ([[0, 1]], "one-dimensional"),
        ([0.0, 1.0], "integers"),
        ([0, 3], r"lie in 0\.\.2"),
        ([-1, 0], r"lie in 0\.\.2"),
        ([1, 1], "distinct"),
    ],
)
def test_blocks_that_do_not_exist(indices, message):
    with pytest.raises(InvalidInputError, match=message):
        specop.restrict(symmetric(), indices)
    with pytest.raises(InvalidInputError, match="only a square operator"):
        specop.restrict(specop.DenseOperator(np.ones((2, 3))), [0])


MASKED = np.ma.masked_array([1.0, 2.0], mask=[True, False])
TAKERS = {
    "a matrix": lambda: specop.eigsh(np.ma.masked_array(np.eye(3), mask=np.eye(3)), 1),
    "a dense operator": lambda: specop.DenseOperator(np.ma.masked_array(np.eye(3), mask=np.eye(3))),
    "a diagonal": lambda: specop.DiagonalOperator(MASKED),
    "like": lambda: specop.FunctionOperator(lambda x: x, (2, 2), like=MASKED),
    "an operand": lambda: specop.DenseOperator(np.eye(2)) @ MASKED,
    "what matvec returns": lambda: (
        specop.FunctionOperator(lambda x: x + 0 * MASKED, (2, 2), like=np.ones(2)) @ np.ones(2)
    ),
    "a start vector": lambda: specop.eigsh(np.eye(2), 1, v0=MASKED),
    "a right-hand side": lambda: specop.solve(np.eye(2), MASKED),
    "shifts": lambda: specop.solve_shifted(np.eye(2), np.ones(2), MASKED),
    "rows": lambda: specop.ShermanMorrison(damping=1.0, rows=MASKED[None]),
    "a middle": lambda: specop.low_rank_update(specop.DiagonalOperator(np.ones(2)), np.eye(2), MASKED),
    "coordinates": lambda: specop.restrict(specop.DiagonalOperator(np.ones(2)), MASKED.astype(int) - 1),
    "columns of an inverse": lambda: specop.ShermanMorrison(damping=1.0, rows=np.eye(2)).columns(
        MASKED.astype(int) - 1
    ),
}


@pytest.mark.parametrize("taker", TAKERS)
def test_masked_arrays_are_refused(taker):
    """Their mask went unseen: what was masked counted like any other entry."""
    with pytest.raises(InvalidInputError, match="is a masked array of NumPy, whose mask would be ignored"):
        TAKERS[taker]()


@each_algorithm_case
def test_functions_that_return_nonsense(case):
    like = case.normal(2)
    for returns, message in [
        (case.normal(3), r"what matvec returns must have shape \(2,\), got \(3,\)"),
        (case.other_dtype.normal(2), f"what matvec returns must have dtype {case.dtype}"),
        (None, "what matvec returns must be a .* got NoneType"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            specop.FunctionOperator(lambda x, returns=returns: returns, (2, 2), like=like) @ like
    with pytest.raises(InvalidInputError, match=r"no transposed product. Pass rmatvec="):
        specop.FunctionOperator(lambda x: x, (2, 2), like=like).T @ like
    with pytest.raises(InvalidInputError, match=r"matvec must be callable, got (ndarray|Tensor|ArrayImpl|EagerTensor)"):
        specop.FunctionOperator(like, (2, 2), like=like)
    with pytest.raises(InvalidInputError, match=r"two positive integers, got \(0, 2\)"):
        specop.FunctionOperator(lambda x: x, (0, 2), like=like)


@each_algorithm_case
def test_constructors_that_get_nonsense(case):
    with pytest.raises(InvalidInputError, match=r"non-empty \(m, n\) array, got shape \(3,\)"):
        specop.DenseOperator(case.normal(3))
    with pytest.raises(InvalidInputError, match="non-empty one-dimensional"):
        specop.DiagonalOperator(case.normal(2, 2))
    with pytest.raises(InvalidInputError, match=r"non-empty \(r, n\) array, got shape \(0, 3\)"):
        specop.LowRankOperator(case.normal(0, 3))
    with pytest.raises(InvalidInputError, match=r"weights must have shape \(2,\), got \(3,\)"):
        specop.LowRankOperator(case.normal(2, 3), case.normal(3))


# --- SciPy ------------------------------------------------------------------------------------------------------------


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
    A = symmetric()
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
    matrix = symmetric().to_dense()
    np.testing.assert_array_equal(specop.restrict(make(matrix), [2, 0]).to_dense(), matrix[np.ix_([2, 0], [2, 0])])
    np.testing.assert_array_equal(specop.identity_like(make(matrix)).to_dense(), np.eye(len(matrix)))
    np.testing.assert_array_equal(specop.on_host(make(matrix)).to_dense(), matrix)
