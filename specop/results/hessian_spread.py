"""Hessians of mini-batches beside that of all data."""

from __future__ import annotations

import math

import numpy as np
import scipy.special

from specop.errors import checked_number
from specop.plotting.axes import Axes, Place
from specop.results.fields import column, error_of, estimated, record
from specop.results.plotted import Plotted
from specop.results.result import Result
from specop.results.tables import Column
from specop.statistics.estimate import Estimate
from specop.statistics.numbers import Floats

__all__ = ["HessianSpreadResult"]


@record
class HessianSpreadResult(Plotted, Result):
    """How far Hessians of mini-batches are from that of all data.

    `plot` draws the eigenvalues of batches beside those of all data.

    Attributes
    ----------
    whole_eigenvalues : ndarray (k,)
        Largest eigenvalues of the Hessian of all data, descending.
    eigenvalues : ndarray (batches, k)
        Eigenvalues of each batch's Hessian.
    traces : ndarray (batches,)
        Trace of each batch's Hessian, estimated.
    trace_errors : ndarray (batches,)
        Standard errors of these, from random vectors.
    alignment : ndarray (batches,)
        Mean squared cosine between the spaces of the k first eigenvectors of a batch and of all data: 1 for the same
        space, k / n for random ones.
    along : ndarray (batches, k)
        Curvature of each batch along the eigenvectors of all data.
    lower : Estimate
        Mean over batches of the curvature along the first eigenvector of another batch: at most the largest eigenvalue
        of the population.
    upper : Estimate
        Mean over batches of their largest eigenvalue: at least that of the population.
    batch_size : int
        Number of samples in a batch.
    rtol : float
        Relative error of the largest eigenvalue that `batches_needed` is for.
    """

    whole_eigenvalues: Floats
    eigenvalues: Floats = column()
    traces: Floats = column("trace", ".4g")
    trace_errors: Floats = error_of("traces", "standard error", ".1e")
    alignment: Floats = column("alignment", ".3f")
    along: Floats = column()
    lower: Estimate = estimated()
    upper: Estimate = estimated()
    batch_size: int
    rtol: float

    @property
    def trace_deviation(self) -> float:
        """Standard deviation of traces over batches, without what random vectors add; 0 where that explains it."""
        return math.sqrt(max(float(np.var(self.traces, ddof=1) - np.mean(self.trace_errors**2)), 0.0))

    @property
    def batches_needed(self) -> int:
        """How many batches give the largest eigenvalue of all data to within `rtol`, with the stated confidence."""
        return self.needed(self.rtol)

    def needed(self, rtol: float) -> int:
        """Return how many batches have a mean Hessian whose largest eigenvalue is right to a relative error.

        Parameters
        ----------
        rtol : float
            The error, relative to the largest eigenvalue.
        """
        goal = checked_number("rtol", rtol, positive=True) * abs(float(self.whole_eigenvalues[0]))
        count = len(self.along)
        quantile = float(scipy.special.stdtrit(count - 1, 0.5 + self.upper.confidence / 2))
        spread = quantile * float(np.std(self.along[:, 0], ddof=1))
        # What all data have of it stays.
        share = min(1.0, count * self.batch_size / (self.samples or count * self.batch_size)) / count
        excess = max(self.upper.estimate - float(self.whole_eigenvalues[0]), 0.0) / (1.0 - share)
        # excess / q + spread / sqrt(q) <= goal, the smaller root for 1 / sqrt(q).
        root = math.hypot(spread, 2.0 * math.sqrt(excess * goal))
        return max(1, math.ceil(((spread + root) / (2.0 * goal)) ** 2))

    def _draw(self, place: Place) -> Axes:
        from specop.plotting.noise import plot_spread

        title = f"largest eigenvalues of {len(self.along)} batches of {self.batch_size}, and of all data"
        return plot_spread(self.whole_eigenvalues, self.eigenvalues, self.along, title, place)

    def _headline(self) -> str:
        top = self.eigenvalues[:, 0]
        return (
            f"largest eigenvalue {self.whole_eigenvalues[0]:.4g} of all data, {top.mean():.4g} +- "
            f"{np.std(top, ddof=1):.2g} of batches of {self.batch_size}; {self.batches_needed:,} batches give it to "
            f"{100 * self.rtol:g} %"
        )

    def _lines(self) -> list[str]:
        low, high = self.lower, self.upper
        text = f"of the population between {low.estimate:.4g} +- {low.standard_error:.1g} and "
        return [*super()._lines(), f"{text}{high.estimate:.4g} +- {high.standard_error:.1g}"]

    def _shown(self) -> dict[str, Column]:
        top = {"eigenvalue": Column(self.eigenvalues[:, 0], "eigenvalue", ".4g")}
        return top | {"along": Column(self.along[:, 0], "along that of all", ".4g")} | super()._shown()
