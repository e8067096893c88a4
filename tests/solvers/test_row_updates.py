"""ShermanMorrison while rows come and go."""

import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import specop
from cases import each_algorithm_case
from row_cases import dense, matrix, normal
from specop.errors import InvalidInputError


@each_algorithm_case
def test_the_mean_is_over_the_rows_so_far(case):
    rows, x = normal(20, 300), normal(300, seed=1)
    inverse = specop.ShermanMorrison(damping=0.1, n=300)
    for start in range(0, 20, 5):
        inverse.update(case.array(rows[start : start + 5]))
        case.close(inverse @ case.array(x), np.linalg.solve(matrix(rows[: start + 5], 0.1), x))
    fixed = specop.ShermanMorrison(damping=0.1, rows=case.array(rows[:5]), count=20)
    case.close(fixed @ case.array(x), np.linalg.solve(matrix(rows[:5], 0.1, count=20), x))


@pytest.mark.parametrize("n", [30, 300])
@each_algorithm_case
def test_removing_rows_is_as_if_they_had_never_come(case, n):
    rows = normal(20, n)
    inverse = specop.ShermanMorrison(damping=0.1)
    for start in range(0, 20, 4):
        inverse.update(case.array(rows[start : start + 4]))
    early = inverse.operator()
    inverse.downdate(case.array(rows[[17, 3, 4]]))
    inverse.downdate(case.array(rows[5]))
    left = np.delete(rows, [3, 4, 5, 17], axis=0)
    case.close(dense(inverse), np.linalg.inv(matrix(left, 0.1)))
    inverse.downdate(case.array(rows[6:8]))
    assert inverse.samples == 14
    inverse.update(case.array(rows[3]))
    left = np.delete(rows, [4, 5, 6, 7, 17], axis=0)
    case.close(dense(inverse), np.linalg.inv(matrix(left, 0.1)))
    case.close(case.backend.copy(inverse.diagonal()), np.diag(np.linalg.inv(matrix(left, 0.1))))
    # An operator belongs to the rows of its time.
    case.close(early.to_dense(), np.linalg.inv(matrix(rows, 0.1)))


def test_the_promised_precision_is_that_of_the_rows_however_they_came():
    rows = normal(12, 300)
    whole, pieces = specop.ShermanMorrison(damping=0.1, rows=rows), specop.ShermanMorrison(damping=0.1, count=12)
    for start in range(0, 12, 4):
        pieces.update(rows[start : start + 4])
        pieces @ rows[0]
    assert pieces.operator().precision == pytest.approx(whole.operator().precision, rel=1e-6, abs=0)
    # Where the damping is all of the matrix, a product is a multiplication.
    assert specop.ShermanMorrison(damping=1e20, rows=rows).operator().precision == pytest.approx(
        np.finfo(float).eps, rel=1e-6, abs=0
    )


def test_all_rows_may_go():
    rows = normal(3, 300)
    inverse = specop.ShermanMorrison(damping=0.5, rows=rows)
    inverse.downdate(rows)
    np.testing.assert_allclose(inverse @ rows[0], 2 * rows[0])
    np.testing.assert_allclose(inverse.diagonal(), 2)
    assert inverse.samples == 0 and inverse[3, 3] == 2


def test_a_sliding_window_holds_the_blocks_that_are_in_it():
    rows, held = normal(40, 1000), []
    inverse = specop.ShermanMorrison(damping=0.1, rows=rows[:4])
    for start in range(4, 40, 4):
        block = rows[start : start + 4].copy()
        held.append(weakref.ref(block))
        inverse.update(block)
        inverse.downdate(rows[start - 4 : start])
    del block
    np.testing.assert_allclose(dense(inverse), np.linalg.inv(matrix(rows[36:], 0.1)), atol=1e-11)
    assert [block() is not None for block in held] == [False] * 8 + [True]


@pytest.mark.parametrize("n", [30, 300])
def test_rows_that_are_not_there_cannot_go(n):
    rows = normal(6, n)
    inverse = specop.ShermanMorrison(damping=0.1, rows=rows[:5])
    before = inverse @ rows[0]
    with pytest.raises(InvalidInputError, match="row 1 of those to remove is not among the 4 rows"):
        inverse.downdate(rows[[0, 5]])
    with pytest.raises(InvalidInputError, match=r"row 1 .* not as often"):
        inverse.downdate(rows[[2, 2]])
    np.testing.assert_array_equal(inverse @ rows[0], before)
    twice = specop.ShermanMorrison(damping=0.1, rows=rows[[2, 2, 3]])
    twice.downdate(rows[[2]])
    np.testing.assert_allclose(dense(twice), np.linalg.inv(matrix(rows[[2, 3]], 0.1)), atol=1e-12)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=25), st.sampled_from([20, 260]))
def test_any_order_of_updates(steps, n):
    rows, held = normal(6, n), [0]
    inverse = specop.ShermanMorrison(damping=0.2, rows=rows[:1])
    for add, which in steps:
        if add or which not in held:
            inverse.update(rows[which])
            held.append(which)
        else:
            inverse.downdate(rows[which])
            held.remove(which)
    expected = matrix(rows[held], 0.2) if held else 0.2 * np.eye(n)
    x = normal(n, seed=1)
    np.testing.assert_allclose(inverse @ x, np.linalg.solve(expected, x), atol=1e-11)


def test_rows_turn_into_sums_when_there_are_enough_of_them():
    rows, x, held = normal(700, 300), normal(300, seed=1), []
    inverse = specop.ShermanMorrison(damping=0.1)
    for start in range(0, 700, 100):
        block = rows[start : start + 100].copy()
        held.append(weakref.ref(block))
        inverse.update(block)
        if start == 100:
            inverse.downdate(rows[50:60])
    left = np.delete(rows, np.arange(50, 60), axis=0)
    np.testing.assert_allclose(inverse @ x, np.linalg.solve(matrix(left, 0.1), x), atol=1e-11)
    inverse.downdate(rows[300:320])
    left = np.delete(left, np.arange(290, 310), axis=0)
    np.testing.assert_allclose(inverse @ x, np.linalg.solve(matrix(left, 0.1), x), atol=1e-11)
    del block
    assert not any(block() is not None for block in held)


@pytest.mark.parametrize("n", [30, 300])
def test_a_buffer_that_is_used_again_is_noticed(n):
    buffer, inverse = np.ones(n), specop.ShermanMorrison(damping=0.1)
    inverse.update(normal(n))
    inverse.update(buffer[None])
    buffer[3] = 2
    with pytest.raises(InvalidInputError, match=r"row 1 was written to after it was added.*copy"):
        inverse @ buffer
