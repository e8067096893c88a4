"""Every built-in backend, operator and objective keeps the laws that `specop.testing` checks for third parties."""

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg

import specop
from cases import CASES, each_case, each_case_once_compiled
from specop.operators.operator import Composite
from specop.testing import check_backend, check_operator


@each_case_once_compiled
def test_backends(case):
    check_backend(case.backend, case.make, dtypes=[case.dtype.name])


# --- Operators --------------------------------------------------------------------------------------------------------
# From 12 x 12 and 12 x 7 matrices: more than one block of rows, and no size that divides another.


def dense(case, rows=12, columns=12, seed=0, **facts):
    return specop.DenseOperator(case.normal(rows, columns, seed=seed), **facts)


def symmetric(case, seed=0):
    a = np.random.default_rng(seed).standard_normal((12, 12))
    return specop.DenseOperator(case.array(a + a.T), is_symmetric=True)


def function(case, **facts):
    A = dense(case, 12, 7)
    return specop.FunctionOperator(A.matvec, A.shape, like=case.array([0.0]), rmatvec=A.rmatvec)


def sparse(case):
    return scipy.sparse.random_array((12, 7), density=0.5, rng=np.random.default_rng(0)).astype(case.dtype)


OPERATORS = {
    "dense": dense,
    "dense, rectangular": lambda case: dense(case, 12, 7),
    "dense, symmetric": symmetric,
    "dense, of one row": lambda case: dense(case, 1, 7),
    "diagonal": lambda case: specop.DiagonalOperator(case.normal(12)),
    "low rank": lambda case: specop.LowRankOperator(case.normal(3, 12)),
    "low rank, weighted": lambda case: specop.LowRankOperator(case.normal(3, 12), case.array([1.0, -2.0, 0.5])),
    "function": function,
    "function without transpose": lambda case: specop.FunctionOperator(
        lambda x: x * 3.0, (12, 12), like=case.array([0.0])
    ),
    "function that returns its operand": lambda case: specop.FunctionOperator(
        lambda x: x, (12, 12), like=case.array([0.0]), is_psd=True
    ),
    "identity": lambda case: specop.identity_like(dense(case)),
    "sum": lambda case: dense(case) + symmetric(case, seed=1),
    "sum of an operator with itself": lambda case: (lambda A: A + A)(symmetric(case)),
    "difference": lambda case: dense(case, 12, 7) - dense(case, 12, 7, seed=1),
    "shifted": lambda case: symmetric(case) + 0.5 * specop.identity_like(symmetric(case)),
    "scaled": lambda case: -2.5 * dense(case, 12, 7),
    "scaled by zero": lambda case: 0.0 * symmetric(case),
    "divided": lambda case: specop.LowRankOperator(case.normal(3, 12)) / 3,
    "product": lambda case: dense(case, 12, 7) @ dense(case, 7, 5, seed=1),
    "square": lambda case: (lambda A: A @ A)(symmetric(case)),
    "gram": lambda case: (lambda A: A.T @ A)(dense(case, 12, 7)),
    "other gram": lambda case: (lambda A: A @ A.T)(dense(case, 12, 7)),
    "transposed": lambda case: dense(case, 12, 7).T,
    "on the host": lambda case: specop.on_host(dense(case, 12, 7)),
    "on the host, symmetric": lambda case: specop.on_host(symmetric(case)),
    "restricted": lambda case: specop.restrict(dense(case), [10, 0, 3, 4]),
    "restricted, symmetric": lambda case: specop.restrict(symmetric(case), [10, 0, 3, 4]),
    "low rank plus diagonal": lambda case: (
        specop.LowRankOperator(case.normal(3, 12)) + specop.DiagonalOperator(case.normal(12))
    ),
    "nested": lambda case: specop.restrict(2 * (dense(case) @ symmetric(case)).T - dense(case), [1, 5, 11]) / 7,
}

SCIPY_OPERATORS = {
    "sparse array": sparse,
    "sparse matrix": lambda case: scipy.sparse.csr_matrix(sparse(case)),
    "operator": lambda case: scipy.sparse.linalg.aslinearoperator(sparse(case)),
    "operator without transpose": lambda case: scipy.sparse.linalg.LinearOperator(
        (12, 12), matvec=lambda x: x.reshape(-1) * case.dtype.type(2), dtype=case.dtype
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
@each_case
def test_operators(case, name):
    check_operator(OPERATORS[name](case))


@pytest.mark.parametrize("name", SCIPY_OPERATORS)
@pytest.mark.parametrize("case", [case for case in CASES if case.framework == "numpy"], ids=str)
def test_scipy_operators(case, name):
    check_operator(specop.aslinearoperator(SCIPY_OPERATORS[name](case)))


def subclasses(kind):
    return {found for child in kind.__subclasses__() for found in {child, *subclasses(child)}}


def test_every_operator_class_is_checked():
    case = CASES[0]
    checked = {type(make(case)) for make in OPERATORS.values()}
    checked |= {type(specop.aslinearoperator(make(case))) for make in SCIPY_OPERATORS.values()}
    exist = {kind for kind in subclasses(specop.LinearOperator) if kind.__module__.startswith("specop.operators")}
    assert exist - {Composite} == checked
