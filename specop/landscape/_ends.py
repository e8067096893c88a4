"""The largest eigenvalues of a matrix, and the smallest one with the condition number."""

from __future__ import annotations

from typing import Any

import numpy as np

from specop.errors import NotConvergedError
from specop.operators.operator import LinearOperator
from specop.results.eigen import EigenResult
from specop.spectral.eigsh import eigsh
from specop.statistics.estimate import Estimate, within

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
    """Return eigenvalue i with the interval of its bound."""
    return within(float(eigen.eigenvalues[i]), float(eigen.bounds[i]), confidence)


def smallest_eigenvalue(
    matrix: LinearOperator, largest: EigenResult, tol: float, max_matvecs: int, confidence: float, seed: int
) -> tuple[Estimate, float]:
    """Return the smallest eigenvalue, and the condition number that it makes."""
    if max_matvecs < 1:
        return Estimate(np.nan, 0.0, (-np.inf, np.inf), confidence), np.nan
    eigen = outermost(matrix, 1, "SA", None, tol, max_matvecs, confidence, seed)
    found = bounded(eigen, 0, confidence)
    if not eigen.converged:
        # No eigenvalue is larger than a Ritz value that stands for the smallest.
        found = Estimate(found.estimate, 0.0, (-np.inf, found.interval[1]), confidence)
    top = float(largest.eigenvalues[-1])
    rounding = max(float(eigen.bounds[0]) if eigen.converged else 0.0, matrix.precision * abs(top))
    if found.estimate < -rounding:
        return found, np.nan
    return found, top / found.estimate if found.estimate > rounding else np.inf
