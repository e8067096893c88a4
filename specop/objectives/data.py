"""Batches: the data behind an objective, counted, weighted, and in pieces where memory asks for it."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from specop.arrays.memory import MemoryBudget
from specop.errors import InvalidInputError
from specop.objectives.autodiff import Autodiff
from specop.objectives.calling import is_pair, is_weighted
from specop.objectives.source import Source
from specop.objectives.trees import lengths

__all__ = ["Batches", "Fingerprint", "no_terms"]

T = TypeVar("T")

# Samples of a batch that tell it from another one.
_LOOKED_AT = 16


class Fingerprint(NamedTuple):
    """Checksums that tell a data set from another one.

    Attributes
    ----------
    batches : tuple
        Of the first samples of each batch.
    ahead : list
        Of single samples, the first ones.
    last : object
        Of the last one; None where there is none.
    """

    batches: tuple[Any, ...]
    ahead: list[Any]
    last: Any


class Batches:
    """A data set as weighted batches.

    Batches are counted and weighted in the first pass.

    Parameters
    ----------
    data : batch or re-iterable of batches
        As `Source` takes it.
    autodiff : Autodiff
        What it knows of batches.
    weight : callable, optional
        ``weight(batch)`` is the number of terms that the batch's mean loss averages over; default: the number of its
        samples.
    budget : MemoryBudget
        What kept batches may take.
    are_as_given : bool
        Whether the mean over the batches' losses is meant, whatever the loss of all data at once is.
    are_weighted : bool
        Whether a batch may be (x, y, weights of samples).

    Attributes
    ----------
    limit : int or None
        Samples above which a batch is given in pieces.
    is_verified : bool
        Whether the mean over the batches was seen to be the loss that is trained.
    is_part : bool
        Whether other processes have batches of the same mean.
    first_sample : int
        Number of the first sample.
    given : batch or re-iterable of batches
        As the user gave it.
    devices : int
        How many of this process compute for batches at the same time.
    """

    limit: int | None
    devices = 1
    is_part = False
    first_sample = 0

    def __init__(
        self,
        data: Any,
        autodiff: Autodiff,
        weight: Callable[[Any], Any] | None,
        budget: MemoryBudget,
        are_as_given: bool = False,
        are_weighted: bool = False,
    ) -> None:
        self._autodiff = autodiff
        self._weight = weight
        self._budget = budget
        self._are_as_given = are_as_given
        self._are_weighted = are_weighted
        self.is_verified = False
        self.limit = None
        self.given = data
        self._source = Source(data, autodiff, budget)
        self._weights: list[float] = []
        self._counts: list[int] = []
        self._entries: list[Any] = []

    @contextmanager
    def reading(self) -> Iterator[Iterator[tuple[Any, float, int]]]:
        """Give the batches of one pass, each with its share of the total weight and the number of its first sample.

        A context, because a pass that is broken off must put random states back at once: left to an abandoned
        iterator, they would be put back whenever its memory happens to be freed.
        """
        self._read_once()
        with self._source.random_states_preserved():
            yield self._placed(self._shared())

    @contextmanager
    def reading_whole(self) -> Iterator[Iterator[tuple[Any, float, int]]]:
        """Give the same where batches are not cut for several devices."""
        self._read_once()
        with self._source.random_states_preserved():
            yield self._shared()

    def one_by_one(self) -> Iterator[tuple[Any, float, int]]:
        """Give the same for a pass that the user may interrupt: random states are put back at each step."""
        self._read_once()
        batches = self._placed(self._shared())
        while True:
            with self._source.random_states_preserved():
                found = next(batches, None)
            if found is None:
                return
            yield found

    def of(self, batch: Any) -> Batches:
        """Return a data set of a single batch, weighted as here."""
        return self._like([batch])

    def subset(self, indices: NDArray[np.intp]) -> Batches:
        """Return a data set of some samples, in the order and with the weights of this one.

        Parameters
        ----------
        indices : ndarray of int
            Distinct, ascending numbers of samples in this data set.
        """
        return self._like(_Subset(self, indices))

    def _like(self, data: Any) -> Batches:
        made = type(self)(data, self._autodiff, self._weight, self._budget, self._are_as_given, self._are_weighted)
        made.is_verified, made.is_part = self.is_verified, self.is_part
        return made

    def picked(self, indices: NDArray[np.intp]) -> Iterator[Any]:
        """Give, for one pass, what each batch holds of some samples; batches that hold none are left out."""
        for batch, places, _ in self.chosen(indices):
            yield self._autodiff.pick(self._autodiff.prepare(batch), places)

    def chosen(self, indices: NDArray[np.intp]) -> Iterator[tuple[Any, NDArray[np.intp], NDArray[np.intp]]]:
        """Give, for one pass, batches that hold some of these samples, where in them, and the samples' numbers."""
        self._read_once()
        firsts = np.cumsum([0, *self._counts])
        places = itertools.pairwise(np.searchsorted(indices, firsts))
        for batch, first, (start, stop) in zip(self._source, firsts, places, strict=False):
            if start < stop:
                yield batch, indices[start:stop] - first, indices[start:stop]

    def largest(self) -> int:
        """Return the number of samples of the largest piece."""
        self._read_once()
        return max(self._counts) if self.limit is None else min(max(self._counts), self.limit)

    def unlike(self, one: str, shapes: Any, earlier: Any) -> InvalidInputError:
        """Return the error for a batch whose entries have other shapes than those of an earlier one."""
        return _doubtful(_unlike(one, shapes, earlier))

    @property
    def cut(self) -> tuple[int | None, int]:
        """What says into which parts batches are cut: another one means other parts."""
        return self.limit, 1

    def deal(self, loss: Callable[[Any], float | None]) -> None:
        """Decide into which parts batches are cut for several devices; with one there is nothing to decide."""

    def at_once(self, tasks: Sequence[Callable[[], T]]) -> Iterable[T]:
        """Return what as many tasks as there are devices compute."""
        return map(operator.call, tasks)

    def halve(self) -> None:
        """Give batches in pieces of at most half the present largest one."""
        self.limit = (self.largest() + 1) // 2

    def pieces(self, batch: Any, limit: int) -> list[tuple[Any, float]]:
        """Return parts of a batch with at most this many samples, each with its share of the batch's weight."""
        count = self._autodiff.count(batch)
        parts = [self._autodiff.take(batch, start, min(start + limit, count)) for start in range(0, count, limit)]
        weights = [self.weight_of(part) for part in parts]
        whole = self.weight_of(batch)
        if abs(sum(weights) - whole) > 1e-6 * whole:
            raise InvalidInputError(
                f"the weights of a batch's parts add up to {sum(weights)}, the weight of the whole is {whole}: the "
                f"batch cannot be split. weight must count loss terms; for the mean over the losses of the batches "
                f'pass batches="as given".'
            )
        return [(part, weight / whole) for part, weight in zip(parts, weights, strict=True)]

    def competing(self, batch: Any) -> list[int]:
        """Return the leading dimensions that may be the number of a batch's samples; one where that is clear."""
        targets = self._targets(batch)
        return [*dict.fromkeys([*lengths(self._autodiff.array_shapes(batch)), *lengths(targets)])]

    def _targets(self, batch: Any) -> list[tuple[int, ...]]:
        """Return the shapes of the arrays that outputs are compared with, where a batch tells."""
        is_known = is_pair(batch) or (self._are_weighted and is_weighted(batch))
        return self._autodiff.array_shapes(batch[1]) if is_known else []

    def _shared(self) -> Iterator[tuple[Any, float, int]]:
        total = sum(self._weights)
        first = self.first_sample
        for prepared, weight, count in _one_ahead(self._prepared()):
            if weight > 0:
                limit = self.limit
                parts = [(prepared, 1.0)] if limit is None or count <= limit else self.pieces(prepared, limit)
                start = first
                for part, share in parts:
                    if share > 0:
                        yield part, share * weight / total, start
                    start += self._autodiff.count(part)
            first += count

    def _placed(self, batches: Iterator[tuple[Any, float, int]]) -> Iterator[tuple[Any, float, int]]:
        """Give batches where they are computed."""
        return batches

    def _prepared(self) -> Iterator[tuple[Any, float, int]]:
        for batch, weight, count in zip(self._source, self._weights, self._counts, strict=True):
            yield self._autodiff.prepare(batch) if weight > 0 else None, weight, count

    @property
    def are_kept(self) -> bool:
        """Whether batches are held, not read again in each pass."""
        self._read_once()
        return self._source.are_kept

    @property
    def are_one_mean(self) -> bool:
        """Whether nothing has to add up: a single batch, or batches that count as they are given."""
        self._read_once()
        return self._are_as_given or (len(self._weights) == 1 and not self.is_part)

    @property
    def first_shapes(self) -> Any:
        """The shapes of the first batch's arrays but for the samples, where all of their entries may count."""
        self._read_once()
        return self._entries[0] if self._entries else None

    def fingerprint(self) -> Fingerprint:
        """Return checksums of the first samples of all batches, and of single ones at both ends."""
        found: list[Any] = []
        ahead: list[Any] = []
        last: Any = None
        with self.reading() as batches:
            for batch, _, _ in batches:
                count = self._autodiff.count(batch)
                # A copy: a look at an array by way of NumPy could make it one that others may write into.
                some = self._autodiff.pick(batch, np.arange(min(_LOOKED_AT, count)))
                found.append(self._autodiff.batch_fingerprint(some))
                ahead = ahead or [self._of_sample(batch, i) for i in range(min(_LOOKED_AT, count))]
                last = self._of_sample(batch, count - 1)
        return Fingerprint(tuple(found), ahead, last)

    def _of_sample(self, batch: Any, number: int) -> tuple[int, ...]:
        return self._autodiff.batch_fingerprint(self._autodiff.pick(batch, np.array([number])))

    @property
    def are_as_given(self) -> bool:
        """Whether the mean over the batches' losses is meant, whatever the loss of all data at once is."""
        return self._are_as_given

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

    def weigh_anew(self) -> None:
        """Weigh batches again in the next pass: a criterion's weights, which they count by, have changed."""
        self._weights, self.is_verified = [], False

    def check_unchanged(self) -> None:
        """Raise NondeterministicError if batches that are kept were written into since the first pass."""
        self._source.check_unchanged()

    def random_states_preserved(self) -> AbstractContextManager[None]:
        """Put random states back on leaving."""
        return self._source.random_states_preserved()

    def _read_once(self) -> None:
        if self._weights:
            return
        weights: list[float] = []
        counts: list[int] = []
        doubts: list[str] = []
        entries: list[Any] = []
        with self._source.random_states_preserved():
            for number, batch in enumerate(self._source):
                counts.append(self._autodiff.count(batch))
                if self._weight is None:
                    doubts += self._doubts(batch, number, entries)
                weights.append(self._checked_weight(batch, number))
        if not weights:
            raise InvalidInputError("the data holds no batch. Check the length of the data set and drop_last.")
        # What other processes have may count all the same.
        if not sum(weights) > 0 and not self.is_part:
            raise no_terms()
        if doubts and (len(weights) > 1 or self.is_part):
            raise _doubtful(doubts[0])
        self._counts, self._weights, self._entries = counts, weights, entries

    def _doubts(self, batch: Any, number: int, entries: list[Any]) -> Iterator[str]:
        """Yield why a batch may count by something else than its samples; `entries` are the shapes of those before."""
        shapes = self._autodiff.array_shapes(batch)
        targets = self._targets(batch)
        competing = self.competing(batch)
        if len(competing) > 1:
            yield f"the leading dimensions of the arrays in batch {number} are {' and '.join(map(str, competing))}"
        # Where there is one label a sample, samples count, however long they are.
        if all(math.prod(shape[1:]) > 1 for shape in targets or shapes):
            entries.append([shape[1:] for shape in targets or shapes])
            if entries[-1] != entries[0]:
                yield _unlike(f"batch {number}", entries[-1], entries[0])

    def _checked_weight(self, batch: Any, number: int) -> float:
        weight = self.weight_of(batch)
        if not (np.isfinite(weight) and weight >= 0):
            raise InvalidInputError(f"the weight of batch {number} is {weight}; it must be finite and not negative.")
        if weight == 0 and self._autodiff.count(batch) == 0:
            raise InvalidInputError(f"batch {number} is empty: its leading dimension is 0.")
        return weight

    def weight_of(self, batch: Any) -> float:
        """Return the number of terms that a batch's mean loss averages over."""
        return float(self._autodiff.count(batch) if self._weight is None else self._weight(batch))


def _one_ahead(items: Iterator[T]) -> Iterator[T]:
    """Ask for the next item before giving one: a batch moves to the device while the one before it is used."""
    for item in items:
        for following in items:
            yield item
            item = following
        yield item


def _unlike(one: str, shapes: Any, earlier: Any) -> str:
    return (
        f"the entries of the arrays in {one} have the shapes {shapes}, those of an earlier one {earlier}, as where "
        f"tokens or pixels count"
    )


def _doubtful(why: str) -> InvalidInputError:
    return InvalidInputError(
        f"{why}: how much each batch counts in the mean over all is not known. Pass weight=lambda batch: ..., the "
        f"number of terms in the batch's mean loss, such as len(batch[1]) where time comes first in x, or the number "
        f"of tokens."
    )


def no_terms() -> InvalidInputError:
    """Return what is said of data that have samples and no loss."""
    return InvalidInputError("all batches have weight zero: no loss term counts.")


class _Subset:
    """Some samples of a data set, read anew in each pass."""

    def __init__(self, data: Batches, indices: NDArray[np.intp]) -> None:
        self._data = data
        self._indices = indices

    def __iter__(self) -> Iterator[Any]:
        return self._data.picked(self._indices)
