"""SampledMean: the mean over some of the samples, which is that over all of them on average."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from specop.arrays.backend import Array
from specop.operators.operator import Composite
from specop.operators.sample_mean import Group
from specop.spectral.part.part import Part
from specop.statistics.numbers import Integers
from specop.statistics.strata import FLOOR, Stratum

__all__ = ["SIZE", "SampledMean", "first_count", "halves_of", "next_count", "samples_of"]

SIZE = 16
"""Samples in a block: as few as the first look may be at, as many as products of a stratum take together."""

# Of all samples, and samples at least and at most, that a first look is at: fewer say too little of their scatter, and
# where they turn out not to be enough, looking at fewer first has saved nothing.
_SHARE, _LEAST, _MOST = 8, 768, 3072
# Groups of each half, about, that are multiplied one by one where their scatter is asked for, and of each stratum.
_GROUPS, _FEWEST = 32, 4
# How much larger the next part is.
_LEAST_GROWTH, _MOST_GROWTH = 1.5, 8.0
# Samples of a stratum that are multiplied together where their sum alone is asked for.
_TOGETHER = 256


def first_count(part: Part) -> int:
    """Return how many blocks of each stratum either half begins with."""
    samples, count = min(max(part.mean.samples // _SHARE, _LEAST), _MOST), 2
    most = max(map(len, part.strata))
    # Of what whole strata leave, the others take more.
    while count < most and sum(min(2 * count, len(one)) * len(one.blocks[0]) for one in part.strata) < samples:
        count += 1
    return _divisible(count)


def next_count(count: int, error: float) -> int:
    """Return how many blocks leave an error within the goal, where so many leave one of `error` times the goal."""
    # Chance falls with the root, and what the halves' eigenvectors differ by faster.
    return _divisible(math.ceil(count * min(max(1.2 * error**2, _LEAST_GROWTH), _MOST_GROWTH)))


def _divisible(count: int) -> int:
    """Return so many blocks or one more, so that some can be taken together."""
    return count if count <= _FEWEST else count + count % 2


def halves_of(part: Part, count: int) -> list[SampledMean]:
    """Return two means over so many blocks of each stratum, which share those of strata that have not twice as many.

    Of both it is one where nothing is left to choose.
    """
    counts = [count if 2 * count <= len(one) else len(one) for one in part.strata]
    halves = [SampledMean(part, counts, number) for number in (0, 1)]
    return halves[:1] if halves[0].is_whole else halves


def samples_of(halves: Sequence[SampledMean]) -> int:
    """Return the number of different samples in some means."""
    return len(np.unique(np.concatenate([block for half in halves for blocks in half.blocks for block in blocks])))


class SampledMean(Composite):
    """The mean over some blocks of each stratum, weighted so that it is that of all samples on average.

    Parameters
    ----------
    part : Part
    counts : sequence of int
        Blocks of each stratum.
    number : int
        0 or 1: which half of twice as many blocks, where there are so many.

    Attributes
    ----------
    strata : list of Stratum
        With blocks taken together, those that `groups` gives.
    """

    def __init__(self, part: Part, counts: Sequence[int], number: int) -> None:
        A = part.run.A
        super().__init__((A,), A.domain, A.codomain, is_symmetric=True)
        self._part = part
        self.blocks: list[tuple[Integers, ...]] = []
        self.strata: list[Stratum] = []
        self._apart: list[tuple[Integers, ...]] = []
        self._factors: list[float] = []
        self._chosen: list[Integers] = []
        open_strata = sum(count < len(one) for one, count in zip(part.strata, counts, strict=True))
        fewest = max(_FEWEST, _GROUPS // max(1, open_strata))
        for one, count in zip(part.strata, counts, strict=True):
            first = 0 if count == len(one) else number * count
            blocks = one.blocks[first : first + count]
            self.blocks.append(blocks)
            each = max(1, _TOGETHER // len(blocks[0]))
            together = [np.concatenate(blocks[i : i + each]) for i in range(0, len(blocks), each)]
            self._chosen += together
            self._factors += [len(one) / count] * len(together)
            # A whole stratum has no scatter that matters; another one is cut into blocks of one size.
            if count == len(one):
                self.strata.append(one.coarser(each))
                self._apart.append(self.strata[-1].blocks)
                continue
            apart = max(each for each in range(1, max(1, count // fewest) + 1) if count % each == 0)
            self.strata.append(Stratum(one.blocks[: len(one) - len(one) % apart]).coarser(apart))
            self._apart.append(self.strata[-1].blocks[first // apart : (first + count) // apart])
        self.is_whole = all(count == len(one) for count, one in zip(counts, part.strata, strict=True))
        self.size = sum(map(len, self._chosen))
        self._held = self._holdable()

    def _holdable(self) -> list[Group] | None:
        """Return all groups, or None where they are more than may be held, and are read again for each product."""
        room, held = self._part.mean.room(), []
        for group in self._part.mean.groups(self._chosen):
            room -= group.bytes
            if room < 0:
                return None
            held.append(group)
        return held

    def _matvec(self, x: Array) -> Array:
        total: Array | None = None
        groups = self._part.mean.groups(self._chosen) if self._held is None else self._held
        for factor, group in zip(self._factors, groups, strict=True):
            image = self._part.run.multiply_group(group, x)
            weight = factor * group.share
            total = self.backend.scale_(image, weight) if total is None else self.backend.axpy_(total, weight, image)
        return total

    @property
    def affordable(self) -> int:
        """How many products the limit still allows."""
        return self._part.left // self.size

    def factor(self, stratum: int) -> float:
        """Return what samples of a stratum count in the mean: the inverse of the probability that they were drawn."""
        return len(self._part.strata[stratum]) / len(self.blocks[stratum])

    def unseen(self, confidence: float) -> float:
        """Return what part of the whole may be in samples of the lightest stratum that nobody has looked at.

        If none of m samples shows it, up to a share of -log(1 - confidence) / m of them can be unlike those that were
        seen. Each is taken to add what the heaviest one of the stratum does by its weight.
        """
        lightest, seen, weights = self._part.strata[-1], sum(map(len, self.blocks[-1])), self._part.weights
        if seen == lightest.samples:
            return 0.0
        heaviest = weights[np.concatenate(lightest.blocks)].max() / weights.sum() + FLOOR / len(weights)
        return float(-math.log(1.0 - confidence) * lightest.samples / seen * heaviest)

    def groups(self) -> Iterator[tuple[int, float, Group]]:
        """Give groups with the number of their stratum, and what makes each the share of one block of `strata`.

        What is left over where a stratum is cut into larger blocks is in none of `strata`.
        """
        places = [i for i, blocks in enumerate(self._apart) for _ in blocks]
        chosen = [block for blocks in self._apart for block in blocks]
        for i, group in zip(places, self._part.mean.groups(chosen), strict=True):
            yield i, self._part.strata[i].samples / self.strata[i].samples, group
