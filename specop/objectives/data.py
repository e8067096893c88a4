"""The data behind an objective: counted, weighted, and the same in every pass."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from specop.arrays.memory import MemoryBudget
from specop.errors import InvalidInputError, NondeterministicError

__all__ = ["Batches"]

T = TypeVar("T")


class _BatchReader(Protocol):
    """What `Batches` needs to know of a batch; an autodiff adapter provides it."""

    def prepare(self, batch: Any) -> Any: ...

    def count(self, batch: Any) -> int: ...

    def leading(self, structure: Any) -> int | None: ...

    def take(self, batch: Any, start: int, stop: int) -> Any: ...

    def pick(self, batch: Any, indices: NDArray[np.intp]) -> Any: ...

    def batch_bytes(self, batch: Any) -> int: ...

    def batch_versions(self, batch: Any) -> tuple[Any, ...]: ...

    def batch_fingerprint(self, batch: Any) -> tuple[int, ...]: ...

    def preserved(self) -> Any: ...


class Batches:
    """A data set as weighted batches that do not change from one pass to the next.

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
    budget : MemoryBudget
        What kept batches may take. Those of a list are the user's own and cost nothing.

    Attributes
    ----------
    limit : int or None
        Samples above which a batch is given in pieces.
    """

    limit: int | None

    def __init__(
        self, data: Any, reader: _BatchReader, weight: Callable[[Any], float] | None, budget: MemoryBudget
    ) -> None:
        self._reader = reader
        self._weight = weight
        self._budget = budget
        self.limit = None
        self._source = _as_source(data)
        self._in_memory = isinstance(self._source, (list, tuple))
        self._kept: list[Any] | None = None
        self._seen: list[tuple[int, ...]] = []
        self._weights: list[float] = []
        self._counts: list[int] = []
        self._versions: list[tuple[Any, ...]] = []

    def __len__(self) -> int:
        self._read_once()
        return len(self._weights)

    @contextmanager
    def reading(self) -> Iterator[Iterator[tuple[Any, float, int]]]:
        """Give the batches of one pass, each with its share of the total weight and the number of its first sample.

        A context, because a pass that is broken off must put random states back at once: left to an abandoned
        iterator, they would be put back whenever its memory happens to be freed.
        """
        self._read_once()
        with self._random_states_preserved():
            yield self._shared()

    def one_by_one(self) -> Iterator[tuple[Any, float, int]]:
        """Give the same for a pass that the user may interrupt: random states are put back at each step."""
        self._read_once()
        batches = self._shared()
        while True:
            with self._random_states_preserved():
                found = next(batches, None)
            if found is None:
                return
            yield found

    def of(self, batch: Any) -> Batches:
        """Return a data set of a single batch, weighted as here."""
        return Batches([batch], self._reader, self._weight, self._budget)

    def subset(self, indices: NDArray[np.intp]) -> Batches:
        """Return a data set of some samples, in the order and with the weights of this one.

        Parameters
        ----------
        indices : ndarray of int
            Distinct, ascending numbers of samples in this data set.
        """
        return Batches(_Subset(self, indices), self._reader, self._weight, self._budget)

    def picked(self, indices: NDArray[np.intp]) -> Iterator[Any]:
        """Give, for one pass, what each batch holds of some samples; batches that hold none are left out."""
        self._read_once()
        batches = self._replay() if self._kept is None else iter(self._kept)
        firsts = np.cumsum([0, *self._counts])
        places = itertools.pairwise(np.searchsorted(indices, firsts))
        for batch, first, (start, stop) in zip(batches, firsts, places, strict=False):
            if start < stop:
                yield self._reader.pick(self._reader.prepare(batch), indices[start:stop] - first)

    def largest(self) -> int:
        """Return the number of samples of the largest piece."""
        self._read_once()
        return max(self._counts) if self.limit is None else min(max(self._counts), self.limit)

    def halve(self) -> None:
        """Give batches in pieces of at most half the present largest one."""
        self.limit = (self.largest() + 1) // 2

    def pieces(self, batch: Any, limit: int) -> list[tuple[Any, float]]:
        """Return parts of a batch with at most this many samples, each with its share of the batch's weight."""
        count = self._reader.count(batch)
        parts = [self._reader.take(batch, start, min(start + limit, count)) for start in range(0, count, limit)]
        weights = [self._weight_of(part) for part in parts]
        whole = self._weight_of(batch)
        if abs(sum(weights) - whole) > 1e-6 * whole:
            raise InvalidInputError(
                f"the weights of a batch's parts add up to {sum(weights)}, the weight of the whole is {whole}: the "
                f"batch cannot be split. weight must count loss terms."
            )
        return [(part, weight / whole) for part, weight in zip(parts, weights, strict=True)]

    def _shared(self) -> Iterator[tuple[Any, float, int]]:
        total = sum(self._weights)
        batches = self._replay() if self._kept is None else iter(self._kept)
        first = 0
        for prepared, weight, count in _one_ahead(self._prepared(batches)):
            if weight > 0:
                limit = self.limit
                parts = [(prepared, 1.0)] if limit is None or count <= limit else self.pieces(prepared, limit)
                start = first
                for part, share in parts:
                    if share > 0:
                        yield part, share * weight / total, start
                    start += self._reader.count(part)
            first += count

    def _prepared(self, batches: Iterable[Any]) -> Iterator[tuple[Any, float, int]]:
        for batch, weight, count in zip(batches, self._weights, self._counts, strict=True):
            yield self._reader.prepare(batch) if weight > 0 else None, weight, count

    @property
    def are_kept(self) -> bool:
        """Whether batches are held, not read again in each pass."""
        self._read_once()
        return self._kept is not None

    @property
    def samples(self) -> int:
        """Number of samples in all batches."""
        self._read_once()
        return sum(self._counts)

    @property
    def terms(self) -> float:
        """Total weight of all batches."""
        self._read_once()
        return sum(self._weights)

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
        room, held = self._budget.room(), 0
        seen: list[tuple[int, ...]] = []
        weights: list[float] = []
        counts: list[int] = []
        unequal: tuple[int, ...] | None = None
        with self._random_states_preserved():
            for batch in self._source:
                counts.append(self._reader.count(batch))
                lengths = self._lengths(batch) if self._weight is None and unequal is None else ()
                if len(set(lengths)) > 1:
                    unequal = (len(weights), *lengths)
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
        if unequal is not None and len(weights) > 1:
            raise InvalidInputError(
                f"batch {unequal[0]} is a pair (x, y) whose leading dimensions are {unequal[1]} and {unequal[2]}: how "
                f"much each batch counts in the mean over all is not known. Pass weight=lambda batch: ..., the number "
                f"of terms in the batch's mean loss, such as len(batch[1]) where time comes first in x."
            )
        self._kept, self._seen, self._counts, self._weights = kept, seen, counts, weights
        self._versions = [self._reader.batch_versions(batch) for batch in kept or []]
        if kept is not None:
            self._budget.reserve(self, held)

    def _lengths(self, batch: Any) -> tuple[int, ...]:
        """Return the leading dimensions of x and y of a batch (x, y), as far as they have any."""
        is_pair = isinstance(batch, (tuple, list)) and len(batch) == 2
        found = [self._reader.leading(part) for part in batch] if is_pair else []
        return tuple(length for length in found if length is not None)

    def _checked_weight(self, batch: Any, number: int) -> float:
        weight = self._weight_of(batch)
        if not (np.isfinite(weight) and weight >= 0):
            raise InvalidInputError(f"the weight of batch {number} is {weight}; it must be finite and not negative.")
        if weight == 0 and self._reader.leading(batch) == 0:
            raise InvalidInputError(f"batch {number} is empty: its leading dimension is 0.")
        return weight

    def _weight_of(self, batch: Any) -> float:
        return float(self._reader.count(batch) if self._weight is None else self._weight(batch))

    def _replay(self) -> Iterator[Any]:
        count = 0
        for batch in self._source:
            same = count < len(self._seen) and self._reader.batch_fingerprint(batch) == self._seen[count]
            if not same:
                raise NondeterministicError(
                    f"batch {count} of this pass differs from that of the first: the loader shuffles, augments or "
                    f"samples, and each product would be of another matrix. Use shuffle=False and fixed "
                    f"transforms, or raise memory_budget above {self._budget.total} bytes so that batches are kept."
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


def _one_ahead(items: Iterator[T]) -> Iterator[T]:
    """Ask for the next item before giving one: a batch moves to the device while the one before it is used."""
    for item in items:
        for following in items:
            yield item
            item = following
        yield item


class _Subset:
    """Some samples of a data set, read anew in each pass."""

    def __init__(self, data: Batches, indices: NDArray[np.intp]) -> None:
        self._data = data
        self._indices = indices

    def __iter__(self) -> Iterator[Any]:
        return self._data.picked(self._indices)


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
