"""How far a quadratic model of the loss holds along a direction, and what the third derivative is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Model", "taylor_limit", "third_derivative"]

# Share of the model's terms that its error may be.
_GOOD = 0.1
# Points of the search lie a factor apart; the limit is then halved in to this share of it.
_FACTOR, _SHARP = 1.5, 1e-3
# Relative precision that a search begins at, also where the loss has more digits.
_COARSE = 1e-9
# Steps of the differences behind a third derivative, as a share of the distance at which the model holds.
_STEP = 0.05


@dataclass(frozen=True)
class Model:
    """The quadratic model of the loss along a direction.

    Attributes
    ----------
    level, slope, curvature : float
        The loss and its first two derivatives in the coordinate.
    """

    level: float
    slope: float
    curvature: float

    def __call__(self, x: float) -> float:
        """Return the model at a coordinate."""
        return self.level + self.slope * x + 0.5 * self.curvature * x**2

    def terms(self, x: float) -> float:
        """Return the sizes of its first and second order terms together."""
        return abs(self.slope * x) + 0.5 * abs(self.curvature) * x**2

    def distance(self, size: float) -> float:
        """Return where its terms reach a size; infinite where they never do."""
        slope, half = abs(self.slope), 0.5 * abs(self.curvature)
        if slope == 0 and half == 0:
            return float("inf")
        if size == 0:
            return 0.0
        # Free of cancellation.
        return 2.0 * size / (slope + float(np.sqrt(slope**2 + 4.0 * half * size)))


def taylor_limit(value: Callable[[float], float], model: Model, sign: int, farthest: float, precision: float) -> float:
    """Return the distance at which the model's error first is a tenth of its terms.

    Parameters
    ----------
    value : callable
        The loss at a coordinate; one that is not finite ends the search.
    model : Model
    sign : {1, -1}
        Which way to go.
    farthest : float
        Distance at which the search ends.
    precision : float
        Relative rounding error of the loss. No distance is looked at where it hides a tenth of the terms.

    Returns
    -------
    float
        Infinite if the model holds as far as `farthest`, NaN if it has no terms. Where the model fails as soon as
        rounding lets it be seen, that distance.
    """

    def fails(x: float) -> bool:
        error = abs(value(sign * x) - model(sign * x))
        return not error <= _GOOD * model.terms(x)

    # Ten roundings of the loss are a tenth of what is looked for.
    seen, start = (model.distance(1e3 * eps * abs(model.level)) for eps in (precision, _COARSE))
    if not np.isfinite(start):
        return float("nan")
    bad = max(start, seen, 1e-9 * farthest)
    if fails(bad):
        while (good := bad / 4.0) > seen and fails(good):
            bad = good
        if good <= seen:
            return bad
    else:
        good, bad = bad, _FACTOR * bad
        while not fails(bad):
            if bad >= farthest:
                return float("inf")
            good, bad = bad, min(_FACTOR * bad, farthest)
    while bad - good > _SHARP * bad:
        middle = 0.5 * (good + bad)
        good, bad = (good, middle) if fails(middle) else (middle, bad)
    return 0.5 * (good + bad)


def third_derivative(
    curvature_at: Callable[[float], float], reach: float, curvature: float, precision: float
) -> tuple[float, float]:
    """Return the third derivative along a direction and its error, from curvatures at four points.

    Central differences with two steps, extrapolated; the error is what the extrapolation changed, and rounding.

    Parameters
    ----------
    curvature_at : callable
        The curvature along the direction at a coordinate.
    reach : float
        Distance on which the loss is nearly quadratic.
    curvature : float
        Curvature at the origin; its size tells how much rounding there is.
    precision : float
        Relative rounding error of a curvature.
    """
    step = _STEP * reach
    wide, narrow = ((curvature_at(x) - curvature_at(-x)) / (2.0 * x) for x in (2.0 * step, step))
    rounding = precision * abs(curvature) / step
    return narrow + (narrow - wide) / 3.0, abs(narrow - wide) / 3.0 + rounding
