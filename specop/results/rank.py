"""The number of eigenvalues that are not zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specop.results.result import Result, converted, record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["RankResult"]


@record
class RankResult(Result):
    """How many eigenvalues are not zero.

    Attributes
    ----------
    rank : float
        A whole number where it was counted.
    interval : (float, float)
        Limits of the rank.
    tol : float
        Eigenvalues up to this size count as zero.
    gap : (float, float)
        The range around `tol` in which no eigenvalue was seen, as sizes. Where no gap was found both are `tol`.
    method : str
        "exact", all eigenvalues outside of the gap were counted; "quadrature", they were estimated.
    confidence : float
        With which the interval holds.
    n : int
    sizes, weights : ndarray
        Sizes of eigenvalues and the share of all that each stands for; those below the gap that were not looked at
        stand at 0.
    """

    rank: float
    interval: tuple[float, float] = converted(tuple)
    tol: float
    gap: tuple[float, float] = converted(tuple)
    method: str
    confidence: float
    n: int
    sizes: NDArray[np.float64]
    weights: NDArray[np.float64]

    @property
    def nullity(self) -> float:
        """How many eigenvalues are zero, n - rank."""
        return self.n - self.rank

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw how many eigenvalues are larger than each size, and the gap; needs matplotlib."""
        from specop.plotting.spectra import plot_rank

        low, high = self.interval
        return plot_rank(
            self.sizes,
            self.weights,
            self.n,
            self.rank,
            interval=self.interval,
            gap=self.gap,
            threshold=self.tol,
            title=f"rank {self.rank:g} of {self.n:,} ({low:g} to {high:g}), {self.method}",
            ax=ax,
        )

    def _headline(self) -> str:
        low, high = self.interval
        gap = f"no eigenvalue seen from {self.gap[0]:.2g} to {self.gap[1]:.2g}"
        if not self.gap[0] < self.gap[1]:
            gap = f"sizes up to {self.tol:.2g} count as zero, without a gap"
        return (
            f"rank {self.rank:g} of {self.n} ({100 * self.confidence:g} % interval {low:g} to {high:g}), "
            f"{self.method}: {gap}"
        )
