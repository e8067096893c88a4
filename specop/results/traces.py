"""Traces, norms and diagonals that random probes estimate."""

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

__all__ = ["DiagonalResult", "NormResult", "TraceResult"]


@dataclass(frozen=True, kw_only=True, eq=False)
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
    interval: tuple[float, float]
    confidence: float
    method: str
    probes: NDArray[np.float64]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the probes, their mean and its interval, running where probes are independent; needs matplotlib."""
        from specop.plotting import plot_trace

        return plot_trace(self, ax)

    def __str__(self) -> str:
        value = Estimate(self.estimate, self.standard_error, self.interval, self.confidence)
        return f"trace {value}, {self.method}, {self._provenance()}"

    __repr__ = __str__


@dataclass(frozen=True, kw_only=True, eq=False)
class NormResult(Result):
    """A Frobenius norm with its error.

    Attributes
    ----------
    estimate, standard_error, interval, confidence
        As in `Estimate`; exact norms have a standard error of zero.
    method : str
        "hutchinson" or "exact".
    probes : ndarray
        One unbiased estimate of the squared norm for each probe.
    """

    estimate: float
    standard_error: float
    interval: tuple[float, float]
    confidence: float
    method: str
    probes: NDArray[np.float64]

    def __str__(self) -> str:
        value = Estimate(self.estimate, self.standard_error, self.interval, self.confidence)
        return f"Frobenius norm {value}, {self.method}, {self._provenance()}"

    __repr__ = __str__


@dataclass(frozen=True, kw_only=True, eq=False)
class DiagonalResult(Result):
    """A diagonal with its error.

    Attributes
    ----------
    diagonal : native vector (n,)
        In the operator's framework and on its device.
    standard_errors : native vector (n,)
        One for each entry.
    norm : float
        Euclidean norm of the diagonal.
    error_norm : float
        Standard error of the whole: the root of the expected squared distance to the true diagonal.
    method : str
        "bekas", "xdiag" or "exact".
    """

    diagonal: Array
    standard_errors: Array
    norm: float
    error_norm: float
    method: str

    def __str__(self) -> str:
        n = len(self.diagonal)
        return f"diagonal of {n} entries, norm {self.norm:.6g} +- {self.error_norm:.2g}, {self.method}, " + (
            self._provenance()
        )

    __repr__ = __str__
