"""Damped inverse-curvature products of an objective, with what was inverted said in the result."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from specop.arrays.backend import Array
from specop.errors import InvalidInputError
from specop.operators.identity import identity_like
from specop.operators.operator import LinearOperator
from specop.results.solve import SolveResult
from specop.solvers.solve import solve

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["checked_damping", "curvature_matrix", "inverse_product"]

_MATRICES = {
    "hessian": ("H", "the Hessian of the mean loss"),
    "ggn": ("G", "the generalized Gauss-Newton matrix of the mean loss"),
    "fisher": ("F", "the Fisher matrix of the mean loss"),
    "empirical fisher": ("F", "the empirical Fisher matrix, the mean of g g' over samples"),
}


def inverse_product(objective: Objective, b: Any, matrix: str, damping: float, options: dict[str, Any]) -> SolveResult:
    """Solve with a damped curvature matrix of an objective at the model's present parameters.

    Parameters
    ----------
    objective : Objective
    b : as for `solve`
    matrix, damping : str, float
        As in `Objective.solve`.
    options : dict
        Of `solve`.
    """
    damping = checked_damping(damping)
    operator = curvature_matrix(objective, matrix)
    letter, text = _MATRICES[matrix]
    damped = operator + damping * identity_like(operator) if damping else operator
    found = solve(damped, b, **options)
    left = f"({letter} + {damping:g} I)" if damping else letter
    return replace(found, system=f"{left} x = b, {letter} {text}", damping=damping)


def curvature_matrix(objective: Objective, matrix: str, theta: Array | None = None) -> LinearOperator:
    """Return a curvature matrix of an objective by its name, as `Objective.solve` takes it."""
    if matrix not in _MATRICES:
        raise InvalidInputError(f"matrix must be one of {', '.join(map(repr, _MATRICES))}, got {matrix!r}.")
    if matrix == "hessian":
        return objective.hessian(theta)
    if matrix == "ggn":
        return objective.ggn(theta)
    return objective.fisher("exact" if matrix == "fisher" else "empirical", theta)


def checked_damping(damping: float) -> float:
    """Return a damping, or raise InvalidInputError unless it is a finite number >= 0."""
    if isinstance(damping, bool) or not (np.isfinite(damping) and damping >= 0):
        raise InvalidInputError(f"damping must be a finite number >= 0, got {damping!r}.")
    return float(damping)
