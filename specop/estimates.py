"""A number estimated from random probes, with its error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.special
from numpy.typing import NDArray

__all__ = ["Estimate", "estimate_from_samples"]


def estimate_from_samples(samples: NDArray[np.float64], confidence: float) -> Estimate:
    """Return mean, standard error and Student-t interval of independent samples."""
    count, mean = len(samples), float(np.mean(samples))
    if count == 1:
        return Estimate(mean, float("nan"), (-float("inf"), float("inf")), confidence)
    error = float(np.std(samples, ddof=1) / np.sqrt(count))
    half = float(scipy.special.stdtrit(count - 1, 0.5 + confidence / 2)) * error
    return Estimate(mean, error, (mean - half, mean + half), confidence)


@dataclass(frozen=True)
class Estimate:
    """A number estimated from random probes.

    Attributes
    ----------
    estimate : float
    standard_error : float
        NaN for a single probe.
    interval : (float, float)
        Student-t confidence interval; infinite for a single probe.
    confidence : float
        Probability with which the interval covers the truth.
    """

    estimate: float
    standard_error: float
    interval: tuple[float, float]
    confidence: float

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.estimate:.6g} +- {self.standard_error:.2g} "
            f"({100 * self.confidence:g} % interval {low:.6g} to {high:.6g})"
        )
