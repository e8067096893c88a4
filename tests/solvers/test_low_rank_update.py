"""low_rank_update: the inverse of A + U C V' from that of A."""

from fractions import Fraction

import numpy as np
import pytest

import specop
from cases import each_algorithm_case
from row_cases import normal
from specop.errors import InvalidInputError
from specop.testing import check_operator


@each_algorithm_case
def test_low_rank_update(case):
    n, k = 40, 3
    A = normal(n, n) + 10 * np.eye(n)
    U, V, C, x = normal(n, k, seed=1), normal(n, k, seed=2), normal(k, k, seed=3), normal(n, seed=4)
    U, V, A = (array.astype(case.dtype).astype(float) for array in (U, V, A))
    inverse = specop.DenseOperator(case.array(np.linalg.inv(A)))
    for middle, right in ((C, V), (None, V), (np.array([1.0, 0.0, -2.0]), None), (np.zeros((k, k)), V)):
        native = None if right is None else case.array(right)
        updated = specop.low_rank_update(inverse, case.array(U), middle, native)
        full = np.eye(k) if middle is None else np.diag(middle) if middle.ndim == 1 else middle
        whole = A + U @ full @ (U if right is None else right).T
        allowed = 100 * case.eps * np.linalg.cond(whole) * np.linalg.norm(x)
        found = case.numpy(updated @ case.array(x))
        np.testing.assert_allclose(found, np.linalg.solve(whole, x), rtol=0, atol=allowed)
        found = case.numpy(updated.T @ case.array(x))
        np.testing.assert_allclose(found, np.linalg.solve(whole.T, x), rtol=0, atol=allowed)


def test_an_update_and_its_downdate_cancel():
    d, U, x = np.linspace(1, 2, 30), normal(30, 4), normal(30, seed=1)
    inverse = specop.DiagonalOperator(1 / d)
    updated = specop.low_rank_update(inverse, U, np.full(4, 0.5))
    assert updated.is_symmetric
    check_operator(updated)
    back = specop.low_rank_update(updated, U, np.full(4, -0.5))
    np.testing.assert_allclose(back @ x, x / d, atol=1e-13)


def test_updates_of_the_inverse_of_rows():
    rows, x = normal(20, 300), normal(300, seed=1)
    first = specop.ShermanMorrison(damping=0.1, rows=rows[:15], count=20).operator()
    more = specop.low_rank_update(first, rows[15:].T, np.full(5, 1 / 20))
    assert more.is_psd
    np.testing.assert_allclose(more @ x, specop.ShermanMorrison(damping=0.1, rows=rows) @ x, atol=1e-12)


def test_the_promised_precision_covers_what_a_small_pivot_loses():
    rng = np.random.default_rng(0)
    for _ in range(5):
        rest = 1e-8 * rng.uniform(1, 2)
        inverse, middle = specop.DiagonalOperator(rng.uniform(1, 2, 6)), rng.uniform(1, 2, 2)
        entries = [Fraction(1) / Fraction(entry) for entry in inverse.entries.tolist()]
        middle[0] = (rest - 1) / inverse.entries[0]
        updated = specop.low_rank_update(inverse, np.eye(6)[:, :2], middle)
        exact = np.array([float(1 / (entries[i] + Fraction(middle[i]))) for i in range(2)])
        error = np.abs((updated @ np.ones(6))[:2] / exact - 1).max()
        assert error <= updated.precision and updated.precision > 1e6 * inverse.precision


def test_updates_that_cannot_be():
    inverse, u = specop.DiagonalOperator(np.ones(4)), np.eye(4)[:, :1]
    with pytest.raises(InvalidInputError, match=r"A \+ U C V' is singular within rounding: .* condition number"):
        specop.low_rank_update(inverse, np.eye(4)[:, :2], np.array([-1.0, 1.0]))
    with pytest.raises(InvalidInputError, match=r"condition number 6\..e\+14, and products .* precision of 2\.2e-16"):
        specop.low_rank_update(inverse, np.eye(4)[:, :2], np.array([-1.0 + 3e-15, 1.0]))
    with pytest.raises(InvalidInputError, match=r"C must be a finite array of shape \(1, 1\) or \(1,\)"):
        specop.low_rank_update(inverse, u, np.ones((2, 2)))
    with pytest.raises(InvalidInputError, match="as many columns"):
        specop.low_rank_update(inverse, u, None, np.eye(4)[:, :2])
    with pytest.raises(InvalidInputError, match=r"each column of U must have shape \(4,\), got \(3,\)"):
        specop.low_rank_update(inverse, np.eye(3))
    with pytest.raises(InvalidInputError, match=r"U must be a non-empty native \(4, k\) array, got \(4,\)"):
        specop.low_rank_update(inverse, np.ones(4))
    with pytest.raises(InvalidInputError, match="only a square matrix"):
        specop.low_rank_update(np.ones((3, 4)), u)
    with pytest.raises(InvalidInputError, match="hold NaN"):
        specop.low_rank_update(inverse, np.full((4, 1), np.nan))
