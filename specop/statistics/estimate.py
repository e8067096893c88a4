"""A number estimated from random probes, with its error."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import scipy.special

from specop.errors import InvalidInputError, is_number
from specop.statistics.numbers import Floats

__all__ = [
    "Estimate",
    "check_confidence",
    "estimate_from_samples",
    "exact",
    "normal_error",
    "root_of_mean",
    "with_error",
    "within",
]


def check_confidence(confidence: float) -> float:
    """Return the confidence of an interval, or raise InvalidInputError unless it is a probability between 0 and 1."""
    if not (is_number(confidence) and 0 < confidence < 1):
        raise InvalidInputError(f"confidence must lie between 0 and 1, got {confidence!r}.")
    return confidence


def estimate_from_samples(samples: Floats, confidence: float) -> Estimate:
    """Return mean, standard error and Student-t interval of independent samples."""
    count, mean = len(samples), float(np.mean(samples))
    if count == 1:
        return Estimate(mean, float("nan"), (-float("inf"), float("inf")), confidence)
    error = float(np.std(samples, ddof=1) / np.sqrt(count))
    return with_error(Estimate(mean, error, (-float("inf"), float("inf")), confidence), error, count - 1)


def root_of_mean(squares: Floats, confidence: float) -> Estimate:
    """Return the root of the mean of squares, or of numbers with a mean above zero, with the interval of its logarithm.

    A mean that is not above zero leaves everything up to its upper limit open.
    """
    value = estimate_from_samples(squares, confidence)
    norm = max(0.0, value.estimate) ** 0.5
    if len(squares) == 1:
        return Estimate(norm, value.standard_error, (0.0, float("inf")), confidence)
    if norm == 0:
        high = max(0.0, value.interval[1]) ** 0.5
        return Estimate(0.0, high, (0.0, high), confidence)
    half = 0.5 * (value.interval[1] - value.estimate) / value.estimate
    interval = (float(norm * np.exp(-half)), float(norm * np.exp(half)))
    return Estimate(norm, 0.5 * value.standard_error / norm, interval, confidence)


def exact(value: float, confidence: float) -> Estimate:
    """Return a number without an error."""
    return Estimate(value, 0.0, (value, value), confidence)


def within(value: float, bound: float, confidence: float) -> Estimate:
    """Return a number that no random vector has a part in, and that is off by at most `bound`."""
    return Estimate(value, 0.0, (value - bound, value + bound), confidence)


def normal_error(interval: tuple[float, float], confidence: float) -> float:
    """Return the standard error of a normal number with an interval of this width."""
    return (interval[1] - interval[0]) / 2 / float(scipy.special.ndtri(0.5 + confidence / 2))


def with_error(value: Estimate, error: float, degrees: float) -> Estimate:
    """Return an estimate with another standard error, of so many degrees of freedom, and its Student-t interval."""
    half = float(scipy.special.stdtrit(degrees, 0.5 + value.confidence / 2)) * error
    return Estimate(value.estimate, error, (value.estimate - half, value.estimate + half), value.confidence)


@dataclass(frozen=True)
class Estimate:
    """A number estimated from random probes.

    Attributes
    ----------
    estimate : float
    standard_error : float
        Standard error of the estimate; NaN for a single probe.
    interval : (float, float)
        Student-t confidence interval; infinite for a single probe.
    confidence : float
        Probability with which the interval covers the truth.
    """

    estimate: float
    standard_error: float
    interval: tuple[float, float]
    confidence: float

    def scaled(self, factor: float) -> Self:
        """Return the same times a factor, which is not negative."""
        low, high = self.interval
        return replace(
            self,
            estimate=self.estimate * factor,
            standard_error=self.standard_error * factor,
            interval=(low * factor, high * factor),
        )

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.estimate:.6g} +- {self.standard_error:.2g} "
            f"({100 * self.confidence:g} % interval {low:.6g} to {high:.6g})"
        )
