"""backend_for: the array primitives for an array as it lies, on one device or spread over several."""

from __future__ import annotations

import functools
from typing import Any

from jax.sharding import Mesh

from specop.errors import InvalidInputError
from specop_jax.arrays import JaxBackend, backend
from specop_jax.spread import is_spread, mesh_of
from specop_jax.spread_backend import SpreadBackend

__all__ = ["backend_for", "backend_on"]


@functools.cache
def backend_on(mesh: Mesh) -> SpreadBackend:
    """Return the primitives for arrays on a mesh."""
    return SpreadBackend(mesh)


def backend_for(array: Any) -> JaxBackend:
    """Return the primitives for an array as it lies: on one device, or spread over several."""
    if not is_spread(array):
        return backend
    mesh = mesh_of(array)
    if mesh is None:
        raise InvalidInputError(
            f"the array is spread over {len(array.sharding.device_set)} devices by {type(array.sharding).__name__}, "
            f"which names no mesh. Put it on one with jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))."
        )
    return backend_on(mesh)
