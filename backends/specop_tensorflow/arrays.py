"""The array primitives of specop on TensorFlow.

They are eager operations: one costs 10 to 20 microseconds, the call of a traced function 80 to 280, and without fusion
on a CPU both run the same kernels. So nothing here is ever traced. Brackets, ``x[:, None]``, cost ten times as much as
the operations that have a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow import Tensor

from specop.arrays.backend import Backend, unpacked
from specop.arrays.layout import Layout
from specop.errors import InvalidInputError
from specop.statistics.numbers import Floats, Integers
from specop_tensorflow.basis import Basis
from specop_tensorflow.memory import free_memory, on_gpu

__all__ = ["TensorflowBackend", "backend", "numpy_dtype"]

_ROWS_AT_ONCE = 8
# A matrix product adds up one after the other, in the vectors' own precision: chunks are added up in float64.
_CHUNK = 16_384
# Columns of blocks of rows that are held in float64 at a time.
_COLUMNS = 4_096


class TensorflowBackend(Backend):
    """`specop.arrays.Backend` for float32 and float64 eager tensors."""

    name = "tensorflow"
    array_type = Tensor
    conversion = "tf.cast(tf.convert_to_tensor(x), '{dtype}') inside tf.device('{device}')"

    # Tensors are immutable, so one that shares its storage is as good as a copy.
    copy = staticmethod(tf.identity)
    multiply = staticmethod(tf.multiply)
    stack = staticmethod(tf.stack)
    transpose = staticmethod(tf.transpose)
    cast = staticmethod(tf.cast)

    def layout(self, array: Tensor) -> Layout:
        if tf.is_symbolic_tensor(array):
            raise InvalidInputError(
                "inside tf.function no number can be looked at, as algorithms and products do. Call them outside of it."
            )
        return Layout(int(array.shape[-1]), array.dtype.name, array.device)

    def shape(self, x: Any) -> tuple[int, ...]:
        return tuple(getattr(x, "shape", ()))

    def dot(self, x: Tensor, y: Tensor) -> Tensor:
        # Not tensordot: a matrix product adds up one after the other and is off by 4e-4 over 1e6 float32 entries.
        # A reduction adds in a tree: 1e-8.
        return tf.reduce_sum(tf.multiply(x, y))

    def norm(self, x: Tensor) -> Tensor:
        # In float64, where squares of float32 neither vanish nor overflow.
        return tf.sqrt(tf.reduce_sum(tf.square(tf.cast(x, tf.float64))))

    def axpy_(self, y: Tensor, alpha: float, x: Tensor) -> Tensor:
        return tf.add(y, self.scale_(x, alpha))

    def scale_(self, x: Tensor, alpha: float) -> Tensor:
        return tf.multiply(x, tf.constant(alpha, x.dtype))

    def free_memory(self, layout: Layout) -> int:
        return free_memory(layout.device)

    def zeros(self, layout: Layout) -> Tensor:
        with tf.device(layout.device):
            return tf.zeros([layout.n], layout.dtype)

    def clip(self, x: Tensor, low: float, high: float) -> Tensor:
        return tf.clip_by_value(x, low, high)

    def section(self, x: Tensor, start: int, stop: int) -> Tensor:
        return x[..., start:stop]

    def gather(self, x: Tensor, indices: Integers) -> Tensor:
        return tf.gather(x, tf.constant(indices), axis=-1)

    def scatter(self, x: Tensor, indices: Integers, layout: Layout) -> Tensor:
        return tf.tensor_scatter_nd_update(self.zeros(layout), tf.constant(indices[:, None]), x)

    def allocate(self, layout: Layout, capacity: int, lead: int) -> Basis:
        return Basis(layout, capacity)

    def set_row_(self, basis: Basis, i: int, x: Tensor, alpha: float) -> Basis:
        basis.set_row(i, basis.fold(self.scale_(x, alpha)))
        return basis

    def orthogonalize_(
        self, x: Tensor, basis: Basis, k: int, near: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        first = []
        for i in near:
            row = basis.row(i)
            first.append(self.dot(row, x))
            x = tf.subtract(x, tf.multiply(first[-1], row))
        folded, parts = basis.fold(x), basis.parts(0, k)
        second = [_products(rows, folded) for _, rows in parts]
        for coefficients, (_, rows) in zip(second, parts, strict=True):
            folded = tf.subtract(folded, tf.squeeze(_combinations(tf.expand_dims(coefficients, 0), rows), 1))
        w = basis.unfold(folded)
        c = tf.stack(first) if first else tf.zeros([0], x.dtype)
        h = tf.concat(second, 0) if second else tf.zeros([0], x.dtype)
        return w, c, h, self.norm(w)

    def combine_(self, basis: Basis, coefficients: Floats, start: int) -> Basis:
        m, p = coefficients.shape
        sources = basis.parts(start, start + m)
        weights = tf.constant(coefficients.T, basis.layout.dtype)
        blocks = []
        for first in range(0, p, _ROWS_AT_ONCE):
            some = weights[first : first + _ROWS_AT_ONCE]
            blocks.append(sum(_combinations(some[:, where], rows) for where, rows in sources))
        basis.replace(start, blocks)
        return basis

    def index(self, matrix: Tensor, i: int) -> Tensor:
        return matrix[i]

    def apply_rows(self, matrix: Tensor, x: Tensor) -> Tensor:
        if on_gpu(matrix.device) or x.shape[0] <= _CHUNK:
            return tf.linalg.matvec(matrix, x)
        pieces = [slice(begin, begin + _CHUNK) for begin in range(0, x.shape[0], _CHUNK)]
        partial = tf.stack([tf.linalg.matvec(matrix[:, piece], x[piece]) for piece in pieces])
        return tf.cast(tf.reduce_sum(tf.cast(partial, tf.float64), axis=0), x.dtype)

    def combine_rows(self, matrix: Tensor, y: Tensor) -> Tensor:
        if len(y.shape) == 1:
            return tf.linalg.matvec(matrix, y, transpose_a=True)
        if on_gpu(matrix.device):
            # In float64, which never runs in TF32.
            return tf.cast(tf.matmul(tf.cast(matrix, tf.float64), tf.cast(y, tf.float64), transpose_a=True), y.dtype)
        return tf.matmul(matrix, y, transpose_a=True)

    def row_products(self, x: Sequence[Tensor], y: Sequence[Tensor]) -> Floats:
        total: Any = 0.0
        for begin in range(0, x[0].shape[1], _COLUMNS):
            left = _wide(x, begin)
            right = left if y is x else _wide(y, begin)
            total += tf.matmul(left, right, transpose_b=True)
        return np.array(total.numpy())

    def block_products(self, rows: Tensor, size: int) -> Floats:
        count, step = rows.shape[1] // size, max(1, _COLUMNS // size)
        total = np.empty((count, size, size))
        for begin in range(0, count, step):
            part = tf.cast(rows[:, begin * size : (begin + step) * size], tf.float64)
            part = tf.transpose(tf.reshape(part, [rows.shape[0], -1, size]), [1, 2, 0])
            total[begin : begin + step] = tf.matmul(part, part, transpose_b=True).numpy()
        return total

    def apply_blocks(self, blocks: Tensor, x: Tensor) -> Tensor:
        cut = tf.reshape(x, [blocks.shape[0], -1])
        if on_gpu(blocks.device):
            return tf.reshape(tf.reduce_sum(tf.multiply(blocks, cut[:, None]), axis=2), [-1])
        return tf.reshape(tf.linalg.matvec(blocks, cut), [-1])

    def stack_columns(self, vectors: Sequence[Tensor]) -> Tensor:
        return tf.stack(vectors, axis=1)

    def columns(self, block: Tensor) -> list[Tensor]:
        return list(tf.unstack(block, axis=1))

    def to_host(self, *arrays: Tensor) -> list[Floats]:
        together = tf.concat([tf.reshape(tf.cast(array, tf.float64), [-1]) for array in arrays], 0)
        return unpacked(np.array(together.numpy()), [tuple(array.shape) for array in arrays])

    def from_host(self, array: NDArray[Any], layout: Layout) -> Tensor:
        # A copy first: TensorFlow may share the memory of what it is given.
        with tf.device(layout.device):
            return tf.convert_to_tensor(np.array(array, dtype=layout.dtype, order="C"))

    def to_numpy(self, x: Tensor) -> NDArray[Any]:
        return np.array(x.numpy())


def _products(rows: Tensor, folded: Tensor) -> Tensor:
    """Return ``rows @ x`` for (chunks, r, width) rows; chunks are added up in float64, as exactly as `dot`."""
    if on_gpu(rows.device):
        return tf.reduce_sum(tf.multiply(rows, tf.expand_dims(folded, 1)), axis=[0, 2])
    partial = tf.linalg.matvec(rows, folded)
    if len(partial) == 1:
        return tf.squeeze(partial, 0)
    return tf.cast(tf.reduce_sum(tf.cast(partial, tf.float64), axis=0), rows.dtype)


def _combinations(weights: Tensor, rows: Tensor) -> Tensor:
    """Return the (chunks, p, width) rows ``weights @ rows``."""
    if on_gpu(rows.device):
        # A matrix product would run in TF32, with three digits, unless the user has switched that off.
        return tf.stack([tf.reduce_sum(tf.multiply(rows, w[:, None]), axis=1) for w in tf.unstack(weights)], axis=1)
    return tf.matmul(tf.expand_dims(weights, 0), rows)


def _wide(blocks: Sequence[Tensor], begin: int) -> Tensor:
    """Return some columns of rows in blocks, as one float64 tensor."""
    return tf.concat([tf.cast(rows[:, begin : begin + _COLUMNS], tf.float64) for rows in blocks], 0)


def numpy_dtype(dtype: tf.DType) -> np.dtype[Any]:
    """Return the NumPy dtype of vectors for parameters of this dtype: its own, at least float32."""
    if dtype in (tf.float16, tf.bfloat16):
        return np.dtype(np.float32)
    if dtype in (tf.float32, tf.float64):
        return np.dtype(dtype.as_numpy_dtype)
    raise InvalidInputError(f"vectors must be real floating point, got {dtype.name}.")


backend = TensorflowBackend()
