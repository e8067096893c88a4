"""Spectral densities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special
from numpy.typing import ArrayLike, NDArray

from specop.errors import InvalidInputError, real_values
from specop.plotting.axes import Axes, Place
from specop.results.fields import column, record
from specop.results.result import Result
from specop.statistics.estimate import Estimate, estimate_from_samples, exact, normal_error
from specop.statistics.measure import GaussRule, cumulative_bounds, share_interval
from specop.statistics.numbers import Floats, Integers

__all__ = ["SpectralDensity"]


@record
class SpectralDensity(Result):
    r"""A spectrum as a measure: nodes with weights that sum to one.

    The density of an n x n matrix is :math:`\frac1n \sum_i \delta(x - \lambda_i)`. Each probe gives a quadrature
    rule for it; theirs are averaged here.

    Estimates come from `weights`, in which recognized eigenvalues have the weight 1/n. Intervals of `cdf_interval` and
    `count` come from `gauss_weights` and `couplings`: they hold for eigenvalues of any multiplicity and for any
    spectrum between the nodes.

    Attributes
    ----------
    nodes, weights : ndarray
        All probes' rules together, nodes ascending, weights summing to 1.
    probe : ndarray of int
        Which probe each node belongs to; -1 for eigenvalues that were given as known.
    gauss_weights : ndarray
        Weights of each probe's own Gauss rule, summing to 1 for each; 1/n for known eigenvalues.
    couplings : ndarray
        Residuals of the nodes, with the sign of a Gauss rule's.
    rounding : float
        How far rounding may have moved eigenvalues.
    n : int
        Dimension of the matrix.
    steps : int
        Lanczos steps for each probe.
    error : float
        Estimated Wasserstein-1 distance to the true spectrum, relative to the spread.
    confidence : float
        Probability with which the intervals cover the truth.
    orthogonal : bool
        Whether each step was made orthogonal to all earlier ones. Where not, two nodes may be copies of one eigenvalue.
    sampling_error : float
        With ``data="part"``: the root of the mean squared distance of the eigenvalues to those of all samples is at
        most that, in units of the matrix. `error` holds it too.
    samples_used : int or None
        Number of different samples that were multiplied, where a part of them sufficed.
    """

    nodes: Floats = column()
    weights: Floats = column()
    probe: NDArray[np.int64] = column()
    gauss_weights: Floats = column()
    couplings: Floats = column()
    rounding: float
    n: int
    steps: int
    error: float
    confidence: float
    orthogonal: bool = True
    sampling_error: float = 0.0
    samples_used: int | None = None

    @property
    def probes(self) -> int:
        """Number of probes."""
        return int(self.probe.max()) + 1

    @property
    def spread(self) -> float:
        """Distance from the smallest to the largest node."""
        return float(self.nodes[-1] - self.nodes[0])

    @property
    def rules(self) -> list[GaussRule]:
        """Each probe's Gauss rule, for the part of the spectrum that was not given as known."""
        chosen = [self.probe == index for index in range(self.probes)]
        return [GaussRule(self.nodes[mine], self.gauss_weights[mine], self.couplings[mine]) for mine in chosen]

    def pdf(self, x: ArrayLike, sigma: float | None = None) -> Floats:
        """Return the density smoothed by a Gaussian, for looking at; integrals are exact without it.

        Parameters
        ----------
        x : array_like
            Points at which the density is wanted.
        sigma : float, optional
            Standard deviation of the Gaussian, in the units of x; default ``spread / steps``.
        """
        width = self.spread / self.steps if sigma is None else sigma
        if not width > 0:
            why = "; the spectrum is a single point, so choose one" if sigma is None else ""
            raise InvalidInputError(f"sigma must be positive, got {width}{why}.")
        distance = (np.asarray(x, dtype=float)[..., None] - self.nodes) / width
        sums: Floats = np.exp(-0.5 * distance**2) @ self.weights
        sums /= width * np.sqrt(2 * np.pi)
        return sums

    def cdf(self, x: ArrayLike) -> Floats:
        """Return the share of the spectrum that is not above x."""
        cumulative = np.concatenate([[0.0], np.cumsum(self.weights)])
        return cumulative[np.searchsorted(self.nodes, np.asarray(x, dtype=float), side="right")]

    def cdf_interval(self, x: ArrayLike) -> tuple[Floats, Floats]:
        """Return confidence limits for the share of the spectrum that is not above x, at each x by itself.

        They hold both the chance of the probes and what quadrature leaves open between its nodes, so they are wide
        inside a bulk, where a few more steps make them narrower, and closed in a gap. They are finite for one probe,
        because the distribution of a random vector's weights is known.
        """
        points = np.atleast_1d(np.asarray(x, dtype=float)).reshape(-1)
        low, high = self._limits(points) if not self.sampling_error else self._limits_of_all(points)
        estimate, shape = self.cdf(points), np.shape(x)
        return np.minimum(low, estimate).reshape(shape), np.maximum(high, estimate).reshape(shape)

    def _limits(self, points: Floats) -> tuple[Floats, Floats]:
        low, high = self._share_limits(*self.quadrature_bounds(points))
        known, rest = self._known_until(points), self._rest
        return (known + rest * low) / self.n, (known + rest * high) / self.n

    def _limits_of_all(self, points: Floats) -> tuple[Floats, Floats]:
        """Return limits for all samples: a share of (d / t)^2 at most of all eigenvalues is moved by more than t."""
        moves = self._moves()[:, None]
        moved = (self.sampling_error / moves) ** 2
        low, high = (
            self._limits((points + sign * moves).reshape(-1))[side].reshape(len(moves), -1)
            for side, sign in enumerate((-1.0, 1.0))
        )
        return np.maximum(0.0, (low - moved).max(axis=0)), np.minimum(1.0, (high + moved).min(axis=0))

    def _moves(self) -> Floats:
        """Return distances by which eigenvalues of all samples may lie elsewhere."""
        farthest = max(10.0 * self.sampling_error, 2.0 * self.spread)
        return np.geomspace(self.sampling_error, farthest, 24)

    def integrate(self, f: Callable[[Floats], ArrayLike]) -> Estimate:
        r"""Estimate the mean of f over the eigenvalues, trace(f(A)) / n.

        The interval is that of the probes' spread; of a single one that of a random vector's weights, whose variance is
        :math:`\frac{2}{n + 2}` of that of f over the spectrum, as the nodes show it. For the share of eigenvalues in a
        range use `count` or `cdf_interval`, which know of the error that quadrature makes with jumps.

        Parameters
        ----------
        f : callable
            Takes an array of nodes and returns as many values; polynomials of degree below ``2 steps`` are
            integrated exactly for each probe's vector.
        """
        values = real_values("f", f(self.nodes))
        if values.shape != self.nodes.shape:
            raise InvalidInputError(f"f must return one value a node, shape {self.nodes.shape}, got {values.shape}.")
        if not np.isfinite(values).all():
            bad = self.nodes[~np.isfinite(values)]
            raise InvalidInputError(f"f is not finite at {bad.size} nodes, such as {bad[0]:.6g}.")
        values = values * self.weights
        known = float(values[self.probe < 0].sum())
        if self.probes == 0:
            # All eigenvalues were given: nothing is estimated.
            return self._of_all(f, exact(known, self.confidence))
        if self.probes == 1:
            return self._of_all(f, self._of_one_probe(f, float(values.sum())))
        sums = np.bincount(self.probe[self.probe >= 0], values[self.probe >= 0], minlength=self.probes)
        found = estimate_from_samples(np.asarray(known + self.probes * sums, dtype=np.float64), self.confidence)
        return self._of_all(f, found)

    def _of_all(self, f: Callable[[Floats], ArrayLike], found: Estimate) -> Estimate:
        """Return an integral over the spectrum of all samples: f at each eigenvalue moves by its slope at most."""
        if not self.sampling_error:
            return found
        points = np.union1d(self.nodes, np.linspace(self.nodes[0], self.nodes[-1], 2000))
        values = np.asarray(f(points), dtype=float)
        if not np.isfinite(values).all():
            raise InvalidInputError("f must be finite between the nodes too, where eigenvalues of all samples may lie.")
        moved = float(np.abs(np.diff(values) / np.diff(points)).max(initial=0.0)) * self.sampling_error
        low, high = found.interval
        return Estimate(
            found.estimate, float(np.hypot(found.standard_error, moved)), (low - moved, high + moved), self.confidence
        )

    def _of_one_probe(self, f: Callable[[Floats], ArrayLike], estimate: float) -> Estimate:
        found = np.asarray(f(self.nodes), dtype=float)[self.probe >= 0]
        # A node stands for one eigenvalue at least, however little the probe has along it.
        weights = np.maximum(self.weights[self.probe >= 0], 1.0 / self.n)
        share = self._rest / self.n
        away = found - self.weights[self.probe >= 0] @ found / share
        error = float(np.sqrt(2.0 * share * (weights @ away**2) / (self._rest + 2)))
        half = float(scipy.special.ndtri(0.5 + self.confidence / 2)) * error
        return Estimate(estimate, error, (estimate - half, estimate + half), self.confidence)

    def moment(self, j: int) -> Estimate:
        """Estimate trace(A^j) / n."""
        return self.integrate(lambda x: x**j)

    def count(self, a: float, b: float) -> Estimate:
        """Estimate the number of eigenvalues x with a < x <= b.

        The standard error joins that of the probes to half of what quadrature leaves open. The interval has the same
        sources, as in `cdf_interval`, and ends in whole numbers.
        """
        if not a <= b:
            raise InvalidInputError(f"count needs a <= b, got {a!r} and {b!r}.")
        found = self._count(a, b)
        if not self.sampling_error:
            return found
        low, high = 0.0, float(self.n)
        for move in self._moves():
            moved = self.n * (self.sampling_error / move) ** 2
            if a + move <= b - move:
                low = max(low, float(np.ceil(self._count(a + move, b - move).interval[0] - moved - 1e-6)))
            high = min(high, float(np.floor(self._count(a - move, b + move).interval[1] + moved + 1e-6)))
        interval = (min(low, round(found.estimate, 6)), max(high, round(found.estimate, 6)))
        error = max(found.standard_error, normal_error(interval, self.confidence))
        return Estimate(found.estimate, error, interval, self.confidence)

    def _count(self, a: float, b: float) -> Estimate:
        """Return the same for the part of the samples behind the nodes."""
        ends = np.array([a, b], dtype=float)
        inside = (self.nodes > a) & (self.nodes <= b)
        estimate = self.n * float(self.weights[inside].sum())
        known = int(np.diff(self._known_until(ends))[0])
        rest = self._rest
        if self.probes == 0:
            # All eigenvalues are known, up to rounding.
            within, around = (
                self._known_until(ends + r * np.array([-1.0, 1.0])) for r in (-self.rounding, self.rounding)
            )
            interval = (float(max(0, within[1] - within[0])), float(around[1] - around[0]))
            return Estimate(float(known), 0.0, interval, self.confidence)
        low, high = self.quadrature_bounds(ends)
        least, most = max(0.0, float(low[1] - high[0])), max(0.0, float(high[1] - low[0]))
        limits = self._share_limits(np.array([least]), np.array([most]))
        # Rounding in the last digit must not take a whole eigenvalue away.
        whole = (
            known + max(int(np.ceil(rest * limits[0][0] - 1e-6)), self._certain(a, b)),
            known + min(int(np.floor(rest * limits[1][0] + 1e-6)), rest),
        )
        share = self.n * float(self.weights[inside & (self.probe >= 0)].sum()) / rest
        chance = rest * np.sqrt(2.0 * share * max(1.0 - share, 0.0) / (self.probes * (rest + 2.0)))
        error = float(np.hypot(chance, 0.5 * rest * (most - least)))
        # The estimate knows simple eigenvalues, which the limits do not; both are kept apart from its last digits.
        interval = (float(min(whole[0], round(estimate, 6))), float(max(whole[1], round(estimate, 6))))
        return Estimate(estimate, error, interval, self.confidence)

    def quadrature_bounds(self, x: Floats) -> tuple[Floats, Floats]:
        """Bound the probes' mean weight at eigenvalues up to each x, chance left aside; known ones are not counted."""
        if self.probes == 0:
            return np.zeros(len(x)), np.zeros(len(x))
        low, high = np.mean([cumulative_bounds(rule, x, self.rounding) for rule in self.rules], axis=0)
        return low, high

    def _share_limits(self, low: Floats, high: Floats) -> tuple[Floats, Floats]:
        if self.probes == 0:
            return low, high
        return share_interval(low, high, self._rest * self.probes, self.confidence)

    @property
    def _rest(self) -> int:
        """Number of eigenvalues that were not given as known."""
        return self.n - int((self.probe < 0).sum())

    def _known_until(self, x: Floats) -> Integers:
        return np.searchsorted(self.nodes[self.probe < 0], x, side="right")

    def _certain(self, a: float, b: float) -> int:
        """Return how many eigenvalues in (a, b] some probe has found by their residuals."""
        most = 0
        for rule in self.rules:
            sizes = np.abs(rule.couplings)
            if not self.orthogonal:
                most = max(most, _apart(rule.nodes - sizes - self.rounding, rule.nodes + sizes + self.rounding, a, b))
                continue
            inside = np.flatnonzero((rule.nodes - sizes > a) & (rule.nodes + sizes <= b))
            # k Ritz pairs with the residual vectors R have k eigenvalues within |R| of them (Kahan).
            order = inside[np.argsort(sizes[inside])]
            reach = np.sqrt(np.cumsum(sizes[order] ** 2)) + self.rounding
            low = np.minimum.accumulate(rule.nodes[order]) - reach
            high = np.maximum.accumulate(rule.nodes[order]) + reach
            most = max(most, int(((low > a) & (high <= b)).sum()))
        return most

    def plot(
        self, ax: Axes | None = None, *, label: str | None = None, color: Any = None, sigma: float | None = None
    ) -> Axes:
        """Draw the smoothed density on a logarithmic scale, the cumulative share beside it; needs matplotlib.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw, beside what is there already; default: a new figure.
        label, color : str, color, optional
            What it is called in the legend and its colour, where several densities lie over each other.
        sigma : float, optional
            Standard deviation of a Gaussian that each eigenvalue is spread by, in units of the matrix. Default: as wide
            everywhere as a Lanczos step is on the axis, which is linear around zero and logarithmic beyond.
        """
        from specop.plotting.density import plot_density

        return plot_density(
            self.nodes,
            self.weights,
            self.probe,
            self.cdf_interval,
            confidence=self.confidence,
            title=f"{self.n:,} eigenvalues, {self.probes} probe(s) of {self.steps} steps",
            pdf=None if sigma is None else lambda x: self.pdf(x, sigma),
            sigma=sigma or 0.0,
            place=Place(ax, label, color),
        )

    def _headline(self) -> str:
        ends = f"from {self.nodes[0]:.6g} to {self.nodes[-1]:.6g}"
        return (
            f"spectral density of {self.n} eigenvalues {ends}, mean {self.moment(1)}, "
            f"{self.probes} probe{'s' * (self.probes != 1)} of {self.steps} steps"
            + ("" if self.samples_used is None else f" on {self.samples_used} samples")
        )


def _apart(low: Floats, high: Floats, a: float, b: float) -> int:
    """Return how many intervals in (a, b] share nothing: each holds an eigenvalue, whatever vectors it comes from."""
    count, last = 0, -np.inf
    for i in np.argsort(high):
        if low[i] > max(a, last) and high[i] <= b:
            count, last = count + 1, float(high[i])
    return count
