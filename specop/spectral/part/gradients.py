"""Gradients: the trace of J' M J, summed over outputs, by a gradient of each of some samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from specop.krylov.run import Run
from specop.operators.sample_mean import Split
from specop.spectral.part.part import Part, pieces_of
from specop.statistics.group_sums import GroupSum
from specop.statistics.strata import Stratum

__all__ = ["Gradients"]

# Squares of linear functions of random signs have at most twice the square of their mean as variance, which is two
# thirds of their own mean square.
_NOISE = 2.0 / 3.0
# Samples of a stratum before the first look at their scatter: single ones have heavier tails than groups.
_FEWEST = 64


class Gradients:
    """Samples' parts of a trace, a value for each sample.

    Parameters
    ----------
    run : Run
    split : Split
    part : Part
        Which has not been looked at.

    Attributes
    ----------
    total : GroupSum
        Sum of single samples.
    cost : float
        Products with one sample that a value takes.
    """

    cost = 1.0

    def __init__(self, run: Run, split: Split, part: Part) -> None:
        self.part = part
        self._run, self._split, self._index, self._are_exact = run, split, 0, True
        # A block has one sample of each of as many runs of weights: together they scatter no more than single ones.
        alone = [Stratum(tuple(np.concatenate(one.blocks)[:, None])) for one in part.strata]
        self.total = GroupSum(alone, is_noisy=True, are_bounds_loose=True)

    def first(self) -> list[int]:
        """Return how many values each stratum is to have at first."""
        few = [self.total.allowed(i, min(_FEWEST, len(one))) for i, one in enumerate(self.total.strata)]
        return self._in_blocks(few)

    def take(self, counts: Sequence[int]) -> None:
        """Look at samples until each stratum has so many values; whole blocks are looked at."""
        for places in self._waiting([-(-count // self.unit(i)) for i, count in enumerate(counts)]):
            chosen = [self.part.strata[i].blocks[n] for i, n in places]
            traces = self._split.traces(chosen, self._run.seed, self._index)
            for (i, _), block, found in zip(places, chosen, traces, strict=True):
                self._index += 1
                self._run.count_samples(len(block))
                self._are_exact = self._are_exact and found.are_exact
                self.total.is_noisy = not self._are_exact
                for value in found.values:
                    self.total.add(i, float(value), 0.0 if found.are_exact else _NOISE * float(value) ** 2)

    def _waiting(self, blocks: Sequence[int]) -> Iterator[list[tuple[int, int]]]:
        """Give blocks that can be read together, round after round."""
        part = self.part
        while any(taken < count for taken, count in zip(part.taken, blocks, strict=True)):
            waiting: list[tuple[int, int]] = []
            for i, one in enumerate(part.strata):
                start = part.taken[i] % len(one)
                more = max(0, min(blocks[i] - part.taken[i], len(one) - start))
                waiting += [(i, n) for n in range(start, start + more)]
                part.taken[i] += more
            yield from pieces_of(waiting, part.strata)

    def _in_blocks(self, counts: Sequence[int]) -> list[int]:
        return [-(-count // self.unit(i)) * self.unit(i) for i, count in enumerate(counts)]

    def unit(self, stratum: int) -> int:
        """Return how many values of a stratum there are at a time."""
        return len(self.part.strata[stratum].blocks[0])
