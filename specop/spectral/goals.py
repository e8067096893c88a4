"""When an estimate is accurate enough."""

from __future__ import annotations

from dataclasses import dataclass

from specop.errors import InvalidInputError

__all__ = ["PRODUCTS", "STAGE", "Goal", "checked_goal"]

PRODUCTS = 1000
"""Limit on products where none is given."""

STAGE = 8
"""Probes before the first look at the error: with fewer an interval covers less often than it says."""


@dataclass(frozen=True)
class Goal:
    """A bound of the standard error, or none.

    Attributes
    ----------
    rtol, atol : float or None
        The standard error is to be at most ``max(atol, rtol |estimate|)``; both None if all products are to be used.
    """

    rtol: float | None
    atol: float | None

    @property
    def is_budget(self) -> bool:
        """Whether the products are to be used up, however accurate the estimate is."""
        return self.rtol is None and self.atol is None

    def tolerance(self, estimate: float) -> float:
        """Return the largest standard error that is accepted."""
        return max(self.atol or 0.0, (self.rtol or 0.0) * abs(estimate))

    def accepts(self, estimate: float, standard_error: float) -> bool:
        """Whether there is a bound and the standard error is within it."""
        return not self.is_budget and standard_error <= self.tolerance(estimate)

    def probes_needed(self, count: int, estimate: float, standard_error: float) -> float:
        """Return how many more independent probes the bound takes, judged by the error that so many have left."""
        if self.is_budget:
            return 0.0
        allowed = self.tolerance(estimate)
        return count * (standard_error / allowed) ** 2 - count if allowed > 0 else float("inf")


def checked_goal(rtol: float | None, atol: float | None, max_matvecs: int | None, default: float) -> Goal:
    """Return the goal that the arguments of an estimator describe, with `default` as rtol where all are missing."""
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None and not value >= 0:
            raise InvalidInputError(f"{name} must be a number >= 0, got {value!r}.")
    return Goal(default if rtol is None and atol is None and max_matvecs is None else rtol, atol)
