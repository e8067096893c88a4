"""A trace that random probes estimate."""

from __future__ import annotations

from specop.plotting.axes import Axes
from specop.results.number import NumberResult
from specop.results.result import record

__all__ = ["TraceResult"]


@record
class TraceResult(NumberResult):
    """A trace with its error.

    `method` is "hutchinson", "hutch++", "xtrace", "xnystrace", "exact", or "xtrace+hutchinson" for a sketch whose
    probes are left out in turn, with more probes of what lies beyond it. `estimates` has an unbiased one for each
    probe. Those that are left out in turn depend on each other; the standard error says so, their scatter does not.
    """

    quantity: str = "trace"

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the estimates, their mean and its interval, running where probes are independent; needs matplotlib."""
        from specop.plotting.pictures import plot_estimates

        return plot_estimates(
            self.estimates,
            self.value,
            independent=self.method in ("hutchinson", "hutch++"),
            quantity="trace",
            title=f"trace {self.estimate:.6g}, {self.matvecs} products",
            ax=ax,
        )
