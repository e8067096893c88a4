"""The data behind an objective: counted, weighted, and the same in every pass."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from specop.errors import InvalidInputError, NondeterministicError

__all__ = ["Batches"]


class _BatchReader(Protocol):
    """What `Batches` needs to know of a batch; an autodiff adapter provides it."""

    def prepare(self, batch: Any) -> Any: ...

    def count(self, batch: Any) -> int: ...

    def batch_bytes(self, batch: Any) -> int: ...

    def batch_versions(self, batch: Any) -> tuple[int, ...]: ...

    def batch_fingerprint(self, batch: Any) -> tuple[int, ...]: ...

    def preserved(self) -> Any: ...


class Batches:
    """A data set as (batch, weight) pairs that do not change from one pass to the next.

    Batches are counted, weighted and fingerprinted in the first pass. They are kept as long as they fit into the
    budget, so that a loader is read once and what it shuffles or augments is drawn once. Beyond the budget they are
    read again in each pass, and a pass that differs from the first raises.

    Parameters
    ----------
    data : batch or re-iterable of batches
        A tuple, a mapping, a dataclass, an array or None is one batch; any other iterable is an iterable of batches.
    reader : autodiff adapter
    weight : callable, optional
        ``weight(batch)`` is the number of terms that the batch's mean loss averages over; default: the leading
        dimension of its first array.
    budget : int
        Bytes that kept batches may take. Those of a list are the user's own and cost nothing.
    """

    def __init__(
        self, data: Any, reader: _BatchReader, weight: Callable[[Any], float] | None, budget: Callable[[], int]
    ) -> None:
        self._reader = reader
        self._weight = weight
        self._budget = budget
        self._source = _as_source(data)
        self._in_memory = isinstance(self._source, (list, tuple))
        self._kept: list[Any] | None = None
        self._seen: list[tuple[int, ...]] = []
        self._weights: list[float] = []
        self._samples = 0
        self._versions: list[tuple[int, ...]] = []

    def __len__(self) -> int:
        self._read_once()
        return len(self._weights)

    @contextmanager
    def reading(self) -> Iterator[Iterator[tuple[Any, float]]]:
        """Give the batches of one pass, each with its share of the total weight.

        A context, because a pass that is broken off must put random states back at once: left to an abandoned
        iterator, they would be put back whenever its memory happens to be freed.
        """
        self._read_once()
        with self._random_states_preserved():
            yield self._shared()

    def _shared(self) -> Iterator[tuple[Any, float]]:
        total = sum(self._weights)
        batches = self._replay() if self._kept is None else iter(self._kept)
        for batch, weight in zip(batches, self._weights, strict=True):
            if weight > 0:
                yield self._reader.prepare(batch), weight / total

    @property
    def samples(self) -> int:
        """Number of samples in all batches."""
        self._read_once()
        return self._samples

    def check_unchanged(self) -> None:
        """Raise NondeterministicError if batches that are kept were written into since the first pass."""
        for number, (batch, versions) in enumerate(zip(self._kept or [], self._versions, strict=False)):
            if self._reader.batch_versions(batch) != versions:
                raise NondeterministicError(
                    f"batch {number} was written into after it was read, so products would belong to neither the old "
                    f"nor the new data. Make a new objective for the new data, and leave the old one's arrays alone."
                )

    def _read_once(self) -> None:
        if self._weights:
            return
        kept: list[Any] | None = []
        room, held, samples = self._budget(), 0, 0
        seen: list[tuple[int, ...]] = []
        weights: list[float] = []
        with self._random_states_preserved():
            for batch in self._source:
                samples += self._reader.count(batch)
                weights.append(self._checked_weight(batch, len(weights)))
                if not self._in_memory:
                    seen.append(self._reader.batch_fingerprint(batch))
                    held += self._reader.batch_bytes(batch)
                    if held > room:
                        kept = None
                if kept is not None:
                    kept.append(batch)
        if not weights:
            raise InvalidInputError("the data holds no batch. Check the length of the data set and drop_last.")
        if not sum(weights) > 0:
            raise InvalidInputError("all batches have weight zero: no loss term counts.")
        self._kept, self._seen, self._samples, self._weights = kept, seen, samples, weights
        self._versions = [self._reader.batch_versions(batch) for batch in kept or []]

    def _checked_weight(self, batch: Any, number: int) -> float:
        weight = float(self._reader.count(batch) if self._weight is None else self._weight(batch))
        if not (np.isfinite(weight) and weight >= 0):
            raise InvalidInputError(f"the weight of batch {number} is {weight}; it must be finite and not negative.")
        if self._weight is None and weight == 0:
            raise InvalidInputError(f"batch {number} is empty: its leading dimension is 0.")
        return weight

    def _replay(self) -> Iterator[Any]:
        count = 0
        for batch in self._source:
            same = count < len(self._seen) and self._reader.batch_fingerprint(batch) == self._seen[count]
            if not same:
                raise NondeterministicError(
                    f"batch {count} of this pass differs from that of the first: the loader shuffles, augments or "
                    f"samples, and each product would be of another matrix. Use shuffle=False and fixed "
                    f"transforms, or raise memory_budget above {self._budget()} bytes so that batches are kept."
                )
            yield batch
            count += 1
        if count < len(self._seen):
            raise NondeterministicError(
                f"this pass over the data gave {count} batches, the first one {len(self._seen)}. The loader must give "
                f"the same batches each time."
            )

    @contextmanager
    def _random_states_preserved(self) -> Iterator[None]:
        # Loaders draw from the global generators, if only for a seed of their own.
        python, legacy = random.getstate(), np.random.get_state()
        try:
            with self._reader.preserved():
                yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


def _as_source(data: Any) -> Iterable[Any]:
    one_batch = (
        data is None
        or isinstance(data, (tuple, Mapping))
        or hasattr(data, "shape")
        or (dataclasses.is_dataclass(data) and not isinstance(data, type))
    )
    if one_batch:
        return [data]
    if not isinstance(data, Iterable):
        raise InvalidInputError(
            f"data must be one batch or a re-iterable of batches, got {type(data).__name__}. A batch is a tuple, a "
            f"mapping, a dataclass or an array."
        )
    # Not iter(data) is data: a data loader's iter() starts its workers and draws a random seed.
    if isinstance(data, Iterator):
        raise InvalidInputError(
            f"data is a {type(data).__name__}, which can be read only once, but every product is a pass over the data. "
            f"Pass a list of its batches, or an object with __iter__ such as a data loader."
        )
    return data
