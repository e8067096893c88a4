"""Blocks of a curvature matrix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from specop.errors import InvalidInputError
from specop.plotting.axes import Axes, Place
from specop.results.fields import converted, error_of, record
from specop.results.plotted import Plotted
from specop.results.result import Result
from specop.results.tables import Column
from specop.statistics.estimate import Estimate
from specop.statistics.numbers import Booleans, Floats, Integers

__all__ = ["BlocksResult"]


@record
class BlocksResult(Plotted, Result):
    """Spectra, traces and shares of the diagonal blocks of a matrix, and distances between them.

    `plot` draws the range of each block's eigenvalues, their middle nine tenths, their median, and its share of the
    trace. Results with blocks of the same names can be drawn over each other.

    Attributes
    ----------
    names : tuple of str
        Names of the m blocks.
    sizes : ndarray (m,) of int
        Number of parameters in each block.
    traces, trace_errors : ndarray (m,)
        Traces and their standard errors; zero where all eigenvalues are known.
    trace_limits : ndarray (m, 2)
        Intervals of the traces.
    shares, share_errors : ndarray (m,)
        Shares of the traces' sum; NaN where its interval holds zero. Beside negative traces they may exceed one.
    share_limits : ndarray (m, 2)
        Intervals of the shares.
    smallest, largest : ndarray (m,)
        Ends of each spectrum.
    largest_errors : ndarray (m,)
        An eigenvalue of the block lies within that distance of `largest`.
    exact : ndarray (m,) of bool
        Whether all eigenvalues of the block are known, and not only their density.
    distances : ndarray (m, m)
        Square roots of the Jensen-Shannon divergences of smoothed spectra.
    transports : ndarray (m, m)
        Wasserstein-1 distances of the spectra.
    sigma : float
        Standard deviation of the Gaussian that `distances` smooth by.
    grid : (float, float, int)
        First and last point and number of the points that they are taken on.
    nodes, weights : ndarray
        Eigenvalues of all blocks, ascending in each, with their shares of the block's spectrum.
    block : ndarray of int
        Number of the block that each node belongs to.
    matrix : str
    confidence : float
        Probability with which an interval covers the truth.
    """

    names: tuple[str, ...] = converted(tuple)
    sizes: Integers
    traces: Floats
    trace_errors: Floats = error_of("traces")
    trace_limits: Floats
    shares: Floats
    share_errors: Floats = error_of("shares")
    share_limits: Floats
    smallest: Floats
    largest: Floats
    largest_errors: Floats = error_of("largest")
    exact: Booleans
    distances: Floats
    transports: Floats
    sigma: float
    grid: tuple[float, float, int] = converted(tuple)
    nodes: Floats
    weights: Floats
    block: NDArray[np.int64]
    matrix: str
    confidence: float

    def trace(self, block: int | str) -> Estimate:
        """Return the trace of a block, given by number or name, with its interval."""
        i = self._number(block)
        low, high = self.trace_limits[i].tolist()
        return Estimate(float(self.traces[i]), float(self.trace_errors[i]), (low, high), self.confidence)

    def share(self, block: int | str) -> Estimate:
        """Return a block's share of the sum of all traces, with its interval."""
        i = self._number(block)
        low, high = self.share_limits[i].tolist()
        return Estimate(float(self.shares[i]), float(self.share_errors[i]), (low, high), self.confidence)

    def spectrum(self, block: int | str) -> tuple[Floats, Floats]:
        """Return the eigenvalues of a block, or the nodes of their density, and what share of it each stands for."""
        mine = self.block == self._number(block)
        return self.nodes[mine], self.weights[mine]

    def _draw(self, place: Place) -> Axes:
        from specop.plotting.blocks import plot_blocks

        spectra = [self.spectrum(i) for i in range(len(self.names))]
        return plot_blocks(self.names, spectra, self.shares, place=place)

    def _number(self, block: int | str) -> int:
        if isinstance(block, str):
            if block not in self.names:
                raise InvalidInputError(f"there is no block {block!r}; there are {', '.join(self.names)}.")
            return self.names.index(block)
        return block

    def _headline(self) -> str:
        total = float(self.traces.sum())
        return (
            f"{len(self.names)} blocks of the {self.matrix}, {self.sizes.sum()} parameters, traces sum to {total:.6g}"
        )

    def _lines(self) -> list[str]:
        if len(self.names) < 2:
            return [*super()._lines(), *self._remark()]
        apart = np.unravel_index(int(np.argmax(self.distances)), self.distances.shape)
        first, second = (self.names[int(i)] for i in apart)
        far = (
            f"farthest apart: {first} and {second}, root of the Jensen-Shannon divergence "
            f"{self.distances[apart]:.4g} at a width of {self.sigma:.3g}, Wasserstein-1 {self.transports[apart]:.4g}"
        )
        return [*super()._lines(), far, *self._remark()]

    def _columns(self) -> dict[str, Column]:
        return {
            "names": Column(self.names, "block"),
            "sizes": Column(self.sizes, "parameters", ","),
            "traces": Column(self.traces, "trace", ".5g"),
            "trace_errors": Column(self.trace_errors, "error", ".1e"),
            "shares": Column(100 * self.shares, "share, %", ".3g"),
            "share_errors": Column(100 * self.share_errors, "error", ".1e"),
            "smallest": Column(self.smallest, "smallest", ".4g"),
            "largest": Column(self.largest, "largest", ".5g"),
            "largest_errors": Column(self.largest_errors, "error <=", ".1e"),
            "exact": Column(self.exact, "all eigenvalues"),
            "distances": Column(self.distances),
            "transports": Column(self.transports),
        }
