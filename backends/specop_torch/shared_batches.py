"""SharedBatches: batches of which each process reads a part at the same time, and samples of them.

Samples of a batch are numbered process after process, those of a data set batch after batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from specop.errors import InvalidInputError
from specop.objectives.trees import Joined, lengths
from specop.statistics.numbers import Integers
from specop_torch.checksums import checksums
from specop_torch.readers import Readers
from specop_torch.structures import TREES

__all__ = ["SharedBatches", "Weightless"]


@dataclass(frozen=True)
class Weightless:
    """A part without loss terms: the others need this process for their layers, so that it runs a sample of its own.

    Parameters
    ----------
    own : batch or None
        Samples of this process that count in no loss; None for none.
    stand_in : batch
        A sample that has a loss, which is multiplied by zero.
    """

    own: Any
    stand_in: Any


class SharedBatches:
    """What is known of batches of which each process has a part; all processes make each call together.

    Parameters
    ----------
    readers : Readers
    weigh : callable
        ``weigh(batch)``: number of terms of this process's part.
    """

    def __init__(self, readers: Readers, weigh: Callable[[Any], float]) -> None:
        self.readers = readers
        self.weigh = weigh

    def own_count(self, batch: Any) -> int:
        """Return the number of samples that this process has."""
        if not isinstance(batch, Weightless):
            return TREES.count(batch)
        return 0 if batch.own is None else TREES.count(batch.own)

    def own_weight(self, batch: Any) -> float:
        """Return the number of terms that this process has."""
        return 0.0 if isinstance(batch, Weightless) else float(self.weigh(batch))

    def counts(self, batch: Any) -> list[int]:
        """Return the number of samples that each process has."""
        return self.readers.exchange(self.own_count(batch))

    def weight(self, batch: Any) -> float:
        """Return the number of terms in all parts."""
        return float(sum(self.readers.exchange(self.own_weight(batch))))

    def share(self, batch: Any) -> float:
        """Return the share of this process's part in all terms."""
        told = self.readers.exchange((self.own_weight(batch), isinstance(batch, Weightless)))
        without = next((number for number, (weight, is_known) in enumerate(told) if weight <= 0 and not is_known), None)
        if without is not None:
            raise InvalidInputError(
                f"process {without} of {self.readers.count} has a batch of weight {told[without][0]}, and with sharded "
                f"parameters all of them must have a loss of each batch. Spread the data otherwise."
            )
        return told[self.readers.index][0] / sum(weight for weight, _ in told)

    def pick(self, batch: Any, indices: Integers) -> Any:
        """Return the samples at these places of all parts, which ascend."""
        counts = self.counts(batch)
        with self.readers.together():
            first = sum(counts[: self.readers.index])
            mine = indices[(indices >= first) & (indices < first + counts[self.readers.index])] - first
            own = TREES.pick(_own(batch), mine) if len(mine) else None
            if own is not None and not isinstance(batch, Weightless) and self.weigh(own) > 0:
                return own
            return Weightless(own, self._stand_in(batch))

    def gather(self, chosen: Iterable[tuple[Any, Integers]]) -> list[tuple[list[int], SharedJoined]]:
        """Return samples at these places of several batches, those of batches of one kind in each process together."""
        stand_ins: list[Any] = []
        owners: list[Integers] = []

        def own() -> Iterator[tuple[Any, Integers]]:
            for batch, places in chosen:
                counts = self.counts(batch)
                ends = np.cumsum(counts)
                owner = np.searchsorted(ends, places, side="right")
                with self.readers.together():
                    self._check_samples(batch)
                    if not stand_ins:
                        stand_ins.append(self._stand_in(batch))
                owners.append(owner)
                is_mine = owner == self.readers.index
                kept = places[is_mine] - sum(counts[: self.readers.index])
                yield _own(batch), kept

        kinds = TREES.gather(own(), lambda fixed: checksums(TREES.arrays(fixed)))
        of = {position: kind for kind, (positions, _) in enumerate(kinds) for position in positions}
        alike: dict[tuple[int, ...], list[int]] = {}
        for position, kind in enumerate(zip(*self.readers.exchange([of[i] for i in range(len(of))]), strict=True)):
            alike.setdefault(kind, []).append(position)
        # Where the samples of each batch begin among those that this process has of a kind.
        firsts: dict[int, int] = {}
        for positions, _ in kinds:
            sizes = [int(np.sum(owners[i] == self.readers.index)) for i in positions]
            firsts |= dict(zip(positions, np.cumsum([0, *sizes]), strict=False))
        return [
            (
                positions,
                SharedJoined(
                    self,
                    kinds[of[positions[0]]][1],
                    np.concatenate([owners[i] for i in positions]),
                    np.concatenate([firsts[i] + np.cumsum(owners[i] == self.readers.index) - 1 for i in positions]),
                    stand_ins[0],
                ),
            )
            for positions in alike.values()
        ]

    def _stand_in(self, batch: Any) -> Any:
        """Return a sample of this process's part that has a loss."""
        if isinstance(batch, Weightless):
            return batch.stand_in
        samples = (TREES.pick(batch, np.array([i])) for i in range(TREES.count(batch)))
        found = next((one for one in samples if self.weigh(one) > 0), None)
        if found is None:
            raise InvalidInputError(
                f"none of the samples that process {self.readers.index} of {self.readers.count} has of a batch counts "
                f"in the loss, and with sharded parameters all of them must have a loss of each batch. Spread the data "
                f"otherwise."
            )
        return found

    def _check_samples(self, batch: Any) -> None:
        """Raise InvalidInputError where it is not clear which entries are one sample."""
        found = lengths(TREES.shapes(_own(batch)))
        if len(found) > 1:
            raise InvalidInputError(
                f"which entries of a batch are one sample is not known: its arrays have the leading dimensions "
                f"{' and '.join(map(str, found))}. Put samples first in all, or leave data= out."
            )


@dataclass(frozen=True)
class SharedJoined:
    """Samples of several batches that processes have in parts, in one; made by `SharedBatches.gather`.

    Parameters
    ----------
    batches : SharedBatches
    joined : Joined
        Samples that this process has; others may be among them.
    owners : ndarray of int
        For each of all samples, the process that has it.
    places : ndarray of int
        For each sample that this process has, its place in `joined`.
    stand_in : batch
        A sample of this process's that has a loss.
    """

    batches: SharedBatches
    joined: Joined
    owners: Integers
    places: Integers
    stand_in: Any

    def pick(self, indices: Integers) -> Any:
        """Return a batch of the samples at these places."""
        readers = self.batches.readers
        mine = self.places[indices[self.owners[indices] == readers.index]]
        with readers.together():
            own = self.joined.pick(mine) if len(mine) else None
            if own is not None and self.batches.weigh(own) > 0:
                return own
            return Weightless(own, self.stand_in)


def _own(batch: Any) -> Any:
    """Return samples that this process has of a batch, or of their kind where it has none."""
    if not isinstance(batch, Weightless):
        return batch
    return batch.stand_in if batch.own is None else batch.own
