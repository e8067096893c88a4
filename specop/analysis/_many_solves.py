"""Solves with one damped curvature matrix for many right-hand sides."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from specop.arrays.backend import Array
from specop.objectives.mean import Objective
from specop.operators.explicit import DenseOperator
from specop.operators.identity import identity_like
from specop.solvers.inverse import inverse

__all__ = ["ManySolves"]

# A right-hand side takes at least about this many products, so that fewer parameters than that are solved for densely.
_EACH = 4
_LARGEST = 1000


class ManySolves:
    """Multiplies blocks by the inverse of a damped curvature matrix, and counts.

    Where all solves together would take more products than the matrix has columns, it is formed once and inverted on
    the host. Residuals are looked at all the same; where rounding leaves one too large, that block is solved for by
    products.

    Parameters
    ----------
    objective : Objective
    count : int
        Right-hand sides in all.
    matrix, damping : str, float
        As in `Objective.solve`.
    **options
        Of `specop.solve`.

    Attributes
    ----------
    residuals : list of ndarray
        Norms of b - A x.
    matvecs : int
    converged : bool
    message : str
        Of the first solve with something to say.
    """

    def __init__(self, objective: Objective, count: int, *, matrix: str, damping: float, **options: Any) -> None:
        self._objective, self._settings = objective, {"matrix": matrix, "damping": damping, **options}
        self._rtol, self._atol = float(options.get("rtol", 1e-5)), float(options.get("atol", 0.0))
        self.residuals: list[NDArray[np.float64]] = []
        self.matvecs, self.converged, self.message = 0, True, "converged"
        self._dense = None
        if options.keys() <= {"rtol", "atol"} and objective.n <= min(_LARGEST, _EACH * count):
            operator = objective.matrix(matrix)
            damped = operator + damping * identity_like(operator) if damping else operator
            self._dense = DenseOperator(damped.to_dense(), is_symmetric=True)
            self._inverse = inverse(self._dense)
            self.matvecs = objective.n
            if self._inverse.is_psd is False:
                self.message = f"converged; {matrix} with damping {damping:g} is not positive definite"

    def __call__(self, block: Array) -> Array:
        """Return A^-1 times a native (n, k) block."""
        if self._dense is not None:
            backend = self._dense.backend
            solution = self._inverse @ block
            pairs = zip(backend.columns(block), backend.columns(self._dense @ solution), strict=True)
            lengths, norms = [], []
            for b, image in pairs:
                lengths.append(backend.norm(b))
                norms.append(backend.norm(backend.axpy_(image, -1.0, b)))
            found = np.array([float(x) for x in backend.to_host(*norms, *lengths)]).reshape(2, -1)
            if (found[0] <= np.maximum(self._rtol * found[1], self._atol)).all():
                self.residuals.append(found[0])
                return solution
        result = self._objective.solve(block, **self._settings)
        self.residuals.append(result.residuals)
        self.matvecs += result.matvecs
        if (result.converged, result.message == "converged") < (self.converged, self.message == "converged"):
            self.message = result.message
        self.converged = self.converged and result.converged
        return result.solution
