"""Source: the batches that a user gives, the same in each pass, kept or read again."""

from __future__ import annotations

import dataclasses
import operator
import random
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from specop.arrays.memory import MemoryBudget
from specop.errors import InvalidInputError, NondeterministicError
from specop.krylov.task import level_of_user
from specop.objectives.autodiff import Autodiff
from specop.objectives.hidden import Access, generator_access

__all__ = ["Source", "as_batches"]

# Batches after which a data set that does not say how many it has may be one without an end.
_MANY = 10_000
# A loader holds a sampler of batches, which holds a sampler of samples; and a data set, which may hold another.
_DEPTH = 2
_OF_MODULE = " Of a data module pass a loader: data.setup('fit'), then data.train_dataloader()."


class Source:
    """Batches as the user gives them, which do not change from one pass to the next.

    They are fingerprinted in the first pass, and kept as long as they fit into the budget, so that a loader is read
    once and what it shuffles or augments is drawn once. Beyond the budget they are read again in each pass, and a pass
    that differs from the first raises.

    Parameters
    ----------
    data : batch or re-iterable of batches
        A tuple, a mapping, a dataclass, an array or None is one batch; any other iterable is an iterable of batches.
    autodiff : Autodiff
        Derivatives of the model's framework, which knows what its batches hold.
    budget : MemoryBudget
        Memory that kept batches may take. Those of a list are the user's own and cost nothing.
    """

    def __init__(self, data: Any, autodiff: Autodiff, budget: MemoryBudget) -> None:
        self._autodiff = autodiff
        self._budget = budget
        self._batches = as_batches(data)
        self._in_memory = isinstance(self._batches, (list, tuple))
        self._is_read = False
        self._is_numbered = False
        self._kept: list[Any] | None = None
        self._seen: list[tuple[int, ...]] = []
        self._versions: list[tuple[Any, ...]] = []

    def __iter__(self) -> Iterator[Any]:
        if not self._is_read:
            return self._first_pass()
        return self._replay() if self._kept is None else iter(self._kept)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_versions": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        kept = self._kept or []
        self._versions = [self._autodiff.batch_versions(batch) for batch in kept]
        if not self._in_memory and kept:
            self._budget.reserve(self, sum(map(self._autodiff.batch_bytes, kept)))

    @property
    def are_kept(self) -> bool:
        """Whether batches are held, not read again in each pass."""
        return self._kept is not None

    def check_unchanged(self) -> None:
        """Raise NondeterministicError if batches that are kept were written into since the first pass."""
        for number, (batch, versions) in enumerate(zip(self._kept or [], self._versions, strict=False)):
            if self._autodiff.batch_versions(batch) != versions:
                raise NondeterministicError(
                    f"batch {number} was written into after it was read, so products would belong to neither the old "
                    f"nor the new data. Make a new objective for the new data, and leave the old one's arrays alone."
                )

    def check_numbered(self) -> None:
        """Raise NondeterministicError if each pass over the user's data gives other samples, or another order of them.

        What is kept stays the same, but the number of a sample in it says nothing of the user's data set.
        """
        if self._in_memory or self._is_numbered:
            return
        with self.random_states_preserved():
            # Two passes, since random states were put back after the first one.
            passes = [next(iter(self._batches)) for _ in range(2)]
            sums = [self._autodiff.batch_fingerprint(batch) for batch in passes]
        if sums[0] != sums[1]:
            raise NondeterministicError(
                "samples are numbered in the order in which they were read, and the loader shuffles, augments or "
                "samples: another pass gives others, so that no number belongs to a sample of the data set. Pass a "
                "loader with shuffle=False and fixed transforms, or list(loader), whose batches stay."
            )
        self._is_numbered = True

    @contextmanager
    def random_states_preserved(self) -> Iterator[None]:
        """Put random states back on leaving.

        Loaders draw from the global generators, if only for their own seed, and from generators of their own, which
        they may share with the loader that a model is trained on.
        """
        python, legacy = random.getstate(), np.random.get_state()
        own = [(put, read()) for read, put in _generators(self._batches)]
        try:
            with self._autodiff.preserved():
                yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)
            for put, state in own:
                put(state)

    def _first_pass(self) -> Iterator[Any]:
        kept: list[Any] | None = []
        room, held = self._budget.room(), 0
        seen: list[tuple[int, ...]] = []
        expected = max(_MANY, 2 * _length(self._batches))
        for batch in self._batches:
            if len(seen) == expected:
                _warn_of_no_end(self._batches, expected)
            if not self._in_memory:
                seen.append(self._autodiff.batch_fingerprint(batch))
                held += self._autodiff.batch_bytes(batch)
                if held > room:
                    kept = None
            if kept is not None:
                kept.append(batch)
            yield batch
        self._kept, self._seen, self._is_read = kept, seen, True
        self._versions = [self._autodiff.batch_versions(batch) for batch in kept or []]
        if kept is not None:
            self._budget.reserve(self, held)

    def _replay(self) -> Iterator[Any]:
        count = 0
        for batch in self._batches:
            same = count < len(self._seen) and self._autodiff.batch_fingerprint(batch) == self._seen[count]
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


def _length(batches: Iterable[Any]) -> int:
    """Return how many batches there are, zero where nothing tells."""
    try:
        return operator.length_hint(batches)
    except NotImplementedError:
        # As of a loader over a stream.
        return 0


def _warn_of_no_end(batches: Iterable[Any], count: int) -> None:
    told = _length(batches)
    said = f", of which it says there are {told}," if told else ""
    warnings.warn(
        f"data is a {type(batches).__name__} that has given {count} batches{said} and has not ended. "
        f"Every product is a pass over all of them. If there is no end, interrupt, and pass "
        f"list(itertools.islice(data, 100)) for the first 100; otherwise a part of the data may be enough.",
        UserWarning,
        stacklevel=level_of_user(),
    )


def _generators(batches: Any) -> list[Access]:
    """Return what reads and what sets the state of each generator that a loader, its sampler or its data set holds."""
    found: dict[int, Access] = {}
    waiting, seen = [(batches, 0)], set[int]()
    while waiting:
        holder, depth = waiting.pop()
        if id(holder) in seen or isinstance(holder, (list, tuple, dict)) or not hasattr(holder, "__dict__"):
            continue
        seen.add(id(holder))
        for value in vars(holder).values():
            access = generator_access(value)
            if access is not None:
                found[id(value)] = access
            elif depth < _DEPTH:
                waiting.append((value, depth + 1))
    return list(found.values())


def as_batches(data: Any) -> Iterable[Any]:
    """Return what gives the batches of data in each pass, or raise InvalidInputError."""
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
            f"mapping, a dataclass or an array.{_OF_MODULE * hasattr(data, 'train_dataloader')}"
        )
    # Not iter(data) is data: a data loader's iter() starts its workers and draws a random seed.
    if isinstance(data, Iterator):
        raise InvalidInputError(
            f"data is a {type(data).__name__}, which can be read only once, but every product is a pass over the data. "
            f"Pass a list of its batches, or an object with __iter__ such as a data loader."
        )
    if _is_endless(data):
        raise InvalidInputError(
            f"data is a {type(data).__name__} without an end, and every product is a pass over the data. Leave "
            f"repeat() out, or pass data.take(N), the batches of an epoch."
        )
    return data


def _is_endless(data: Any) -> bool:
    """Whether data say that they repeat without an end: by a cardinality, a method or a number, of -1."""
    cardinality = getattr(data, "cardinality", None)
    return bool((cardinality() if callable(cardinality) else cardinality) == -1)
