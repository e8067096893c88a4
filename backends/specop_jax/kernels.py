"""Compiled functions of vectors and blocks of rows.

Row numbers, counts and scalars are traced. A first argument that is replaced by the result is donated, so that it is
written in place. All products run in the full precision of their dtype: on a GPU, JAX's default is TF32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

# A CPU's matrix-vector product adds up in the vectors' own precision: over 1e7 float32 entries it was off by 3e-4.
# Compensated sums over chunks of this many entries stay near 1e-7, for twice the time of the plain product.
_CHUNK = 32_768
# Columns of blocks of rows that are held in float64 at a time.
_COLUMNS = 4_096

_jit = jax.jit
_in_place: Callable[[Callable[..., Array]], Callable[..., Array]] = functools.partial(jax.jit, donate_argnums=0)
_matmul = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)


# Vectors
@_jit
def dot(x: Array, y: Array) -> Array:
    """Return the inner product."""
    return _matmul(x, y)


@_jit
def norm(x: Array) -> Array:
    """Return the Euclidean norm."""
    square, limits = _matmul(x, x), jnp.finfo(x.dtype)
    usual = (square > len(x) * limits.tiny / limits.eps) & (square < jnp.inf)
    return lax.cond(usual, lambda: jnp.sqrt(square), lambda: _norm_of_scaled(x))


def _norm_of_scaled(x: Array) -> Array:
    """Return the norm of a vector whose squares may leave the range of its dtype, as those of 1e-25 leave float32's."""
    largest = jnp.max(jnp.abs(x), initial=0)
    unit = jnp.where((largest > 0) & (largest < jnp.inf), largest, 1)
    return unit * jnp.sqrt(_matmul(x / unit, x / unit))


@_in_place
def axpy(y: Array, alpha: float, x: Array) -> Array:
    """Return ``y + alpha x``."""
    return y + alpha * x


@_in_place
def scale(x: Array, alpha: float) -> Array:
    """Return ``alpha x``."""
    return alpha * x


@_jit
def copy(x: Array) -> Array:
    """Return the array in storage of its own."""
    return jnp.copy(x)


@functools.partial(jax.jit, static_argnums=2)
def rows_between(array: Array, start: int, count: int) -> Array:
    """Return `count` entries of the leading dimension, from `start` on."""
    return lax.dynamic_slice_in_dim(array, start, count)


@_jit
def multiply(x: Array, y: Array) -> Array:
    """Return the entrywise product."""
    return x * y


@_jit
def clip(x: Array, low: float, high: float) -> Array:
    """Return the vector with its entries between two limits."""
    return jnp.clip(x, low, high)


@_jit
def gather(x: Array, indices: Array) -> Array:
    """Return ``x[..., indices]``."""
    return x[..., indices]


@_in_place
def scatter(zeros: Array, indices: Array, x: Array) -> Array:
    """Return zeros but for ``x`` at ``indices``."""
    return zeros.at[indices].set(x)


# Rows of a block
@_in_place
def set_row(block: Array, i: int, x: Array, alpha: float) -> Array:
    """Return the block with row ``i`` set to ``alpha x``."""
    return lax.dynamic_update_index_in_dim(block, alpha * x, i, 0)


@_jit
def row(block: Array, i: int) -> Array:
    """Return row ``i``."""
    return lax.dynamic_index_in_dim(block, i, 0, keepdims=False)


@_in_place
def coefficients(buffer: Array, at: int, block: Array, count: int, x: Array) -> Array:
    """Store the products of the first ``count`` rows with ``x``, and zeros for the others."""
    found = jnp.where(jnp.arange(len(block)) < count, _products(block, x), 0)
    return lax.dynamic_update_slice(buffer, found, (at,))


@_in_place
def subtract_rows(x: Array, block: Array, count: int, buffer: Array, at: int) -> Array:
    """Return ``x`` minus the first ``count`` rows times their stored coefficients."""
    stored = lax.dynamic_slice(buffer, (at,), (len(block),))
    return x - _matmul(jnp.where(jnp.arange(len(block)) < count, stored, 0), block)


@_in_place
def store_dot(buffer: Array, at: int, x: Array, y: Array) -> Array:
    """Store the inner product."""
    return lax.dynamic_update_index_in_dim(buffer, _matmul(x, y), at, 0)


@_in_place
def subtract(x: Array, buffer: Array, at: int, y: Array) -> Array:
    """Return ``x - c y`` with the stored coefficient c."""
    return x - buffer[at] * y


@_in_place
def store_norm(buffer: Array, at: int, x: Array) -> Array:
    """Store the Euclidean norm of ``x``."""
    return lax.dynamic_update_index_in_dim(buffer, norm(x), at, 0)


# Strips of columns
@_in_place
def add_products(strip: Array, weights: Array, source: int, target: int, block: Array, column: int) -> Array:
    """Add to the strip, whose rows are the new ones from ``target`` on, what the block's rows give to it."""
    change = lax.dynamic_slice(weights, (source, target), (len(block), len(strip)))
    return strip + _matmul(change.T, lax.dynamic_slice(block, (0, column), (len(block), strip.shape[1])))


@_in_place
def replace(block: Array, strip: Array, column: int, fresh: int, low: int, high: int) -> Array:
    """Return the block with rows ``low`` to ``high`` replaced by the strip that begins at a column.

    Columns before ``fresh`` stay as they are.
    """
    old = lax.dynamic_slice(block, (0, column), strip.shape)
    rows, columns = jnp.arange(len(strip))[:, None], column + jnp.arange(strip.shape[1])[None]
    new = jnp.where((low <= rows) & (rows < high) & (columns >= fresh), strip, old)
    return lax.dynamic_update_slice(block, new, (0, column))


# Matrices
@_jit
def apply_rows(matrix: Array, x: Array) -> Array:
    """Return ``matrix @ x``, added up as exactly as `dot`."""
    return _products(matrix, x)


@_jit
def combine_rows(matrix: Array, y: Array) -> Array:
    """Return ``matrix.T @ y``."""
    return _matmul(matrix.T, y)


@_jit
def row_products(x: Array, y: Array) -> Array:
    """Return ``x @ y.T`` in float64, which the caller has switched on."""

    def product(begin: Any, width: int) -> Array:
        left, right = (lax.dynamic_slice(rows, (0, begin), (len(rows), width)).astype(jnp.float64) for rows in (x, y))
        return _matmul(left, right.T)

    n = x.shape[1]
    width = min(n, _COLUMNS)
    rest = n % width
    first = product(n - rest, rest) if rest else jnp.zeros((len(x), len(y)))
    return lax.fori_loop(0, n // width, lambda i, total: total + product(i * width, width), first)


@functools.partial(jax.jit, static_argnums=1)
def block_products(rows: Array, size: int) -> Array:
    """Return the diagonal blocks of ``rows.T @ rows`` in float64, which the caller has switched on."""
    cut = rows.reshape(len(rows), -1, size)

    def of_block(i: Array) -> Array:
        part = lax.dynamic_index_in_dim(cut, i, 1, keepdims=False).astype(jnp.float64)
        return _matmul(part.T, part)

    return lax.map(of_block, jnp.arange(cut.shape[1]))


@_jit
def apply_blocks(blocks: Array, x: Array) -> Array:
    """Return the product of a block-diagonal matrix with ``x``."""
    return _matmul(blocks, x.reshape(len(blocks), -1, 1)).reshape(-1)


@_jit
def column(matrix: Array, i: int) -> Array:
    """Return column ``i``."""
    return lax.dynamic_index_in_dim(matrix, i, 1, keepdims=False)


@_jit
def pack(arrays: list[Array]) -> Array:
    """Return all entries one after the other."""
    return jnp.concatenate([array.reshape(-1) for array in arrays])


def _products(block: Array, x: Array) -> Array:
    """Return ``block @ x``, added up as exactly as `dot`."""
    if len(x) <= _CHUNK:
        return _matmul(block, x)
    return lax.platform_dependent(block, x, cpu=_products_in_chunks, default=_matmul)


def _products_in_chunks(block: Array, x: Array) -> Array:
    rows, n = block.shape

    def add(chunk: Any, state: tuple[Array, Array]) -> tuple[Array, Array]:
        total, excess = state
        begin = chunk * _CHUNK
        part = lax.dynamic_slice(block, (0, begin), (rows, _CHUNK)) @ lax.dynamic_slice(x, (begin,), (_CHUNK,))
        part = part - excess
        new = total + part
        return new, (new - total) - part

    zero = jnp.zeros(rows, block.dtype)
    total, excess = lax.fori_loop(0, n // _CHUNK, add, (zero, zero))
    rest = n // _CHUNK * _CHUNK
    return total + (_matmul(block[:, rest:], x[rest:]) - excess)
