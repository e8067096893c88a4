"""The array primitives of specop for JAX arrays that are spread over the devices of a mesh.

Every primitive runs on each device's own part; what has to cross devices is written out here and in `mapped`, so that
no vector is ever gathered without a word.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from specop.arrays.backend import Backend
from specop.arrays.layout import Layout
from specop.arrays.rows import RowBlocks, rows_of_block
from specop.errors import InvalidInputError
from specop.statistics.numbers import Floats, Integers
from specop_jax import kernels
from specop_jax import mapped as spread_kernels
from specop_jax.arrays import (
    STRIP,
    JaxBackend,
    Part,
    alive,
    backend,
    enable_x64,
    padded_size,
    placed_rows,
    require_precision,
    require_transfers,
)
from specop_jax.mapped import mapped
from specop_jax.memory import free_memory
from specop_jax.order import Order, Spread, device_of_process, names_by_dimension
from specop_jax.spread import SpreadArray, hosted, is_spread, mesh_of, order_of, wrapped

__all__ = ["SpreadBackend", "backend_for", "backend_on"]

_BETA, _SQUARES = 0, 1


class SpreadBackend(JaxBackend):
    """`specop.arrays.Backend` for float32 and float64 arrays on the devices of one mesh.

    Parameters
    ----------
    mesh : Mesh
    """

    conversion = "jax.device_put(jax.numpy.asarray(x, '{dtype}'), jax.sharding.NamedSharding(mesh, P()))"

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.array_type = (Array, SpreadArray)  # type: ignore[assignment]
        self.device = device_of_process(mesh)
        self.everywhere = NamedSharding(mesh, PartitionSpec())

    def spread(self, order: Order | None = None) -> Spread:
        """Return the sharding of a layout on this mesh."""
        return Spread(self.mesh, order)

    def layout(self, array: Any) -> Layout:
        require_precision(array.dtype, "a vector")
        if isinstance(array, jax.core.Tracer):
            return Layout(array.shape[-1], array.dtype, self.device, self.spread())
        order = order_of(alive_rows(array, "a vector"), self.mesh)
        return Layout(array.shape[-1], array.dtype, self.device, self.spread(order))

    def check_vector(self, x: Any, layout: Layout, what: str) -> None:
        require_precision(layout.dtype, "the operator")
        require_transfers()
        if not isinstance(x, (Array, SpreadArray)):
            raise self._refusal(what, f"be a jax.Array on {layout.sharding}", type(x).__name__, layout)
        if not isinstance(x, jax.core.Tracer) and not is_spread(alive_rows(x, what)):
            raise InvalidInputError(
                f"{what} must be spread over {layout.sharding}, got one on {next(iter(x.sharding.device_set))}. Put "
                f"it there with jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())), or "
                f"make it of a parameter structure with flatten; specop never moves a vector between devices by itself."
            )
        found = mesh_of(x) if not isinstance(x, jax.core.Tracer) else self.mesh
        if found != self.mesh:
            raise InvalidInputError(
                f"{what} must be spread over {layout.sharding}, got one whose sharding is {x.sharding}. Put it there "
                f"with jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))."
            )
        if self.shape(x) != (layout.n,):
            raise InvalidInputError(f"{what} must have shape ({layout.n},), got {self.shape(x)}.")
        if x.dtype != layout.dtype:
            raise self._refusal(what, f"have dtype {layout.dtype}", str(x.dtype), layout)

    # What users hold, and what devices do
    def rows_of(self, array: Any, order: Order) -> Array:
        """Return the array that holds a vector, or rows, in an order: each device has its own entries."""
        if isinstance(array, SpreadArray) and not array.is_transposed:
            return array.rows if array.order == order else self._moved(array.rows, array.order, order)
        if isinstance(array, SpreadArray):
            array = self._placed(hosted(array), Order.plain(self.mesh, array.shape[-1]))
            return self.rows_of(array, order)
        plain = Order.plain(self.mesh, array.shape[-1])
        if plain.is_whole:
            rows = self._on_mesh(array, plain.sharding(array.ndim))
        elif array.ndim > 1 and not isinstance(array, jax.core.Tracer) and not array.is_fully_replicated:
            raise InvalidInputError(
                f"rows of length {plain.n} cannot be cut evenly over {self.mesh.devices.size} devices, and the array "
                f"of shape {array.shape} is spread as {array.sharding.spec}. Put it on all of them with jax.device_put("
                f"array, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())), or fill rows up with zeros."
            )
        else:
            # No sharding of JAX's is uneven: all devices have all of it already.
            fill = self._mapped(spread_kernels.filled, f"a>{self._kind(array)}", plain.local)
            rows = fill(self._on_mesh(array, self.everywhere))
        return rows if order == plain else self._moved(rows, plain, order)

    def vector(self, array: Any) -> tuple[Array, Order]:
        """Return what holds an array, and its order."""
        order = order_of(array, self.mesh)
        return self.rows_of(array, order), order

    def _on_mesh(self, array: Any, sharding: NamedSharding) -> Array:
        return array if getattr(array, "sharding", None) == sharding else jax.device_put(array, sharding)

    def _moved(self, rows: Array, old: Order, new: Order) -> Array:
        source = np.full(new.padded, -1, np.int64)
        source[new.places] = old.places
        kind = self._kind(rows)
        return self._mapped(spread_kernels.moved, f"a{kind}>{kind}")(source, rows)

    def _mapped(self, kernel: Any, kinds: str, *static: Any, donate: bool = False) -> Any:
        return mapped(self.mesh, kernel, kinds, *static, donate=donate)

    def _kind(self, rows: Array) -> str:
        return "avmc"[rows.ndim]

    def _placed(self, values: NDArray[Any], order: Order) -> Any:
        physical = order.to_physical(values)
        sharding = order.sharding(physical.ndim)
        return wrapped(jax.make_array_from_callback(physical.shape, sharding, lambda place: physical[place]), order)

    # Vectors
    def dot(self, x: Any, y: Any) -> Array:
        left, order = self.vector(x)
        return self._mapped(spread_kernels.dot, "vv>a")(left, self.rows_of(y, order))

    def norm(self, x: Any) -> Array:
        return self._mapped(spread_kernels.norm, "v>a")(self.vector(x)[0])

    def axpy_(self, y: Any, alpha: float, x: Any) -> Any:
        if not self.shape(y):
            return kernels.axpy(y, float(alpha), x)
        target, order = self.vector(y)
        kind = self._kind(target)
        kernel = self._mapped(kernels.axpy, f"{kind}a{kind}>{kind}", donate=True)
        return wrapped(kernel(target, float(alpha), self.rows_of(x, order)), order)

    def scale_(self, x: Any, alpha: float) -> Any:
        if not self.shape(x):
            return kernels.scale(x, float(alpha))
        return self._by_row(
            x, lambda rows, kind: self._mapped(kernels.scale, f"{kind}a>{kind}", donate=True)(rows, float(alpha))
        )

    def copy(self, x: Any) -> Any:
        if not self.shape(x):
            return kernels.copy(x)
        return self._by_row(x, lambda rows, kind: self._mapped(kernels.copy, f"{kind}>{kind}")(rows))

    def _by_row(self, x: Any, function: Any) -> Any:
        """Apply what neither knows nor changes the places of entries to rows, also to those of a transposed matrix."""
        if _has_long_columns(x):
            return self._by_row(x.T, function).T
        rows, order = self.vector(x)
        return wrapped(function(rows, self._kind(rows)), order)

    def multiply(self, x: Any, y: Any) -> Any:
        rows, order = self.vector(x)
        kind = self._kind(rows)
        return wrapped(self._mapped(kernels.multiply, f"{kind}{kind}>{kind}")(rows, self.rows_of(y, order)), order)

    def clip(self, x: Any, low: float, high: float) -> Any:
        rows, order = self.vector(x)
        return wrapped(self._mapped(spread_kernels.clip, "vvaa>v")(rows, _valid(order), low, high), order)

    def free_memory(self, layout: Layout) -> int:
        own = [device for device in self.mesh.devices.flat if device.process_index == jax.process_index()]
        free = min(map(free_memory, own))
        # Virtual devices have the memory of the processor together.
        return free // len(own) if own[0].platform == "cpu" else free

    def row_bytes(self, layout: Layout) -> int:
        return self._order(layout).local * layout.dtype.itemsize

    def zeros(self, layout: Layout) -> Any:
        order = self._order(layout)
        return wrapped(jnp.zeros(order.padded, layout.dtype, device=order.sharding()), order)

    def gather(self, x: Any, indices: Integers) -> Any:
        rows, order = self.vector(x)
        chosen = Order.plain(self.mesh, len(indices))
        source = np.full(chosen.padded, -1, np.int64)
        source[: len(indices)] = order.places[np.asarray(indices)]
        return wrapped(
            self._mapped(spread_kernels.moved, f"a{self._kind(rows)}>{self._kind(rows)}")(source, rows), chosen
        )

    def scatter(self, x: Any, indices: Integers, layout: Layout) -> Any:
        rows, order = self.vector(x)
        whole = self._order(layout)
        source = np.full(whole.padded, -1, np.int64)
        source[whole.places[np.asarray(indices)]] = order.places
        return wrapped(self._mapped(spread_kernels.moved, "av>v")(source, rows), whole)

    def section(self, x: Any, start: int, stop: int) -> Any:
        return self.gather(x, np.arange(start, stop, dtype=np.intp))

    # A basis
    def allocate(self, layout: Layout, capacity: int, lead: int) -> RowBlocks:
        lead, order = min(lead, capacity), self._order(layout)

        def empty(rows: int, columns: int) -> Array:
            rows = rows if rows == lead else rows_of_block(layout)
            return jnp.zeros((rows, order.padded), dtype=layout.dtype, device=order.sharding(2))

        return RowBlocks(layout, capacity, lead, empty)

    def set_row_(self, basis: RowBlocks, i: int, x: Any, alpha: float) -> RowBlocks:
        basis.grow(i + 1)
        number, offset = basis.locate(i)
        row = self.rows_of(x, self._order(basis.layout))
        set_row = self._mapped(kernels.set_row, "mava>m", donate=True)
        basis.blocks[number] = set_row(basis.blocks[number], offset, row, float(alpha))
        return basis

    def row(self, basis: RowBlocks, i: int) -> Any:
        return wrapped(self._row(basis, i), self._order(basis.layout))

    def _row(self, basis: RowBlocks, i: int) -> Array:
        number, offset = basis.locate(i)
        return self._mapped(kernels.row, "ma>v")(basis.blocks[number], offset)

    def orthogonalize_(self, x: Any, basis: RowBlocks, k: int, near: Sequence[int]) -> tuple[Any, Part, Part, Part]:
        # Each device adds up in a buffer of its own. Two sums over the devices make a step: of the near rows'
        # coefficients, and of all rows' together with the square of what was left.
        order = self._order(basis.layout)
        x = self.rows_of(x, order)
        begin = 2 + len(near)
        size = padded_size(begin + sum(map(len, basis.blocks)))
        partial = jnp.zeros(size * self.mesh.devices.size, dtype=x.dtype, device=order.sharding())
        buffer = jnp.zeros(size, dtype=x.dtype, device=self.everywhere)
        add_up = self._mapped(spread_kernels.add_up, "v>a")
        if near:
            rows = [self._row(basis, i) for i in near]
            for slot, row in enumerate(rows, start=2):
                partial = self._mapped(kernels.store_dot, "vavv>v", donate=True)(partial, slot, row, x)
            buffer = add_up(partial)
            for slot, row in enumerate(rows, start=2):
                x = self._mapped(kernels.subtract, "vaav>v", donate=True)(x, buffer, slot, row)
        blocks = [(basis.blocks[number], begin + first, k - first) for number, first in basis.meeting(0, k)]
        if blocks:
            for block, at, count in blocks:
                partial = self._mapped(kernels.coefficients, "vamav>v", donate=True)(partial, at, block, count, x)
            partial = self._mapped(spread_kernels.store_squares, "vv>v", _SQUARES)(partial, x)
            buffer = add_up(partial)
            for block, at, count in blocks:
                x = self._mapped(kernels.subtract_rows, "vmaaa>v", donate=True)(x, block, count, buffer, at)
            buffer = self._mapped(spread_kernels.store_remainder, "avaa>a", _BETA, _SQUARES)(buffer, x, begin, k)
        else:
            buffer = self._mapped(spread_kernels.store_norm, "av>a", _BETA)(buffer, x)
        coefficients = Part(buffer, slice(begin, begin + k))
        return wrapped(x, order), Part(buffer, slice(2, begin)), coefficients, Part(buffer, _BETA)

    def combine_(self, basis: RowBlocks, coefficients: Floats, start: int) -> RowBlocks:
        m, p = coefficients.shape
        layout, blocks, order = basis.layout, basis.blocks, self._order(basis.layout)
        size, devices = padded_size(sum(map(len, blocks))), int(self.mesh.devices.size)
        weights = np.zeros((size, size), dtype=layout.dtype)
        weights[start : start + m, start : start + p] = coefficients
        targets = basis.meeting(start, start + p)
        width = min(order.local, STRIP)
        add_products = self._mapped(kernels.add_products, "maaama>m", donate=True)
        replace = self._mapped(kernels.replace, "mmaaaa>m", donate=True)
        for done in range(0, order.local, width):
            column = min(done, order.local - width)
            strips = []
            for number, target in targets:
                shape = (len(blocks[number]), width * devices)
                strip = jnp.zeros(shape, dtype=layout.dtype, device=order.sharding(2))
                for other, source in basis.meeting(start, start + m):
                    strip = add_products(strip, weights, source, target, blocks[other], column)
                strips.append(strip)
            for (number, target), strip in zip(targets, strips, strict=True):
                low, high = start - target, start + p - target
                blocks[number] = replace(blocks[number], strip, column, done, low, high)
        return basis

    def take(self, basis: RowBlocks, k: int) -> Any:
        if k == basis.lead:
            return wrapped(basis.blocks[0], self._order(basis.layout))
        return self.stack([self.row(basis, i) for i in range(k)])

    # Matrices
    def stack(self, rows: Sequence[Any]) -> Any:
        first, order = self.vector(rows[0])
        others = [self.rows_of(row, order) for row in rows[1:]]
        kinds = "v" * len(rows) + ">m"
        return wrapped(self._mapped(spread_kernels.stack, kinds)(first, *others), order)

    def stack_columns(self, vectors: Sequence[Any]) -> Any:
        return self.transpose(self.stack(vectors))

    def transpose(self, matrix: Any) -> Any:
        return matrix.T

    def columns(self, block: Any) -> list[Any]:
        rows = self.transpose(block)
        return [self.index(rows, i) for i in range(self.shape(rows)[0])]

    def index(self, matrix: Any, i: int) -> Any:
        if len(self.shape(matrix)) != 2 or (isinstance(matrix, SpreadArray) and matrix.is_transposed):
            found = hosted(matrix)[i]
            return self._placed(found, Order.plain(self.mesh, found.shape[-1]))
        rows, order = self.vector(matrix)
        return wrapped(self._mapped(kernels.row, "ma>v")(rows, i), order)

    def apply_rows(self, matrix: Any, x: Any) -> Any:
        if _has_long_columns(matrix):
            return self.combine_rows(self.transpose(matrix), x)
        rows, order = self.vector(matrix)
        found = Order.plain(self.mesh, rows.shape[0])
        apply_rows = self._mapped(spread_kernels.apply_rows_spread, "mv>v", found.padded)
        return wrapped(apply_rows(rows, self.rows_of(x, order)), found)

    def combine_rows(self, matrix: Any, y: Any) -> Any:
        if len(self.shape(y)) > 1:
            columns = [self.combine_rows(matrix, column) for column in self.columns(y)]
            return self.stack_columns(columns)
        if _has_long_columns(matrix):
            return self.apply_rows(self.transpose(matrix), y)
        rows, order = self.vector(matrix)
        inner = self.rows_of(y, Order.plain(self.mesh, rows.shape[0]))
        return wrapped(self._mapped(spread_kernels.combine_rows, "mv>v")(rows, inner), order)

    def row_products(self, x: Sequence[Any], y: Sequence[Any]) -> Floats:
        order = self.vector(x[0])[1]
        left = [self.rows_of(rows, order) for rows in x]
        right = left if y is x else [self.rows_of(rows, order) for rows in y]
        total = np.empty((sum(map(len, left)), sum(map(len, right))))
        with enable_x64(True):
            product = self._mapped(spread_kernels.row_products, "mm>a")
            for i, one in placed_rows(left):
                for j, other in placed_rows(right):
                    total[i, j] = np.asarray(product(one, other))
        return total

    def block_products(self, rows: Any, size: int) -> Floats:
        return Backend.block_products(self, rows, size)

    def apply_blocks(self, blocks: Any, x: Any) -> Any:
        return Backend.apply_blocks(self, blocks, x)

    def cast(self, x: Any, dtype: np.dtype[Any]) -> Any:
        return self._by_row(
            x, lambda rows, kind: self._mapped(spread_kernels.cast, f"{kind}>{kind}", np.dtype(dtype))(rows)
        )

    # Exchange with the host
    def to_host(self, *arrays: Any) -> list[Floats]:
        long = {i for i, array in enumerate(arrays) if not isinstance(array, Part) and self.shape(array)}
        short = iter(
            super().to_host(*[array for i, array in enumerate(arrays) if i not in long])
            if len(long) < len(arrays)
            else ()
        )
        return [
            np.array(hosted(array), dtype=np.float64) if i in long else next(short) for i, array in enumerate(arrays)
        ]

    def from_host(self, array: NDArray[Any], layout: Layout) -> Any:
        require_precision(layout.dtype, "a vector")
        require_transfers()
        values = np.asarray(array, dtype=layout.dtype)
        spread = layout.sharding
        return self._placed(np.array(values), spread.order_of(values.shape[-1]))

    def to_numpy(self, x: Any) -> NDArray[Any]:
        return np.array(hosted(x))

    def _order(self, layout: Layout) -> Order:
        order: Order = layout.sharding.order_of(layout.n)
        return order


@functools.cache
def backend_on(mesh: Mesh) -> SpreadBackend:
    """Return the primitives for arrays on a mesh, or raise InvalidInputError if other processes have devices of it."""
    count = len({device.process_index for device in mesh.devices.flat})
    if count > 1:
        raise InvalidInputError(
            f"arrays that are spread over the devices of {count} processes are not available yet. Spread them over "
            f"those of one process, with a mesh of jax.local_devices(); for an objective pass parallel=False besides."
        )
    return SpreadBackend(mesh)


def backend_for(array: Any) -> JaxBackend:
    """Return the primitives for an array as it lies: on one device, or spread over several."""
    if not is_spread(array):
        return backend
    mesh = mesh_of(array)
    if mesh is None:
        raise InvalidInputError(
            f"the array is spread over {len(array.sharding.device_set)} devices by {type(array.sharding).__name__}, "
            f"which names no mesh. Put it on one with jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))."
        )
    return backend_on(mesh)


def alive_rows(array: Any, what: str) -> Any:
    """Return an array that has its numbers, or raise InvalidInputError."""
    alive(array.rows if isinstance(array, SpreadArray) else array, what)
    return array


@functools.lru_cache(8)
def _valid(order: Order) -> Array:
    """Return where a padded array has entries."""
    there = order.to_physical(np.ones(order.n, bool))
    return jax.make_array_from_callback(there.shape, order.sharding(), lambda place: there[place])


def _has_long_columns(matrix: Any) -> bool:
    """Whether a matrix is cut along its columns, not along its rows."""
    if isinstance(matrix, (SpreadArray, jax.core.Tracer)) or matrix.ndim != 2:
        return isinstance(matrix, SpreadArray) and matrix.is_transposed
    first, last = names_by_dimension(matrix.sharding.spec, 2)
    return bool(first) and not last
