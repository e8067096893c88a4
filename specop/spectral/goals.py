"""When an estimate is accurate enough, and how many products it may take."""

from __future__ import annotations

from dataclasses import dataclass

from specop.errors import InvalidInputError

__all__ = ["Goal", "checked_goal"]


@dataclass(frozen=True)
class Goal:
    """A bound of the standard error, or none, and a limit on products.

    Attributes
    ----------
    rtol, atol : float or None
        The standard error is to be at most ``max(atol, rtol |estimate|)``; both None if all products are to be used.
    limit : int
        Largest number of products.
    """

    rtol: float | None
    atol: float | None
    limit: int

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


def checked_goal(rtol: float | None, atol: float | None, max_matvecs: int | None, default: float) -> Goal:
    """Return the goal that the arguments of an estimator describe, with `default` as rtol where all are missing."""
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None and not value >= 0:
            raise InvalidInputError(f"{name} must be a number >= 0, got {value!r}.")
    if max_matvecs is not None and max_matvecs < 1:
        raise InvalidInputError(f"max_matvecs must be positive, got {max_matvecs!r}.")
    if rtol is None and atol is None and max_matvecs is None:
        rtol = default
    return Goal(rtol, atol, 1000 if max_matvecs is None else int(max_matvecs))
