"""How a row is known again when it is to be removed, whether or not it is still held."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array, Backend
from specop.arrays.layout import Layout
from specop.errors import InvalidInputError, NonFiniteError
from specop.statistics.numbers import Floats, Integers

__all__ = ["RowMarks"]

_PRODUCTS = 2
# Marks that differ by fewer roundings, relative to the length of the row, are of the same row.
_SAME = 1000


class RowMarks:
    """Products of each row with two vectors of random signs, on the host.

    Parameters
    ----------
    backend : Backend
        Backend of the rows.
    layout : Layout
        Layout of a row.
    """

    def __init__(self, backend: Backend, layout: Layout) -> None:
        self._backend = backend
        self._layout = layout
        self._signs = [probes.rademacher(backend, layout, 0, i) for i in range(_PRODUCTS)]
        self._marks = np.zeros((0, _PRODUCTS))

    def __len__(self) -> int:
        return len(self._marks)

    def of(self, block: Array) -> Floats:
        """Return the marks of a native (b, n) block, whose rows must be finite and follow the layout."""
        self._backend.check_vector(self._backend.index(block, 0), self._layout, "each row")
        products = self._backend.to_host(*(self._backend.apply_rows(block, signs) for signs in self._signs))
        marks = np.stack(products, axis=1)
        wrong = np.flatnonzero(~np.isfinite(marks).all(axis=1))
        if len(wrong):
            raise NonFiniteError(
                f"row {wrong[0]} of a block of {len(marks)} holds NaN or infinity, or overflows {self._layout.dtype}; "
                f"none of them was used. Check the parameters and the data for NaN."
            )
        return marks

    def add(self, marks: Floats) -> None:
        """Note that rows with these marks have come."""
        self._marks = np.concatenate([self._marks, marks])

    def check_latest(self, count: int, blocks: Iterable[Array]) -> None:
        """Raise unless the latest rows, held in these blocks, are what they were when they came."""
        start = len(self._marks) - count
        for block in blocks:
            marks = self.of(block)
            known = self._marks[start : start + len(marks)]
            allowed = _SAME * self._layout.epsilon * np.linalg.norm(known, axis=1)
            changed = np.flatnonzero(~(np.abs(marks - known).max(axis=1) <= allowed))
            if len(changed):
                raise InvalidInputError(
                    f"row {start + changed[0]} was written to after it was added. Rows are kept by reference: pass a "
                    f"copy of a buffer that is used again."
                )
            start += len(marks)

    def found(self, marks: Floats) -> Integers:
        """Return which rows have these marks, each row at most once, or raise InvalidInputError."""
        free = np.ones(len(self._marks), dtype=bool)
        found = []
        for number, mark in enumerate(marks):
            distance = np.where(free, np.abs(self._marks - mark).max(axis=1), np.inf)
            nearest = int(np.argmin(distance)) if len(distance) else -1
            if nearest < 0 or not distance[nearest] <= _SAME * self._layout.epsilon * np.linalg.norm(mark):
                raise InvalidInputError(
                    f"row {number} of those to remove is not among the {int(free.sum())} rows in the sum, or not as "
                    f"often. Pass rows as they were added."
                )
            free[nearest] = False
            found.append(nearest)
        return np.array(found, dtype=np.intp)

    def keep(self, indices: Integers) -> None:
        """Forget all other rows."""
        self._marks = self._marks[indices]
