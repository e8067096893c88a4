"""A trace that random probes estimate."""

from __future__ import annotations

from specop.plotting.axes import Axes, Place
from specop.results.fields import record
from specop.results.number import NumberResult
from specop.results.plotted import Plotted

__all__ = ["TraceResult"]


@record
class TraceResult(Plotted, NumberResult):
    """A trace with its error.

    `method` is "hutchinson", "hutch++", "xtrace", "xnystrace", "exact", "gradients" where those of samples tell a part
    of the trace, or "xtrace+hutchinson" for a sketch whose probes are left out in turn, with more probes of what lies
    beyond it; "orthogonal" takes the place of "hutchinson" where the last probes are orthogonal to each other.
    `estimates` has an unbiased one for each probe or sample. Those that are left out in turn depend on each other, and
    orthogonal ones leave less to chance and weigh more; the standard error says so, their scatter does not.

    `plot` draws the estimates, their mean and its interval, running where probes are independent.
    """

    quantity: str = "trace"

    def _draw(self, place: Place) -> Axes:
        from specop.plotting.pictures import plot_estimates

        return plot_estimates(
            self.estimates,
            self.value,
            independent=self.method in ("hutchinson", "hutch++"),
            quantity="trace",
            title=f"trace {self.estimate:.6g}, {self.matvecs} products",
            place=place,
        )
