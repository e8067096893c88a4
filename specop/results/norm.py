"""A norm with its error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from specop.results.result import Result, converted, record
from specop.statistics.estimate import Estimate

__all__ = ["NormResult"]


@record
class NormResult(Result):
    """A Frobenius norm with its error.

    Attributes
    ----------
    estimate, standard_error, interval, confidence
        As in `Estimate`; exact norms have a standard error of zero.
    method : str
        "hutchinson" or "exact".
    probes : ndarray
        One unbiased estimate of the squared norm for each probe.
    """

    estimate: float
    standard_error: float
    interval: tuple[float, float] = converted(tuple)
    confidence: float
    method: str
    probes: NDArray[np.float64]

    def _headline(self) -> str:
        value = Estimate(self.estimate, self.standard_error, self.interval, self.confidence)
        return f"Frobenius norm {value}, {self.method}"
