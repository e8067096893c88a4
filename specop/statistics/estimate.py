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
    "agree_by_chance",
    "check_confidence",
    "concentration_of",
    "effective_count",
    "estimate_from_samples",
    "exact",
    "normal_error",
    "root_of_mean",
    "skewed",
    "unknown",
    "with_error",
    "within",
]

# Of the widening for skewness, what the logarithm of a chi-square mean with one degree of freedom still asks for: 0.3
# to 0.4 with 8 to 64 values at 95 percent.
_LEFT_BY_LOGARITHM = 0.375


def check_confidence(confidence: float) -> float:
    """Return the confidence of an interval, or raise InvalidInputError unless it is a probability between 0 and 1."""
    if not (is_number(confidence) and 0 < confidence < 1):
        raise InvalidInputError(f"confidence must lie between 0 and 1, got {confidence!r}.")
    return confidence


def estimate_from_samples(samples: Floats, confidence: float, orthogonal: int = 0, dimension: int = 1) -> Estimate:
    """Return mean, standard error and Student-t interval of samples.

    They are independent, but the last `orthogonal` are quadratic forms of orthogonal directions, of which there are
    `dimension`: like numbers drawn without replacement these leave less to chance, and weigh more than others.
    """
    if orthogonal == dimension:
        return exact(float(np.mean(samples[-orthogonal:])), confidence)
    count, mean = len(samples), float(np.mean(samples))
    if count == 1:
        return Estimate(mean, float("nan"), (-float("inf"), float("inf")), confidence)
    # Squares of samples near the ends of the range would overflow or vanish; powers of two leave digits as they are.
    exponent = int(np.frexp(np.max(np.abs(samples)))[1])
    scatter = np.ldexp(np.std(np.ldexp(samples, -exponent), ddof=1), exponent)
    effective = effective_count(count, orthogonal, dimension)
    if orthogonal:
        mean += (effective - count) / effective * (float(np.mean(samples[-orthogonal:])) - mean)
    return with_error(mean, float(scatter / np.sqrt(effective)), count - 1, confidence)


def effective_count(count: int, orthogonal: int, dimension: int) -> float:
    """Return how many independent samples have the error of so many, the last of them orthogonal directions' forms."""
    return count - orthogonal + orthogonal * dimension / (dimension - orthogonal)


def agree_by_chance(samples: Floats, confidence: float, rounding: float) -> bool:
    """Whether quadratic forms of vectors of random signs that agree say nothing of their spread.

    A form that is not the same for all signs takes each value with a probability of at most 3/4, as any polynomial of
    the second degree in signs: for three coupled coordinates three of four vectors give the same. So as many as agree
    by chance with the probability that the interval may miss do not tell that the error is zero.

    Parameters
    ----------
    samples : ndarray
        What each vector gave.
    confidence : float
        That of the interval.
    rounding : float
        Relative difference that rounding explains.
    """
    if len(samples) < 2 or np.ptp(samples) > rounding * np.abs(samples).max():
        return False
    return bool(0.75 ** (len(samples) - 1) > 1.0 - confidence)


def unknown(value: float, lower: float, confidence: float) -> Estimate:
    """Return a number of whose error nothing is known, which is at least `lower`."""
    return Estimate(value, float("nan"), (lower, float("inf")), confidence)


def root_of_mean(
    squares: Floats, confidence: float, looks: int = 0, orthogonal: int = 0, dimension: int = 1
) -> Estimate:
    """Return the root of the mean of squares, or of numbers with a mean above zero, with the interval of its logarithm.

    A mean that is not above zero leaves everything up to its upper limit open. Of quadratic forms, looks say how often
    the limits are widened for what skewness the logarithm leaves, as in `skewed`. Of orthogonal directions' forms see
    `estimate_from_samples`.
    """
    value = estimate_from_samples(squares, confidence, orthogonal, dimension)
    norm = max(0.0, value.estimate) ** 0.5
    if len(squares) == 1:
        return Estimate(norm, value.standard_error, (0.0, float("inf")), confidence)
    value = skewed(value, value.standard_error, len(squares), _LEFT_BY_LOGARITHM, looks)
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


def with_error(value: float, error: float, degrees: float, confidence: float) -> Estimate:
    """Return a number with its standard error, of so many degrees of freedom, and its Student-t interval."""
    half = float(scipy.special.stdtrit(degrees, 0.5 + confidence / 2)) * error
    return Estimate(value, error, (value - half, value + half), confidence)


def skewed(value: Estimate, error: float, count: int, concentration: float, looks: int) -> Estimate:
    r"""Return an estimate from quadratic forms with the error that their skewness asks for, and its interval.

    A form of one eigenvalue is chi-square with one degree of freedom: most values are small, and so is their scatter
    where the mean is too small. By Edgeworth's expansion [1]_ Student's limits :math:`\pm z` of a mean of m values with
    skewness :math:`\gamma` and excess :math:`\kappa` are to be wider by the factor

    .. math:: 1 + \frac1m \left(\frac{\gamma^2 (z^4 + 2 z^2 - 3)}{18} - \frac{\kappa (z^2 - 3)}{12}\right)
        \le 1 + \frac{\rho}{m} \cdot \frac{4 z^4 - z^2 + 15}{9},

    as :math:`\gamma^2 = 8 (\operatorname{tr} A^3)^2 / (\operatorname{tr} A^2)^3 \le 8 \rho` and
    :math:`\kappa = 12 \rho` with :math:`\rho = \operatorname{tr} A^4 / (\operatorname{tr} A^2)^2`.

    Parameters
    ----------
    value : Estimate
        The mean.
    error : float
        Its standard error as the scatter has it.
    count : int
        Number of values, m.
    concentration : float
        What is known of :math:`\rho`: 1 for a single eigenvalue, or where nothing is known.
    looks : int
        How many times the widening is taken: 2 where values are drawn until their scatter is small.

    References
    ----------
    .. [1] P. Hall, The Bootstrap and Edgeworth Expansion, Springer (1992), section 2.6.
    """
    z = float(scipy.special.ndtri(0.5 + value.confidence / 2))
    widening = concentration / count * (4.0 * z**4 - z**2 + 15.0) / 9.0
    return with_error(value.estimate, error * (1.0 + looks * widening), count - 1, value.confidence)


def concentration_of(values: Floats, weights: Floats, dimension: int) -> float:
    r"""Return :math:`\operatorname{tr} C^4 / (\operatorname{tr} C^2)^2` of C, a matrix less its mean eigenvalue.

    Parameters
    ----------
    values, weights : ndarray
        Nodes of random vectors' Gauss rules, and their weights, which sum to one.
    dimension : int
        Number of eigenvalues that they stand for.
    """
    away = np.abs(values - weights @ values)
    # Fourth powers would overflow or vanish.
    squares = (away / (away.max() or 1.0)) ** 2
    second = float(weights @ squares) ** 2
    return min(1.0, float(weights @ squares**2) / second / dimension) if second > 0.0 else 1.0


@dataclass(frozen=True)
class Estimate:
    """A number estimated from random probes.

    Attributes
    ----------
    estimate : float
    standard_error : float
        Standard error of the estimate; NaN for a single probe, and for a few that agree as they may by chance.
    interval : (float, float)
        Student-t confidence interval; infinite where the error is NaN.
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
