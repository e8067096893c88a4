r"""The Frobenius norm of a mean over all samples from products with a part of them.

For a vector z of random signs :math:`E\|H z\|^2 = \|H\|_F^2`. From blocks of samples with products :math:`y_b`, K of
them in a stratum of which k were drawn, the squared length of the sum over all is not the squared length of an estimate
of the sum: a block goes with itself more often than with others. Pairs are therefore weighted by what they were drawn
with,

.. math:: \sum_{b \ne c} y_b^\top y_c \approx \frac{K (K - 1)}{k (k - 1)} \sum_{b \ne c \text{ drawn}} y_b^\top y_c,
    \quad \sum_b \|y_b\|^2 \approx \frac Kk \sum_{b \text{ drawn}} \|y_b\|^2,

which is right on average over draws, for each z.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array
from specop.krylov.run import Run
from specop.operators.sample_mean import Group
from specop.results.eigen import EigenResult
from specop.spectral.goals import STAGE, Goal
from specop.spectral.part.control import Control, control_of
from specop.spectral.part.part import HELD, Part, PartEstimate, part_of
from specop.statistics.estimate import Estimate, root_of_mean
from specop.statistics.strata import Stratum

__all__ = ["frobenius_of_part"]

# Each random vector has a part of its own: many small parts have less variance than few large ones.
_STRATA, _SIZE = 4, 16
# Blocks of each stratum behind a random vector, in two halves of at least two.
_EACH = 4
# As with all data, intervals from fewer values cover less often than they say.
_FIRST = 32


def frobenius_of_part(run: Run, goal: Goal, confidence: float, deflate: EigenResult | None) -> PartEstimate:
    """Return the Frobenius norm of the mean over all samples, by random vectors each of which has a part of its own."""
    part, control = part_of(run, run.seed, _STRATA, _SIZE), control_of(run, deflate)
    index, each = itertools.count(), _EACH
    nothing = Estimate(float("nan"), float("nan"), (0.0, float("inf")), confidence)
    estimate = PartEstimate(nothing, float("nan"), 0, np.zeros(0))
    while True:
        draw = _Draw(part.strata, each, run.seed)
        values: list[float] = []
        chances: list[float] = []
        while True:
            count = min(_ahead(values, goal, confidence), part.left // draw.samples)
            for chosen in draw.next(count):
                for blocks in _groups(part, chosen):
                    value, chance = _squared_length(run, part.strata, blocks, control, next(index))
                    values.append(value)
                    chances.append(chance)
            if not values:
                # Not even one vector with a part of this size is left: smaller ones were before.
                return estimate
            estimate = _estimate(values, chances, confidence, draw.used)
            norm, error = estimate.value.estimate, estimate.value.standard_error
            run.update(f"{norm:.5g} +- {error:.2g}, {draw.used} samples")
            if goal.accepts(norm, error) or part.left < draw.samples:
                return estimate
            if len(values) == _FIRST and float(np.mean(chances)) > 0.5 * float(np.var(values, ddof=1)):
                break
        # What the choice of samples adds to each value outweighs its vector's own chance. Values of both sizes are not
        # averaged: their weights would depend on them.
        each *= 2


class _Draw:
    """Which blocks of each stratum belong to each random vector.

    Parameters
    ----------
    strata : sequence of Stratum
    each : int
        Blocks of each stratum for a vector, an even number; all of them where there are not many more.
    seed : int
    """

    def __init__(self, strata: Sequence[Stratum], each: int, seed: int) -> None:
        self._strata = strata
        self._counts = [len(one) if 2 * len(one) <= 3 * each else each for one in strata]
        self._generator = np.random.default_rng([seed, each, 0xF0])
        # Blocks lie in a random order.
        self._waiting = [list(range(len(one))) for one in strata]
        self._used: list[set[int]] = [set() for _ in strata]

    @property
    def samples(self) -> int:
        """How many samples a vector is multiplied with."""
        return sum(count * len(one.blocks[0]) for count, one in zip(self._counts, self._strata, strict=True))

    @property
    def used(self) -> int:
        """Number of different samples that were given."""
        return sum(len(taken) * len(one.blocks[0]) for taken, one in zip(self._used, self._strata, strict=True))

    def next(self, count: int) -> Iterator[list[list[tuple[int, int]]]]:
        """Give the blocks, as numbers of stratum and block, of so many vectors, as many together as may be held."""
        together = max(1, HELD // self.samples)
        for first in range(0, count, together):
            yield [self._for_a_vector() for _ in range(min(together, count - first))]

    def _for_a_vector(self) -> list[tuple[int, int]]:
        found = []
        for i, (count, one) in enumerate(zip(self._counts, self._strata, strict=True)):
            if count == len(one):
                chosen = list(range(count))
            else:
                if len(self._waiting[i]) < count:
                    self._waiting[i] = list(self._generator.permutation(len(one)))
                chosen, self._waiting[i] = self._waiting[i][:count], self._waiting[i][count:]
            self._used[i].update(chosen)
            found += [(i, int(n)) for n in chosen]
        return found


def _groups(part: Part, chosen: list[list[tuple[int, int]]]) -> Iterator[list[tuple[int, Group]]]:
    """Give the groups of each vector, with the numbers of their strata, by one pass over the data for all vectors."""
    places = sorted({place for blocks in chosen for place in blocks})
    read = part.mean.groups([part.strata[i].blocks[n] for i, n in places])
    known = dict(zip(places, read, strict=True))
    for blocks in chosen:
        yield [(i, known[i, n]) for i, n in blocks]


def _squared_length(
    run: Run, strata: Sequence[Stratum], groups: list[tuple[int, Group]], control: Control, index: int
) -> tuple[float, float]:
    """Return what a random vector says of the squared norm, and the variance that the choice of samples gives that."""
    backend, layout = run.backend, run.A.domain
    probe = probes.rademacher(backend, layout, run.seed, index)
    # What each half of the blocks says of the whole, from which both together follow.
    halves = [backend.zeros(layout) for _ in range(2)]
    pairs: list[tuple[int, int]] = []
    lengths: list[Array] = []
    for i, members in itertools.groupby(groups, key=lambda pair: pair[0]):
        sums, K, k = [backend.zeros(layout) for _ in range(2)], len(strata[i]), 0
        for k, (_, group) in enumerate(members, 1):
            image = control.subtract_(run.multiply_group(group, probe), probe)
            image = backend.scale_(image, group.share)
            lengths.append(backend.norm(image))
            sums[k % 2] = backend.axpy_(sums[k % 2], 1.0, image)
        pairs.append((K, k))
        lengths += [backend.norm(sums[0]), backend.norm(sums[1]), backend.dot(sums[0], sums[1])]
        for j in range(2):
            if k == K:
                halves[j] = backend.axpy_(backend.axpy_(halves[j], 1.0, sums[0]), 1.0, sums[1])
            else:
                halves[j] = backend.axpy_(halves[j], 2.0 * K / k, sums[j])
    both = backend.scale_(backend.axpy_(backend.copy(halves[0]), 1.0, halves[1]), 0.5)
    image = control.subtract_(backend.zeros(layout), probe)
    ends = [found for one in (*halves, both) for found in (backend.norm(one), backend.dot(one, image))]
    numbers = [float(one) for one in run.to_host(*lengths, *ends)]
    run.check_size(max(map(abs, numbers)))
    corrections, first = np.zeros(3), 0
    for K, k in pairs:
        squares = np.square(numbers[first : first + k])
        one, other, across = numbers[first + k : first + k + 3]
        first += k + 3
        if k < K:
            odd, even = float(squares[::2].sum()), float(squares[1::2].sum())
            corrections += [
                _correction(K, k // 2, one**2, even),
                _correction(K, k // 2, other**2, odd),
                _correction(K, k, one**2 + other**2 + 2.0 * across, odd + even),
            ]
    length, along = np.array(numbers[first::2]), np.array(numbers[first + 1 :: 2])
    # z'(R + C)(R + C)z with R = H - C: of C itself its norm is known.
    found = length**2 + corrections - 2.0 * along + control.square
    return float(found[2]), float(found[0] - found[1]) ** 2 / 4.0


def _correction(K: int, k: int, square: float, own: float) -> float:
    """Return what to add to the squared length of ``K / k`` times a sum of k vectors, see the module's formula."""
    return K * (K - 1) / (k * (k - 1)) * (square - own) + K / k * own - (K / k) ** 2 * square


def _ahead(values: list[float], goal: Goal, confidence: float) -> int:
    """Return how many more values to draw before the next look."""
    if not values:
        return _FIRST
    value = root_of_mean(np.array(values), confidence)
    needed = goal.probes_needed(len(values), value.estimate, value.standard_error)
    # What the first values say of their scatter is uncertain itself.
    return int(min(max(STAGE, np.ceil(needed) if np.isfinite(needed) else np.inf), len(values)))


def _estimate(values: list[float], chances: list[float], confidence: float, used: int) -> PartEstimate:
    value = root_of_mean(np.array(values), confidence)
    squared = float(np.mean(chances)) / len(values)
    total = float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else np.nan
    share = min(1.0, squared / total) if total > 0 else 0.0
    return PartEstimate(value, share**0.5 * value.standard_error, used, np.array(values))
