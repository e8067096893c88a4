"""Preconditioners: as many steps as published, and what is wrong with one is named."""

import numpy as np
import pytest

import specop
import spectra
from specop.errors import InvalidInputError, NonFiniteError
from system_cases import POSITIVE, B, N, each_light_case, operator, true_residuals


def test_preconditioners_take_as_many_steps_as_published():
    H = specop.DiagonalOperator(spectra.geo10())
    A = H + 1e-2 * specop.identity_like(H)
    b = np.random.default_rng(0).normal(size=4000)
    exact = specop.eigen_preconditioner(H, specop.eigsh(H, 20, tol=1e-6), damping=1e-2)
    sketched = specop.nystrom_preconditioner(H, damping=1e-2, rank=20)

    def steps(preconditioner, method="cg"):
        return specop.solve(A, b, rtol=1e-6, method=method, preconditioner=preconditioner).steps

    assert steps(None) == pytest.approx(163, abs=12)
    assert steps(sketched) == pytest.approx(88, abs=12)
    assert steps(exact) == pytest.approx(67, abs=8)
    assert steps(exact, "minres") <= steps(exact)
    assert specop.solve(A, b, preconditioner=exact).method == "cg"


@each_light_case
def test_preconditioned_systems(case):
    H, matrix = operator(case, POSITIVE)
    A = H + 0.5 * specop.identity_like(H)
    dense = matrix.astype(float) + 0.5 * np.eye(N)
    eigen = specop.eigen_preconditioner(H, specop.eigsh(H, 3), damping=0.5)
    for M in (eigen, specop.nystrom_preconditioner(H, damping=0.5, rank=10)):
        for method in ("cg", "minres"):
            result = specop.solve(A, case.array(B[:, :2]), method=method, preconditioner=M)
            assert result.converged and (true_residuals(dense, case.numpy(result.x), B[:, :2]) <= 1.5e-5 * 11).all()
    # The known eigenvectors are taken to the damping, the others stay.
    _, vectors = np.linalg.eigh(POSITIVE)
    for vector, factor in ((vectors[:, -1], 0.5 / 50.5), (vectors[:, 0], 1.0)):
        np.testing.assert_allclose(case.numpy(eigen @ case.array(vector)), factor * vector, atol=1e-2)


def test_an_indefinite_preconditioner_is_named():
    with pytest.raises(InvalidInputError, match="not positive definite: r'M r = -"):
        specop.solve(POSITIVE, B[:, 0].copy(), method="minres", preconditioner=-np.eye(N))


def test_a_preconditioner_that_is_not_finite_is_named():
    broken = specop.FunctionOperator(lambda x: x * np.nan, (N, N), like=np.zeros(1), is_symmetric=True)
    for method in ("cg", "minres"):
        with pytest.raises(NonFiniteError, match="with the preconditioner <FunctionOperator"):
            specop.solve(POSITIVE, B[:, 0].copy(), method=method, preconditioner=broken)
