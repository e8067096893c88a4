"""When an estimate is accurate enough, and when n products with unit vectors are fewer than it takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from specop.arrays.backend import Array
from specop.errors import InvalidInputError, checked_number
from specop.krylov.run import Run
from specop.statistics.estimate import Estimate
from specop.statistics.numbers import Floats

__all__ = ["PRODUCTS", "STAGE", "Goal", "checked_goal", "exact_diagonal", "told", "turns_exact", "unit_products"]

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

    @property
    def looks(self) -> int:
        """How often `skewed` is to widen: twice where a small error ends it, as error and mean are small together."""
        return 1 if self.is_budget else 2

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

    def begins_exact(self, run: Run, method: str, stage: int = STAGE) -> bool:
        """Whether to multiply n unit vectors at once.

        That is so where it is asked for, where probes would take about as many products, and where a first stage of
        probes would leave too few for it.
        """
        enough = self.is_budget or run.n <= 2 * STAGE or run.left < run.n + stage
        return method == "exact" or (method == "auto" and run.n <= run.left and enough)

    def may_read(self, method: str, deflate: object) -> bool:
        """Whether entries of a matrix take the place of an estimate: where a goal is set and nothing else is asked for.

        A number of products that is given is spent, so that methods can be compared.
        """
        return method == "auto" and not self.is_budget and deflate is None


def checked_goal(rtol: float | None, atol: float | None, max_matvecs: int | None, default: float) -> Goal:
    """Return the goal that the arguments of an estimator describe, with `default` as rtol where all are missing."""
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None:
            checked_number(name, value)
    return Goal(default if rtol is None and atol is None and max_matvecs is None else rtol, atol)


def told(run: Run, value: Estimate, is_met: bool, message: str, remedy: str) -> dict[str, Any]:
    """Return the fields of a result that tell an estimate, and whether it is accurate enough.

    Parameters
    ----------
    run : Run
    value : Estimate
    is_met : bool
        Whether the goal is met.
    message : str
        How the estimate was made.
    remedy : str
        What to do where the goal is not met.
    """
    if not is_met:
        message = (
            f"{run.name} stopped after {run.products} products with a standard error of {value.standard_error:.3g} at "
            f"{value.estimate:.6g} ({message}). {remedy}"
        )
    return {**vars(value), "converged": is_met, "message": message}


def unit_products(run: Run) -> Iterator[tuple[Array, Array]]:
    """Yield each unit vector e with A e.

    Raises
    ------
    InvalidInputError
        If the limit does not allow so many products.
    """
    if run.n > run.left:
        raise InvalidInputError(f"method='exact' takes n={run.n} products, above max_matvecs={run.limit}.")
    domain = run.A.domain
    for i in range(run.n):
        entries = np.zeros(run.n, dtype=domain.dtype)
        entries[i] = 1.0
        unit = run.backend.from_host(entries, domain)
        yield unit, run.multiply(unit)
        run.update()


def exact_diagonal(run: Run) -> Floats:
    """Return the entries on the diagonal, by n products."""
    return run.scalars([run.backend.dot(unit, product) for unit, product in unit_products(run)])


def turns_exact(run: Run, needed: float, ahead: int) -> bool:
    """Whether to multiply n unit vectors from here on, because probes would take more products.

    The first probes say little, and a sketch that grows may still save most of the others: it waits until an eighth of
    n products has been spent, unless too few would be left by the next time that it is asked.

    Parameters
    ----------
    run : Run
        Run of the estimate.
    needed : float
        How many more products probes would take.
    ahead : int
        Products until the next look.
    """
    late = 8 * run.products >= run.n or run.left - ahead < run.n
    return run.left >= run.n and needed > run.n and late
