"""Functions of a matrix: their sums over the spectrum, the rank, products with a vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specop.backend import Array
from specop.estimates import Estimate
from specop.results.base import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FunctionResult", "QuadratureResult", "RankResult"]


@dataclass(frozen=True, kw_only=True, eq=False)
class QuadratureResult(Result):
    """A number that a spectrum sums or bounds to, with its error.

    Attributes
    ----------
    quantity : str
        What it is, such as "logdet".
    estimate : float
    standard_error : float
        Of the mean over probes; 0 where nothing is random, NaN for a single probe.
    quadrature_error : float
        Estimated error that does not come from chance: of the quadrature, or of the eigenvalues used.
    interval : (float, float)
        Student-t interval of the probes, wider by the quadrature error on either side.
    confidence : float
    method : str
        "quadrature", "exact" or "eigenvalues".
    probes : ndarray
        One estimate for each probe; empty where nothing is random.
    steps : int
        Most Lanczos steps that a probe took.
    """

    quantity: str
    estimate: float
    standard_error: float
    quadrature_error: float
    interval: tuple[float, float]
    confidence: float
    method: str
    probes: NDArray[np.float64]
    steps: int

    def __str__(self) -> str:
        value = Estimate(self.estimate, self.standard_error, self.interval, self.confidence)
        return f"{self.quantity} {value}, {self.method}, {self._provenance()}"

    __repr__ = __str__


@dataclass(frozen=True, kw_only=True, eq=False)
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
    interval: tuple[float, float]
    tol: float
    gap: tuple[float, float]
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
        from specop.plotting import plot_rank

        return plot_rank(self, ax)

    def __str__(self) -> str:
        low, high = self.interval
        gap = f"no eigenvalue seen from {self.gap[0]:.2g} to {self.gap[1]:.2g}"
        if not self.gap[0] < self.gap[1]:
            gap = f"sizes up to {self.tol:.2g} count as zero, without a gap"
        return (
            f"rank {self.rank:g} of {self.n} ({100 * self.confidence:g} % interval {low:g} to {high:g}), "
            f"{self.method}: {gap}, {self._provenance()}"
        )

    __repr__ = __str__


@dataclass(frozen=True, kw_only=True, eq=False)
class FunctionResult(Result):
    """A function of a matrix times a vector, with its error.

    Attributes
    ----------
    x : native vector (n,)
        f(A) v, in the operator's framework and on its device.
    error : float
        Estimated norm of the error of x.
    tol : float
        As asked for.
    """

    x: Array
    error: float
    tol: float

    def __str__(self) -> str:
        return f"f(A) v with error {self.error:.1e}, {self._provenance()}"

    __repr__ = __str__
