"""ends, largest, apart: numbers read off arrays, by one program where they are spread over devices."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from specop.statistics.numbers import Floats
from specop_jax.compiled import settled
from specop_jax.spread import is_spread, mesh_of

__all__ = ["apart", "ends", "largest"]


def ends(parts: Iterable[Array]) -> Floats:
    """Return the least and the largest entry of each array, shape (arrays, 2)."""
    return _read(_ends, [*parts])


def largest(parts: Iterable[Array]) -> Floats:
    """Return the largest absolute value in each array, shape (arrays,)."""
    return _read(_largest, [*parts])


def apart(pairs: Iterable[tuple[Array, Array]]) -> Floats:
    """Return the largest difference in each pair of arrays, and the largest size in its second, shape (pairs, 2)."""
    return _read(_apart, [*pairs])


def _ends(parts: list[Array]) -> Array:
    return jnp.stack([jnp.stack([jnp.min(part), jnp.max(part)]) for part in parts])


def _largest(parts: list[Array]) -> Array:
    return jnp.stack([jnp.max(jnp.abs(part)) for part in parts])


def _apart(pairs: list[tuple[Array, Array]]) -> Array:
    return jnp.stack([_largest([one - other, other]) for one, other in pairs])


def _read(function: Callable[[Any], Array], arrays: list[Any]) -> Floats:
    spread = next((array for array in jax.tree_util.tree_leaves(arrays) if is_spread(array)), None)
    found = function(arrays) if spread is None else _on(function, mesh_of(spread))(arrays)
    return np.asarray(found, dtype=float)


@functools.cache
def _on(function: Callable[[Any], Array], mesh: Mesh) -> Any:
    # Every process reads the numbers, which only an array that each device has allows.
    return settled(jax.jit(function, out_shardings=NamedSharding(mesh, PartitionSpec())), mesh)
