"""solve_shifted: several shifts of a matrix from one Krylov space."""

import numpy as np
import pytest

import specop
from cases import each_algorithm_case
from specop.errors import ConvergenceWarning
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
