"""What the algorithms return: frozen, with the error of every number beside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specop.backend import Array, backend_of
from specop.errors import InvalidInputError
from specop.estimates import Estimate, estimate_from_samples
from specop.measures import GaussRule, cumulative_bounds, share_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "DiagonalResult",
    "EigenResult",
    "Estimate",
    "FunctionResult",
    "NormResult",
    "QuadratureResult",
    "RankResult",
    "SpectralDensity",
    "TraceResult",
    "estimate_from_samples",
    "versions",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What every result says of its making.

    Attributes
    ----------
    matvecs : int
        Products with the operator, checks included.
    seconds : float
        Wall time of the call.
    samples : int or None
        Data samples behind the matrix, where it has any.
    seed : int
        Of all random vectors.
    converged : bool
        Whether the requested accuracy was reached.
    message : str
        Why the method stopped.
    versions : dict
        Versions of specop, NumPy and the framework.
    """

    matvecs: int
    seconds: float
    samples: int | None
    seed: int
    converged: bool
    message: str
    versions: dict[str, str]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to an npz file that `specop.load` reads; nothing is pickled."""
        from specop.storage import save

        save(self, path)

    def summary(self) -> dict[str, Any]:
        """Return the numbers as plain Python values, ready for JSON; vectors are left out."""
        plain: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in ("rows", "x", "unflatten", "diagonal", "standard_errors"):
                continue
            if isinstance(value, (np.ndarray, np.generic)):
                value = value.tolist()
            plain[item.name] = list(value) if isinstance(value, tuple) else value
        return plain

    def _provenance(self) -> str:
        seen = "" if self.samples is None else f", {self.samples} samples"
        state = "" if self.converged else f"\nnot converged: {self.message}"
        return f"{self.matvecs} products, {self.seconds:.2f} s{seen}{state}"


@dataclass(frozen=True, kw_only=True, eq=False)
class EigenResult(Result):
    """Eigenvalues in ascending order, their vectors and their errors.

    Attributes
    ----------
    eigenvalues : ndarray (k,), float64
        Ascending.
    rows : native array (k, n)
        Eigenvectors as orthonormal rows, in the operator's framework and on its device.
    residuals : ndarray (k,)
        Norms of A x - lambda x; some eigenvalue of A lies within that distance.
    bounds : ndarray (k,)
        Bounds of the eigenvalues' errors: the residual, or its square over the gap where that is smaller.
    check_matvecs : int
        Those of `matvecs` that the multiplicity check took.
    which, tol : str, float
        As asked for.
    """

    eigenvalues: NDArray[np.float64]
    rows: Array
    residuals: NDArray[np.float64]
    bounds: NDArray[np.float64]
    check_matvecs: int
    which: str
    tol: float
    unflatten: Callable[[Array], Any] | None = field(default=None, repr=False, compare=False)

    @property
    def eigenvectors(self) -> Array:
        """Eigenvectors as SciPy has them: a native (n, k) array with one in each column."""
        return backend_of(self.rows).transpose(self.rows)

    def eigenvector(self, i: int) -> Array:
        """Return eigenvector i, that of ``eigenvalues[i]``, as a contiguous native vector."""
        return self.rows[i]

    def eigenvector_tree(self, i: int) -> Any:
        """Return eigenvector i in the structure of the parameters."""
        if self.unflatten is None:
            raise InvalidInputError("this result was loaded from a file, or its operator has no parameter structure.")
        return self.unflatten(self.eigenvector(i))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the eigenvalues with their error bars; needs matplotlib."""
        from specop.plotting import plot_eigenvalues

        return plot_eigenvalues(self, ax)

    def __str__(self) -> str:
        lines = [f"{len(self.eigenvalues)} eigenvalues ({self.which}), {self._provenance()}"]
        lines.append(f"{'eigenvalue':>16}  {'error <=':>9}  {'residual':>9}")
        for value, bound, residual in zip(self.eigenvalues, self.bounds, self.residuals, strict=True):
            lines.append(f"{value:16.8g}  {bound:9.1e}  {residual:9.1e}")
        return "\n".join(lines)

    __repr__ = __str__


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


@dataclass(frozen=True, kw_only=True, eq=False)
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
        Residuals of the nodes, with the sign as in `specop.measures.GaussRule`.
    rounding : float
        How far rounding may have moved eigenvalues.
    n : int
        Dimension of the matrix.
    steps : int
        Lanczos steps for each probe.
    error : float
        Estimated Wasserstein-1 distance to the true spectrum, relative to the spread.
    confidence : float
        Of the intervals.
    """

    nodes: NDArray[np.float64]
    weights: NDArray[np.float64]
    probe: NDArray[np.int64]
    gauss_weights: NDArray[np.float64]
    couplings: NDArray[np.float64]
    rounding: float
    n: int
    steps: int
    error: float
    confidence: float

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

    def pdf(self, x: ArrayLike, sigma: float | None = None) -> NDArray[np.float64]:
        """Return the density smoothed by a Gaussian, for looking at; integrals are exact without it.

        Parameters
        ----------
        x : array_like
            Where.
        sigma : float, optional
            Standard deviation of the Gaussian, in the units of x; default ``spread / steps``.
        """
        width = self.spread / self.steps if sigma is None else sigma
        if not width > 0:
            why = "; the spectrum is a single point, so choose one" if sigma is None else ""
            raise InvalidInputError(f"sigma must be positive, got {width}{why}.")
        distance = (np.asarray(x, dtype=float)[..., None] - self.nodes) / width
        sums: NDArray[np.float64] = np.exp(-0.5 * distance**2) @ self.weights
        sums /= width * np.sqrt(2 * np.pi)
        return sums

    def cdf(self, x: ArrayLike) -> NDArray[np.float64]:
        """Return the share of the spectrum that is not above x."""
        cumulative = np.concatenate([[0.0], np.cumsum(self.weights)])
        return cumulative[np.searchsorted(self.nodes, np.asarray(x, dtype=float), side="right")]

    def cdf_interval(self, x: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return confidence limits for the share of the spectrum that is not above x, at each x by itself.

        They hold both the chance of the probes and what quadrature leaves open between its nodes, so they are wide
        inside a bulk, where a few more steps make them narrower, and closed in a gap. They are finite for one probe,
        because the distribution of a random vector's weights is known.
        """
        points = np.atleast_1d(np.asarray(x, dtype=float))
        low, high = self.quadrature_bounds(points)
        low, high = self._share_limits(low, high)
        known = self._known_until(points)
        rest = self.n - int((self.probe < 0).sum())
        estimate = self.cdf(points)
        low, high = (known + rest * low) / self.n, (known + rest * high) / self.n
        shape = np.shape(x)
        return np.minimum(low, estimate).reshape(shape), np.maximum(high, estimate).reshape(shape)

    def integrate(self, f: Callable[[NDArray[np.float64]], ArrayLike]) -> Estimate:
        """Estimate the mean of f over the eigenvalues, trace(f(A)) / n.

        The interval is that of the probes' spread. For the share of eigenvalues in a range use `count` or
        `cdf_interval`, which know of the error that quadrature makes with jumps.

        Parameters
        ----------
        f : callable
            Takes an array of nodes and returns as many values; polynomials of degree below ``2 steps`` are
            integrated exactly for each probe's vector.
        """
        values = np.asarray(f(self.nodes), dtype=float)
        if values.shape != self.nodes.shape:
            raise InvalidInputError(f"f must return one value a node, shape {self.nodes.shape}, got {values.shape}.")
        if not np.isfinite(values).all():
            bad = self.nodes[~np.isfinite(values)]
            raise InvalidInputError(f"f is not finite at {bad.size} nodes, such as {bad[0]:.6g}.")
        values = values * self.weights
        known = float(values[self.probe < 0].sum())
        if self.probes == 0:
            # All eigenvalues were given: nothing is estimated.
            return Estimate(known, 0.0, (known, known), self.confidence)
        sums = np.bincount(self.probe[self.probe >= 0], values[self.probe >= 0], minlength=self.probes)
        return estimate_from_samples(np.asarray(known + self.probes * sums, dtype=np.float64), self.confidence)

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
        ends = np.array([a, b], dtype=float)
        inside = (self.nodes > a) & (self.nodes <= b)
        estimate = self.n * float(self.weights[inside].sum())
        known = int(np.diff(self._known_until(ends))[0])
        rest = self.n - int((self.probe < 0).sum())
        if self.probes == 0:
            return Estimate(estimate, 0.0, (estimate, estimate), self.confidence)
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

    def quadrature_bounds(self, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Bound the probes' mean weight at eigenvalues up to each x, chance left aside; known ones are not counted."""
        if self.probes == 0:
            return np.zeros(len(x)), np.zeros(len(x))
        low, high = np.mean([cumulative_bounds(rule, x, self.rounding) for rule in self.rules], axis=0)
        return low, high

    def _share_limits(
        self, low: NDArray[np.float64], high: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self.probes == 0:
            return low, high
        rest = self.n - int((self.probe < 0).sum())
        return share_interval(low, high, rest * self.probes, self.confidence)

    def _known_until(self, x: NDArray[np.float64]) -> NDArray[np.intp]:
        return np.searchsorted(self.nodes[self.probe < 0], x, side="right")

    def _certain(self, a: float, b: float) -> int:
        """Return how many eigenvalues in (a, b] some probe has found by their residuals."""
        most = 0
        for rule in self.rules:
            sizes = np.abs(rule.couplings)
            inside = np.flatnonzero((rule.nodes - sizes > a) & (rule.nodes + sizes <= b))
            # k Ritz pairs with the residual vectors R have k eigenvalues within |R| of them (Kahan).
            order = inside[np.argsort(sizes[inside])]
            reach = np.sqrt(np.cumsum(sizes[order] ** 2)) + self.rounding
            low = np.minimum.accumulate(rule.nodes[order]) - reach
            high = np.maximum.accumulate(rule.nodes[order]) + reach
            most = max(most, int(((low > a) & (high <= b)).sum()))
        return most

    def plot(self, ax: Axes | None = None, sigma: float | None = None) -> Axes:
        """Draw the smoothed density on a logarithmic scale, the cumulative share beside it; needs matplotlib."""
        from specop.plotting import plot_density

        return plot_density(self, ax, sigma)

    def __str__(self) -> str:
        ends = f"from {self.nodes[0]:.6g} to {self.nodes[-1]:.6g}"
        return (
            f"spectral density of {self.n} eigenvalues {ends}, mean {self.moment(1)}, "
            f"{self.probes} probe(s) of {self.steps} steps, {self._provenance()}"
        )

    __repr__ = __str__


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


def versions(framework: str) -> dict[str, str]:
    """Return the versions of specop, NumPy and the framework."""
    found = {}
    for name in dict.fromkeys(("specop", "numpy", framework)):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found
