"""The largest eigenvalues of a matrix, and the smallest one with the condition number."""

from __future__ import annotations

from typing import Any

import numpy as np

from specop.errors import NotConvergedError
from specop.operators.operator import LinearOperator
from specop.results.eigen import EigenResult
from specop.spectral.eigsh import eigsh
from specop.statistics.estimate import Estimate

__all__ = ["bounded", "outermost", "smallest_eigenvalue"]


def outermost(
    matrix: LinearOperator,
    k: int,
    which: str,
    v0: Any,
    tol: float,
    max_matvecs: int | None,
    confidence: float,
    seed: int,
) -> EigenResult:
    """Return the pairs found so far, converged or not: what that means is said once, of the result made from them."""
    try:
        return eigsh(
            matrix,
            k,
            which=which,
            v0=v0,
            tol=tol,
            max_matvecs=max_matvecs,
            confidence=confidence,
            seed=seed,
            raise_on_failure=True,
        )
    except NotConvergedError as error:
        found: EigenResult = error.result
        return found


def bounded(eigen: EigenResult, i: int, confidence: float) -> Estimate:
    """Return eigenvalue i, the largest (-1) or the smallest (0) of A, with the interval of its bound.

    Some eigenvalue lies within the residual, and the outermost one not inside of that.
    """
    value, bound = float(eigen.eigenvalues[i]), float(eigen.bounds[i])
    inside = min(bound, float(eigen.residuals[i]))
    limits = (value - bound, value + inside) if i == 0 else (value - inside, value + bound)
    return Estimate(value, 0.0, limits, confidence)


def smallest_eigenvalue(
    matrix: LinearOperator, largest: EigenResult, tol: float, max_matvecs: int, confidence: float, seed: int
) -> tuple[Estimate, float]:
    """Return the smallest eigenvalue, and the condition number that it makes."""
    if max_matvecs < 1:
        return Estimate(np.nan, 0.0, (-np.inf, np.inf), confidence), np.nan
    eigen = outermost(matrix, 1, "SA", None, tol, max_matvecs, confidence, seed)
    found = bounded(eigen, 0, confidence)
    top = float(largest.eigenvalues[-1])
    rounding = max(float(eigen.bounds[0]) if eigen.converged else 0.0, matrix.precision * abs(top))
    if found.estimate < -rounding:
        return found, np.nan
    return found, top / found.estimate if found.estimate > rounding else np.inf
