"""Memory: what is free, what arrays hold, and how JAX says that there is none left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax import Array

from specop.arrays.memory import free_host_memory

__all__ = ["bytes_on_device", "free_memory", "held_bytes", "is_out_of_memory"]


def free_memory(device: jax.Device) -> int:
    """Return the bytes that are free on a device."""
    known = device.memory_stats() if device.platform != "cpu" else None
    if known is None:
        return free_host_memory()
    return int(known["bytes_limit"] - known["bytes_in_use"])


def held_bytes(held: Sequence[Array], owned: Any) -> int:
    """Return the memory behind the arrays that would be free without them."""
    known = set(map(_address, jax.tree_util.tree_leaves(owned)))
    sizes = {_address(array): bytes_on_device(array) for array in held}
    return sum(size for address, size in sizes.items() if address not in known)


def bytes_on_device(array: Any) -> int:
    """Return the memory that an array takes on each of its devices."""
    if not hasattr(array, "sharding") or not hasattr(array, "unsafe_buffer_pointer"):
        return int(array.nbytes)
    return math.prod(array.sharding.shard_shape(array.shape)) * int(array.dtype.itemsize)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the device's memory is used up."""
    return isinstance(error, jax.errors.JaxRuntimeError) and str(error).startswith("RESOURCE_EXHAUSTED")


def _address(array: Any) -> int:
    # Random keys have no address of their own; few bytes, counted each time.
    if not hasattr(array, "unsafe_buffer_pointer"):
        return id(array)
    parts = array.addressable_shards
    return parts[0].data.unsafe_buffer_pointer() if parts else id(array)
