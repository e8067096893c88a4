"""Team: processes that have the same parameters and each a part of the data, and what they share of an objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from specop.arrays.backend import Array, Backend
from specop.arrays.layout import Layout
from specop.arrays.processes import Processes
from specop.statistics.numbers import Floats, Integers

__all__ = ["Shared", "Team", "attempt"]

T = TypeVar("T")


class Team(Protocol):
    """Processes that hold vectors together, and how such a vector is made of those that each has whole."""

    processes: Processes
    backend: Backend
    """Of the vectors that they hold together."""

    def layout(self, whole: Layout) -> Layout:
        """Return the layout of a vector that they hold together, of that which each has whole."""

    def whole(self, x: Array) -> Array:
        """Return all entries of a vector in each process."""

    def own(self, whole: Array) -> Array:
        """Return the vector that they hold together of one that is the same in each process."""

    def sum(self, part: Array | None, factor: float, whole: Layout, failed: bool) -> tuple[Array, bool]:
        """Return the sum of each process's vector times its factor, and whether any of them has failed."""

    def total(self, part: Array | None, factor: float, failed: bool) -> tuple[Array, bool]:
        """Return the sum of each process's scalar times its factor, and whether any of them has failed.

        A process without a part gives None; its dtype is then float64, as that of the others must be.
        """

    def rows(self, block: Array | None, counts: Sequence[int], whole: Layout) -> Array:
        """Return rows that they hold together, of those that each has whole, one process's after the other's.

        A process that has none gives None; `counts` are the numbers of rows.
        """

    def check_data(self, data: Any) -> None:
        """Raise InvalidInputError if data are known to be no part, such as those of a sampler that shuffles."""


class Shared(Protocol):
    """What an operator asks of the objective that it belongs to."""

    team: Team

    @property
    def is_idle(self) -> bool:
        """Whether this process has no part of the data, and only waits for what the others add up."""

    @property
    def first(self) -> int:
        """Number of this process's first sample."""

    @property
    def share(self) -> float:
        """The share of this process in all loss terms."""

    @property
    def samples(self) -> int:
        """Number of samples in the data of all processes."""

    @property
    def shares(self) -> list[float]:
        """Each process's share of all loss terms."""

    def check_alike(self) -> None:
        """Raise InvalidInputError unless all processes have the same model."""

    def sum(self, compute: Callable[[], Array], factor: float, whole: Layout) -> Array:
        """Return the sum over processes of what each computes, a vector, times its factor."""

    def all_together(self, compute: Callable[[], T]) -> list[T]:
        """Return what each process computes."""

    def importance_of(self, own: Callable[[], Floats | None]) -> Floats:
        """Return the importance of all samples, of what each process finds for its own."""

    def own_numbers(self, chosen: Integers) -> Integers:
        """Return those of some samples that this process has, by their numbers here."""


def attempt(compute: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    """Return what is computed, or the error, which the others are to hear of before it is raised."""
    try:
        return compute(), None
    except BaseException as error:
        return None, error
