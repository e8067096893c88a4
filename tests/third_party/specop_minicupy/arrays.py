"""The array primitives of specop on minicupy."""

from __future__ import annotations

import minicupy as mp
import numpy as np

from specop.arrays import Layout, RowBlocks
from specop.errors import InvalidInputError

_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
_CHUNK = 65_536


class MinicupyBackend:
    """`specop.arrays.Backend` for float32 and float64 arrays of minicupy."""

    name = "minicupy"

    # Vectors
    def layout(self, vector):
        if vector.dtype not in _DTYPES:
            raise InvalidInputError(f"vectors must be float32 or float64, got {vector.dtype}.")
        return Layout(len(vector), vector.dtype, vector.device)

    def dot(self, x, y):
        return x @ y

    def norm(self, x):
        wide = x.astype(np.float64)  # squares of float32 vanish below 1e-19
        return mp.sqrt(wide @ wide)

    def axpy_(self, y, alpha, x):
        y += x * alpha
        return y

    def scale_(self, x, alpha):
        x *= alpha
        return x

    def copy(self, x):
        return x.copy()

    def multiply(self, x, y):
        return x * y

    def zeros(self, layout):
        return mp.zeros(layout.n, layout.dtype)

    def gather(self, x, indices):
        return x[..., indices].copy()

    def scatter(self, x, indices, layout):
        out = self.zeros(layout)
        out[indices] = x
        return out

    # A basis
    def allocate(self, layout, capacity, lead):
        return RowBlocks(layout, capacity, lead, lambda *shape: mp.empty(shape, layout.dtype))

    def set_row_(self, basis, i, x, alpha):
        basis.grow(i + 1)
        basis.row(i)[:] = x * alpha
        return basis

    def row(self, basis, i):
        return basis.row(i)

    def orthogonalize_(self, x, basis, k, near):
        nothing, c = mp.zeros(0, x.dtype), mp.zeros(0, x.dtype)
        if near:
            rows = mp.stack([basis.row(i) for i in near])
            c = rows @ x
            x -= c @ rows
        blocks = [block for _, block in basis.parts(0, k)]
        coefficients = [block @ x for block in blocks]
        for block, h in zip(blocks, coefficients, strict=True):
            x -= h @ block
        return x, c, mp.concatenate([nothing, *coefficients]), self.norm(x)

    def combine_(self, basis, coefficients, start):
        m, p = coefficients.shape
        weights = mp.asarray(coefficients.T.astype(basis.layout.dtype))
        sources, targets = basis.parts(start, start + m), basis.parts(start, start + p)
        # Columns are independent of each other: a chunk of them is read whole, then written.
        for begin in range(0, basis.layout.n, _CHUNK):
            columns = slice(begin, begin + _CHUNK)
            old = mp.concatenate([rows[:, columns] for _, rows in sources])
            new = weights @ old
            for where, rows in targets:
                rows[:, columns] = new[where]
        return basis

    def take(self, basis, k):
        return basis.blocks[0] if k == basis.lead else mp.stack([basis.row(i) for i in range(k)])

    # Matrices and blocks of vectors
    def apply_rows(self, matrix, x):
        return matrix @ x

    def combine_rows(self, matrix, y):
        return matrix.T @ y

    def row_products(self, x, y):
        left, right = (mp.concatenate(blocks).astype(np.float64) for blocks in (x, y))
        return (left @ right.T).get()

    def block_products(self, rows, size):
        parts = [rows[:, i : i + size].astype(np.float64) for i in range(0, rows.shape[1], size)]
        return mp.stack([part.T @ part for part in parts]).get()

    def apply_blocks(self, blocks, x):
        size = blocks.shape[1]
        return mp.concatenate([blocks[i] @ x[i * size : (i + 1) * size] for i in range(len(blocks))])

    def cast(self, x, dtype):
        return x.astype(dtype)

    def transpose(self, matrix):
        return matrix.T

    def stack_columns(self, vectors):
        return mp.stack(vectors, axis=1)

    def columns(self, block):
        return list(mp.ascontiguousarray(block.T))

    # Exchange with the host
    def to_host(self, *arrays):
        flat = mp.concatenate([array.reshape(-1).astype(np.float64) for array in arrays]).get()
        ends = np.cumsum([array.reshape(-1).shape[0] for array in arrays])[:-1]
        return [part.reshape(array.shape) for part, array in zip(np.split(flat, ends), arrays, strict=True)]

    def from_host(self, array, layout):
        return mp.asarray(np.asarray(array, dtype=layout.dtype))

    def to_numpy(self, x):
        return x.get()

    def check_vector(self, x, layout, what):
        if not isinstance(x, mp.ndarray):
            raise InvalidInputError(f"{what} must be a minicupy array, got {type(x).__name__}. Use minicupy.asarray.")
        if x.shape != (layout.n,):
            raise InvalidInputError(f"{what} must have shape ({layout.n},), got {x.shape}.")
        if x.dtype != layout.dtype:
            raise InvalidInputError(f"{what} must have dtype {layout.dtype}, got {x.dtype}. Convert it with astype.")


backend = MinicupyBackend()
