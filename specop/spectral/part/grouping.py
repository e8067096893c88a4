"""Grouping: blocks of each stratum taken together, whose scatter tells how far a sum over some of them may be off."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from specop.operators.sample_mean import Group
from specop.spectral.part.part import Part, pieces_of
from specop.spectral.part.sampled_mean import SampledMean
from specop.statistics.strata import FLOOR, Stratum

__all__ = ["Grouping", "Place"]

Place = tuple[int, int]
"""Number of a stratum, and of a group in it."""

# Groups of each half, about, and of each stratum in a half.
_GROUPS, _FEWEST = 16, 2
# Samples of a stratum that is taken whole that are multiplied together: it has no scatter.
_TOGETHER = 256


class Grouping:
    """Groups of samples, of one size in each stratum: first those of either half, then those beside both.

    Parameters
    ----------
    part : Part
    halves : sequence of SampledMean
        Two.

    Attributes
    ----------
    strata : list of Stratum
        The part's, in groups. Blocks that are left over where some are taken together are in none of them.
    firsts : list of int
        Groups of each stratum that either half has for itself; 0 where both share the whole stratum.
    """

    def __init__(self, part: Part, halves: Sequence[SampledMean]) -> None:
        self._part = part
        self.strata: list[Stratum] = []
        self.firsts: list[int] = []
        is_whole = [len(blocks) == len(one) for blocks, one in zip(halves[0].blocks, part.strata, strict=True)]
        fewest = max(_FEWEST, _GROUPS // max(1, is_whole.count(False)))
        for one, blocks, whole in zip(part.strata, halves[0].blocks, is_whole, strict=True):
            count = len(blocks)
            each = max(each for each in range(1, max(1, count // fewest) + 1) if count % each == 0)
            if whole:
                each = max(1, _TOGETHER // len(blocks[0]))
            cut = one if whole else Stratum(one.blocks[: len(one) - len(one) % each])
            self.strata.append(cut.coarser(each))
            self.firsts.append(0 if whole else count // each)

    @property
    def least(self) -> list[int]:
        """How many groups of each stratum the halves have."""
        return [2 * first or len(one) for first, one in zip(self.firsts, self.strata, strict=True)]

    def half(self, number: int) -> list[Place]:
        """Return the places of groups that only this half has."""
        return [(i, n + number * first) for i, first in enumerate(self.firsts) for n in range(first)]

    @property
    def whole(self) -> list[Place]:
        """The places of groups that both halves have."""
        return self.beside([2 * first for first in self.firsts], self.least)

    def beside(self, have: Sequence[int], counts: Sequence[int]) -> list[Place]:
        """Return the places of groups from so many of each stratum up to so many."""
        return [(i, n) for i, (start, stop) in enumerate(zip(have, counts, strict=True)) for n in range(start, stop)]

    def more(self, counts: Sequence[int], factor: float) -> list[int]:
        """Return so many times as many groups of each stratum, where there are."""
        return [min(len(one), math.ceil(factor * count)) for count, one in zip(counts, self.strata, strict=True)]

    def samples(self, places: Sequence[Place]) -> int:
        """Return how many samples groups hold."""
        return sum(len(self.strata[i].blocks[n]) for i, n in places)

    def groups(self, places: list[Place]) -> Iterator[tuple[int, float, Group]]:
        """Give groups with the number of their stratum, and what makes each the share of one group of `strata`."""
        for held in pieces_of(places, self.strata):
            chosen = [self.strata[i].blocks[n] for i, n in held]
            for (i, _), group in zip(held, self._part.mean.groups(chosen), strict=True):
                yield i, self._part.strata[i].samples / self.strata[i].samples, group

    def samples_of(self, counts: Sequence[int]) -> int:
        """Return how many samples so many groups of each stratum hold."""
        return self.samples(self.beside([0] * len(counts), counts))

    def unseen(self, counts: Sequence[int], confidence: float) -> float:
        """Return what part of the whole may be in samples of the lightest stratum that nobody has looked at.

        If none of m samples shows it, up to a share of -log(1 - confidence) / m of them can be unlike those that were
        seen. Each is taken to add what the heaviest one of the stratum does by its weight.
        """
        lightest, weights = self._part.strata[-1], self._part.weights
        seen = sum(map(len, self.strata[-1].blocks[: counts[-1]]))
        if seen == self.strata[-1].samples:
            return 0.0
        heaviest = weights[np.concatenate(lightest.blocks)].max() / weights.sum() + FLOOR / len(weights)
        return float(-math.log(1.0 - confidence) * lightest.samples / seen * heaviest)
