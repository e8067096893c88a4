"""Predicted influences beside those of retraining."""

from __future__ import annotations

from specop.plotting.axes import Axes, Place
from specop.results.fields import column, record
from specop.results.plotted import Plotted
from specop.results.result import Result
from specop.statistics.numbers import Floats, Integers

__all__ = ["InfluenceCheck"]


@record
class InfluenceCheck(Plotted, Result):
    """Predicted influences beside the changes that retraining gives.

    `plot` draws predicted against actual changes.

    Attributes
    ----------
    indices : ndarray (k,)
        Numbers of the samples that were removed, one at a time.
    predicted, actual : ndarray (k,)
        Changes of the quantity, by the influences and by retraining.
    gradient_norms : ndarray (k + 1,)
        Norm of the gradient at the minimum of all data, and at each of the others.
    correlation : float
        Pearson's correlation of the predicted and the actual changes.
    rank_correlation : float
        Spearman's correlation, that of their ranks.
    quantity : str
        What changes, in words.
    damping : float
        Strength of the L2 penalty.
    gtol : float
        Norm of the gradient that every minimum was to reach.
    """

    indices: Integers = column("sample")
    predicted: Floats = column("predicted", "+.3e")
    actual: Floats = column("actual", "+.3e")
    gradient_norms: Floats
    correlation: float
    rank_correlation: float
    quantity: str
    damping: float
    gtol: float

    def _draw(self, place: Place) -> Axes:
        from specop.plotting.pictures import plot_influence_check

        title = f"{self.quantity}\ncorrelation {self.correlation:.3f}, of ranks {self.rank_correlation:.3f}"
        return plot_influence_check(self.predicted, self.actual, title, place)

    def _headline(self) -> str:
        return (
            f"influence of {len(self.indices)} samples on {self.quantity}, predicted against retrained: correlation "
            f"{self.correlation:.4f}, of ranks {self.rank_correlation:.4f}, gradient norms up to "
            f"{self.gradient_norms.max():.1e}"
        )
