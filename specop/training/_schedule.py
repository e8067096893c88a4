"""Schedule: when to record, by the steps or by the share of the time that records have taken."""

from __future__ import annotations

import time

from specop.errors import InvalidInputError, checked_count, is_number

__all__ = ["Schedule", "clock"]

clock = time.perf_counter


class Schedule:
    """Says which calls of `record` are due, and measures what they take.

    The first call is due. From then on, with `every`, the first call at least so many steps after the last record; else
    the first one at which all records, and another one that takes as long as the last, are within the budget.

    Parameters
    ----------
    every : int or None
        Number of steps between records; None where only the budget decides.
    budget : float
        Largest share of the time that records may take.
    elapsed, spent : float
        Time of training and of records in a history that goes on.
    last_step : int or None
        Last step of the history that goes on.
    last_cost : float
        Seconds that the last record of that history took.

    Attributes
    ----------
    elapsed : float
        Seconds of training up to the last call, that of records included.
    spent : float
        Seconds that all records took.
    last_cost : float
        Seconds that the last record took.
    """

    def __init__(
        self,
        every: int | None,
        budget: float,
        *,
        elapsed: float = 0.0,
        spent: float = 0.0,
        last_step: int | None = None,
        last_cost: float = 0.0,
    ) -> None:
        self.every = None if every is None else checked_count("every", every)
        if not is_number(budget) or not 0 < budget <= 1:
            raise InvalidInputError(f"budget is a share of the time above 0 and at most 1, got {budget!r}.")
        self.budget = float(budget)
        self.elapsed, self.spent, self.last_cost = elapsed, spent, last_cost
        self.last_step = last_step
        self._latest: float | None = None
        self._began = 0.0

    def is_due(self, step: int) -> bool:
        """Whether to record now."""
        self._tick()
        if self.last_step is None:
            return True
        if self.every is not None:
            return step >= self.last_step + self.every
        return self.spent + self.last_cost <= self.budget * (self.elapsed + self.last_cost)

    def begin(self, step: int) -> None:
        """Begin to count the time as that of a record."""
        self._tick()
        self.last_step, self._began, self.last_cost = step, self.elapsed, 0.0

    def lap(self) -> float:
        """Return the seconds of this record so far, and count them."""
        self._tick()
        cost = self.elapsed - self._began
        self.spent += cost - self.last_cost
        self.last_cost = cost
        return cost

    def _tick(self) -> None:
        now = clock()
        if self._latest is not None:
            self.elapsed += now - self._latest
        self._latest = now
