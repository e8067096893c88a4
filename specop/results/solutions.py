"""Solutions of linear systems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specop.backend import Array
from specop.results.base import Result

__all__ = ["LissaResult", "ShiftedResult", "SolveResult"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SolveResult(Result):
    """A solution of A x = b, with its true residual.

    Attributes
    ----------
    solution : native array (n,) or (n, k)
        What `x` is made of: a vector, or a column for each right-hand side.
    residuals : ndarray (k,)
        Norms of b - A x, each computed with a product of its own.
    goals : ndarray (k,)
        What they were to reach: the larger of ``rtol |b|`` and ``atol``.
    method : str
        "lanczos", "cg", "minres" or "neumann": the one that ended the run.
    steps : int
        Iterations, of all groups of right-hand sides together; each takes a product for each column of its group.
    curvature : float or None
        p'Ap along a unit vector p, where that is not positive: at least one eigenvalue of A is not above it. 0 where
        it is zero to rounding.
    direction : native vector (n,) or None
        That vector.
    system : str
        What was solved, in words: which matrix of which loss with which damping.
    damping : float
        Multiple of the identity in that matrix, as far as `solve` was told.
    rtol, atol : float
        As asked for.
    """

    solution: Array
    residuals: NDArray[np.float64]
    goals: NDArray[np.float64]
    method: str
    steps: int
    curvature: float | None
    direction: Array | None
    system: str
    damping: float
    rtol: float
    atol: float
    unflatten: Callable[[Array], Any] | None = field(default=None, repr=False, compare=False)

    @property
    def x(self) -> Any:
        """The solution in the form of b: a vector, an (n, k) array or a parameter structure."""
        return self.solution if self.unflatten is None else self.unflatten(self.solution)

    @property
    def residual(self) -> float:
        """The largest of `residuals`."""
        return float(np.max(self.residuals))

    def __str__(self) -> str:
        found = "" if self.curvature is None else f", not positive definite: curvature {self.curvature:.3g}"
        return f"{self.system}: |b - A x| = {self.residual:.1e} by {self.method}{found}, {self._provenance()}"

    __repr__ = __str__


@dataclass(frozen=True, kw_only=True, eq=False)
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

    solution: Array
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

    __repr__ = __str__


@dataclass(frozen=True, kw_only=True, eq=False)
class LissaResult(Result):
    """A stochastic solution of (H + d I) x = b, d = damping * scale, with H the mean of the operators.

    Attributes
    ----------
    solution : native vector (n,)
        Mean over repeats; also as `x`.
    standard_error : float
        Norm of the standard error of `solution`, from the scatter of the repeats; NaN for a single one.
    residual : float
        Norm of b - (H + d I) x, by one pass over all operators. It holds chance and the truncation of the series.
    lengths : ndarray
        Norm of each repeat's x.
    damping, scale : float
        As used; what is inverted is H + damping * scale * I.
    steps, repeats : int
        As asked for.
    """

    solution: Array
    standard_error: float
    residual: float
    lengths: NDArray[np.float64]
    damping: float
    scale: float
    steps: int
    repeats: int
    unflatten: Callable[[Array], Any] | None = field(default=None, repr=False, compare=False)

    @property
    def x(self) -> Any:
        """The solution in the form of b."""
        return self.solution if self.unflatten is None else self.unflatten(self.solution)

    def __str__(self) -> str:
        return (
            f"(H + {self.damping * self.scale:.3g} I) x = b: |b - (H + d I) x| = {self.residual:.1e}, standard error "
            f"of x {self.standard_error:.1e}, {self.repeats} repeats of {self.steps} steps, scale {self.scale:.3g}, "
            f"{self._provenance()}"
        )

    __repr__ = __str__
