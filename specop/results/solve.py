"""Solutions of a linear system."""

from __future__ import annotations

from typing import Any

import numpy as np

from specop.arrays.backend import Array
from specop.results.fields import column, record, structured, vector
from specop.results.result import Result
from specop.results.structure import Structure
from specop.results.tables import Column
from specop.statistics.numbers import Booleans, Floats

__all__ = ["SolveResult"]


@record
class SolveResult(Result):
    """A solution of A x = b, with its true residual.

    Attributes
    ----------
    solution : native array (n,) or (n, k)
        What `x` is made of: a vector, or a column for each right-hand side.
    residuals : ndarray (k,)
        Norms of b - A x for each column, computed with a product of its own.
    goals : ndarray (k,)
        Norms that the residuals were to reach: for each column the larger of ``rtol |b|`` and ``atol``.
    method : str
        "lanczos", "cg", "minres" or "neumann": the one that ended the run.
    steps : int
        Number of iterations, of all groups of right-hand sides together; each takes a product for each column of its
        group.
    curvature : float or None
        p'Ap along a unit vector p, where that is not positive: at least one eigenvalue of A is not above it. 0 where
        it is zero to rounding.
    direction : native vector (n,) or None
        The unit vector p along which A has that curvature.
    system : str
        What was solved, in words: which matrix of which loss with which damping.
    damping : float
        Multiple of the identity in that matrix, as far as `solve` was told.
    rtol : float
        Goal for the residuals relative to b, as asked for.
    atol : float
        Goal for the residuals in units of b, as asked for.
    """

    solution: Array = vector()
    residuals: Floats = column("residual", ".1e")
    goals: Floats = column("goal", ".1e")
    method: str
    steps: int
    curvature: float | None
    direction: Array | None = vector()
    system: str
    damping: float
    rtol: float
    atol: float
    structure: Structure | None = structured(default=None)

    @property
    def x(self) -> Any:
        """The solution in the form of b: a vector, an (n, k) array or a parameter structure."""
        return self.solution if self.structure is None else self.structure(self.solution)

    @property
    def converged_columns(self) -> Booleans:
        """Whether each column reached its goal, an array (k,); `converged` says it of all."""
        return self.residuals <= self.goals

    @property
    def residual(self) -> float:
        """The largest of `residuals`."""
        return float(np.max(self.residuals))

    def _columns(self) -> dict[str, Column]:
        return super()._columns() | {"converged": Column(self.converged_columns, "converged")}

    def _shown(self) -> dict[str, Column]:
        return {} if self.converged or len(self.goals) == 1 else self._columns()

    def _headline(self) -> str:
        found = "" if self.curvature is None else f", not positive definite: curvature {self.curvature:.3g}"
        return f"{self.system}: |b - A x| = {self.residual:.1e} by {self.method}{found}"
