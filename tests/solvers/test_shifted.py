"""solve_shifted: several shifts of a matrix from one Krylov space."""

import numpy as np
import pytest

import specop
from cases import each_algorithm_case
from specop.errors import ConvergenceWarning, InvalidInputError
from system_cases import POSITIVE, B, N, operator, true_residuals


@each_algorithm_case
def test_shifts_share_a_krylov_space(case):
    A, matrix = operator(case, POSITIVE)
    shifts = [0.0, 0.5, 2.0, 30.0]
    result = specop.solve_shifted(A, case.array(B[:, 0]), shifts, rtol=1e-4)
    x = case.numpy(result.x).astype(float)
    assert result.converged and not result.negative.any()
    for j, shift in enumerate(shifts):
        found = true_residuals(matrix + shift * np.eye(N), x[:, j], B[:, 0])
        assert found <= 1.1e-4 * np.linalg.norm(B[:, 0])
        assert found == pytest.approx(result.residuals[j], rel=0.1, abs=10 * case.tol)
    alone = specop.solve_shifted(A, case.array(B[:, 0]), [0.0], rtol=1e-4)
    assert result.matvecs == alone.matvecs


def test_indefinite_and_singular_shifts_are_named():
    A = np.diag([0.0, 1, 2, 3])
    result = specop.solve_shifted(A, np.ones(4), [-2.5, 1.0])
    assert result.converged and result.negative.tolist() == [3, 0]
    assert "indefinite: 3 negative" in str(result)
    np.testing.assert_allclose(result.x[:, 0], 1 / (np.arange(4) - 2.5))
    with pytest.warns(ConvergenceWarning, match="singular for the shift -2, and b is not in its range"):
        assert not specop.solve_shifted(A, np.ones(4), [-2.0, 1.0]).converged
    inside = specop.solve_shifted(A, np.array([1.0, 1, 0, 1]), [-2.0])
    np.testing.assert_allclose(inside.x[:, 0], [-1 / 2, -1, 0, 1], atol=1e-12)


def test_what_rounding_leaves_of_a_regular_system_is_not_taken_for_a_singular_one():
    with pytest.warns(ConvergenceWarning, match="at the shift 0.5, .*: rounding in float64 allows no less"):
        found = specop.solve_shifted(np.diag([1.0, 2.0, 3.0]), np.ones(3), [0.5], rtol=1e-17)
    np.testing.assert_allclose(found.x[:, 0], [1 / 1.5, 1 / 2.5, 1 / 3.5], rtol=1e-14)


@pytest.mark.parametrize(
    ("b", "shifts", "words"),
    [
        (np.ones((3, 2)), [0.5], "takes one right-hand side"),
        (np.ones(3), [], "non-empty one-dimensional array"),
        (np.ones(3), [[0.5]], "non-empty one-dimensional array"),
        (np.ones(3), [0.5, np.inf], "finite numbers"),
    ],
)
def test_what_is_no_system_or_no_shift_is_refused(b, shifts, words):
    with pytest.raises(InvalidInputError, match=words):
        specop.solve_shifted(np.eye(3), b, shifts)
