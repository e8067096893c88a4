"""The array primitives of specop on minicupy."""

from __future__ import annotations

import minicupy as mp
import numpy as np

from specop.arrays import Backend, Layout, RowBlocks, unpacked

_CHUNK = 65_536


class MinicupyBackend(Backend):
    """`specop.arrays.Backend` for float32 and float64 arrays of minicupy."""

    name = "minicupy"
    array_type = mp.ndarray
    conversion = "minicupy.asarray(x)"

    # Vectors
    def layout(self, array):
        return Layout(array.shape[-1], array.dtype, array.device)

    def shape(self, x):
        return getattr(x, "shape", ())

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

    # A basis
    def allocate(self, layout, capacity, lead):
        return RowBlocks(layout, capacity, lead, lambda *shape: mp.empty(shape, layout.dtype))

    def set_row_(self, basis, i, x, alpha):
        basis.grow(i + 1)
        basis.row(i)[:] = x * alpha
        return basis

    def orthogonalize_(self, x, basis, k, near):
        c, h = mp.zeros(0, x.dtype), [mp.zeros(0, x.dtype)]
        if near:
            rows = self.stack([basis.row(i) for i in near])
            c = rows @ x
            x -= c @ rows
        blocks = [block for _, block in basis.parts(0, k)]
        h += [block @ x for block in blocks]
        for block, coefficients in zip(blocks, h[1:], strict=True):
            x -= coefficients @ block
        return x, c, mp.concatenate(h), self.norm(x)

    def combine_(self, basis, coefficients, start):
        m, p = coefficients.shape
        weights = mp.asarray(coefficients.T.astype(basis.layout.dtype))
        sources, targets = basis.parts(start, start + m), basis.parts(start, start + p)
        # Columns are independent of each other: a chunk of them is read whole, then written.
        for begin in range(0, basis.layout.n, _CHUNK):
            columns = slice(begin, begin + _CHUNK)
            new = weights @ mp.concatenate([rows[:, columns] for _, rows in sources])
            for where, rows in targets:
                rows[:, columns] = new[where]
        return basis

    # Matrices
    def stack(self, rows):
        return mp.stack(rows)

    def index(self, matrix, i):
        return mp.ascontiguousarray(matrix[i])

    def transpose(self, matrix):
        return matrix.T

    def apply_rows(self, matrix, x):
        return matrix @ x

    def combine_rows(self, matrix, y):
        return matrix.T @ y

    def cast(self, x, dtype):
        return x.astype(dtype)

    # Exchange with the host
    def to_host(self, *arrays):
        flat = mp.concatenate([array.reshape(-1).astype(np.float64) for array in arrays]).get()
        return unpacked(flat, [array.shape for array in arrays])

    def from_host(self, array, layout):
        return mp.asarray(np.asarray(array, dtype=layout.dtype))

    def to_numpy(self, x):
        return x.get()


backend = MinicupyBackend()
