"""A number that the eigenvalues sum or bound to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from specop.results.result import Result, converted, record
from specop.statistics.estimate import Estimate

__all__ = ["QuadratureResult"]


@record
class QuadratureResult(Result):
    """A number that a spectrum sums or bounds to, with its error.

    Attributes
    ----------
    quantity : str
        What it is, such as "logdet".
    estimate : float
    standard_error : float
        Of the mean over probes; 0 where nothing is random, NaN for a single probe.
    quadrature_error : float
        Estimated error that does not come from chance: of the quadrature, or of the eigenvalues used.
    interval : (float, float)
        Student-t interval of the probes, wider by the quadrature error on either side.
    confidence : float
    method : str
        "quadrature", "exact" or "eigenvalues".
    probes : ndarray
        One estimate for each probe; empty where nothing is random.
    steps : int
        Most Lanczos steps that a probe took.
    """

    quantity: str
    estimate: float
    standard_error: float
    quadrature_error: float
    interval: tuple[float, float] = converted(tuple)
    confidence: float
    method: str
    probes: NDArray[np.float64]
    steps: int

    def _headline(self) -> str:
        value = Estimate(self.estimate, self.standard_error, self.interval, self.confidence)
        return f"{self.quantity} {value}, {self.method}"
