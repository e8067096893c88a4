"""The signs of all eigenvalues: each that is not zero found, with a certificate, or their numbers estimated."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from specop.errors import checked_number
from specop.krylov.run import Run
from specop.krylov.space import LARGEST_BASIS, KrylovSpace
from specop.results.spectral_density import SpectralDensity
from specop.spectral.fitting import rows_that_fit
from specop.spectral.spectral_density import spectral_density
from specop.statistics.estimate import Estimate
from specop.statistics.measure import GaussRule, is_ruled_out
from specop.statistics.numbers import Floats

__all__ = ["PRODUCTS", "Signs", "signs_of_spectrum", "widest_gap"]

PRODUCTS = 3000
"""Limit on products where none is given."""

_PROBES = 4
# A chain outside of what was found: fewer steps say little about its spectrum, and after more of them little changes.
_STEPS = (3, 6, 12)
# Nonzero eigenvalues are this much larger than zeros.
_CLEAR = 10.0
# Where the number is estimated: zeros lie below this share of the largest eigenvalue, and above them is a gap that is
# three times as wide as its lower end, with room for less than one eigenvalue.
_LARGEST_ZERO, _WIDE = 1e-2, 3.0
_RUNGS = 80


@dataclass(frozen=True)
class Signs:
    """How many eigenvalues are negative, zero and positive.

    Attributes
    ----------
    negative, zero, positive : Estimate
        Numbers of negative, zero and positive eigenvalues.
    threshold : float
        Eigenvalues up to this size count as zero.
    gap : (float, float)
        The range around it in which no eigenvalue was seen, as sizes; without one both are the threshold.
    values, weights : ndarray
        Eigenvalues and the share of all that each stands for.
    is_counted : bool
        Whether all that are not zero were found.
    message : str
        How it came to that, or what to do.
    """

    negative: Estimate
    zero: Estimate
    positive: Estimate
    threshold: float
    gap: tuple[float, float]
    values: Floats
    weights: Floats
    is_counted: bool
    message: str


def signs_of_spectrum(run: Run, threshold: float | None, confidence: float) -> Signs:
    """Find all eigenvalues of a symmetric operator that are not zero, or estimate how many there are.

    Parameters
    ----------
    run : Run
        Makes the products. If its limit is below n, half of it is for finding them.
    threshold : float or None
        Eigenvalues up to this size count as zero; None for the widest gap.
    confidence : float
        Probability with which the certificate holds, or with which the intervals cover the truth.
    """
    if threshold is not None:
        checked_number("threshold", threshold)
    n, left = run.n, run.left
    rows = rows_that_fit(run, min(n, max(1, LARGEST_BASIS // n), left if n <= left else left // 2), 8)
    space = KrylovSpace(run, rows)
    search = _Search(space, threshold, confidence, run.products + rows)
    is_counted = search.run()
    run.warn_of_noise()
    if is_counted:
        return search.counted()
    used, probes = run.products, min(_PROBES, run.left)
    message = (
        f"{run.name} did not find all nonzero eigenvalues within {used} products and {rows} vectors, and estimates "
        f"their number from {run.left} more. Raise max_matvecs={run.limit}, or pass threshold."
    )
    if not probes:
        return _bounded(search.counted(), n, message)
    steps = min(n, run.left // probes)
    density = spectral_density(run.A, steps=steps, probes=probes, confidence=confidence, seed=run.seed)
    return _estimated(density, threshold, max(space.error_floor, density.rounding), message)


@dataclass
class _Search:
    """The search for all eigenvalues that are not zero.

    `unseen` is the size up to which some may have been missed, `shift` by how much those found may be off, and `first`
    the row that the newest chain begins with.
    """

    space: KrylovSpace
    given: float | None
    confidence: float
    limit: int
    shift: float = 0.0
    unseen: float = 0.0
    first: int = 0
    _patience: int = 0
    _cut: float = 1.0

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

    def counted(self) -> Signs:
        """Count the eigenvalues that were found on both sides of the gap."""
        space = self.space
        values = space.eigenvalues(space.size)
        sizes = np.sort(np.abs(values))
        error, missing = max(space.error_floor, self.shift), space.n - len(values)
        if self.given is None:
            gap = widest_gap(sizes, max(error, self.unseen), self.small)
            threshold = float(np.sqrt(gap[0] * gap[1]))
        else:
            threshold = self.given
            below, above = sizes[sizes <= threshold], sizes[sizes > threshold]
            gap = (float(below.max(initial=self.unseen)), float(above.min(initial=np.inf)))
            gap = gap if np.isfinite(gap[1]) else (gap[0], threshold)

        def number(distances: Floats) -> Estimate:
            """Count those that lie beyond the threshold by a positive distance."""
            least, found, most = (int((distances > slack).sum()) for slack in (error, 0.0, -error))
            return Estimate(float(found), 0.0, (float(least), float(most)), self.confidence)

        nonzero = number(np.abs(values) - threshold)
        low, high = nonzero.interval
        return Signs(
            negative=number(-values - threshold),
            zero=Estimate(space.n - nonzero.estimate, 0.0, (space.n - high, space.n - low), self.confidence),
            positive=number(values - threshold),
            threshold=threshold,
            gap=gap,
            values=np.concatenate([np.zeros(missing), values]),
            weights=np.full(space.n, 1.0 / space.n),
            is_counted=True,
            message=f"all eigenvalues above {threshold:.2g} were counted"
            + ", but they show no gap" * (gap[0] == gap[1]),
        )

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

    def _is_clear(self, found: Floats, unseen: float) -> bool:
        """Whether the threshold, given or not, lies apart from what was found and from what was not."""
        zero = max(unseen, self.space.error_floor)
        if self.given is not None:
            return zero < self.given
        zero, smallest = widest_gap(found, zero, self.small)
        return zero <= self.small and smallest >= _CLEAR * zero

    def _reopen(self) -> None:
        """Multiply those rows again whose products were cut off where it matters, and cut off less from now on."""
        space = self.space
        self._cut /= _CLEAR
        space.reopen(self._cut * self._negligible_coupling())
        # What comes next does not start from a random vector.
        self.first = 0

    def _threshold(self) -> float:
        return self.small if self.given is None else max(self.given, self.space.error_floor)

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
            clear = is_ruled_out(chain, [middle, -middle], dimension, self.confidence).all()
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
        return self.small if self.given is None else min(self.small, self.given / _CLEAR)


def widest_gap(sizes: Floats, floor: float, ceiling: float) -> tuple[float, float]:
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


def _estimated(density: SpectralDensity, threshold: float | None, rounding: float, message: str) -> Signs:
    """Estimate the numbers from quadrature, with the threshold in a gap if there is one."""
    if threshold is not None:
        gap = threshold, threshold
    else:
        gap = _lowest_gap(density, float(np.abs(density.nodes).max()), rounding)
        threshold = float(np.sqrt(gap[0] * gap[1]))
        if not gap[0] < gap[1]:
            message += " The estimate shows no gap above zero: everything beyond rounding counts."
    return Signs(
        negative=density.count(-np.inf, -threshold),
        zero=density.count(-threshold, threshold),
        positive=density.count(threshold, np.inf),
        threshold=threshold,
        gap=gap,
        values=density.nodes,
        weights=density.weights,
        is_counted=False,
        message=message,
    )


def _bounded(found: Signs, n: int, message: str) -> Signs:
    """Take what was found as lower bounds, because eigenvalues of a projection interlace those of the matrix."""
    negative, positive = found.negative.interval[0], found.positive.interval[0]
    return replace(
        found,
        negative=replace(found.negative, interval=(negative, n - positive)),
        zero=replace(found.zero, interval=(0.0, n - negative - positive)),
        positive=replace(found.positive, interval=(positive, n - negative)),
        is_counted=False,
        message=message,
    )


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
