"""Batches: the data behind an objective, weighted, and in pieces where memory asks for it."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from specop.arrays.memory import MemoryBudget
from specop.errors import InvalidInputError
from specop.objectives.autodiff import Autodiff
from specop.objectives.counting import Counting, Counts
from specop.objectives.source import Source

__all__ = ["Batches"]

T = TypeVar("T")


class Batches:
    """A data set as weighted batches.

    Batches are counted and weighted in the first pass.

    Parameters
    ----------
    data : batch or re-iterable of batches
        The user's data, one batch or an iterable of batches, as `Source` takes them.
    autodiff : Autodiff
        Derivatives of the model's framework, which knows what its batches hold.
    counting : Counting
        How many loss terms a batch counts for.
    budget : MemoryBudget
        Memory that kept batches may take.
    are_as_given : bool
        Whether the mean over the batches' losses is meant, whatever the loss of all data at once is.

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
        The data as the user gave them.
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
        counting: Counting,
        budget: MemoryBudget,
        are_as_given: bool = False,
    ) -> None:
        self._autodiff = autodiff
        self._counting = counting
        self._budget = budget
        self._are_as_given = are_as_given
        self.is_verified = False
        self.limit = None
        self.given = data
        self._source = Source(data, autodiff, budget)

    @contextmanager
    def reading(self) -> Iterator[Iterator[tuple[Any, float, int]]]:
        """Give the batches of one pass, each with its share of the total weight and the number of its first sample.

        A context, because a pass that is broken off must put random states back at once: left to an abandoned
        iterator, they would be put back whenever its memory happens to be freed.
        """
        found = self._shared(self._counts)
        with self._source.random_states_preserved():
            yield self._placed(found)

    @contextmanager
    def reading_whole(self) -> Iterator[Iterator[tuple[Any, float, int]]]:
        """Give the same where batches are not cut for several devices."""
        found = self._shared(self._counts)
        with self._source.random_states_preserved():
            yield found

    def one_by_one(self) -> Iterator[tuple[Any, float, int]]:
        """Give the same for a pass that the user may interrupt: random states are put back at each step."""
        batches = self._placed(self._shared(self._counts))
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
        made = type(self)(data, self._autodiff, self._counting, self._budget, self._are_as_given)
        made.is_verified, made.is_part = self.is_verified, self.is_part
        return made

    def picked(self, indices: NDArray[np.intp]) -> Iterator[Any]:
        """Give, for one pass, what each batch holds of some samples; batches that hold none are left out."""
        for batch, places, _ in self.chosen(indices):
            yield self._autodiff.pick(self._autodiff.prepare(batch), places)

    def chosen(self, indices: NDArray[np.intp]) -> Iterator[tuple[Any, NDArray[np.intp], NDArray[np.intp]]]:
        """Give, for one pass, batches that hold some of these samples, where in them, and the samples' numbers."""
        firsts = np.cumsum([0, *self._counts.samples])
        places = itertools.pairwise(np.searchsorted(indices, firsts))
        for batch, first, (start, stop) in zip(self._source, firsts, places, strict=False):
            if start < stop:
                yield batch, indices[start:stop] - first, indices[start:stop]

    def largest(self) -> int:
        """Return the number of samples of the largest piece."""
        found = max(self._counts.samples)
        return found if self.limit is None else min(found, self.limit)

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
            single = (
                f" It counts as one where its arrays begin with {count} entries: if it is a single sample, give "
                f"batches of samples, as a data loader with batch_size= does."
            ) * (whole == 1 and count > 1)
            raise InvalidInputError(
                f"the weights of a batch's parts add up to {sum(weights)}, the weight of the whole is {whole}: the "
                f"batch cannot be split. weight must count loss terms; for the mean over the losses of the batches "
                f'pass batches="as given".{single}'
            )
        return [(part, weight / whole) for part, weight in zip(parts, weights, strict=True)]

    def competing(self, batch: Any) -> list[int]:
        """Return the leading dimensions that may be the number of a batch's samples; one where that is clear."""
        return self._counting.competing(batch)

    @cached_property
    def _counts(self) -> Counts:
        """Of all batches, from the first pass."""
        with self._source.random_states_preserved():
            return self._counting.counts(self._source, self.is_part)

    def _shared(self, counts: Counts) -> Iterator[tuple[Any, float, int]]:
        total = sum(counts.weights)
        first = self.first_sample
        for prepared, weight, count in _one_ahead(self._prepared(counts)):
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

    def _prepared(self, counts: Counts) -> Iterator[tuple[Any, float, int]]:
        for batch, weight, count in zip(self._source, counts.weights, counts.samples, strict=True):
            yield self._autodiff.prepare(batch) if weight > 0 else None, weight, count

    @property
    def are_kept(self) -> bool:
        """Whether batches are held, not read again in each pass."""
        # The first pass tells, and there is no data set without a batch.
        return bool(self._counts.samples) and self._source.are_kept

    @property
    def are_one_mean(self) -> bool:
        """Whether nothing has to add up: a single batch, or batches that count as they are given."""
        return self._are_as_given or (len(self._counts.weights) == 1 and not self.is_part)

    @property
    def divisor_is_known(self) -> bool:
        """Whether batches count by what the criterion is known to divide by."""
        return self._counting.divisor_is_known

    @property
    def first_shapes(self) -> Any:
        """The shapes of the first batch's arrays but for the samples, where all of their entries may count."""
        return next(iter(self._counts.entries), None)

    @property
    def are_as_given(self) -> bool:
        """Whether the mean over the batches' losses is meant, whatever the loss of all data at once is."""
        return self._are_as_given

    @property
    def samples(self) -> int:
        """Number of samples in all batches."""
        return sum(self._counts.samples)

    @property
    def terms(self) -> float:
        """Total weight of all batches."""
        return sum(self._counts.weights)

    def weigh_anew(self) -> None:
        """Weigh batches again in the next pass: a criterion's weights, which they count by, have changed."""
        vars(self).pop("_counts", None)
        self.is_verified = False

    def check_unchanged(self) -> None:
        """Raise NondeterministicError if batches that are kept were written into since the first pass."""
        self._source.check_unchanged()

    def check_numbered(self) -> None:
        """Raise NondeterministicError if the number of a sample says nothing of the user's data set."""
        if isinstance(self.given, _Subset):
            self.given.data.check_numbered()
        else:
            self._source.check_numbered()

    def random_states_preserved(self) -> AbstractContextManager[None]:
        """Put random states back on leaving."""
        return self._source.random_states_preserved()

    def weight_of(self, batch: Any) -> float:
        """Return the number of terms that a batch's mean loss averages over."""
        return self._counting.weight_of(batch)


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
        self.data = data
        self._indices = indices

    def __iter__(self) -> Iterator[Any]:
        return self.data.picked(self._indices)

    def __length_hint__(self) -> int:
        # At most as many as there are.
        return len(self.data._counts.samples)
