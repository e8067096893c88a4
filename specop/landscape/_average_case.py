"""The rise of the loss under Gaussian noise, and the noise level that a given rise allows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import scipy.special

from specop.arrays import probes
from specop.arrays.backend import Array
from specop.landscape._point import PointOfLoss, loss_beside
from specop.statistics.estimate import Estimate, estimate_from_samples
from specop.statistics.numbers import Floats

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["isotropic", "level_of_rise", "proportional", "rises"]

# Apart from the indices of other probes of the same seed.
_FIRST = 1 << 37
_LARGEST, _SMALLEST, _FACTOR = 1e6, 1e-9, 4.0
_SECANTS, _CLOSE = 8, 0.01

Noise = Callable[[float, int], Array]
"""``noise(sigma, number)``: a displacement of the parameters."""


def isotropic(point: PointOfLoss, seed: int) -> Noise:
    """Return noise N(0, sigma^2) for every parameter."""

    def noise(sigma: float, number: int) -> Array:
        return point.backend.scale_(_normal(point, seed, number), sigma)

    return noise


def proportional(point: PointOfLoss, offset: float, seed: int) -> Noise:
    """Return noise N(0, sigma^2 w^2 + offset^2): the sum of two, one in proportion to the parameters."""

    def noise(sigma: float, number: int) -> Array:
        backend = point.backend
        along = backend.scale_(backend.multiply(point.theta, _normal(point, seed, 2 * number)), sigma)
        return backend.axpy_(along, offset, _normal(point, seed, 2 * number + 1)) if offset else along

    return noise


def rises(objective: Objective, point: PointOfLoss, noise: Noise, sigma: float, draws: int) -> Floats:
    """Return the mean rise of the loss on both sides of the point, for each draw; infinite where there is no loss."""
    found = np.empty(draws)
    for number in range(draws):
        moved = noise(sigma, number)
        both = [loss_beside(objective, point, moved, side) for side in (1.0, -1.0)]
        found[number] = 0.5 * sum(both) - point.loss
    return np.where(np.isfinite(found), found, np.inf)


def level_of_rise(
    objective: Objective, point: PointOfLoss, noise: Noise, rise: float, start: float, draws: int, confidence: float
) -> Estimate:
    """Return the level of noise at which the loss rises by a given amount on average, with its interval.

    The same draws serve all levels. A level is found between one that costs less and one that costs more by
    interpolating logarithms; its error is that of the mean rise, through the slope.

    Parameters
    ----------
    objective, point, noise
    rise : float
        Rise of the mean loss that is looked for.
    start : float
        A level to begin with.
    draws : int
        Number of pairs.
    confidence : float
        Probability with which the interval covers the truth.
    """
    seen: dict[float, Floats] = {}

    def cost(sigma: float) -> float:
        seen[sigma] = rises(objective, point, noise, sigma, draws)
        return float(seen[sigma].mean())

    low = high = float(np.clip(start, _SMALLEST, _LARGEST))
    if cost(low) > rise:
        while float(seen[low].mean()) > rise:
            high, low = low, low / _FACTOR
            if low < _SMALLEST:
                return Estimate(0.0, 0.0, (0.0, high), confidence)
            cost(low)
    else:
        while float(seen[high].mean()) <= rise:
            low, high = high, high * _FACTOR
            if high > _LARGEST:
                return Estimate(math.inf, 0.0, (low, math.inf), confidence)
            cost(high)
    found, slope = _interpolated(seen, low, high, rise)
    for _ in range(_SECANTS):
        value = cost(found)
        if abs(value - rise) <= _CLOSE * rise:
            break
        low, high = (low, found) if value > rise else (found, high)
        found, slope = _interpolated(seen, low, high, rise)
    nearest = min(seen, key=lambda sigma: abs(math.log(sigma / found)))
    spread = estimate_from_samples(seen[nearest], confidence)
    if not np.isfinite(spread.standard_error):
        return Estimate(found, math.nan, (low, high), confidence)
    # Of the logarithm of the level.
    error = spread.standard_error / (rise * slope)
    half = float(scipy.special.stdtrit(draws - 1, 0.5 + confidence / 2)) * error
    return Estimate(found, found * error, (found * math.exp(-half), found * math.exp(half)), confidence)


def _interpolated(seen: dict[float, Floats], low: float, high: float, rise: float) -> tuple[float, float]:
    """Return the level between two at which the rise is met, and how the rise grows there, in logarithms."""
    below, above = float(seen[low].mean()), float(seen[high].mean())
    if below <= 0 or not np.isfinite(above):
        # Halfway, where nothing is known; noise costs in proportion to its variance.
        return math.sqrt(low * high), 2.0
    slope = math.log(above / below) / math.log(high / low)
    share = math.log(rise / below) / math.log(above / below) if above > below else 0.5
    return low * (high / low) ** min(max(share, 0.05), 0.95), max(slope, 0.1)


def _normal(point: PointOfLoss, seed: int, number: int) -> Array:
    return probes.normal(point.backend, point.backend.layout(point.theta), seed, _FIRST + number)
