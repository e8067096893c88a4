"""Grouping: blocks of each stratum taken together, whose scatter tells how far a sum over some of them may be off."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from specop.operators.sample_mean import Group
from specop.spectral.part.part import Part, pieces_of
from specop.statistics.strata import FLOOR, Stratum

__all__ = ["Grouping", "Place"]

Place = tuple[int, int]
"""Number of a stratum, and of a group in it."""

# Samples that are multiplied together at most: what a product takes beside its arithmetic is little of it then.
_TOGETHER = 256


class Grouping:
    """Groups of samples, of one size in each stratum: first those of either half, then those beside both.

    Parameters
    ----------
    part : Part
    count : int
        Blocks of each stratum in either half, at least. Both halves share the strata that have not twice as many.

    Attributes
    ----------
    strata : list of Stratum
        The part's, in groups. Blocks that are left over where some are taken together are in none of them.
    firsts : list of int
        Groups of each stratum that either half has for itself; 0 where both share the whole stratum.
    """

    def __init__(self, part: Part, count: int) -> None:
        self._part = part
        self._held: dict[Place, Group] = {}
        self.strata: list[Stratum] = []
        self.firsts: list[int] = []
        together = min(_TOGETHER, part.mean.largest)
        for one in part.strata:
            most = max(1, together // len(one.blocks[0]))
            first = math.ceil(count / most)
            each = math.ceil(count / first)
            if 2 * first * each > len(one):
                first, each = 0, most
            # A stratum that is taken whole has no scatter: its last group may be smaller.
            cut = Stratum(one.blocks[: len(one) - len(one) % each]) if first else one
            self.strata.append(cut.coarser(each))
            self.firsts.append(first)

    @property
    def is_whole(self) -> bool:
        """Whether there is nothing beside the halves, which are the same then."""
        return not any(self.firsts)

    @property
    def least(self) -> list[int]:
        """How many groups of each stratum the halves have."""
        return [2 * first or len(one) for first, one in zip(self.firsts, self.strata, strict=True)]

    def half(self, number: int) -> list[Place]:
        """Return the places of groups of a half, those of strata that both share at the end."""
        own = [(i, n + number * first) for i, first in enumerate(self.firsts) for n in range(first)]
        return own + self.beside([2 * first for first in self.firsts], self.least)

    def beside(self, have: Sequence[int], counts: Sequence[int]) -> list[Place]:
        """Return the places of groups from so many of each stratum up to so many."""
        return [(i, n) for i, (start, stop) in enumerate(zip(have, counts, strict=True)) for n in range(start, stop)]

    def more(self, counts: Sequence[int], factor: float) -> list[int]:
        """Return so many times as many groups of each stratum, where there are."""
        return [min(len(one), math.ceil(factor * count)) for count, one in zip(counts, self.strata, strict=True)]

    def samples(self, places: Sequence[Place]) -> int:
        """Return how many samples groups hold."""
        return sum(len(self.strata[i].blocks[n]) for i, n in places)

    def samples_of(self, counts: Sequence[int]) -> int:
        """Return how many samples so many groups of each stratum hold."""
        return self.samples(self.beside([0] * len(counts), counts))

    def groups(self, places: list[Place]) -> Iterator[tuple[int, float, Group]]:
        """Give groups with the number of their stratum, and what makes each the share of one group of `strata`."""
        for some in pieces_of(places, self.strata):
            read = [place for place in some if place not in self._held]
            found = self._part.mean.groups([self.strata[i].blocks[n] for i, n in read])
            for i, n in some:
                group = self._held[i, n] if (i, n) in self._held else next(found)
                yield i, self._part.strata[i].samples / self.strata[i].samples, group

    def hold(self, places: list[Place]) -> None:
        """Keep groups for several products, where there is room for all of them; else they are read for each."""
        room, held = self._part.mean.room(), {}
        for place, (_, _, group) in zip(places, self.groups(places), strict=True):
            if place not in self._held:
                room -= group.bytes
            if room < 0:
                return
            held[place] = group
        for group in held.values():
            group.expect()
        self._held |= held

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
