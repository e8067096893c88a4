"""Rows as they are kept between products: as given, in half precision, or in host memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from specop.arrays.backend import Array, Backend, backend_of, lengths_of
from specop.arrays.layout import Layout
from specop.statistics.numbers import Floats

__all__ = ["StoredRows", "cut"]

# What is moved to the device or widened at a time.
_PIECE_BYTES = 2**26
_HALF = np.dtype(np.float16)


@dataclass(frozen=True)
class _Block:
    array: Any
    scale: float
    rows: int

    def __len__(self) -> int:
        return self.rows


@dataclass(frozen=True)
class StoredRows:
    """Blocks of rows, never changed: what adds or drops some returns another object on the same arrays.

    Parameters
    ----------
    backend : Backend
        Backend of the native blocks that come and are returned.
    layout : Layout
        Layout of a row.
    on_host : bool
        Whether blocks are NumPy arrays, moved to the device a piece at a time.
    half : bool
        Whether blocks are float16, each divided by a power of two that makes its longest row 128 to 256 long: the
        entries of rows of any length are then well inside the range.
    """

    backend: Backend
    layout: Layout
    on_host: bool
    half: bool
    blocks: tuple[_Block, ...] = ()

    def __len__(self) -> int:
        return sum(map(len, self.blocks))

    @property
    def are_as_given(self) -> bool:
        """Whether blocks are the user's own arrays."""
        return not (self.on_host or self.half)

    def plus(self, rows: Array) -> StoredRows:
        """Return these rows and a native (b, n) block, cut into pieces unless it is kept as given."""
        count = self.backend.shape(rows)[0]
        pieces = [_Block(rows, 1.0, count)]
        if not self.are_as_given:
            step = max(1, _PIECE_BYTES // (self.layout.n * self.layout.dtype.itemsize))
            bounds = ((start, min(start + step, count)) for start in range(0, count, step))
            pieces = [self._stored(_rows_between(self.backend, rows, *bound), bound[1] - bound[0]) for bound in bounds]
        return replace(self, blocks=(*self.blocks, *pieces))

    def only(self, numbers: list[int]) -> StoredRows:
        """Return the blocks with these numbers."""
        return replace(self, blocks=tuple(self.blocks[i] for i in numbers))

    def single(self, row: int) -> StoredRows:
        """Return one row alone."""
        for place, block in zip(self.places(), self.blocks, strict=True):
            if place.start <= row < place.stop:
                at = row - place.start
                alone = _Block(_rows_between(backend_of(block.array), block.array, at, at + 1), block.scale, 1)
                return replace(self, blocks=(alone,))
        raise IndexError(f"there is no row {row} among {len(self)}.")

    def places(self) -> list[slice]:
        """Return where each block's rows stand among all."""
        ends = list(itertools.accumulate(map(len, self.blocks)))
        return [slice(end - len(block), end) for end, block in zip(ends, self.blocks, strict=True)]

    def pieces(self, first: int = 0) -> Iterator[tuple[slice, Array]]:
        """Yield places and native (b, n) blocks of the rows, from row `first` on, which must begin a block."""
        for place, block in zip(self.places(), self.blocks, strict=True):
            if place.start >= first:
                yield place, self._load(block, slice(0, self.layout.n))

    def strips(self, columns: slice, width: int | None = None) -> Iterator[tuple[slice, list[Array]]]:
        """Yield ranges that make up some columns, with all blocks cut to them.

        Parameters
        ----------
        columns : slice
            Columns to go through.
        width : int, optional
            Number of columns in a strip; default: as many as the memory for one piece allows, or all at once where
            blocks are as given.
        """
        if width is None:
            bytes_of_column = max(1, len(self)) * self.layout.dtype.itemsize
            width = columns.stop - columns.start if self.are_as_given else max(1, _PIECE_BYTES // bytes_of_column)
        for start in range(columns.start, columns.stop, width):
            some = slice(start, min(start + width, columns.stop))
            yield some, [self._load(block, some) for block in self.blocks]

    def column(self, j: int) -> Floats:
        """Return one column on the host."""
        if not self.blocks:
            return np.zeros(0)
        home, where = backend_of(self.blocks[0].array), np.array([j], dtype=np.intp)
        parts = home.to_host(*(home.gather(block.array, where) for block in self.blocks))
        return np.concatenate([part[:, 0] * block.scale for part, block in zip(parts, self.blocks, strict=True)])

    def _stored(self, rows: Array, count: int) -> _Block:
        array, scale = rows, 1.0
        if self.half:
            lengths = lengths_of(self.backend, *(self.backend.index(rows, i) for i in range(count)))
            longest = max(*lengths, float(np.finfo(np.float32).tiny))
            scale = 2.0 ** float(np.ceil(np.log2(longest / 256)))
            array = self.backend.cast(self.backend.scale_(self.backend.copy(rows), 1.0 / scale), _HALF)
        return _Block(self.backend.to_numpy(array) if self.on_host else array, scale, count)

    def _load(self, block: _Block, columns: slice) -> Array:
        """Return some columns of a block as a native array of the rows' dtype."""
        array = block.array
        if columns != slice(0, self.layout.n):
            array = backend_of(array).section(array, columns.start, columns.stop)
        if self.on_host:
            array = self.backend.from_host(array, self.layout)
        elif self.half:
            array = self.backend.cast(array, self.layout.dtype)
        return array if block.scale == 1.0 else self.backend.scale_(array, block.scale)


def cut(backend: Backend, x: Array, columns: slice, layout: Layout) -> Array:
    """Return some entries of a vector, or of each row of a block; itself where that is all."""
    return x if columns == slice(0, layout.n) else backend.section(x, columns.start, columns.stop)


def _rows_between(backend: Backend, rows: Array, start: int, stop: int) -> Array:
    return backend.transpose(backend.section(backend.transpose(rows), start, stop))
