"""Structures of arrays: what JAX's containers and arrays are."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from specop.objectives import checksums
from specop.objectives.trees import Trees
from specop_jax import kernels

__all__ = ["TREES", "checksum", "names_of", "on_device"]


def names_of(paths: list[Any]) -> list[str]:
    """Return key paths as names such as ``layers.0.w``."""
    names = [jax.tree_util.keystr(path, simple=True, separator=".") or "params" for path in paths]
    return names if len(set(names)) == len(names) else [jax.tree_util.keystr(path) for path in paths]


def _names(structure: Any) -> list[str]:
    return names_of([path for path, _ in jax.tree_util.tree_leaves_with_path(structure)])


def _as_array(leaf: Any) -> Array | np.ndarray | None:
    """Return a leaf as an array of numbers (or of random keys), or None if it is none."""
    if isinstance(leaf, Array):
        return leaf
    if isinstance(leaf, (np.ndarray, np.generic)) or hasattr(leaf, "__array__"):
        array = np.asarray(leaf)
        return array if jnp.issubdtype(array.dtype, np.number) or array.dtype == np.bool_ else None
    return None


TREES = Trees(
    flatten=jax.tree_util.tree_flatten,
    unflatten=jax.tree_util.tree_unflatten,
    names=_names,
    as_array=_as_array,
    shape=lambda array: getattr(array, "shape", None),
    between=lambda array, start, stop: kernels.rows_between(array, start, stop - start),
    at=lambda array, indices: array[indices],
)


def on_device(array: Array | np.ndarray, device: jax.Device) -> Array:
    """Return the array on a device; JAX's own that are there already are not copied."""
    # A NumPy array is copied, because JAX may otherwise go on reading memory that its owner writes into.
    return jax.device_put(array, device) if isinstance(array, Array) else jnp.array(array, device=device)


def checksum(array: Array | np.ndarray) -> int:
    """Return a checksum of an array's bytes."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return checksums.checksum(np.asarray(array))
