"""A product with the inverse from mini-batches."""

from __future__ import annotations

from typing import Any

from specop.arrays.backend import Array
from specop.results.fields import record, structured, vector
from specop.results.result import Result
from specop.results.structure import Structure
from specop.statistics.numbers import Floats

__all__ = ["LissaResult"]


@record
class LissaResult(Result):
    """A stochastic solution of (H + damping I) x = b, with H the mean of the operators.

    Attributes
    ----------
    solution : native vector (n,)
        Mean over repeats; also as `x`.
    standard_error : float
        Norm of the standard error of `solution`, from the scatter of the repeats; NaN for a single one.
    residual : float
        Norm of b - (H + damping I) x, by one pass over all operators. It holds chance and the truncation of the series.
    lengths : ndarray (repeats,)
        Norm of each repeat's x.
    damping : float
        What was added to the diagonal of H.
    scale : float
        What the matrix was divided by, so that the series converges.
    steps : int
        Number of products in each repeat.
    repeats : int
        Number of independent runs that were averaged.
    """

    solution: Array = vector()
    standard_error: float
    residual: float
    lengths: Floats
    damping: float
    scale: float
    steps: int
    repeats: int
    structure: Structure | None = structured(default=None)

    @property
    def x(self) -> Any:
        """The solution in the form of b."""
        return self.solution if self.structure is None else self.structure(self.solution)

    def _headline(self) -> str:
        return (
            f"(H + {self.damping:.3g} I) x = b: |b - (H + d I) x| = {self.residual:.1e}, standard error "
            f"of x {self.standard_error:.1e}, {self.repeats} repeats of {self.steps} steps, scale {self.scale:.3g}"
        )
