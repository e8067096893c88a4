"""The laws of a Backend that belong to matrices: products with their rows, their columns, and with each other."""

from __future__ import annotations

import numpy as np

from specop.testing._laws import require, require_close, require_same
from specop.testing._native import Native

__all__ = ["check_matrices"]


def check_matrices(native: Native) -> None:
    """Check every primitive that takes a native matrix, or blocks of rows, against NumPy in float64."""
    _check_blocks(native)
    _check_products_of_rows(native)
    _check_long_rows(native)


def _check_blocks(native: Native) -> None:
    backend, rng = native.backend, np.random.default_rng(4)
    dense = rng.standard_normal((4, 3)).astype(native.dtype).astype(np.float64)
    u, v = np.arange(1.0, 4.0), np.arange(1.0, 5.0)
    matrix, tolerance = native.array(dense), 100 * native.epsilon
    found = native.numpy(backend.apply_rows(matrix, native.array(u)))
    require_close(found, dense @ u, tolerance, "apply_rows", "is matrix @ x")
    found = native.numpy(backend.combine_rows(matrix, native.array(v)))
    require_close(found, dense.T @ v, tolerance, "combine_rows", "is matrix.T @ y")
    several = np.arange(8.0).reshape(4, 2)
    found = native.numpy(backend.combine_rows(matrix, native.array(several)))
    require_close(found, dense.T @ several, tolerance, "combine_rows", "is matrix.T @ y for several y too")
    require_same(native.numpy(backend.transpose(matrix)), dense.T, "transpose", "is matrix.T")
    rows = [backend.index(matrix, i) for i in range(4)]
    for row, expected in zip(rows, dense, strict=True):
        require_same(native.numpy(row), expected, "index", "is matrix[i]")
    require_same(native.numpy(backend.stack(rows)), dense, "stack", "is the inverse of index")
    columns = backend.columns(matrix)
    require(len(columns) == 3, "columns", "gives one vector for each column", f"{len(columns)} of 3")
    for i, column in enumerate(columns):
        require_same(native.numpy(column), dense[:, i], "columns", "gives the columns in order")
    require_same(native.numpy(backend.stack_columns(columns)), dense, "stack_columns", "is the inverse of columns")


def _check_products_of_rows(native: Native) -> None:
    backend, rng = native.backend, np.random.default_rng(6)
    dense = rng.standard_normal((5, 6)).astype(native.dtype).astype(np.float64)
    blocks, tolerance = [native.array(dense[:2]), native.array(dense[2:])], 100 * native.epsilon
    law = "is X @ Y.T for rows in blocks"
    for x, y, expected in (
        (blocks, blocks, dense @ dense.T),
        (blocks, blocks[:1], dense @ dense[:2].T),
        (blocks[1:], blocks, dense[2:] @ dense.T),
    ):
        products = backend.row_products(x, y)
        require_close(products, expected, tolerance, "row_products", law)
        kind = f"{type(products).__name__} of {getattr(products, 'dtype', 'no dtype')}"
        hosted = isinstance(products, np.ndarray) and products.dtype == np.float64
        require(hosted, "row_products", "returns a float64 NumPy array", kind)
    squares = np.stack([part.T @ part for part in np.split(dense, 2, axis=1)])
    law = "is the diagonal blocks of rows.T @ rows, on the host"
    require_close(backend.block_products(native.array(dense), 3), squares, tolerance, "block_products", law)

    cubes, u = rng.standard_normal((2, 3, 3)).astype(native.dtype).astype(np.float64), np.arange(6.0)
    found = native.numpy(backend.apply_blocks(native.array(cubes), native.array(u)))
    expected = np.concatenate([cubes[0] @ u[:3], cubes[1] @ u[3:]])
    require_close(found, expected, tolerance, "apply_blocks", "multiplies block by block")

    require_same(native.numpy(backend.index(native.array(cubes), 1)), cubes[1], "index", "takes a (k, m, n) array")

    half = backend.cast(native.array(dense), np.dtype(np.float16))
    back = native.numpy(backend.cast(half, native.dtype))
    require_same(back, dense.astype(np.float16), "cast", "rounds to float16, and back exactly")


def _check_long_rows(native: Native) -> None:
    backend, rng = native.backend, np.random.default_rng(7)
    u, v = (0.5 + rng.random((2, 1_000_000))).astype(native.dtype).astype(np.float64)
    y, law, allowed = native.array(v), "is exact to 1e-6 over a million entries of one sign", native.summation
    rows = native.array(np.stack([u, v]))
    (products,) = backend.to_host(backend.apply_rows(rows, y))
    require_close(products / [u @ v, v @ v], np.ones(2), allowed, "apply_rows", law)
    products = backend.row_products([rows], [rows])
    exact = np.array([[u @ u, u @ v], [u @ v, v @ v]])
    require_close(products / exact, np.ones((2, 2)), allowed, "row_products", law)
