"""Counting: how many samples and loss terms each batch has, and where the number of terms is in doubt."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from specop.errors import InvalidInputError
from specop.objectives.autodiff import Autodiff
from specop.objectives.calling import is_pair, is_weighted
from specop.objectives.trees import lengths

__all__ = ["Counting", "Counts", "no_terms", "unlike"]


class Counts(NamedTuple):
    """What the batches of a data set count.

    Attributes
    ----------
    weights : list of float
        The number of loss terms of each batch.
    samples : list of int
        The number of samples of each.
    entries : list
        The shapes of a batch's arrays but for the samples, for each batch in which all of their entries may count.
    """

    weights: list[float]
    samples: list[int]
    entries: list[Any]


class Counting:
    """How a batch is counted.

    Parameters
    ----------
    autodiff : Autodiff
        What it knows of batches.
    weight : callable, optional
        ``weight(batch)`` is the number of terms that the batch's mean loss averages over; default: the number of its
        samples.
    are_weighted : bool
        Whether a batch may be (x, y, weights of samples).
    divisor_is_known : bool
        Whether that number is what a criterion of the framework itself divides by, and not what was said or supposed.
    """

    def __init__(
        self,
        autodiff: Autodiff,
        weight: Callable[[Any], Any] | None,
        are_weighted: bool,
        divisor_is_known: bool = False,
    ) -> None:
        self.divisor_is_known = divisor_is_known
        self._autodiff = autodiff
        self._weight = weight
        self._are_weighted = are_weighted

    def counts(self, batches: Iterable[Any], are_part: bool) -> Counts:
        """Return what batches count; `are_part` says that other processes have batches of the same mean."""
        found = Counts([], [], [])
        doubts: list[str] = []
        for number, batch in enumerate(batches):
            found.samples.append(self._autodiff.count(batch))
            if self._weight is None:
                doubts += self._doubts(batch, number, found.entries)
            found.weights.append(self._checked_weight(batch, number))
        if not found.weights:
            raise InvalidInputError("the data holds no batch. Check the length of the data set and drop_last.")
        # What other processes have may count all the same.
        if not sum(found.weights) > 0 and not are_part:
            raise no_terms()
        if doubts and (len(found.weights) > 1 or are_part):
            raise _doubtful(doubts[0])
        return found

    def competing(self, batch: Any) -> list[int]:
        """Return the leading dimensions that may be the number of a batch's samples; one where that is clear."""
        targets = self._targets(batch)
        return [*dict.fromkeys([*lengths(self._autodiff.array_shapes(batch)), *lengths(targets)])]

    def weight_of(self, batch: Any) -> float:
        """Return the number of terms that a batch's mean loss averages over."""
        if self._weight is None:
            return float(self._autodiff.count(batch))
        found = self._weight(batch)
        try:
            return float(found)
        except (TypeError, ValueError, RuntimeError) as error:
            of = f" of shape {tuple(found.shape)}" if hasattr(found, "shape") else ""
            raise InvalidInputError(
                f"weight(batch) must be one number, how many terms the batch's mean loss is over; got a "
                f"{type(found).__name__}{of}. Add it up, such as by weight=lambda batch: (batch[1] != -100).sum()."
            ) from error

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
                yield _other_entries(f"batch {number}", entries[-1], entries[0])

    def _targets(self, batch: Any) -> list[tuple[int, ...]]:
        """Return the shapes of the arrays that outputs are compared with, where a batch tells."""
        is_known = is_pair(batch) or (self._are_weighted and is_weighted(batch))
        return self._autodiff.array_shapes(batch[1]) if is_known else []

    def _checked_weight(self, batch: Any, number: int) -> float:
        weight = self.weight_of(batch)
        if not (np.isfinite(weight) and weight >= 0):
            raise InvalidInputError(f"the weight of batch {number} is {weight}; it must be finite and not negative.")
        if weight == 0 and self._autodiff.count(batch) == 0:
            raise InvalidInputError(f"batch {number} is empty: its leading dimension is 0.")
        return weight


def unlike(one: str, shapes: Any, earlier: Any) -> InvalidInputError:
    """Return the error for a batch whose entries have other shapes than those of an earlier one."""
    return _doubtful(_other_entries(one, shapes, earlier))


def no_terms() -> InvalidInputError:
    """Return what is said of data that have samples and no loss."""
    return InvalidInputError("all batches have weight zero: no loss term counts.")


def _other_entries(one: str, shapes: Any, earlier: Any) -> str:
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
