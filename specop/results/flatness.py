"""How flat the loss is around a point, by many measures."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from specop.results.fields import converted, record
from specop.results.result import Result
from specop.results.tables import Column
from specop.statistics.estimate import Estimate

__all__ = ["FlatnessResult", "Measure"]


@dataclass(frozen=True)
class Measure(Estimate):
    """A measure of flatness: an `Estimate`, and what it means.

    Attributes
    ----------
    invariant : bool
        Whether a rescaling of layers that leaves the function of the network leaves the measure.
    kind : str
        "exact", "estimate", or "lower bound" where the truth may be larger.
    """

    invariant: bool = False
    kind: str = "estimate"


def _measures(kept: dict[str, Any]) -> dict[str, Measure]:
    return {name: Measure(**{**one, "interval": tuple(one["interval"])}) for name, one in kept.items()}


@record
class FlatnessResult(Result):
    """How flat the loss is around a point.

    Attributes
    ----------
    measures : dict of Measure
        By name, as `specop.landscape.flatness` defines them, each with `estimate`, `standard_error`, `interval`,
        `invariant` and `kind`.
    loss : float
        The loss at the point.
    gradient_norm : float
        Norm of its gradient.
    settings : dict
        What the measures depend on, by the names of the arguments: radii, noise levels, the prior and numbers of draws;
        with the layer of the relative flatness, and as "fisher" the matrix of the Fisher-Rao norm.
    missing : dict
        Measures that there are none of, with the reason.
    n : int
        Number of parameters.
    confidence : float
        Probability with which the intervals hold.
    remark : str
        What to keep in mind of the point, in lines; empty at a minimum.
    """

    measures: dict[str, Measure] = converted(_measures, lambda kept: {name: asdict(one) for name, one in kept.items()})
    loss: float
    gradient_norm: float
    settings: dict[str, Any]
    missing: dict[str, str]
    n: int
    confidence: float
    remark: str

    def __getitem__(self, name: str) -> Measure:
        """Return a measure by its name."""
        return self.measures[name]

    def _headline(self) -> str:
        return f"flatness: loss {self.loss:.6g}, gradient norm {self.gradient_norm:.2g}, {self.n} parameters"

    def _lines(self) -> list[str]:
        first, *rest = super()._lines()
        settings = ", ".join(f"{name.replace('_', ' ')} {_text(value)}" for name, value in self.settings.items())
        told = [f"{100 * self.confidence:g} % intervals; {settings}"]
        told += [f"no {name}: {why}" for name, why in self.missing.items()]
        lines = [part for line in told for part in textwrap.wrap(line, 160)]
        return [first, *self.remark.splitlines(), *lines, *rest]

    def _columns(self) -> dict[str, Column]:
        found = self.measures.values()
        return {
            "measure": Column([name.replace("_", " ") for name in self.measures], "measure"),
            "estimate": Column(np.array([one.estimate for one in found]), "value", ".5g"),
            "standard_error": Column(np.array([one.standard_error for one in found]), "+-", ".2g"),
            "low": Column(np.array([one.interval[0] for one in found]), "from", ".5g"),
            "high": Column(np.array([one.interval[1] for one in found]), "to", ".5g"),
            "kind": Column([one.kind for one in found], "is"),
            "rescaling": Column(["keeps it" if one.invariant else "changes it" for one in found], "rescaling layers"),
        }


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
