"""Team: processes that have the same parameters and each a part of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from specop.arrays.backend import Array, Backend
from specop.arrays.layout import Layout
from specop.arrays.processes import Processes

__all__ = ["Team"]


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
