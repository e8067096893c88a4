"""minimal_residuals: what one column has after any number of products, by the definition of MINRES."""

import numpy as np
import pytest

import spectra
from specop.krylov.run import Run
from specop.solvers.equations import Equations
from specop.solvers.minimal_residuals import minimal_residuals
from specop.solvers.operands import checked_operands

SPECTRA = {
    "definite": np.geomspace(0.01, 1, 14),
    "indefinite": np.concatenate([-np.geomspace(0.1, 1, 6), np.geomspace(0.05, 2, 8)]),
    "singular": np.append(np.zeros(4), np.geomspace(0.1, 1, 10)),
}


@pytest.mark.parametrize("is_preconditioned", [False, True])
@pytest.mark.parametrize("kind", SPECTRA)
def test_the_residual_is_the_least_of_the_krylov_space_in_the_norm_of_the_preconditioner(kind, is_preconditioned):
    matrix, b = spectra.with_spectrum(SPECTRA[kind], 1), np.random.default_rng(2).normal(size=14)
    M = spectra.with_spectrum(np.linspace(0.5, 2, 14), 3) if is_preconditioned else np.eye(14)
    root = np.linalg.cholesky(M).T
    rows = [M @ b]
    for steps in range(1, 8):
        V = np.linalg.qr(np.array(rows).T)[0]
        expected = V @ np.linalg.lstsq(root @ matrix @ V, root @ b)[0]
        rest = np.linalg.norm(b - matrix @ expected)
        if rest > np.linalg.norm(b):
            expected = 0 * b
        with Run(matrix, "test") as run, Run(M, "the preconditioner") as preconditioning:
            run.multiply(b)
            operands = checked_operands(run.A, b)
            system = Equations(
                run, operands, np.array([1e-10]), preconditioner=preconditioning if is_preconditioned else None
            )
            outcome = minimal_residuals(system, 0, steps + 2)
        assert (outcome.reason, outcome.steps, run.products) == ("limit", steps, steps + 2)
        np.testing.assert_allclose(system.x[0], expected, rtol=1e-7, atol=1e-7)
        assert system.norms[0] == pytest.approx(np.linalg.norm(b - matrix @ expected))
        rows.append(M @ matrix @ (V @ V.T @ rows[-1]) / np.linalg.norm(rows[-1]))
