"""What curvature did while a model was trained: one moment of it, and all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from specop.errors import InvalidInputError
from specop.plotting.axes import Axes, Place
from specop.results.fields import converted, record, structured
from specop.results.result import Result
from specop.results.structure import Structure
from specop.results.tables import Column
from specop.statistics.estimate import Estimate
from specop.statistics.numbers import Floats, Integers

__all__ = ["HistoryResult", "Moment", "error_of"]

# Columns of the table that is printed; data frames and files have all.
_SHOWN = 6
_ERROR, _LEVEL = "_error", "_level"


def error_of(number: Estimate) -> float:
    """Return a number's standard error; without one, how far the nearer end of its interval lies from it.

    An end that is the number itself, as of lower bounds, does not count.
    """
    if number.standard_error > 0:
        return number.standard_error
    low, high = number.interval
    return min((away for away in (number.estimate - low, high - number.estimate) if away > 0), default=0.0)


@dataclass(frozen=True)
class Moment:
    """What was recorded at one step of training.

    Attributes
    ----------
    step : int
        Steps that the optimizer had taken.
    estimates : dict
        Each recorded number by its name, with its error.
    results : dict
        The results behind them by the names in `what`, vectors included; a history does not keep these.
    matvecs : int
        Products that the record took.
    seconds : float
        Wall time that the record took.
    gap : str
        Why something could not be recorded; empty otherwise.
    """

    step: int
    estimates: dict[str, Estimate]
    results: dict[str, Result]
    matvecs: int
    seconds: float
    gap: str = ""

    @property
    def numbers(self) -> dict[str, float]:
        """All numbers by name, and the errors of those that have one, as loggers take them."""
        found: dict[str, float] = {}
        for name, one in self.estimates.items():
            found[name] = one.estimate
            if one.interval != (one.estimate, one.estimate):
                found[name + _ERROR] = error_of(one)
        return found

    @property
    def metrics(self) -> dict[str, float]:
        """The same numbers under "curvature/", as callbacks log them beside a trainer's own."""
        return {f"curvature/{name}": value for name, value in self.numbers.items()}

    def __getitem__(self, name: str) -> Estimate:
        if name not in self.estimates:
            raise KeyError(f"{name!r} was not recorded; there are {', '.join(self.estimates)}")
        return self.estimates[name]

    def __str__(self) -> str:
        parts = [f"{name} {one.estimate:.6g} +- {error_of(one):.1g}" for name, one in self.estimates.items()]
        text = f"step {self.step}: {', '.join(parts)}; {self.matvecs} products, {self.seconds:.2f} s"
        return f"{text}; {self.gap}" if self.gap else text


def _with_steps(gaps: dict[str, str]) -> dict[int, str]:
    return {int(step): text for step, text in gaps.items()}


def _with_texts(gaps: dict[int, str]) -> dict[str, str]:
    return {str(step): text for step, text in gaps.items()}


@record
class HistoryResult(Result):
    """Curvature during training, a row for each record; ``history["lambda_max"]`` is the column of that name.

    Attributes
    ----------
    steps : ndarray (records,) of int
        Steps that the optimizer had taken.
    quantities : tuple of str
        Names of the recorded numbers.
    values, errors : ndarray (records, quantities)
        The numbers, and of each its error: a bound for eigenvalues, the standard error for estimates, 0 for exact
        numbers. NaN where a record has none.
    record_seconds, record_matvecs : ndarray (records,)
        Wall time and products of each record.
    elapsed : float
        Wall time from the first call of `record` to the last one in seconds, that of the records included.
    every : int or None
        Steps between records, where they were asked for.
    budget : float
        Share of the time that records may take, where they are spaced by it.
    structure : Structure
        Names and shapes of the model's parameters, which tell another model.
    gaps : dict
        By step, why something could not be recorded there.
    """

    steps: Integers
    quantities: tuple[str, ...] = converted(tuple)
    values: Floats
    errors: Floats
    record_seconds: Floats
    record_matvecs: Integers
    elapsed: float
    every: int | None
    budget: float
    structure: Structure = structured()
    gaps: dict[int, str] = converted(_with_steps, _with_texts)

    @property
    def share(self) -> float:
        """Share of the elapsed time that the records took; NaN before the first one."""
        return self.seconds / self.elapsed if self.elapsed else float("nan")

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, name: str) -> Floats:
        columns = self._columns()
        if name not in columns:
            raise KeyError(f"{name!r} was not recorded; there are {', '.join(columns)}")
        return np.asarray(columns[name].values)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        label: str | None = None,
        color: Any = None,
        quantity: str | None = None,
    ) -> Axes:
        """Draw a quantity over the steps with its errors, and the limit of stable training; needs matplotlib.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw, beside what is there already; default: a new figure.
        label, color : str, color, optional
            What it is called in the legend and its colour, where several runs lie over each other.
        quantity : str, optional
            One of `quantities`. Default: "lambda_max" beside 2 / lr, the limit of gradient descent, where the learning
            rate is known; without it "sharpness" beside the optimizer's own limit, or what comes first.
        """
        from specop.plotting.history import plot_history

        chosen = quantity or next(
            (name for name in ("lambda_max", "sharpness", "eigenvalue_1") if name in self.quantities),
            self.quantities[-1] if self.quantities else "lambda_max",
        )
        if not len(self):
            raise InvalidInputError("nothing was recorded yet: call record(step) of the monitor while training.")
        if chosen not in self.quantities:
            raise InvalidInputError(f"quantity must be one of {', '.join(self.quantities)}, got {chosen!r}.")
        limits: dict[str, Floats] = {}
        if chosen == "sharpness" and "limit" in self.quantities:
            limits["limit of the optimizer"] = self["limit"]
        elif chosen in ("lambda_max", "eigenvalue_1") and "lr" in self.quantities:
            limits["2 / lr"] = 2.0 / self["lr"]
        level = self[chosen + _LEVEL] if chosen + _LEVEL in self.quantities else None
        place = Place(ax, label, color)
        return plot_history(
            self.steps, self[chosen], self[chosen + _ERROR], level, limits, chosen, self._headline(), place
        )

    def _headline(self) -> str:
        if not len(self):
            return "history without records"
        spacing = f"every {self.every} steps" if self.every else f"budget {100 * self.budget:g} %"
        share = f"{100 * self.share:.2g} % of the time"
        return f"history of {len(self)} records, steps {self.steps[0]} to {self.steps[-1]}, {share} ({spacing})"

    def _lines(self) -> list[str]:
        more = f" And at {len(self.gaps) - 1} later records." if len(self.gaps) > 1 else ""
        return [*super()._lines(), *[f"gap at step {at}: {text}{more}" for at, text in list(self.gaps.items())[:1]]]

    def _columns(self) -> dict[str, Column]:
        found = {"step": Column(self.steps, "step")}
        shown = [name for name in self.quantities if not name.endswith(_LEVEL)][:_SHOWN]
        for number, name in enumerate(self.quantities):
            heading = name if name in shown else ""
            has_error = bool(heading) and bool(np.nan_to_num(self.errors[:, number]).any())
            found[name] = Column(self.values[:, number], heading, ".6g")
            found[name + _ERROR] = Column(self.errors[:, number], "+-" if has_error else "", ".1g")
        found["record_matvecs"] = Column(self.record_matvecs, "products")
        found["record_seconds"] = Column(self.record_seconds, "seconds", ".2g")
        return found
