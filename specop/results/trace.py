"""A trace that random probes estimate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specop.results.result import Result, converted, record
from specop.statistics.estimate import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["TraceResult"]


@record
class TraceResult(Result):
    """A trace with its error.

    Attributes
    ----------
    estimate, standard_error, interval, confidence
        As in `Estimate`; exact traces have a standard error of zero.
    method : str
        "hutchinson", "hutch++", "xtrace", "xnystrace", "exact", or "xtrace+hutchinson" for a sketch whose probes are
        left out in turn, with more probes of what lies beyond it.
    probes : ndarray
        One unbiased estimate for each probe. Those that are left out in turn depend on each other; the standard error
        says so, their scatter does not.
    """

    estimate: float
    standard_error: float
    interval: tuple[float, float] = converted(tuple)
    confidence: float
    method: str
    probes: NDArray[np.float64]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the probes, their mean and its interval, running where probes are independent; needs matplotlib."""
        from specop.plotting.spectra import plot_estimates

        return plot_estimates(
            self.probes[:0] if self.method == "exact" else self.probes,
            Estimate(self.estimate, self.standard_error, self.interval, self.confidence),
            independent=self.method in ("hutchinson", "hutch++"),
            quantity="trace",
            title=f"trace {self.estimate:.6g}, {self.matvecs} products",
            ax=ax,
        )

    def _headline(self) -> str:
        value = Estimate(self.estimate, self.standard_error, self.interval, self.confidence)
        return f"trace {value}, {self.method}"
