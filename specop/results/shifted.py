"""Solutions of a system for many shifts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from specop.arrays.backend import Array
from specop.results.fields import column, record, vector
from specop.results.result import Result
from specop.results.tables import Column
from specop.statistics.numbers import Booleans, Floats

__all__ = ["ShiftedResult"]


@record
class ShiftedResult(Result):
    """Solutions of (A + s I) x = b for many shifts s.

    Attributes
    ----------
    solution : native array (n, k)
        A column for each shift; also as `x`.
    shifts : ndarray (k,)
        The shifts s.
    residuals : ndarray (k,)
        Norms of b - (A + s I) x, from the recurrence and what rounding adds to it.
    goal : float
        Norm that each residual was to reach.
    negative : ndarray (k,), int
        How many eigenvalues of A + s I the Krylov space proves to be negative. Where there are any, A + s I is
        indefinite; its solution is right, but no minimum.
    rtol : float
        Goal for the residuals relative to b, as asked for.
    atol : float
        Goal for the residuals in units of b, as asked for.
    """

    solution: Array = vector()
    shifts: Floats = column("shift", ".5g")
    residuals: Floats = column("residual", ".1e")
    goal: float
    negative: NDArray[np.int64] = column("negative")
    rtol: float
    atol: float

    @property
    def x(self) -> Array:
        """The solutions, a native (n, k) array."""
        return self.solution

    @property
    def converged_columns(self) -> Booleans:
        """Whether the solution for each shift reached the goal, an array (k,); `converged` says it of all."""
        return self.residuals <= self.goal

    def _columns(self) -> dict[str, Column]:
        return super()._columns() | {"converged": Column(self.converged_columns, "" if self.converged else "converged")}

    def _headline(self) -> str:
        most = int(self.negative.max())
        note = f", indefinite: {most} negative eigenvalues seen" if most else ""
        return f"(A + s I) x = b for {len(self.shifts)} shifts{note}"
