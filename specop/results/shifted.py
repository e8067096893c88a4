"""Solutions of a system for many shifts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from specop.arrays.backend import Array
from specop.results.result import Result, record, vector

__all__ = ["ShiftedResult"]


@record
class ShiftedResult(Result):
    """Solutions of (A + s I) x = b for many shifts s.

    Attributes
    ----------
    solution : native array (n, k)
        A column for each shift; also as `x`.
    shifts : ndarray (k,)
    residuals : ndarray (k,)
        Norms of b - (A + s I) x, from the recurrence and what rounding adds to it.
    goal : float
        What they were to reach.
    negative : ndarray (k,), int
        How many eigenvalues of A + s I the Krylov space proves to be negative. Where there are any, A + s I is
        indefinite; its solution is right, but no minimum.
    rtol, atol : float
        As asked for.
    """

    solution: Array = vector()
    shifts: NDArray[np.float64]
    residuals: NDArray[np.float64]
    goal: float
    negative: NDArray[np.int64]
    rtol: float
    atol: float

    @property
    def x(self) -> Array:
        """The solutions, a native (n, k) array."""
        return self.solution

    def __str__(self) -> str:
        lines = [f"(A + s I) x = b for {len(self.shifts)} shifts, {self._provenance()}"]
        lines.append(f"{'shift':>12}  {'residual':>9}")
        for shift, residual, negative in zip(self.shifts, self.residuals, self.negative, strict=True):
            note = f"  indefinite: {negative} negative eigenvalues seen" if negative else ""
            lines.append(f"{shift:12.5g}  {residual:9.1e}{note}")
        return "\n".join(lines)
