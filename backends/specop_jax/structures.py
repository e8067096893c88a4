"""Batches and parameter structures: the arrays inside containers of any kind, and what holds them."""

from __future__ import annotations

import copy
import dataclasses
import types
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from specop.objectives import checksums

__all__ = ["Constant", "Frame", "as_array", "checksum", "on_device", "take_apart"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type, types.MethodType)


def take_apart(structure: Any) -> tuple[list[Array | np.ndarray], Frame]:
    """Return the arrays of a structure in a fixed order, and what puts them together again.

    Pytrees, dataclasses that JAX does not know, and other mutable mappings; whatever has ``__array__`` is an array.
    """
    leaves, treedef = jax.tree_util.tree_flatten(structure)
    arrays: list[Array | np.ndarray] = []
    places: list[Any] = []
    for leaf in leaves:
        array = as_array(leaf)
        if array is not None:
            arrays.append(array)
            places.append(None)
            continue
        inside = _fields(leaf)
        if inside is None:
            places.append(Constant(leaf))
            continue
        make, values = inside
        found, frame = take_apart(values)
        arrays += found
        places.append((make, frame))
    return arrays, Frame(treedef, tuple(places))


@dataclasses.dataclass(frozen=True)
class Frame:
    """A structure without its arrays; equal frames hold the same constants in the same places."""

    treedef: Any
    places: tuple[Any, ...]

    def fill(self, arrays: Iterable[Any]) -> Any:
        """Return the structure with these arrays in it."""
        return self._fill(iter(arrays))

    def _fill(self, arrays: Iterator[Any]) -> Any:
        leaves = []
        for place in self.places:
            if place is None:
                leaves.append(next(arrays))
            elif isinstance(place, Constant):
                leaves.append(place.value)
            else:
                make, frame = place
                leaves.append(make(frame._fill(arrays)))
        return jax.tree_util.tree_unflatten(self.treedef, leaves)


class Constant:
    """A value that compiled code has taken in: plain values are compared with their type, others by identity."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Constant) or type(self.value) is not type(other.value):
            return False
        return self.value is other.value or (isinstance(self.value, _PLAIN) and bool(self.value == other.value))

    def __hash__(self) -> int:
        return hash(self.value) if isinstance(self.value, _PLAIN) else id(self.value)


def as_array(leaf: Any) -> Array | np.ndarray | None:
    """Return a leaf as an array of numbers (or of random keys), or None if it is none."""
    if isinstance(leaf, Array):
        return leaf
    if isinstance(leaf, (np.ndarray, np.generic)) or hasattr(leaf, "__array__"):
        array = np.asarray(leaf)
        return array if jnp.issubdtype(array.dtype, np.number) or array.dtype == np.bool_ else None
    return None


def on_device(array: Array | np.ndarray, device: jax.Device) -> Array:
    """Return the array on a device; JAX's own that are there already are not copied."""
    # A NumPy array is copied, because JAX may otherwise go on reading memory that its owner writes into.
    return jax.device_put(array, device) if isinstance(array, Array) else jnp.array(array, device=device)


def checksum(array: Array | np.ndarray) -> int:
    """Return a checksum of an array's bytes."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return checksums.checksum(np.asarray(array))


class _Make:
    """Puts the values of fields or keys into a new container of the same kind."""

    def __init__(self, prototype: Any, constant: tuple[Any, ...]) -> None:
        self.prototype = prototype
        self.constant = constant

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Make) and self.constant == other.constant

    def __hash__(self) -> int:
        return hash(self.constant)

    def __call__(self, values: dict[Any, Any]) -> Any:
        if isinstance(self.prototype, type):
            return self.prototype(**values)
        clone = copy.copy(self.prototype)
        clone.update(values)
        return clone


def _fields(leaf: Any) -> tuple[_Make, dict[Any, Any]] | None:
    kind = type(leaf)
    if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
        values = {item.name: getattr(leaf, item.name) for item in dataclasses.fields(leaf) if item.init}
        return _Make(kind, (kind,)), values
    if isinstance(leaf, MutableMapping):
        # Without its values: a frame must not keep a batch in memory.
        prototype = copy.copy(leaf)
        prototype.update(dict.fromkeys(leaf))
        return _Make(prototype, (kind, *leaf)), dict(leaf)
    return None
