"""A basis of immutable blocks: what is stored is never written again."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import Tensor

from specop.arrays.layout import Layout
from specop.arrays.rows import rows_of_block

__all__ = ["Basis"]

_CHUNK = 16_384


class Basis:
    """Rows of equal length in blocks as `rows_of_block` says, each one tensor of shape (chunks, rows, width).

    TensorFlow copies a whole variable on each read after the first write into a part of it, so rows are appended, not
    written. A new row is a block of its own, and two blocks of equal size become one: of eight rows to a block, three
    copies of a row in all, and never more than three blocks beside the full ones.

    A row is cut into chunks, padded with zeros, so that one batched matrix product adds up each chunk by itself.

    Parameters
    ----------
    layout : Layout
        Layout of a row.
    capacity : int
        Largest number of rows.
    """

    def __init__(self, layout: Layout, capacity: int) -> None:
        self.layout = layout
        self.capacity = capacity
        self.blocks: list[Tensor] = []
        self._of_block = rows_of_block(layout)
        self.chunks = max(1, -(-layout.n // _CHUNK))
        self.width = -(-layout.n // self.chunks)
        self._shape = tf.constant([self.chunks, self.width])

    def __len__(self) -> int:
        return sum(int(block.shape[1]) for block in self.blocks)

    def fold(self, vector: Tensor) -> Tensor:
        """Return a vector as a (chunks, width) array, padded with zeros."""
        missing = self.chunks * self.width - self.layout.n
        padded = tf.pad(vector, [[0, missing]]) if missing else vector
        return tf.reshape(padded, self._shape)

    def unfold(self, folded: Tensor) -> Tensor:
        """Return the vector that `fold` was given."""
        vector = tf.squeeze(folded, 0) if self.chunks == 1 else tf.reshape(folded, [-1])
        return vector if vector.shape[0] == self.layout.n else vector[: self.layout.n]

    def row(self, i: int) -> Tensor:
        """Return row `i` as a vector."""
        number, offset = self._place(i)
        return self.unfold(tf.gather(self.blocks[number], offset, axis=1))

    def set_row(self, i: int, folded: Tensor) -> None:
        """Append row `i`, or put it in the place of the one that is there."""
        new = tf.expand_dims(folded, 1)
        if i < len(self):
            number, offset = self._place(i)
            block = self.blocks[number]
            self.blocks[number] = tf.concat([block[:, :offset], new, block[:, offset + 1 :]], axis=1)
            return
        if i > len(self) or i >= self.capacity:
            raise IndexError(f"row {i} cannot follow {len(self)} rows in a basis with a capacity of {self.capacity}.")
        self.blocks.append(new)
        while len(self.blocks) > 1 and self.blocks[-2].shape[1] == self.blocks[-1].shape[1] < self._of_block:
            last = self.blocks.pop()
            self.blocks[-1] = tf.concat([self.blocks[-1], last], axis=1)

    def parts(self, start: int, stop: int) -> list[tuple[slice, Tensor]]:
        """Return, for every block that meets rows `start` to `stop`, its place in that range and those rows."""
        found, first = [], 0
        for block in self.blocks:
            count = int(block.shape[1])
            low, high = max(start, first), min(stop, first + count)
            if low < high:
                inside = block if high - low == count else block[:, low - first : high - first]
                found.append((slice(low - start, high - start), inside))
            first += count
        return found

    def replace(self, start: int, blocks: list[Tensor]) -> None:
        """Put these blocks in the place of all rows from `start` on."""
        self.blocks = [block for _, block in self.parts(0, start)] + blocks

    def _place(self, i: int) -> tuple[int, int]:
        for number, block in enumerate(self.blocks):
            if i < block.shape[1]:
                return number, i
            i -= int(block.shape[1])
        raise IndexError(f"there is no row {i} beyond the {len(self)} rows of this basis.")
