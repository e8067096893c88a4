"""Rows: the records of a history while it grows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from specop.results.history import HistoryResult, Moment, error_of

__all__ = ["Rows"]


@dataclass
class Rows:
    """What a history keeps of each record, oldest first.

    Attributes
    ----------
    steps, seconds, matvecs : list
        Step, seconds and number of products of each record.
    values, errors : list of dict
        Numbers by name; one that was not recorded is absent.
    gaps : dict
        For each step with a gap, what could not be recorded.
    """

    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    matvecs: list[int] = field(default_factory=list)
    values: list[dict[str, float]] = field(default_factory=list)
    errors: list[dict[str, float]] = field(default_factory=list)
    gaps: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, history: HistoryResult | None) -> Self:
        """Return the rows of a history."""
        if history is None:
            return cls()
        values, errors = (
            [dict(zip(history.quantities, row, strict=True)) for row in table.tolist()]
            for table in (history.values, history.errors)
        )
        return cls(
            history.steps.tolist(),
            history.record_seconds.tolist(),
            history.record_matvecs.tolist(),
            values,
            errors,
            dict(history.gaps),
        )

    @property
    def last_step(self) -> int | None:
        """Step of the last record."""
        return self.steps[-1] if self.steps else None

    @property
    def ends_in_gap(self) -> bool:
        """Whether the last record could not be had."""
        return self.last_step in self.gaps

    def append(self, moment: Moment) -> None:
        """Add a record."""
        self.steps.append(moment.step)
        self.seconds.append(moment.seconds)
        self.matvecs.append(moment.matvecs)
        self.values.append({name: one.estimate for name, one in moment.estimates.items()})
        self.errors.append({name: error_of(one) for name, one in moment.estimates.items()})
        if moment.gap:
            self.gaps[moment.step] = moment.gap

    def drop_from(self, step: int) -> None:
        """Forget all records at this step and later ones."""
        kept = int(np.searchsorted(self.steps, step))
        for rows in (self.steps, self.seconds, self.matvecs, self.values, self.errors):
            del rows[kept:]
        self.gaps = {at: text for at, text in self.gaps.items() if at < step}
