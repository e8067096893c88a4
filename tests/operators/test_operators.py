"""The algebra against dense matrices, and what is known of its results."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import specop
from cases import each_algorithm_case

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
