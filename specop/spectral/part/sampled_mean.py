"""SampledMean: the mean over some of the samples, which is that over all of them on average."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from specop.arrays.backend import Array
from specop.operators.operator import Composite
from specop.operators.sample_mean import Group
from specop.spectral.part.part import Part
from specop.statistics.numbers import Integers

__all__ = ["SIZE", "SampledMean", "first_count", "grown", "halves_of", "samples_of"]

SIZE = 16
"""Samples in a block: as few as the first look may be at, as many as products of a stratum take together."""

# Of all samples, and samples at least and at most, that a first look is at: fewer say too little of their scatter, and
# where they turn out not to be enough, looking at fewer first has saved nothing.
_SHARE, _LEAST, _MOST = 16, 768, 1536
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
        count += 2
    return count


def grown(count: int, factor: float) -> int:
    """Return so many times as many blocks, within what is sensible at once."""
    return math.ceil(count * min(max(factor, _LEAST_GROWTH), _MOST_GROWTH))


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
    blocks : list of tuple of ndarray of int
        Those of each stratum.
    """

    def __init__(self, part: Part, counts: Sequence[int], number: int) -> None:
        A = part.run.A
        super().__init__((A,), A.domain, A.codomain, is_symmetric=True)
        self._part = part
        self.blocks: list[tuple[Integers, ...]] = []
        self._factors: list[float] = []
        self._chosen: list[Integers] = []
        for one, count in zip(part.strata, counts, strict=True):
            first = 0 if count == len(one) else number * count
            blocks = one.blocks[first : first + count]
            self.blocks.append(blocks)
            each = max(1, _TOGETHER // len(blocks[0]))
            together = [np.concatenate(blocks[i : i + each]) for i in range(0, len(blocks), each)]
            self._chosen += together
            self._factors += [len(one) / count] * len(together)
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
            group.expect()
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
