"""SampledMean: the mean over some of the samples, which is that over all of them on average."""

from __future__ import annotations

import math
from collections.abc import Iterator

from specop.arrays.backend import Array
from specop.operators.operator import Composite
from specop.operators.sample_mean import Group
from specop.spectral.part.grouping import Grouping
from specop.spectral.part.part import Part

__all__ = ["SIZE", "SampledMean", "first_count", "grown", "halves_of"]

SIZE = 16
"""Samples in a block: as few as the first look may be at, as many as products of a stratum take together."""

# Of all samples, and samples at least and at most, that a first look is at: fewer say too little of their scatter, and
# where they turn out not to be enough, looking at fewer first has saved nothing.
_SHARE, _LEAST, _MOST = 16, 768, 1536
# How much larger the next part is.
_LEAST_GROWTH, _MOST_GROWTH = 1.5, 8.0


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

    Where nothing is left to choose both would be the same: then it is a single one.
    """
    grouping = Grouping(part, count)
    return [SampledMean(part, grouping, number) for number in range(1 if grouping.is_whole else 2)]


class SampledMean(Composite):
    """The mean over some groups of each stratum, weighted so that it is that of all samples on average.

    Parameters
    ----------
    part : Part
    grouping : Grouping
        The groups, which both halves share.
    number : int
        0 or 1: which half.
    """

    def __init__(self, part: Part, grouping: Grouping, number: int) -> None:
        A = part.run.A
        super().__init__((A,), A.domain, A.codomain, is_symmetric=True)
        self._part = part
        self.grouping = grouping
        self._places = grouping.half(number)
        self.size = grouping.samples(self._places)
        grouping.hold(self._places)

    def groups(self) -> Iterator[tuple[int, float, Group]]:
        """Give its groups as `Grouping.groups` does."""
        return self.grouping.groups(self._places)

    def _matvec(self, x: Array) -> Array:
        total: Array | None = None
        for i, part_of_one, group in self.groups():
            blocks = len(self.grouping.strata[i])
            weight = part_of_one * group.share * blocks / (self.grouping.firsts[i] or blocks)
            image = self._part.run.multiply_group(group, x)
            total = self.backend.scale_(image, weight) if total is None else self.backend.axpy_(total, weight, image)
        return total

    @property
    def affordable(self) -> int:
        """How many products the limit still allows."""
        return self._part.left // self.size
