"""The number of eigenvalues that are not zero."""

from __future__ import annotations

from specop.plotting.axes import Axes, Place
from specop.results.fields import converted, error_of, record
from specop.results.plotted import Plotted
from specop.results.result import Result
from specop.statistics.numbers import Floats

__all__ = ["RankResult"]


@record
class RankResult(Plotted, Result):
    """How many eigenvalues are not zero.

    `plot` draws how many eigenvalues are larger than each size, and the gap.

    Attributes
    ----------
    estimate : float
        The rank as it was estimated; a whole number where it was counted. `rank` is the nearest one.
    standard_error : float
        Standard error of the rank; 0 where it was counted.
    interval : (float, float)
        Limits of the rank.
    threshold : float
        Eigenvalues up to this size count as zero.
    gap : (float, float)
        The range around the threshold in which no eigenvalue was seen, as sizes. Where no gap was found both are the
        threshold.
    method : str
        "exact", all eigenvalues outside of the gap were counted; "quadrature", they were estimated.
    confidence : float
        Probability with which the interval holds.
    n : int
        Number of all eigenvalues.
    sizes : ndarray
        Sizes of eigenvalues; those below the gap that were not looked at stand at 0.
    weights : ndarray
        Share of all eigenvalues that each size stands for.
    """

    estimate: float
    standard_error: float = error_of("estimate")
    interval: tuple[float, float] = converted(tuple)
    threshold: float
    gap: tuple[float, float] = converted(tuple)
    method: str
    confidence: float
    n: int
    sizes: Floats
    weights: Floats

    @property
    def rank(self) -> int:
        """The rank as a whole number: the one nearest to the estimate."""
        return round(self.estimate)

    @property
    def nullity(self) -> int:
        """How many eigenvalues are zero, n - rank."""
        return self.n - self.rank

    def _draw(self, place: Place) -> Axes:
        from specop.plotting.pictures import plot_rank

        low, high = self.interval
        return plot_rank(
            self.sizes,
            self.weights,
            self.n,
            self.estimate,
            interval=self.interval,
            gap=self.gap,
            threshold=self.threshold,
            title=f"rank {self.estimate:g} of {self.n:,} ({low:g} to {high:g}), {self.method}",
            place=place,
        )

    def _headline(self) -> str:
        low, high = self.interval
        gap = f"no eigenvalue seen from {self.gap[0]:.2g} to {self.gap[1]:.2g}"
        if not self.gap[0] < self.gap[1]:
            gap = f"sizes up to {self.threshold:.2g} count as zero, without a gap"
        return (
            f"rank {self.estimate:g} of {self.n} ({100 * self.confidence:g} % interval {low:g} to {high:g}), "
            f"{self.method}: {gap}"
        )
