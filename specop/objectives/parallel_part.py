"""ParallelSampleMean: a matrix by groups of its samples, which several processes have in parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from specop.arrays.backend import Array
from specop.arrays.layout import Layout
from specop.objectives.data_parts import DataParts
from specop.objectives.part import Group, SampleMean
from specop.statistics.numbers import Floats, Integers

__all__ = ["ParallelGroup", "ParallelSampleMean"]


@dataclass(eq=False)
class ParallelGroup:
    """Samples that are multiplied together, each in the process that has it.

    Parameters
    ----------
    own : Group or None
        Samples of this process; None where it has none of them.
    parts : DataParts
    whole : Layout
        Layout of a vector that each process has whole.
    factor : float
        Share of this process's samples in the mean over the whole group.
    share : float
        Share of these samples in all terms of the loss.
    samples, bytes : int
        How many they are, and the memory that those of one process take at most.
    """

    own: Group | None
    parts: DataParts
    whole: Layout
    factor: float
    share: float
    samples: int
    bytes: int

    def expect(self) -> None:
        """Say that several products follow."""
        if self.own is not None:
            self.own.expect()

    def multiply(self, vector: Array) -> Array:
        """Return the product of the mean over these samples with a vector, in fresh storage."""
        own, whole = self.own, self.parts.team.whole(vector)
        found = self.parts.sum(lambda: None if own is None else own.multiply(whole), self.factor, self.whole)
        return found


class ParallelSampleMean:
    """The mean over the samples of all processes that a curvature matrix is.

    Samples are numbered process after process. All processes make each call together.

    Parameters
    ----------
    own : SampleMean
        Mean over this process's samples.
    parts : DataParts
        Parts of the data, of which this process has one.
    """

    def __init__(self, own: SampleMean, parts: DataParts) -> None:
        self._own = own
        self._parts = parts

    @property
    def samples(self) -> int:
        """How many there are."""
        return self._parts.samples

    @property
    def largest(self) -> int:
        """Number of samples that are known to fit into the memory of each process together."""
        return min(self._parts.all_together(lambda: self._own.largest))

    def room(self) -> int:
        """Return the bytes that groups may still hold in the process that has least."""
        return min(self._parts.all_together(self._own.room))

    def importance(self) -> Floats:
        """Return how much each sample may add to the matrix, up to a common factor, by one forward pass."""
        return self._parts.importance(self._own.weights)

    @property
    def split(self) -> None:
        """Samples of several processes are only multiplied."""
        return None

    def groups(self, chosen: Sequence[Integers]) -> Iterator[ParallelGroup]:
        """Give groups of samples, by one pass over the data of each process; see `SampleMean.groups`."""
        parts, processes = self._parts, self._parts.processes
        with processes.together():
            own = iter(()) if parts.is_idle else self._own.groups([parts.own_numbers(one) for one in chosen])
        for numbers in chosen:
            with processes.together():
                group = next(own, None)
            told = processes.exchange((0.0, 0) if group is None else (group.share, group.bytes))
            shares = [part * share for (part, _), share in zip(told, parts.shares, strict=True)]
            share = sum(shares)
            factor = shares[processes.index] / share if share else 0.0
            largest = max(size for _, size in told)
            yield ParallelGroup(
                group if factor else None, parts, self._own.layout, factor, share, len(numbers), largest
            )
