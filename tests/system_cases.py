"""Systems for solvers in every framework: definite and indefinite matrices, right-hand sides, true residuals."""

import numpy as np
import pytest

import specop
import spectra
from cases import CASES

N = 80
POSITIVE = spectra.with_spectrum(np.concatenate([[50.0, 30.0, 20.0], np.linspace(0.5, 3, N - 3)]))
INDEFINITE = spectra.with_spectrum(
    np.concatenate([[50.0, 30.0, -20.0], np.linspace(-3, -0.5, 30), np.linspace(0.5, 3, 47)])
)
B = np.random.default_rng(3).normal(size=(N, 11))
DEFINITE_METHODS = ["auto", "cg", "minres", "neumann"]


# Solvers see a backend through a few primitives, which tests of each_algorithm_case put to use in every framework;
# where eager operations or compilation take seconds, the others are slow.
each_light_case = pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[] if case.framework in ("numpy", "torch") else pytest.mark.slow) for case in CASES],
    ids=str,
)


def true_residuals(matrix, x, b):
    return np.linalg.norm(np.asarray(b, float) - np.asarray(matrix, float) @ np.asarray(x, float), axis=0)


def operator(case, matrix):
    """An operator known by products only, and the matrix that it has in the case's dtype."""
    dense = specop.DenseOperator(case.array(matrix), is_symmetric=True)
    rounded = matrix.astype(case.dtype)
    return specop.FunctionOperator(dense._matvec, dense.shape, like=case.array([0.0]), is_symmetric=True), rounded
