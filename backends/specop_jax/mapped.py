"""The kernels of one device, run by each device of a mesh on its part, and what adds up over the devices.

Kinds of arrays, a letter each: ``v`` a vector, ``m`` rows, ``c`` matrices, all cut along their last dimension, ``a``
one that all devices have. A sum over the devices is one all-reduce of as many numbers as the result has.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh, PartitionSpec

from specop_jax import kernels
from specop_jax.compiled import settled

__all__ = ["mapped"]

# Where the squares of what was taken away are more than this part of all, their difference has too few digits.
_CANCELLED = 0.75


@functools.cache
def mapped(
    mesh: Mesh, kernel: Callable[..., Any], kinds: str, *static: Any, donate: bool = False
) -> Callable[..., Any]:
    """Return a compiled function of whole arrays.

    Parameters
    ----------
    mesh : Mesh
    kernel : callable
        Kernel of this module: ``kernel(names of the axes, *static, *arrays)``; or of `kernels`, which know of no other.
    kinds : str
        The letters of the arguments, ``>``, and those of the results.
    *static : hashable
    donate : bool
        Whether the first array is consumed.
    """
    axes = tuple(mesh.axis_names)
    specs = {kind: PartitionSpec(*[None] * lead, axes) for lead, kind in enumerate("vmc")} | {"a": PartitionSpec()}
    given, made = ([specs[kind] for kind in part] for part in kinds.split(">"))
    local = getattr(kernel, "__wrapped__", kernel)
    function = functools.partial(local, axes, *static) if kernel.__module__ == __name__ else local
    outs = tuple(made) if len(made) > 1 else made[0]
    whole = jax.shard_map(function, mesh=mesh, in_specs=tuple(given), out_specs=outs, check_vma=False)
    return settled(jax.jit(whole, donate_argnums=0 if donate else ()), mesh)


def dot(axes: Any, x: Array, y: Array) -> Array:
    """Return the inner product."""
    return lax.psum(kernels.dot(x, y), axes)


def norm(axes: Any, x: Array) -> Array:
    """Return the Euclidean norm: of the devices' norms, so that none leaves the range of the dtype."""
    return kernels.norm(lax.all_gather(kernels.norm(x), axes))


def apply_rows(axes: Any, matrix: Array, x: Array) -> Array:
    """Return ``matrix @ x``, the same on all devices."""
    return lax.psum(kernels.apply_rows(matrix, x), axes)


def apply_rows_spread(axes: Any, padded: int, matrix: Array, x: Array) -> Array:
    """Return ``matrix @ x``, filled up to an even length and cut as vectors are."""
    found = kernels.apply_rows(matrix, x)
    return lax.psum_scatter(jnp.pad(found, (0, padded - len(found))), axes, tiled=True)


def combine_rows(axes: Any, matrix: Array, y: Array) -> Array:
    """Return ``matrix.T @ y``, for a y that is cut as vectors are, and filled up."""
    return kernels.combine_rows(matrix, lax.all_gather(y, axes, tiled=True)[: len(matrix)])


def clip(axes: Any, x: Array, valid: Array, low: float, high: float) -> Array:
    """Return the vector with its entries between two limits, and zeros where there is none."""
    return jnp.where(valid, kernels.clip(x, low, high), 0)


def filled(axes: Any, local: int, x: Array) -> Array:
    """Return this device's part of an array that all have, filled up with zeros."""
    devices = lax.axis_size(axes)
    whole = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, local * devices - x.shape[-1])])
    return lax.dynamic_slice_in_dim(whole, lax.axis_index(axes) * local, local, x.ndim - 1)


def stack(axes: Any, *rows: Array) -> Array:
    """Return the matrix with these rows."""
    return jnp.stack(rows)


def cast(axes: Any, dtype: Any, x: Array) -> Array:
    """Return the array in another dtype."""
    return jnp.array(x, dtype=dtype)


def row_products(axes: Any, x: Array, y: Array) -> Array:
    """Return ``x @ y.T`` in float64, which the caller has switched on."""
    return lax.psum(kernels.row_products(x, y), axes)


def moved(axes: Any, source: Array, rows: Array) -> Array:
    """Return rows in another order, given for each new place the old one, and -1 for none."""
    local = rows.shape[-1]
    own = source - lax.axis_index(axes) * local
    found = jnp.where((own >= 0) & (own < local), rows[..., jnp.clip(own, 0, local - 1)], 0)
    # One device has each entry: a sum brings it to the device that is to have it.
    return lax.psum_scatter(found, axes, scatter_dimension=rows.ndim - 1, tiled=True)


# One step of Gram-Schmidt: each device has a buffer of its own, whose sums the others see once
def store_squares(axes: Any, at: int, buffer: Array, x: Array) -> Array:
    """Store the sum of squares of this device's entries."""
    return lax.dynamic_update_index_in_dim(buffer, kernels.dot(x, x), at, 0)


def add_up(axes: Any, buffer: Array) -> Array:
    """Return the sums of the devices' buffers."""
    return lax.psum(buffer, axes)


def store_remainder(axes: Any, at: int, squares: int, buffer: Array, x: Array, at_rows: int, count: int) -> Array:
    """Store the norm of ``x``, from which rows were taken: by Pythagoras, or where that cancels by another sum."""
    before = buffer[squares]
    places = jnp.arange(len(buffer))
    taken = jnp.where((places >= at_rows) & (places < at_rows + count), buffer, 0)
    gone = kernels.dot(taken, taken)
    limits = jnp.finfo(x.dtype)
    is_usual = (before > 1e6 * limits.tiny / limits.eps) & (before < jnp.inf) & (gone < _CANCELLED * before)
    length = lax.cond(is_usual, lambda: jnp.sqrt(before - gone), lambda: norm(axes, x))
    return lax.dynamic_update_index_in_dim(buffer, length, at, 0)


def store_norm(axes: Any, at: int, buffer: Array, x: Array) -> Array:
    """Store the norm of ``x``."""
    return lax.dynamic_update_index_in_dim(buffer, norm(axes, x), at, 0)
