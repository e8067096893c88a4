"""Edges: both ends of a spectrum between bounds, and how many eigenvalues lie beyond a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.special

from specop.arrays.backend import Array
from specop.krylov.projected import Ritz
from specop.krylov.run import Run
from specop.krylov.space import LARGEST_BASIS, KrylovSpace
from specop.spectral.fitting import rows_that_fit
from specop.statistics.estimate import Estimate, exact
from specop.statistics.measure import GaussRule, cumulative_bounds, is_ruled_out, share_interval
from specop.statistics.numbers import Floats
from specop.statistics.transport import known_weights

__all__ = ["Edges", "edges_of_spectrum"]

# Rows that any device has room for beside a model.
_FEWEST_ROWS = 40
# Before, bounds are hardly worth their decomposition.
_FEWEST_STEPS = 4


def edges_of_spectrum(run: Run, resolution: float, confidence: float) -> Edges:
    r"""Find both ends of a symmetric operator's spectrum, as exactly as is asked for.

    Where the run may make n products, all eigenvalues are found. Elsewhere a Lanczos run from one random vector goes on
    until an eigenvalue further out than the share `resolution` of the norm would have shown. The outermost Ritz values
    are Rayleigh quotients, so eigenvalues lie at least as far out; by how much more is bounded by the Christoffel
    number of the run, which an eigenvector's weight in a random vector seldom falls short of. It is as good as the
    bound of Kuczynski and Wozniakowski [1]_, which knows nothing of the spectrum:

    .. math:: P(\text{error} > \epsilon \, \text{spread}) \le 1.648 \sqrt n \, e^{-(2k - 1) \sqrt\epsilon}

    after k products, and better where few eigenvalues lie at the end.

    Parameters
    ----------
    run : Run
        Makes the products, up to its limit.
    resolution : float
        How far the ends may be off, relative to the largest size of an eigenvalue.
    confidence : float
        Probability of each bound.

    References
    ----------
    .. [1] J. Kuczynski and H. Wozniakowski, Estimating the largest eigenvalue by the power and Lanczos algorithms with
       a random start, SIAM J. Matrix Anal. Appl. 13 (1992), 1094-1122.
    """
    n = run.n
    rows = rows_that_fit(run, min(n, run.left, max(_FEWEST_ROWS, LARGEST_BASIS // n)), 2 * _FEWEST_STEPS)
    is_whole = rows == n
    space = KrylovSpace(run, rows)
    found = None
    if is_whole:
        space.complete()
    else:
        space.start()
    while not space.is_closed and space.steps < rows:
        space.expand()
        run.update()
        steps = space.steps
        if steps >= _FEWEST_STEPS and steps % max(1, steps // 10) == 0:
            found = Edges(space, steps, confidence)
            if max(found.below, found.above) <= resolution * found.size:
                break
    run.warn_of_noise()
    return Edges(space, space.steps, confidence) if found is None or found.steps < space.steps else found


@dataclass(frozen=True)
class Edges:
    """What a Krylov space from a random vector tells of the whole spectrum.

    Attributes
    ----------
    space : KrylovSpace
    steps : int
        Products when this was read off.
    confidence : float
        Probability with which each bound holds.
    """

    space: KrylovSpace
    steps: int
    confidence: float

    @cached_property
    def ritz(self) -> Ritz:
        """The Ritz pairs; eigenpairs where the space is exhausted."""
        return self.space.ritz()

    @cached_property
    def rule(self) -> GaussRule:
        """The Gauss rule of the random vector."""
        return self.space.rule(self.ritz)

    @property
    def is_whole(self) -> bool:
        """Whether all eigenvalues were found."""
        return self.space.is_exhausted

    @property
    def size(self) -> float:
        """Largest size of an eigenvalue."""
        return float(np.abs(self.ritz.values).max(initial=0.0))

    @property
    def rounding(self) -> float:
        """How far rounding of products may have moved eigenvalues."""
        run = self.space.run
        coarser = max(1.0, run.A.precision / run.A.domain.epsilon)
        noise = run.asymmetry if run.asymmetry > run.clean_asymmetry else 0.0
        return max(self.space.error_floor * coarser, noise * self.space.scale)

    @cached_property
    def below(self) -> float:
        """How far below the smallest Ritz value an eigenvalue may lie."""
        return self._reach(-1.0)

    @cached_property
    def above(self) -> float:
        """How far above the largest Ritz value an eigenvalue may lie."""
        return self._reach(1.0)

    @property
    def smallest(self) -> Estimate:
        """The smallest eigenvalue."""
        value, slack = float(self.ritz.values[0]), self.rounding
        return Estimate(value, 0.0, (value - self.below - slack, value + slack), self.confidence)

    @property
    def largest(self) -> Estimate:
        """The largest eigenvalue."""
        value, slack = float(self.ritz.values[-1]), self.rounding
        return Estimate(value, 0.0, (value - slack, value + self.above + slack), self.confidence)

    def vector(self, weights: Floats) -> Array:
        """Return the sum of the Ritz vectors with these weights, as a native vector of length 1."""
        coordinates = np.zeros(self.space.size)
        coordinates[self.ritz.rows] = self.ritz.coefficients @ weights / np.linalg.norm(weights)
        return self.space.combine(coordinates)

    def coordinates(self, vector: Array) -> Floats:
        """Return a vector's coordinates along all eigenvectors, where all were found."""
        return self.ritz.coefficients.T @ self.space.include(vector)[self.ritz.rows]

    def count(self, threshold: float, slack: float) -> tuple[Estimate, Estimate, Estimate]:
        """Return the numbers of negative, zero and positive eigenvalues.

        Parameters
        ----------
        threshold : float
            Eigenvalues up to this size count as zero.
        slack : float
            How far the eigenvalues found may be off.
        """
        negative, positive = self._beyond(-1.0, threshold, slack), self._beyond(1.0, threshold, slack)
        n, (fewest, most) = self.space.n, np.add(negative.interval, positive.interval)
        zero = n - negative.estimate - positive.estimate
        error = float(np.hypot(negative.standard_error, positive.standard_error))
        limits = (float(max(n - most, 0.0)), float(n - fewest))
        return negative, Estimate(zero, error, limits, self.confidence), positive

    def _beyond(self, side: float, threshold: float, slack: float) -> Estimate:
        """Count the eigenvalues that are larger than the threshold (side 1), or smaller than minus it (side -1)."""
        n, values, confidence = self.space.n, side * self.ritz.values, self.confidence
        # Eigenvalues of a projection interlace those of the matrix.
        least = float((values > threshold + slack).sum())
        if self.is_whole:
            most = float((values > threshold - slack).sum())
            return Estimate(float((values > threshold).sum()), 0.0, (least, most), confidence)
        outermost = self.largest.interval[1] if side > 0 else -self.smallest.interval[0]
        if outermost <= threshold:
            return exact(0.0, confidence)
        low, high = cumulative_bounds(self.rule, np.array([side * threshold]), slack)
        low, high = (low, high) if side < 0 else (1.0 - high, 1.0 - low)
        fewest, most_share = share_interval(low, high, float(n), confidence)
        limits = (max(least, np.ceil(n * fewest[0] - 1e-6)), max(least, np.floor(n * most_share[0] + 1e-6)))
        share = float(known_weights(self.rule, n)[values > threshold].sum())
        chance = n * np.sqrt(2.0 * share * max(1.0 - share, 0.0) / (n + 2.0))
        error = float(np.hypot(chance, 0.5 * n * float(high[0] - low[0])))
        estimate = float(np.clip(round(n * share), *limits))
        return Estimate(estimate, error, (float(limits[0]), float(limits[1])), confidence)

    def _reach(self, side: float) -> float:
        """Return how far beyond the outermost Ritz value an eigenvalue is not ruled out."""
        rule, n = self.rule, self.space.n
        if self.is_whole or not rule.couplings.any():
            return 0.0
        end = rule.nodes[-1] if side > 0 else rule.nodes[0]
        high = float(np.ptp(rule.nodes)) + float(np.abs(rule.couplings).max())
        # The first polynomial alone rules everything out far enough from its node.
        high *= max(1.0, float(n / scipy.special.gammaincinv(0.5, 1.0 - self.confidence)) ** 0.5)
        low = 1e-16 * high
        for _ in range(60):
            middle = float(np.sqrt(low * high))
            clear = bool(is_ruled_out(rule, end + side * middle, n, self.confidence))
            low, high = (low, middle) if clear else (middle, high)
        return high
