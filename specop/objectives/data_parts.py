"""DataParts: which part of the data each of several processes has, and how what they compute of it is added up.

Each process computes for its own part, as if it were alone, and never waits meanwhile for the others: where one halves
its batches or looks at a first product, they need not. What they have found is added up, each times its share of all
loss terms; an error of one is an error of all.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from specop.arrays.backend import Array
from specop.arrays.layout import Layout
from specop.arrays.processes import Processes
from specop.errors import InvalidInputError
from specop.krylov.task import level_of_user
from specop.objectives.counting import no_terms, unlike
from specop.objectives.fingerprint import Fingerprint, check_apart, repeated
from specop.objectives.importance import known_weights
from specop.objectives.mean import Objective
from specop.objectives.team import Team
from specop.statistics.numbers import Floats, Integers

__all__ = ["DataParts", "checked_parts"]

T = TypeVar("T")


def checked_parts(own: Objective, team: Team) -> DataParts:
    """Return the parts that processes have of all data, or raise InvalidInputError where they are none.

    Parameters
    ----------
    own : Objective
        Objective of this process's data.
    team : Team
    """
    processes = team.processes
    with processes.together():
        team.check_data(own._data.given)
        own._data.is_part = processes.count > 1
        seen = Fingerprint.of(own._data, own._autodiff)
        told = own.terms, own.samples, own._data.first_shapes, seen
    terms, samples, shapes, prints = zip(*processes.exchange(told), strict=True)
    _check_shapes(shapes)
    check_apart(prints)
    doubt = repeated(samples, prints)
    with processes.together():
        if doubt and processes.index == 0:
            warnings.warn(doubt, UserWarning, stacklevel=level_of_user())
    found = DataParts(own, team, [*zip(terms, samples, strict=True)])
    found.check_alike()
    return found


def _check_shapes(told: Sequence[Any]) -> None:
    for number, shapes in enumerate(told):
        if shapes != told[0] and None not in (shapes, told[0]):
            raise unlike(f"the first batch of process {number}", shapes, told[0])


class DataParts:
    """Which part of the data each process has; all processes make each call together.

    Samples are numbered process after process.

    Parameters
    ----------
    own : Objective
        Objective of this process's data. A process without data has one of any data, and does not use what these give.
    team : Team
    told : sequence of (float, int)
        The numbers of loss terms and of samples of each process.
    """

    def __init__(self, own: Objective, team: Team, told: Sequence[tuple[float, int]]) -> None:
        self.own = own
        self.team = team
        self.terms, self.counts = ([*numbers] for numbers in zip(*told, strict=True))
        if not sum(self.terms) > 0:
            raise no_terms()
        if not self.is_idle:
            own._data.first_sample = self.first

    @property
    def processes(self) -> Processes:
        """Those that make each call together."""
        return self.team.processes

    @property
    def samples(self) -> int:
        """Number of samples in the data of all processes."""
        return sum(self.counts)

    @property
    def shares(self) -> list[float]:
        """Each process's share of all loss terms."""
        total = sum(self.terms)
        return [terms / total for terms in self.terms]

    @property
    def share(self) -> float:
        """The share of this process in all loss terms."""
        return self.shares[self.processes.index]

    @property
    def is_idle(self) -> bool:
        """Whether this process has no part of the data, and only waits for what the others add up."""
        return self.terms[self.processes.index] == 0

    @property
    def first(self) -> int:
        """Number of this process's first sample."""
        return sum(self.counts[: self.processes.index])

    def own_numbers(self, chosen: Integers) -> Integers:
        """Return those of some samples that this process has, by their numbers here."""
        first, count = self.first, self.counts[self.processes.index]
        return chosen[(chosen >= first) & (chosen < first + count)] - first

    def check_alike(self) -> None:
        """Raise InvalidInputError, naming arrays, unless all processes have the same model."""
        processes, autodiff = self.processes, self.own._autodiff
        if processes.count == 1:
            return
        told = processes.exchange((autodiff.names, zlib.crc32(repr(autodiff.fingerprint()).encode())))
        if all(one == told[0] for one in told):
            return
        states = processes.exchange(autodiff.named_checksums())
        other = next(number for number, one in enumerate(told) if one != told[0])
        names = [name for name in states[0] if states[other].get(name) != states[0][name]]
        names += [name for name in states[other] if name not in states[0]]
        if not names:
            raise InvalidInputError(
                f"the models of processes 0 and {other} of {processes.count} differ in the modes of their layers or in "
                f"what is selected: call model.eval() in each process, and select the same parameters."
            )
        raise InvalidInputError(
            f"the models of processes 0 and {other} of {processes.count} differ in {len(names)} parameters or buffers, "
            f"such as {names[0]!r}: their curvature would be that of no model. Send those of one to all, such as by "
            f"torch.distributed.broadcast(tensor, 0) for each; batch normalization keeps other running statistics in "
            f"each process."
        )

    # What processes compute
    def all_together(self, compute: Callable[[], T]) -> list[T]:
        """Return what each process computes."""
        with self.processes.together():
            found = compute()
        return self.processes.exchange(found)

    def attempt(self, compute: Callable[[], T]) -> tuple[T | None, BaseException | None]:
        """Return what this process computes, or the error, which the others are to hear of before it is raised."""
        if self.is_idle:
            return None, None
        try:
            return compute(), None
        except BaseException as error:
            return None, error

    def sum(self, compute: Callable[[], Array], factor: float, whole: Layout) -> Array:
        """Return the sum over processes of what each computes, a vector, times its factor."""
        part, error = self.attempt(compute)
        found, failed = self.team.sum(part, factor, whole, error is not None)
        if failed:
            self.processes.raise_together(error)
        return found

    def mean(self, part: Array | None, error: BaseException | None) -> Array:
        """Return the mean of scalars, of which each process has its own or an error, by their shares."""
        if part is not None and not all(self.terms):
            # Processes that have no loss do not know its dtype.
            part = self.own._autodiff.backend.cast(part, np.dtype(np.float64))
        found, failed = self.team.total(part, self.share, error is not None)
        if failed:
            self.processes.raise_together(error)
        return found

    def importance(self, own: Callable[[], Floats | None]) -> Floats:
        """Return the importance of all samples, of what each process finds for its own."""
        idle = np.zeros(self.counts[self.processes.index])
        told = self.all_together(lambda: idle if self.is_idle else own())
        if any(one is None for one in told):
            return known_weights(None, self.samples)
        scaled = [share * one for share, one in zip(self.shares, told, strict=True) if one is not None]
        return known_weights(np.concatenate(scaled), self.samples)
