"""Two points side by side."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from specop.plotting.axes import Axes, Place
from specop.results.fields import converted, record
from specop.results.flatness import Measure
from specop.results.plotted import Plotted
from specop.results.result import Result
from specop.results.tables import Column

__all__ = ["ComparisonResult", "Difference"]

# Of these the larger one is flatter.
_LEVELS = ("pac_bayes_sigma", "pac_bayes_relative_sigma")
_NONE = Measure(np.nan, np.nan, (-np.inf, np.inf), 0.95)


@dataclass(frozen=True)
class Difference(Measure):
    """The difference of a measure between two points, b - a: an `Estimate`, and what it is the difference of.

    Attributes
    ----------
    a, b : Measure
        The measure at each point.
    significant : bool
        Whether the interval of the difference is without zero; never of lower bounds.
    """

    a: Measure = _NONE
    b: Measure = _NONE
    significant: bool = False


def _measure(kept: dict[str, Any], kind: type[Measure], **parts: Any) -> Any:
    return kind(**{**kept, "interval": tuple(kept["interval"]), **parts})


def _differences(kept: dict[str, Any]) -> dict[str, Difference]:
    return {
        name: _measure(one, Difference, a=_measure(one["a"], Measure), b=_measure(one["b"], Measure))
        for name, one in kept.items()
    }


@record
class ComparisonResult(Plotted, Result):
    """The flatness of two points side by side.

    `plot` draws the ratio b / a of each measure with its interval; measures of the same name share a row.

    Attributes
    ----------
    measures : dict of Difference
        By name: the difference b - a with `estimate`, `standard_error` and `interval`; the measures themselves as `a`
        and `b`; `significant`, `invariant` and `kind`.
    names : (str, str)
        Names of the two points.
    losses : (float, float)
        Loss of each of the two.
    sizes : (int, int)
        Number of parameters of each of the two.
    confidence : float
        Probability with which each interval holds.
    remark : str
        What to keep in mind of the two, in lines.
    """

    measures: dict[str, Difference] = converted(
        _differences, lambda kept: {name: asdict(one) for name, one in kept.items()}
    )
    names: tuple[str, str] = converted(tuple)
    losses: tuple[float, float] = converted(tuple)
    sizes: tuple[int, int] = converted(tuple)
    confidence: float
    remark: str

    @property
    def flatter(self) -> dict[str, str | None]:
        """The name of the flatter point by each measure; None where the difference is not significant."""
        return {name: self._flatter(name) if one.significant else None for name, one in self.measures.items()}

    def __getitem__(self, name: str) -> Difference:
        """Return the difference of a measure by its name."""
        return self.measures[name]

    def _draw(self, place: Place) -> Axes:
        from specop.plotting.comparison import plot_ratios

        shown = {name: one for name, one in self.measures.items() if one.a.estimate > 0 and one.b.estimate > 0}
        return plot_ratios(
            [name.replace("_", " ") for name in shown],
            np.array([[one.a.estimate, *one.a.interval] for one in shown.values()]).reshape(-1, 3),
            np.array([[one.b.estimate, *one.b.interval] for one in shown.values()]).reshape(-1, 3),
            np.array([one.invariant for one in shown.values()], dtype=bool),
            self.names,
            place,
        )

    def _flatter(self, name: str) -> str | None:
        change = self.measures[name].estimate
        if not change:
            return None
        return self.names[int((change > 0) == (name in _LEVELS))]

    def _headline(self) -> str:
        first, second = self.names
        return f"flatness of {first} (loss {self.losses[0]:.5g}) and {second} (loss {self.losses[1]:.5g})"

    def _lines(self) -> list[str]:
        first, *rest = super()._lines()
        percent = f"differences {self.names[1]} - {self.names[0]} with {100 * self.confidence:g} % intervals"
        sizes = [f"{self.sizes[0]} and {self.sizes[1]} parameters"] * (self.sizes[0] != self.sizes[1])
        return [first, "; ".join([percent, *sizes]), *self.remark.splitlines(), *rest]

    def _columns(self) -> dict[str, Column]:
        found, (first, second) = self.measures.values(), self.names

        def numbers(heading: str, form: str, values: list[float]) -> Column:
            return Column(np.array(values), heading, form)

        verdicts = [
            str(self._flatter(name) or "-") if one.significant else "(bounds)" if one.kind == "lower bound" else "-"
            for name, one in self.measures.items()
        ]
        return {
            "measure": Column([name.replace("_", " ") for name in self.measures], "measure"),
            "a": numbers(first, ".5g", [one.a.estimate for one in found]),
            "a_error": numbers("+-", ".1g", [one.a.standard_error for one in found]),
            "b": numbers(second, ".5g", [one.b.estimate for one in found]),
            "b_error": numbers("+-", ".1g", [one.b.standard_error for one in found]),
            "difference": numbers("difference", ".3g", [one.estimate for one in found]),
            "low": numbers("from", ".3g", [one.interval[0] for one in found]),
            "high": numbers("to", ".3g", [one.interval[1] for one in found]),
            "significant": Column(np.array([one.significant for one in found])),
            "flatter": Column(verdicts, "flatter"),
            "rescaling": Column(["keeps it" if one.invariant else "changes it" for one in found], "rescaling layers"),
        }
