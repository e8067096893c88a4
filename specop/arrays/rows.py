"""RowBlocks: a basis as contiguous blocks of rows, written in place or replaced one by one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from specop.arrays.layout import Layout

__all__ = ["RowBlocks", "rows_of_block"]

_BLOCK_ROWS, _MOST_BLOCK_ROWS = 8, 64
# Where a block is as small as this, what counts is how many blocks a step calls kernels for, not how much they read.
_SMALL_BYTES = 2**18
_BLOCK_BYTES = 2**28


def rows_of_block(layout: Layout) -> int:
    """Return how many rows are taken from memory together, a power of two: 64 short ones to eight, fewer large ones."""
    rows, size = _BLOCK_ROWS, layout.n * layout.dtype.itemsize
    while rows < _MOST_BLOCK_ROWS and 2 * rows * size <= _SMALL_BYTES:
        rows *= 2
    while rows > 1 and rows * size > _BLOCK_BYTES:
        rows //= 2
    return rows


class RowBlocks:
    """Rows of equal length, taken from memory a block at a time.

    A run that ends early never paid for the whole capacity, and the first `lead` rows can outlive the others:
    an eigensolver leaves its k results there and gives the rest of the basis back.

    Parameters
    ----------
    layout : Layout
        Layout of a row.
    capacity : int
        Largest number of rows.
    lead : int
        Number of rows in the first block; the following ones hold as many each as `rows_of_block` says.
    empty : callable
        ``empty(rows, columns)`` returns a native two-dimensional array of the layout's dtype and device.
    """

    def __init__(self, layout: Layout, capacity: int, lead: int, empty: Callable[[int, int], Any]) -> None:
        self.layout = layout
        self.capacity = capacity
        self.lead = min(lead, capacity)
        self.blocks: list[Any] = []
        self.of_block = rows_of_block(layout)
        self._empty = empty
        self._ends = [0]

    def grow(self, rows: int) -> None:
        """Take memory for at least `rows` rows."""
        if rows > self.capacity:
            raise IndexError(f"{rows} rows do not fit a basis with a capacity of {self.capacity}.")
        while self._ends[-1] < rows:
            count = min(self.of_block, self.capacity - self._ends[-1]) if self.blocks else self.lead
            self.blocks.append(self._empty(count, self.layout.n))
            self._ends.append(self._ends[-1] + count)

    def locate(self, i: int) -> tuple[int, int]:
        """Return the number of the block that holds row `i`, and the row's place in it."""
        if i < self.lead:
            return 0, i
        number, offset = divmod(i - self.lead, self.of_block)
        return number + 1, offset

    def row(self, i: int) -> Any:
        """Return a view of row `i`."""
        number, offset = self.locate(i)
        return self.blocks[number][offset]

    def meeting(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return number and first row of every block that meets rows `start` to `stop`."""
        bounds = enumerate(itertools.pairwise(self._ends))
        return [(number, first) for number, (first, end) in bounds if max(start, first) < min(stop, end)]

    def parts(self, start: int, stop: int) -> list[tuple[slice, Any]]:
        """Return, for every block that meets rows `start` to `stop`, its place in that range and a view."""
        found: list[tuple[slice, Any]] = []
        for number, first in self.meeting(start, stop) if start < stop else ():
            block = self.blocks[number]
            low, high = max(start, first), min(stop, self._ends[number + 1])
            found.append((slice(low - start, high - start), block[low - first : high - first]))
        return found
