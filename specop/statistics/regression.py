"""Regression: how much of a control variate to take, from what came before."""

from __future__ import annotations

import numpy as np

__all__ = ["Regression"]

# As many pairs weigh as much as the prior: a slope from few of them would add more than it takes away.
_WEIGHT = 4.0


class Regression:
    """The slope of values over a control variate, drawn towards a prior, updated by each pair.

    A value that is corrected by the slope of those before it keeps its mean, whatever that slope is. Its variance is
    finite because the prior weighs by the variance that controls have and not by what few of them show: of two that lie
    next to each other by chance the slope alone may be any number.

    Parameters
    ----------
    variance : float
        Variance of the control variate; 0 if there is none.
    """

    def __init__(self, variance: float) -> None:
        self._weight = _WEIGHT * variance
        self._values: list[float] = []
        self._controls: list[float] = []

    def add(self, value: float, control: float) -> None:
        """Take in a pair."""
        self._values.append(value)
        self._controls.append(control)

    def slope(self, prior: float) -> float:
        """Return the slope of all pairs so far and the prior together; the prior alone if there are no two."""
        if not self._values or not self._weight:
            return prior
        apart = np.array(self._controls) - np.mean(self._controls)
        return float((apart @ np.array(self._values) + prior * self._weight) / (apart @ apart + self._weight))
