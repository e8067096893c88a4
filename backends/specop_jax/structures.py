"""Structures of arrays: what JAX's containers and arrays are."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from specop.errors import InvalidInputError
from specop.objectives import checksums
from specop.objectives.trees import Trees
from specop_jax import kernels
from specop_jax.arrays import alive
from specop_jax.groups import put
from specop_jax.spread import hosted, is_spread

__all__ = ["TREES", "checksum", "names_of", "on_device", "outlined", "refuse_sparse", "without_mesh"]


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
        known = array.dtype == np.bool_ or (jnp.issubdtype(array.dtype, np.number) and array.dtype.char not in "gG")
        return array.astype(array.dtype.newbyteorder("="), copy=False) if known else None
    return None


def _whole(array: Any) -> Any:
    """Return an array that samples can be cut out of: each device has all of it."""
    if not is_spread(array) or array.is_fully_replicated:
        return array
    return jax.block_until_ready(put(array, NamedSharding(array.sharding.mesh, PartitionSpec())))


TREES = Trees(
    flatten=jax.tree_util.tree_flatten,
    unflatten=jax.tree_util.tree_unflatten,
    names=_names,
    as_array=_as_array,
    shape=lambda array: getattr(array, "shape", None),
    between=lambda array, start, stop: kernels.rows_between(_whole(array), start, stop - start),
    at=lambda array, indices: _whole(array)[indices],
    # On the host: a device would compile for each combination of lengths.
    join=lambda arrays: np.concatenate(
        [hosted(array) if isinstance(array, Array) else np.asarray(array) for array in arrays]
    ),
)


def on_device(array: Array | np.ndarray, device: jax.Device) -> Array:
    """Return the array on a device; JAX's own that are there already are not copied."""
    # A NumPy array is copied, because JAX may otherwise go on reading memory that its owner writes into.
    if isinstance(array, Array):
        return jax.device_put(without_mesh(alive(array, "an array of the data")), device)
    return jnp.array(array, device=device)


def without_mesh(array: Array) -> Array:
    """Return an array on one device that belongs to no mesh: with explicit axes its type would have them for ever."""
    return array.addressable_shards[0].data if isinstance(array.sharding, NamedSharding) else array


def outlined(batch: Any) -> Any:
    """Return a batch with arrays of the same shapes, and no memory, in place of sparse ones."""
    # Their numbers and places are arrays of their own, whose leading dimensions count no samples.
    return jax.tree_util.tree_map(
        lambda leaf: np.broadcast_to(np.float32(0), leaf.shape) if _is_sparse(leaf) else leaf, batch, is_leaf=_is_sparse
    )


def refuse_sparse(batch: Any) -> None:
    """Raise InvalidInputError if a batch holds sparse arrays where some of its samples are asked for."""
    for leaf in jax.tree_util.tree_leaves(batch, is_leaf=_is_sparse):
        if _is_sparse(leaf):
            raise InvalidInputError(
                f"the batch holds a {type(leaf).__name__}, of which samples cannot be taken one by one. For gradients "
                f"of samples and for subsets pass a dense array, such as x.todense()."
            )


def _is_sparse(leaf: Any) -> bool:
    return any(base.__name__ == "JAXSparse" for base in type(leaf).__mro__)


def checksum(array: Array | np.ndarray) -> int:
    """Return a checksum of an array's bytes."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return checksums.checksum(hosted(array) if isinstance(array, Array) else np.asarray(array))
