"""The array primitives of specop on NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specop.arrays.backend import Backend
from specop.arrays.layout import Layout
from specop.arrays.rows import RowBlocks
from specop.errors import check_unmasked

__all__ = ["NumpyBackend", "backend"]

Array = NDArray[Any]

# BLAS adds up in the vectors' own precision, and over millions of float32 entries a sum is off by up to 1e-4: chunks
# are added up in float64.
_CHUNK = 16_384
# Columns of a basis that are combined at a time; a strip of a few hundred rows fits a core's cache.
_STRIP = 1_024


class NumpyBackend(Backend):
    """`specop.arrays.Backend` for float32 and float64 ndarrays."""

    name = "numpy"
    array_type = np.ndarray
    conversion = "np.asarray(x, '{dtype}')"

    def layout(self, array: Array) -> Layout:
        check_unmasked("the array", array)
        return Layout(array.shape[-1], array.dtype, "cpu")

    def shape(self, x: Any) -> tuple[int, ...]:
        return tuple(getattr(x, "shape", ()))

    # Not finite in, not finite out: whoever asked looks at the scalars, and NumPy need not warn as well.
    @np.errstate(invalid="ignore", over="ignore")
    def dot(self, x: Array, y: Array) -> Any:
        return _dot(x, y)

    def norm(self, x: Array) -> Any:
        square, limits = self.dot(x, x), np.finfo(x.dtype)
        if len(x) * limits.tiny / limits.eps < square < np.inf:
            return np.sqrt(square)
        # Squares that leave the range of the dtype, as those of 1e-25 leave float32's.
        largest = np.abs(x).max(initial=0.0)
        return float(largest) * np.sqrt(self.dot(x / largest, x / largest)) if 0 < largest < np.inf else largest

    def axpy_(self, y: Array, alpha: float, x: Array) -> Array:
        y += x.dtype.type(alpha) * x
        return y

    def scale_(self, x: Array, alpha: float) -> Array:
        x *= x.dtype.type(alpha)
        return x

    def copy(self, x: Array) -> Array:
        return np.array(x, copy=True)

    def multiply(self, x: Array, y: Array) -> Array:
        return np.multiply(x, y)

    def clip(self, x: Array, low: float, high: float) -> Array:
        return np.clip(x, low, high)

    def zeros(self, layout: Layout) -> Array:
        return np.zeros(layout.n, dtype=layout.dtype)

    def section(self, x: Array, start: int, stop: int) -> Array:
        return x[..., start:stop]

    def gather(self, x: Array, indices: NDArray[np.intp]) -> Array:
        return np.take(x, indices, axis=-1)

    def scatter(self, x: Array, indices: NDArray[np.intp], layout: Layout) -> Array:
        out = self.zeros(layout)
        out[indices] = x
        return out

    def allocate(self, layout: Layout, capacity: int, lead: int) -> RowBlocks:
        return RowBlocks(layout, capacity, lead, lambda *shape: np.empty(shape, dtype=layout.dtype))

    def set_row_(self, basis: RowBlocks, i: int, x: Array, alpha: float) -> RowBlocks:
        basis.grow(i + 1)
        np.multiply(x, x.dtype.type(alpha), out=basis.row(i))
        return basis

    def orthogonalize_(
        self, x: Array, basis: RowBlocks, k: int, near: Sequence[int]
    ) -> tuple[Array, Array, Array, Any]:
        c, h, along = np.empty(len(near)), np.empty(k, dtype=x.dtype), np.empty_like(x)
        with np.errstate(invalid="ignore", over="ignore"):
            for i, row in enumerate(map(basis.row, near)):
                c[i] = _dot(row, x)
                x -= np.multiply(row, x.dtype.type(c[i]), out=along)
            parts = basis.parts(0, k)
            for where, rows in parts:
                h[where] = _products(rows, x)
            for where, rows in parts:
                x -= np.dot(h[where], rows, out=along)
            return x, c, h, self.norm(x)

    def combine_(self, basis: RowBlocks, coefficients: NDArray[np.float64], start: int) -> RowBlocks:
        m, p = coefficients.shape
        weights = coefficients.T.astype(basis.layout.dtype)
        sources, targets = basis.parts(start, start + m), basis.parts(start, start + p)
        for begin in range(0, basis.layout.n, _STRIP):
            columns = slice(begin, begin + _STRIP)
            chunk = weights @ np.concatenate([rows[:, columns] for _, rows in sources])
            for where, rows in targets:
                rows[:, columns] = chunk[where]
        return basis

    def take(self, basis: RowBlocks, k: int) -> Array:
        return basis.blocks[0] if k == basis.lead else super().take(basis, k)

    def stack(self, rows: Sequence[Array]) -> Array:
        return np.stack(rows)

    def index(self, matrix: Array, i: int) -> Array:
        return np.ascontiguousarray(matrix[i])

    # OpenBLAS computes with memory that nobody has written and leaves it out of the result: where a NaN lies there, the
    # processor notes an invalid operation, and NumPy warns of a product that is right.
    @np.errstate(invalid="ignore")
    def apply_rows(self, matrix: Array, x: Array) -> Array:
        return _products(matrix, x)

    @np.errstate(invalid="ignore")
    def combine_rows(self, matrix: Array, y: Array) -> Array:
        return np.dot(matrix.T, y)

    @np.errstate(invalid="ignore")
    def apply_blocks(self, blocks: Array, x: Array) -> Array:
        return np.matmul(blocks, x.reshape(len(blocks), -1, 1)).reshape(-1)

    def cast(self, x: Array, dtype: np.dtype[Any]) -> Array:
        return x.astype(dtype)

    def transpose(self, matrix: Array) -> Array:
        return matrix.T

    def columns(self, block: Array) -> list[Array]:
        return list(np.ascontiguousarray(block.T))

    def to_host(self, *arrays: Any) -> list[NDArray[np.float64]]:
        return [np.array(array, dtype=np.float64) for array in arrays]

    def from_host(self, array: Array, layout: Layout) -> Array:
        return np.array(array, dtype=layout.dtype)

    def to_numpy(self, x: Array) -> Array:
        return np.array(x)


def _dot(x: Array, y: Array) -> Any:
    if x.dtype == np.float64:
        return np.dot(x, y)
    return sum((np.float64(np.dot(x[part], y[part])) for part in _chunks(x)), np.float64(0.0))


def _products(rows: Array, x: Array) -> Array:
    """Return ``rows @ x``, added up as exactly as `NumpyBackend.dot`."""
    if x.dtype == np.float64:
        return np.dot(rows, x)
    return np.sum([rows[:, part] @ x[part] for part in _chunks(x)], axis=0, dtype=np.float64).astype(x.dtype)


def _chunks(x: Array) -> list[slice]:
    """Return the parts of a vector over which BLAS adds up exactly enough."""
    if x.dtype == np.float64:
        return [slice(None)]
    return [slice(i, i + _CHUNK) for i in range(0, len(x), _CHUNK)]


backend = NumpyBackend()
