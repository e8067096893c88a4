"""The array primitives of specop on JAX.

Every primitive is a few compiled kernels. What changes from call to call (row numbers, counts, scalars) is an argument
of them and never a constant, so that each compiles once for a dtype and the shapes of a vector and of a block of rows.
"""

from __future__ import annotations

import copyreg
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from specop.arrays.backend import Backend, unpacked
from specop.arrays.layout import Layout
from specop.arrays.rows import RowBlocks, rows_of_block
from specop.errors import InvalidInputError
from specop.statistics.numbers import Floats, Integers
from specop_jax import kernels
from specop_jax.memory import free_memory

__all__ = [
    "STRIP",
    "JaxBackend",
    "Part",
    "alive",
    "backend",
    "enable_x64",
    "known",
    "padded_size",
    "placed_rows",
    "require_precision",
    "require_transfers",
]

# Columns that a product in place holds beside the basis.
STRIP = 262_144
_GROUP = 8
_BETA = 0
# For one call, in this thread; experimental before JAX 0.8.
enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Part:
    """Some entries of a buffer that several results share, so that one transfer brings them all.

    Its length never enters a compiled kernel: a slice would compile anew for each number of rows.
    """

    buffer: Array
    entries: slice | int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the entries."""
        return (self.entries.stop - self.entries.start,) if isinstance(self.entries, slice) else ()


class JaxBackend(Backend):
    """`specop.arrays.Backend` for float32 and float64 arrays on one device.

    `orthogonalize_` returns `Part`s, which only `to_host` reads.
    """

    name = "jax"
    array_type = Array
    conversion = "jax.device_put(jax.numpy.asarray(x, '{dtype}'), device) for the device {device}"

    dot = staticmethod(kernels.dot)
    norm = staticmethod(kernels.norm)
    copy = staticmethod(kernels.copy)
    multiply = staticmethod(kernels.multiply)
    clip = staticmethod(kernels.clip)
    gather = staticmethod(kernels.gather)
    index = staticmethod(kernels.row)
    apply_rows = staticmethod(kernels.apply_rows)
    combine_rows = staticmethod(kernels.combine_rows)
    apply_blocks = staticmethod(kernels.apply_blocks)

    def layout(self, array: Array) -> Layout:
        require_precision(array.dtype, "a vector")
        # Inside a transformation of the user's there is no device.
        device = None if isinstance(array, jax.core.Tracer) else device_of(array, "a vector")
        return Layout(array.shape[-1], array.dtype, device)

    def shape(self, x: Any) -> tuple[int, ...]:
        return tuple(getattr(x, "shape", ()))

    def axpy_(self, y: Array, alpha: float, x: Array) -> Array:
        return kernels.axpy(y, float(alpha), x)

    def scale_(self, x: Array, alpha: float) -> Array:
        return kernels.scale(x, float(alpha))

    def free_memory(self, layout: Layout) -> int:
        return free_memory(layout.device)

    def zeros(self, layout: Layout) -> Array:
        return jnp.zeros(layout.n, dtype=layout.dtype, device=layout.device)

    def scatter(self, x: Array, indices: Integers, layout: Layout) -> Array:
        return kernels.scatter(self.zeros(layout), indices, x)

    def allocate(self, layout: Layout, capacity: int, lead: int) -> RowBlocks:
        lead = min(lead, capacity)

        def empty(rows: int, columns: int) -> Array:
            # A short last block would be a third shape to compile for: it gets rows that nobody sets.
            rows = rows if rows == lead else rows_of_block(layout)
            return jnp.zeros((rows, columns), dtype=layout.dtype, device=layout.device)

        return RowBlocks(layout, capacity, lead, empty)

    def set_row_(self, basis: RowBlocks, i: int, x: Array, alpha: float) -> RowBlocks:
        basis.grow(i + 1)
        number, offset = basis.locate(i)
        basis.blocks[number] = kernels.set_row(basis.blocks[number], offset, x, float(alpha))
        return basis

    def row(self, basis: RowBlocks, i: int) -> Array:
        number, offset = basis.locate(i)
        return kernels.row(basis.blocks[number], offset)

    def orthogonalize_(self, x: Array, basis: RowBlocks, k: int, near: Sequence[int]) -> tuple[Array, Part, Part, Part]:
        # One buffer for all scalars: the norm, the near rows' coefficients, all rows' coefficients.
        begin = 1 + len(near)
        size = padded_size(begin + sum(map(len, basis.blocks)))
        buffer = jnp.zeros(size, dtype=x.dtype, device=basis.layout.device)
        rows = [self.row(basis, i) for i in near]
        for slot, row in enumerate(rows, start=1):
            buffer = kernels.store_dot(buffer, slot, row, x)
        for slot, row in enumerate(rows, start=1):
            x = kernels.subtract(x, buffer, slot, row)
        blocks = [(basis.blocks[number], begin + first, k - first) for number, first in basis.meeting(0, k)]
        for block, at, count in blocks:
            buffer = kernels.coefficients(buffer, at, block, count, x)
        for block, at, count in blocks:
            x = kernels.subtract_rows(x, block, count, buffer, at)
        buffer = kernels.store_norm(buffer, _BETA, x)
        return x, Part(buffer, slice(1, begin)), Part(buffer, slice(begin, begin + k)), Part(buffer, _BETA)

    def combine_(self, basis: RowBlocks, coefficients: Floats, start: int) -> RowBlocks:
        m, p = coefficients.shape
        layout, blocks = basis.layout, basis.blocks
        size = padded_size(sum(map(len, blocks)))
        padded = np.zeros((size, size), dtype=layout.dtype)
        padded[start : start + m, start : start + p] = coefficients
        weights = jax.device_put(padded, layout.device)
        targets = basis.meeting(start, start + p)
        width = min(layout.n, STRIP)
        for done in range(0, layout.n, width):
            # The last strip is as wide as the others: it begins with columns that are finished and stay.
            column = min(done, layout.n - width)
            strips = []
            for number, target in targets:
                strip = jnp.zeros((len(blocks[number]), width), dtype=layout.dtype, device=layout.device)
                for other, source in basis.meeting(start, start + m):
                    strip = kernels.add_products(strip, weights, source, target, blocks[other], column)
                strips.append(strip)
            for (number, target), strip in zip(targets, strips, strict=True):
                low, high = start - target, start + p - target
                blocks[number] = kernels.replace(blocks[number], strip, column, done, low, high)
        return basis

    def take(self, basis: RowBlocks, k: int) -> Array:
        return basis.blocks[0] if k == basis.lead else super().take(basis, k)

    def row_products(self, x: Sequence[Array], y: Sequence[Array]) -> Floats:
        # Pairs of blocks, because a kernel for all of them would be compiled for each number of blocks.
        total = np.empty((sum(map(len, x)), sum(map(len, y))))
        for i, left in placed_rows(x):
            for j, right in placed_rows(y):
                if y is x and j.start > i.start:
                    continue
                with enable_x64(True):
                    product = np.asarray(kernels.row_products(left, right))
                total[i, j] = product
                if y is x:
                    total[j, i] = product.T
        return total

    def block_products(self, rows: Array, size: int) -> Floats:
        with enable_x64(True):
            return np.array(kernels.block_products(rows, size))

    def cast(self, x: Array, dtype: np.dtype[Any]) -> Array:
        return jnp.array(x, dtype=dtype)

    def stack(self, rows: Sequence[Array]) -> Array:
        return jnp.stack(rows)

    def stack_columns(self, vectors: Sequence[Array]) -> Array:
        return jnp.stack(vectors, axis=1)

    def transpose(self, matrix: Array) -> Array:
        return matrix.T

    def columns(self, block: Array) -> list[Array]:
        return [kernels.column(block, i) for i in range(block.shape[1])]

    def to_host(self, *arrays: Array | Part) -> list[Floats]:
        buffers = {id(buffer): buffer for buffer in map(_buffer, arrays)}
        flat = np.asarray(known(_packed(list(buffers.values()))), dtype=np.float64).reshape(-1)
        found = dict(zip(buffers, unpacked(flat, [buffer.shape for buffer in buffers.values()]), strict=True))
        values = [found[id(_buffer(array))] for array in arrays]
        return [
            np.array(value[array.entries] if isinstance(array, Part) else value)
            for array, value in zip(arrays, values, strict=True)
        ]

    def from_host(self, array: NDArray[Any], layout: Layout) -> Array:
        require_precision(layout.dtype, "a vector")
        require_transfers()
        # A copy, because device_put may go on reading the memory that it is given.
        return jax.device_put(np.array(array, dtype=layout.dtype), layout.device)

    def to_numpy(self, x: Array) -> NDArray[Any]:
        return np.array(x)

    def check_vector(self, x: Any, layout: Layout, what: str) -> None:
        if isinstance(x, jax.core.Tracer):
            layout = replace(layout, device=None)
        elif isinstance(x, Array):
            alive(x, what)
        require_precision(layout.dtype, "the operator")
        require_transfers()
        super().check_vector(x, layout, what)


def _device(platform: str, number: int) -> jax.Device:
    return next(device for device in jax.devices(platform) if device.id == number)


# Devices have no pickles of their own, and stand in layouts; the other process must have one of that number.
copyreg.pickle(jax.Device, lambda device: (_device, (device.platform, device.id)))


def device_of(array: Array, what: str) -> jax.Device:
    """Return the one device that holds the array, or raise InvalidInputError."""
    devices = alive(array, what).devices()
    if len(devices) > 1:
        raise InvalidInputError(
            f"{what} is spread over {len(devices)} devices, and sharded arrays are not supported. Put it on one with "
            f"jax.device_put(array, jax.devices()[0])."
        )
    (device,) = devices
    if not array.is_fully_addressable:
        raise InvalidInputError(
            f"{what} lies on {device} of process {device.process_index}, and this is process {jax.process_index()}: "
            f"put it on devices of both, with a jax.sharding.NamedSharding."
        )
    return device


def alive(array: Array, what: str) -> Array:
    """Return an array that has its numbers, or raise InvalidInputError."""
    if not isinstance(array, jax.core.Tracer) and array.is_deleted():
        raise InvalidInputError(f"{what} was deleted: it was donated to a jitted function. Pass a copy there.")
    return array


def known(value: Any) -> Any:
    """Return what has a value, or raise InvalidInputError."""
    if isinstance(value, jax.core.Tracer):
        raise InvalidInputError(
            "inside jax.jit no number can be looked at, as algorithms and the first two products of an operator do; "
            "nor inside jax.grad and jax.vmap. Call them outside; products that follow may be compiled."
        )
    return value


def require_transfers() -> None:
    """Raise InvalidInputError where JAX is told to refuse what every algorithm does."""
    for direction in ("host_to_device", "device_to_host"):
        guard = getattr(jax.config, f"jax_transfer_guard_{direction}")
        if guard is not None and guard.startswith("disallow"):
            raise InvalidInputError(
                f"jax_transfer_guard_{direction} is {guard!r}, and the scalars of an algorithm move between host and "
                f"device. Call specop inside jax.transfer_guard('allow')."
            )


def require_precision(dtype: Any, what: str) -> None:
    """Raise InvalidInputError for float64 where JAX would turn it into float32 without a word."""
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise InvalidInputError(
            f"{what} is float64, which JAX has switched off. Call jax.config.update('jax_enable_x64', True) before any "
            f"array is made, or convert to float32."
        )


def placed_rows(blocks: Sequence[Array]) -> Iterator[tuple[slice, Array]]:
    """Yield blocks of rows with their places among all rows."""
    start = 0
    for rows in blocks:
        yield slice(start, start + len(rows)), rows
        start += len(rows)


def _buffer(array: Array | Part) -> Array:
    return array.buffer if isinstance(array, Part) else array


def _packed(arrays: list[Array]) -> Array:
    """Return the entries of all arrays, one after the other, as one array that is at least as long."""
    if len(arrays) == 1:
        return arrays[0]
    if len({(array.shape, array.dtype) for array in arrays}) > 1:
        return kernels.pack(arrays)
    # In groups of equal size: a kernel for every number of arrays would be compiled for each new number of probes.
    groups = [arrays[i : i + _GROUP] for i in range(0, len(arrays), _GROUP)]
    return _packed([kernels.pack(group + group[-1:] * (_GROUP - len(group))) for group in groups])


def padded_size(size: int) -> int:
    """Return the next power of two from 64 on: few sizes, so that few kernels are compiled."""
    return max(64, 1 << (size - 1).bit_length())


backend = JaxBackend()
