"""A function summed over the eigenvalues."""

from __future__ import annotations

from specop.results.fields import record
from specop.results.number import NumberResult

__all__ = ["QuadratureResult"]


@record
class QuadratureResult(NumberResult):
    """A sum over the spectrum with its error.

    `method` is "quadrature" or "exact". The interval is Student's over the probes, wider by the quadrature error on
    either side.

    Attributes
    ----------
    quadrature_error : float
        Estimated error that does not come from chance: that of the quadrature, or of rounding in the eigenvalues.
    steps : int
        Most Lanczos steps that a probe took.
    """

    quadrature_error: float
    steps: int
