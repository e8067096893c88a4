"""Damped inverse-curvature products of an objective, with what was inverted said in the result."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from specop.errors import InvalidInputError
from specop.operators.algebra import identity_like
from specop.results import SolveResult
from specop.solvers.systems import solve

if TYPE_CHECKING:
    from specop.objectives import Objective

__all__ = ["inverse_product"]

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
    if matrix not in _MATRICES:
        raise InvalidInputError(f"matrix must be one of {', '.join(map(repr, _MATRICES))}, got {matrix!r}.")
    if isinstance(damping, bool) or not (np.isfinite(damping) and damping >= 0):
        raise InvalidInputError(f"damping must be a finite number >= 0, got {damping!r}.")
    if matrix == "hessian":
        operator = objective.hessian()
    elif matrix == "ggn":
        operator = objective.ggn()
    else:
        operator = objective.fisher("exact" if matrix == "fisher" else "empirical")
    letter, text = _MATRICES[matrix]
    damped = operator + damping * identity_like(operator) if damping else operator
    found = solve(damped, b, **options)
    left = f"({letter} + {damping:g} I)" if damping else letter
    return replace(found, system=f"{left} x = b, {letter} {text}", damping=float(damping))
