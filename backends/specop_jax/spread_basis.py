"""A basis whose rows are spread over a mesh: blocks of rows, Gram-Schmidt, and rows that are replaced by others."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from specop.arrays.layout import Layout
from specop.arrays.rows import RowBlocks, rows_of_block
from specop.statistics.numbers import Floats
from specop_jax import kernels
from specop_jax import mapped as spread_kernels
from specop_jax.arrays import STRIP, Part, padded_size
from specop_jax.mapped import mapped
from specop_jax.order import Order

__all__ = ["SpreadBasis"]

_BETA, _SQUARES = 0, 1


class SpreadBasis(RowBlocks):
    """Rows in one order on a mesh.

    Parameters
    ----------
    layout : Layout
        Layout of a row.
    order : Order
    capacity, lead : int
        Largest number of rows, and how many the first block holds, as `RowBlocks` takes them.
    """

    def __init__(self, layout: Layout, order: Order, capacity: int, lead: int) -> None:
        lead = min(lead, capacity)

        def empty(rows: int, columns: int) -> Array:
            rows = rows if rows == lead else rows_of_block(layout)
            return jnp.zeros((rows, order.padded), dtype=layout.dtype, device=order.sharding(2))

        super().__init__(layout, capacity, lead, empty)
        self.order = order
        self.mesh = order.mesh

    def set_row(self, i: int, row: Array, alpha: float) -> None:
        """Set row `i` to ``alpha row``."""
        self.grow(i + 1)
        number, offset = self.locate(i)
        set_row = mapped(self.mesh, kernels.set_row, "mava>m", donate=True)
        self.blocks[number] = set_row(self.blocks[number], offset, row, float(alpha))

    def row(self, i: int) -> Array:
        """Return what holds row `i`."""
        number, offset = self.locate(i)
        found: Array = mapped(self.mesh, kernels.row, "ma>v")(self.blocks[number], offset)
        return found

    def orthogonalize(self, x: Array, k: int, near: Sequence[int]) -> tuple[Array, Part, Part, Part]:
        """Return what `Primitives.orthogonalize_` does, of what holds a vector in this order.

        Each device adds up in a buffer of its own. Two sums over the devices make a step: of the near rows'
        coefficients, and of all rows' together with the square of what was left.
        """
        mesh, blocks = self.mesh, self.blocks
        begin = 2 + len(near)
        size = padded_size(begin + sum(map(len, blocks)))
        partial = jnp.zeros(size * mesh.devices.size, dtype=x.dtype, device=self.order.sharding())
        buffer = jnp.zeros(size, dtype=x.dtype, device=NamedSharding(mesh, PartitionSpec()))
        add_up = mapped(mesh, spread_kernels.add_up, "v>a")
        if near:
            rows = [self.row(i) for i in near]
            for slot, row in enumerate(rows, start=2):
                partial = mapped(mesh, kernels.store_dot, "vavv>v", donate=True)(partial, slot, row, x)
            buffer = add_up(partial)
            for slot, row in enumerate(rows, start=2):
                x = mapped(mesh, kernels.subtract, "vaav>v", donate=True)(x, buffer, slot, row)
        meeting = [(blocks[number], begin + first, k - first) for number, first in self.meeting(0, k)]
        if meeting:
            for block, at, count in meeting:
                partial = mapped(mesh, kernels.coefficients, "vamav>v", donate=True)(partial, at, block, count, x)
            partial = mapped(mesh, spread_kernels.store_squares, "vv>v", _SQUARES)(partial, x)
            buffer = add_up(partial)
            for block, at, count in meeting:
                x = mapped(mesh, kernels.subtract_rows, "vmaaa>v", donate=True)(x, block, count, buffer, at)
            buffer = mapped(mesh, spread_kernels.store_remainder, "avaa>a", _BETA, _SQUARES)(buffer, x, begin, k)
        else:
            buffer = mapped(mesh, spread_kernels.store_norm, "av>a", _BETA)(buffer, x)
        return x, Part(buffer, slice(2, begin)), Part(buffer, slice(begin, begin + k)), Part(buffer, _BETA)

    def combine(self, coefficients: Floats, start: int) -> None:
        """Replace the rows from `start` on as `Primitives.combine_` does."""
        m, p = coefficients.shape
        blocks, order, dtype = self.blocks, self.order, self.layout.dtype
        size, devices = padded_size(sum(map(len, blocks))), int(self.mesh.devices.size)
        weights = np.zeros((size, size), dtype=dtype)
        weights[start : start + m, start : start + p] = coefficients
        targets = self.meeting(start, start + p)
        width = min(order.local, STRIP)
        add_products = mapped(self.mesh, kernels.add_products, "maaama>m", donate=True)
        replace = mapped(self.mesh, kernels.replace, "mmaaaa>m", donate=True)
        for done in range(0, order.local, width):
            column = min(done, order.local - width)
            strips = []
            for number, target in targets:
                shape = (len(blocks[number]), width * devices)
                strip = jnp.zeros(shape, dtype=dtype, device=order.sharding(2))
                for other, source in self.meeting(start, start + m):
                    strip = add_products(strip, weights, source, target, blocks[other], column)
                strips.append(strip)
            for (number, target), strip in zip(targets, strips, strict=True):
                low, high = start - target, start + p - target
                blocks[number] = replace(blocks[number], strip, column, done, low, high)
