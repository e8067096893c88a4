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

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "DiagonalResult",
    "EigenResult",
    "Estimate",
    "NormResult",
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
            if item.name in ("rows", "unflatten", "diagonal", "standard_errors"):
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
        """Draw the running mean over probes with its interval; needs matplotlib."""
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

    Attributes
    ----------
    nodes, weights : ndarray
        All probes' rules together, nodes ascending, weights summing to 1.
    probe : ndarray of int
        Which probe each node belongs to; -1 for eigenvalues that were given as known.
    n : int
        Dimension of the matrix.
    steps : int
        Lanczos steps for each probe.
    confidence : float
        Of the intervals returned by `integrate`, `moment` and `count`.
    """

    nodes: NDArray[np.float64]
    weights: NDArray[np.float64]
    probe: NDArray[np.int64]
    n: int
    steps: int
    confidence: float

    @property
    def probes(self) -> int:
        """Number of probes."""
        return int(self.probe.max()) + 1

    @property
    def spread(self) -> float:
        """Distance from the smallest to the largest node."""
        return float(self.nodes[-1] - self.nodes[0])

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

    def integrate(self, f: Callable[[NDArray[np.float64]], ArrayLike]) -> Estimate:
        """Estimate the mean of f over the eigenvalues, trace(f(A)) / n.

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
        """Estimate the number of eigenvalues x with a < x <= b."""
        share = self.integrate(lambda x: (x > a) & (x <= b))
        low, high = share.interval
        return Estimate(
            self.n * share.estimate, self.n * share.standard_error, (self.n * low, self.n * high), share.confidence
        )

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


def versions(framework: str) -> dict[str, str]:
    """Return the versions of specop, NumPy and the framework."""
    found = {}
    for name in dict.fromkeys(("specop", "numpy", framework)):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found
