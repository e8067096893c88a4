"""What no operator takes is refused by name."""

import numpy as np
import pytest

import specop
from cases import each_algorithm_case
from specop.errors import InvalidInputError

EYE = specop.DenseOperator(np.eye(3), is_symmetric=True)


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
        factor * EYE


@pytest.mark.parametrize("other", [1j, "2", None, [1.0]])
def test_factors_that_are_no_real_numbers(other):
    for multiply in (lambda: EYE * other, lambda: EYE + other, lambda: EYE / other):
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
        specop.restrict(EYE, indices)
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
