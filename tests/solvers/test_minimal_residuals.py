"""minimal_residuals: what one column has after any number of products, by the definition of MINRES."""

import numpy as np
import pytest

import spectra
from specop.errors import InvalidInputError
from specop.krylov.run import Run
from specop.solvers.equations import Equations
from specop.solvers.minimal_residuals import minimal_residuals
from specop.solvers.operands import checked_operands

SPECTRA = {
    "definite": np.geomspace(0.01, 1, 14),
    "indefinite": np.concatenate([-np.geomspace(0.1, 1, 6), np.geomspace(0.05, 2, 8)]),
    "singular": np.append(np.zeros(4), np.geomspace(0.1, 1, 10)),
}


def reduced(matrix, b, allowance, goal, preconditioner=None):
    """Return the system and how it ended, after a product that is none of the allowance's."""
    with Run(matrix, "test") as run, Run(np.eye(len(b)) if preconditioner is None else preconditioner, "M") as M:
        run.multiply(b)
        system = Equations(
            run, checked_operands(run.A, b), np.array([goal]), preconditioner=None if preconditioner is None else M
        )
        return system, minimal_residuals(system, 0, allowance)


@pytest.mark.parametrize("is_preconditioned", [False, True])
@pytest.mark.parametrize("kind", SPECTRA)
def test_the_residual_is_the_least_of_the_krylov_space_in_the_norm_of_the_preconditioner(kind, is_preconditioned):
    matrix, b = spectra.with_spectrum(SPECTRA[kind], 1), np.random.default_rng(2).normal(size=14)
    # So far from the identity that some of its least residuals are longer than b.
    M = spectra.with_spectrum(np.geomspace(0.01, 1, 14), 3) if is_preconditioned else np.eye(14)
    root = np.linalg.cholesky(M).T
    rows = [M @ b]
    for steps in range(1, 8):
        V = np.linalg.qr(np.array(rows).T)[0]
        expected = V @ np.linalg.lstsq(root @ matrix @ V, root @ b)[0]
        rest = np.linalg.norm(b - matrix @ expected)
        if rest > np.linalg.norm(b):
            expected = 0 * b
        system, outcome = reduced(matrix, b, steps + 2, 1e-10, M if is_preconditioned else None)
        assert (outcome.reason, outcome.steps, system.run.products) == ("limit", steps, steps + 2)
        np.testing.assert_allclose(system.x[0], expected, rtol=1e-7, atol=1e-7)
        assert system.norms[0] == pytest.approx(np.linalg.norm(b - matrix @ expected))
        rows.append(M @ matrix @ (V @ V.T @ rows[-1]) / np.linalg.norm(rows[-1]))


@pytest.mark.parametrize("seed", [16, 29, 32, 45, 89, 182])
def test_a_residual_that_stays_for_long_on_a_small_eigenvalue_is_not_taken_for_one_that_no_solution_has(seed):
    """A r goes down to that eigenvalue and up again a hundred times and more, while r stays as it is."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 20))
    values = rng.choice([-1, 1], n) * 10 ** rng.uniform(-3, 0, n)
    values[0] = 10 ** rng.uniform(-6, -3)
    b = rng.normal(size=n) * 10 ** rng.uniform(-4, 0, n)
    b[0] = 1
    system, outcome = reduced(np.diag(values), b, 100, 1e-8)
    assert outcome.reason == "converged"
    assert np.linalg.norm(b - values * system.x[0]) <= 1e-8


def test_a_preconditioner_that_takes_the_residual_to_zero_is_refused():
    with pytest.raises(InvalidInputError, match="not positive definite: r'M r = 0 after"):
        reduced(np.diag([1.0, 2.0]), np.array([1.0, 0.0]), 10, 1e-10, np.diag([0.0, 1.0]))
