"""rank: how many eigenvalues are not zero, counted where that can be done and estimated where it cannot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specop.errors import InvalidInputError
from specop.krylov.run import Run
from specop.krylov.space import LARGEST_BASIS, KrylovSpace
from specop.results.rank import RankResult
from specop.results.spectral_density import SpectralDensity
from specop.spectral.spectral_density import spectral_density
from specop.statistics.measure import GaussRule, is_ruled_out

__all__ = ["rank"]

_PRODUCTS = 3000
_PROBES = 4
# A chain outside of what was found: fewer steps say little about its spectrum, and after more of them little changes.
_STEPS = (3, 6, 12)
# Nonzero eigenvalues are this much larger than zeros.
_CLEAR = 10.0
# Where the rank is estimated: zeros lie below this share of the largest eigenvalue, and above them is a gap that is
# three times as wide as its lower end, with room for less than one eigenvalue.
_LARGEST_ZERO, _WIDE = 1e-2, 3.0
_RUNGS = 80


def rank(
    A: Any,
    tol: float | None = None,
    *,
    max_matvecs: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = False,
) -> RankResult:
    r"""Find how many eigenvalues of a symmetric operator are not zero.

    First all eigenvalues above zero are counted, multiplicity and all: a Lanczos run goes on until what is left over
    is small; further ones from random vectors orthogonal to everything found bring further copies, until one finds
    nothing. Its Christoffel numbers then tell, with the given confidence, that nothing above the gap was missed. A
    matrix of rank r takes about r products, plus a few for each copy of a multiple eigenvalue; where hardly an
    eigenvalue is zero, n.

    If the products or a gigabyte do not suffice, the number is estimated by `spectral_density`.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Symmetric, n x n.
    tol : float, optional
        Eigenvalues up to this size count as zero. By default it is put into the widest gap, relative to its place, that
        begins below the square root of machine epsilon times the largest eigenvalue, or at the rounding error.
    max_matvecs : int, optional
        Limit on products; default 3000. If it is below n, half of it is for counting.
    confidence : float
        Of the interval.
    seed : int
        Of the random vectors.
    progress : bool
        As in `eigsh`.

    Returns
    -------
    RankResult
        ``rank``, ``interval``, ``gap``, ``nullity`` and ``method``; `plot` shows the gap.

    Raises
    ------
    InvalidInputError, AsymmetryError, NondeterministicError, NonFiniteError

    Examples
    --------
    >>> import numpy as np, specop
    >>> specop.rank(np.diag([3.0, 3.0, 1.0, 0.0, 1e-12])).rank
    3.0
    """
    run = Run(A, "rank", symmetric=True, instead="For others pass A.T @ A.", seed=seed, progress=progress)
    n = run.n
    if tol is not None and not 0 <= tol < np.inf:
        raise InvalidInputError(f"tol must be a finite number >= 0, got {tol!r}.")
    if not 0 < confidence < 1:
        raise InvalidInputError(f"confidence must lie between 0 and 1, got {confidence!r}.")
    if max_matvecs is not None and max_matvecs < 1:
        raise InvalidInputError(f"max_matvecs must be positive, got {max_matvecs!r}.")
    limit = _PRODUCTS if max_matvecs is None else int(max_matvecs)
    rows = min(n, max(1, LARGEST_BASIS // n), limit if n <= limit else max(1, limit // 2))

    with run:
        space = KrylovSpace(run, rows)
        counting = _Counting(space, tol, confidence, rows)
        counted = counting.run()
        run.warn_of_noise()
        message = "all eigenvalues above the gap were counted"
        if counted:
            found = counting.counted()
            if not found.gap[0] < found.gap[1]:
                message = "counted, but the eigenvalues show no gap"
        else:
            used = run.products
            steps = max(1, min(n, max(limit - used, _PROBES) // _PROBES))
            density = spectral_density(run.A, steps=steps, probes=_PROBES, confidence=confidence, seed=seed)
            found = _estimated(density, tol, space.error_floor)
            message = (
                f"rank did not find all nonzero eigenvalues within {used} products and {rows} vectors, and "
                f"estimates their number from {density.matvecs} more. Raise max_matvecs={limit}, or pass tol."
            )
            if tol is None and not found.gap[0] < found.gap[1]:
                message += " The estimate shows no gap above zero: everything beyond rounding counts."
    return run.result(
        RankResult,
        rank=found.rank,
        interval=found.interval,
        tol=found.tol,
        gap=found.gap,
        method="exact" if counted else "quadrature",
        confidence=confidence,
        n=n,
        sizes=found.sizes,
        weights=found.weights,
        converged=counted,
        message=message,
    )


@dataclass(frozen=True)
class _Found:
    rank: float
    interval: tuple[float, float]
    tol: float
    gap: tuple[float, float]
    sizes: NDArray[np.float64]
    weights: NDArray[np.float64]


class _Counting:
    """The search for all eigenvalues that are not zero."""

    def __init__(self, space: KrylovSpace, tol: float | None, confidence: float, limit: int) -> None:
        self.space = space
        self.tol = tol
        self.limit = limit
        self.confidence = confidence
        self.shift = 0.0
        self.unseen = 0.0
        self._patience = 0
        self._cut = 1.0
        self.first = 0

    @property
    def small(self) -> float:
        """What counts as zero if nothing else is said."""
        return float(self.space.run.A.domain.epsilon) ** 0.5 * self.space.scale

    def run(self) -> bool:
        """Grow the space until what is outside of it is zero; return whether it came to that."""
        space = self.space
        while not space.is_exhausted:
            if space.is_closed:
                self.first = space.size
                space.start()
            if space.run.products >= self.limit:
                return False
            space.expand()
            space.run.update()
            if self._is_certain():
                return True
            self._close_chain()
        return True

    def counted(self) -> _Found:
        """Count the eigenvalues that were found on both sides of the gap."""
        space, n = self.space, self.space.n
        sizes = np.sort(np.abs(space.eigenvalues(space.size)))
        error = max(space.error_floor, self.shift)
        if self.tol is None:
            gap = _widest_gap(sizes, max(error, self.unseen), self.small)
            tol = float(np.sqrt(gap[0] * gap[1]))
        else:
            tol = self.tol
            below, above = sizes[sizes <= tol], sizes[sizes > tol]
            gap = (float(below.max(initial=self.unseen)), float(above.min(initial=np.inf)))
            gap = gap if np.isfinite(gap[1]) else (gap[0], tol)
        interval = (float((sizes - error > tol).sum()), float((sizes + error > tol).sum()))
        every = np.concatenate([np.zeros(n - len(sizes)), sizes])
        return _Found(float((sizes > tol).sum()), interval, tol, gap, every, np.full(n, 1.0 / n))

    def _is_certain(self) -> bool:
        """Whether the newest chain, from a random vector, rules out that anything above the gap was missed."""
        space = self.space
        steps, closed = space.steps - self.first, space.is_closed
        if self.first == 0 or self._largest_in_chain() > self._threshold():
            return False
        if (not closed and steps not in _STEPS) or self._patience > self.first:
            return False
        found = np.abs(space.eigenvalues(self.first))
        bound = self._bound(space.rule(space.ritz(self.first)))
        smallest = float(found[found > bound].min(initial=np.inf))
        # What couples two parts of a matrix whose spectra lie apart moves eigenvalues by its square over the distance.
        shift = space.lost**2 / max(smallest - bound, space.lost) if space.lost else 0.0
        if self._is_clear(found, bound + shift):
            self.unseen, self.shift = bound + shift, shift
            return True
        if self._is_clear(found, bound):
            self._reopen()
        elif closed or steps == _STEPS[-1]:
            # A spectrum without a gap shows none a few vectors later.
            self._patience = self.first + self.first // 10 + 1
        return False

    def _is_clear(self, found: NDArray[np.float64], unseen: float) -> bool:
        """Whether the threshold, given or not, lies apart from what was found and from what was not."""
        zero = max(unseen, self.space.error_floor)
        if self.tol is not None:
            return zero < self.tol
        zero, smallest = _widest_gap(found, zero, self.small)
        return zero <= self.small and smallest >= _CLEAR * zero

    def _reopen(self) -> None:
        """Multiply those rows again whose products were cut off where it matters, and cut off less from now on."""
        space = self.space
        self._cut /= _CLEAR
        space.reopen(self._cut * self._negligible_coupling())
        # What comes next does not start from a random vector.
        self.first = 0

    def _threshold(self) -> float:
        return self.small if self.tol is None else max(self.tol, self.space.error_floor)

    def _largest_in_chain(self) -> float:
        return float(np.abs(self.space.projected(slice(self.first, None), slice(self.first, None))).max())

    def _bound(self, chain: GaussRule) -> float:
        """Return the size above which no eigenvalue outside of the earlier rows can have been missed."""
        dimension = self.space.n - self.first
        low = float(np.abs(chain.nodes).max()) * (1.0 + 1e-6) + self.space.noise_floor
        high = max(self._threshold(), 2.0 * low)
        if low == 0.0:
            return 0.0
        for _ in range(40):
            middle = float(np.sqrt(low * high))
            clear = all(is_ruled_out(chain, mu, dimension, self.confidence) for mu in (middle, -middle))
            low, high = (low, middle) if clear else (middle, high)
        return high

    def _close_chain(self) -> None:
        """Give the next vector up where it is due to rounding or to zeros, and go on with a random one."""
        space = self.space
        if space.is_closed or self._largest_in_chain() <= self._threshold():
            return
        if space.coupling <= self._cut * self._negligible_coupling():
            space.neglect()

    def _negligible_coupling(self) -> float:
        return self.small if self.tol is None else min(self.small, self.tol / _CLEAR)


def _widest_gap(sizes: NDArray[np.float64], floor: float, ceiling: float) -> tuple[float, float]:
    """Return the two neighbours with the largest ratio of which the smaller may count as zero."""
    ladder = np.unique(np.concatenate([[floor], np.maximum(sizes, floor)]))
    lower, upper = ladder[:-1], ladder[1:]
    possible = lower <= max(ceiling, floor)
    if not possible.any():
        return floor, floor
    ratios = np.where(possible, upper / lower if floor > 0 else np.inf, 0.0)
    best = int(np.argmax(ratios))
    if ratios[best] < _CLEAR:
        return floor, floor
    return float(lower[best]), float(upper[best])


def _estimated(density: SpectralDensity, tol: float | None, rounding: float) -> _Found:
    """Estimate the count from quadrature, with the threshold in a gap if there is one."""
    sizes = np.abs(density.nodes)
    gap = (tol, tol) if tol is not None else _lowest_gap(density, float(sizes.max()), rounding)
    tol = float(np.sqrt(gap[0] * gap[1]))
    zeros = density.count(-tol, tol)
    low, high = zeros.interval
    interval = (density.n - high, density.n - low)
    return _Found(density.n - zeros.estimate, interval, tol, gap, sizes, density.weights)


def _lowest_gap(density: SpectralDensity, largest: float, rounding: float) -> tuple[float, float]:
    """Return the lowest range of sizes in which there is no eigenvalue by the quadrature's own bounds.

    Without one the threshold is the rounding error, and the interval says how little is known.
    """
    ladder = np.geomspace(2.0 * rounding, max(largest, 4.0 * rounding), _RUNGS)
    low, high = density.quadrature_bounds(np.concatenate([-ladder[::-1], ladder]))
    above, below = slice(_RUNGS, None), slice(_RUNGS - 1, None, -1)
    # Share of all eigenvalues that may lie between each two rungs, on both sides of zero.
    between = (high[above] - low[above][:, None]) + (high[below][:, None] - low[below])
    lower, upper = np.nonzero((between * density.n < 0.5) & (ladder >= _WIDE * ladder[:, None]))
    lower, upper = (side[ladder[lower] <= _LARGEST_ZERO * largest] for side in (lower, upper))
    if len(lower) == 0:
        return float(ladder[0]), float(ladder[0])
    return float(ladder[lower[0]]), float(ladder[upper[lower == lower[0]].max()])
