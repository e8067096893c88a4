"""Eigenvalues that stand apart from the bulk."""

from __future__ import annotations

import numpy as np

from specop.arrays.backend import Array, backend_of
from specop.plotting.axes import Axes, Place
from specop.results.fields import converted, error_of, estimated, record, vector
from specop.results.plotted import Plotted
from specop.results.result import Result
from specop.results.tables import Column
from specop.statistics.estimate import Estimate
from specop.statistics.numbers import Floats, Integers

__all__ = ["OutliersResult"]


@record
class OutliersResult(Plotted, Result):
    """How many eigenvalues stand apart from the bulk, and how much of gradients lies in their space.

    `plot` draws the largest eigenvalues by rank, the bulk's edge, and the numbers of classes.

    Attributes
    ----------
    eigenvalues, bounds : ndarray (k,)
        The largest eigenvalues, descending, and bounds of their errors.
    ratios : ndarray (k,)
        Each over the next one; over the upper end of the rest's density for the last.
    chances : ndarray (k,)
        Probability that an exponential tail shows such a gap somewhere.
    gradient_shares : ndarray (k,)
        Share of the squared gradient along each eigenvector; NaN for a gradient of zero.
    class_shares : ndarray (K, k)
        Share of the squared mean gradient of each class along each eigenvector; no rows without labels.
    labels : tuple of str
        Names of the classes; empty without labels.
    count : int
        How many stand out; 0 for none.
    places : ndarray of int
        After how many eigenvalues there is a gap that no chance explains, ascending.
    edge : float
        The bulk's upper edge: the largest eigenvalue that does not stand out.
    classes : int
        Number K of classes; 0 if it is unknown.
    trace : Estimate
        Trace of the whole matrix.
    share : Estimate
        Share of the outliers' sum in the trace.
    n : int
        Number of all eigenvalues.
    matrix : str
    confidence : float
        Probability with which an exponential tail is not taken for one with outliers; also that of the intervals.
    rows : native array (k, n)
        Eigenvectors as rows, in ascending order of their eigenvalues as in `EigenResult`.
    """

    eigenvalues: Floats
    bounds: Floats = error_of("eigenvalues")
    ratios: Floats
    chances: Floats
    gradient_shares: Floats
    class_shares: Floats
    labels: tuple[str, ...] = converted(tuple)
    count: int
    places: Integers
    edge: float
    classes: int
    trace: Estimate = estimated()
    share: Estimate = estimated()
    n: int
    matrix: str
    confidence: float
    rows: Array = vector()

    @property
    def space(self) -> int:
        """How many eigenvectors overlaps are taken with: those that stand out, or all if none do."""
        return self.count or len(self.eigenvalues)

    @property
    def gradient_overlap(self) -> float:
        """Share of the squared gradient in that space; a random vector has `space` / `n`."""
        return float(self.gradient_shares[: self.space].sum())

    @property
    def class_overlaps(self) -> Floats:
        """The same for the mean gradient of each class, an array (K,)."""
        return self.class_shares[:, : self.space].sum(axis=1)

    def eigenvector(self, i: int) -> Array:
        """Return the eigenvector of ``eigenvalues[i]`` as a native vector."""
        return backend_of(self.rows).index(self.rows, len(self.eigenvalues) - 1 - i)

    def _draw(self, place: Place) -> Axes:
        from specop.plotting.outliers import plot_outliers

        expected = {name: place for name, place in self._expected().items() if place <= len(self.eigenvalues)}
        return plot_outliers(self.eigenvalues, self.count, self.edge, expected, title=self._headline(), place=place)

    def _expected(self) -> dict[str, int]:
        k = self.classes
        return {"K - 1": k - 1, "K": k, "K^2": k**2} if k else {}

    def _headline(self) -> str:
        same = [name for name, place in self._expected().items() if place == self.count]
        which = f", {same[0]}," if same else ""
        if not self.count:
            return f"none of the {len(self.eigenvalues)} largest eigenvalues of the {self.matrix} stands out"
        verb = "stands" if self.count == 1 else "stand"
        plural = "s" * (self.count > 1)
        return f"{self.count} eigenvalue{plural}{which} of the {self.matrix} {verb} out above {self.edge:.4g}"

    def _lines(self) -> list[str]:
        lines = super()._lines()
        gaps = []
        for name, place in self._expected().items():
            if place <= len(self.ratios):
                gaps.append(
                    f"{name} = {place}: ratio {self.ratios[place - 1]:.3g}, chance {self.chances[place - 1]:.1g}"
                )
            else:
                gaps.append(f"{name} = {place}: not among the {len(self.ratios)} computed")
        lines += [f"gap after {'; '.join(gaps)}"] * bool(gaps)
        if len(self.places) > 1:
            lines.append(f"gaps that no chance explains are after {', '.join(map(str, self.places))}")
        if self.count:
            lines.append(f"their sum is {100 * self.share.estimate:.3g} % of the trace, {self.trace}")
        overlap = f"share of the squared gradient in their space {self.gradient_overlap:.3g}"
        known = self.class_overlaps[np.isfinite(self.class_overlaps)]
        if len(known):
            overlap += f"; of the classes' mean gradients {known.min():.3g} to {known.max():.3g}"
        return [*lines, f"{overlap} ({self.space / self.n:.2g} for a random vector)"]

    def _columns(self) -> dict[str, Column]:
        ranks = np.arange(1, len(self.eigenvalues) + 1)
        return {
            "rank": Column(ranks, "rank"),
            "eigenvalues": Column(self.eigenvalues, "eigenvalue", ".6g"),
            "bounds": Column(self.bounds, "error <=", ".1e"),
            "ratios": Column(self.ratios, "over the next", ".3g"),
            "chances": Column(self.chances, "chance", ".1e"),
            "gradient_shares": Column(self.gradient_shares, "gradient share", ".3g"),
        }
