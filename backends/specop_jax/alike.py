"""Alike: whether arrays that all processes, or all devices, should have the same of are the same there."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, PartitionSpec

from specop.arrays.processes import Processes
from specop.errors import InvalidInputError
from specop.objectives import checksums
from specop_jax.compiled import settled
from specop_jax.groups import processes_on, refuse_own
from specop_jax.spread import mesh_of

__all__ = ["Alike", "alike_on"]


@functools.cache
def alike_on(mesh: Mesh) -> Alike:
    """Return what is known of the arrays on a mesh."""
    return Alike(mesh, processes_on(mesh))


class Alike:
    """What the arrays of several processes hold, told by checksums that are the same in all of them.

    Arrays of JAX never change, so that each is looked at once; those of NumPy at each call.

    Parameters
    ----------
    mesh : Mesh
        Mesh that all arrays of JAX lie on.
    processes : Processes
        Processes that have devices of the mesh.
    """

    def __init__(self, mesh: Mesh, processes: Processes) -> None:
        self._mesh = mesh
        self._processes = processes
        self._known: dict[int, tuple[weakref.ref[Array], tuple[int, ...]]] = {}

    def check_places(self, arrays: Mapping[str, Any], whose: str) -> None:
        """Raise InvalidInputError for arrays of JAX that lie elsewhere; this needs no other process."""
        for name, array in arrays.items():
            refuse_own(array, self._mesh, f"{name!r} of {whose}")
            if isinstance(array, Array) and mesh_of(array) != self._mesh:
                raise InvalidInputError(
                    f"{name!r} of {whose} has the sharding {array.sharding}, and other arrays lie on {self._mesh}. Put "
                    f"both on the same mesh."
                )

    def checksums(self, arrays: Mapping[str, Any], whose: str) -> tuple[Any, ...]:
        """Return a checksum of each array; all processes make the call.

        Parameters
        ----------
        arrays : mapping from names
            Arrays of JAX on the mesh by name; see `check_places`.
        whose : str
            What they belong to, as errors say it: "the model", "batch 3".

        Raises
        ------
        InvalidInputError
            If processes have other arrays, or devices other entries where they should have the same.
        """
        spread = {name: array for name, array in arrays.items() if isinstance(array, Array)}
        hosted = {name: _described(array) for name, array in arrays.items() if name not in spread}
        kinds = {name: (one.shape, one.dtype.name, f"cut by {_spec(one)}", 0) for name, one in spread.items()}
        is_new = any(self._seen(array) is None for array in spread.values())
        told = self._processes.exchange((kinds, hosted, is_new))
        self._check_kinds([{**one, **other} for one, other, _ in told], whose)
        if any(new for *_, new in told):
            self._look_at(spread, whose)
        return tuple(self._seen(spread[name]) if name in spread else hosted[name] for name in arrays)

    def _seen(self, array: Array) -> tuple[int, ...] | None:
        reference, found = self._known.get(id(array), (None, None))
        return found if reference is not None and reference() is array else None

    def _check_kinds(self, told: Sequence[dict[str, Any]], whose: str) -> None:
        other = next((number for number, one in enumerate(told) if one != told[0]), None)
        if other is None:
            return
        between = f"processes 0 and {other} of {self._processes.count}"
        missing = [name for name in {**told[0], **told[other]} if name not in told[0] or name not in told[other]]
        if missing:
            raise InvalidInputError(f"only one of {between} has {missing[0]!r} in {whose}: give all of them the same.")
        name = next(name for name in told[0] if told[other][name] != told[0][name])
        first, second = (" ".join(map(str, one[name][:-1])) for one in (told[0], told[other]))
        seen = f"it is {first} and {second}" if first != second else f"its entries of {first} are others"
        raise InvalidInputError(
            f"{name!r} of {whose} differs between {between}: {seen}. An array of NumPy is to be the same in all of "
            f"them. Where each has a part, make one array of all with jax.make_array_from_process_local_data("
            f"jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec({self._mesh.axis_names[0]!r})), part)."
        )

    def _look_at(self, arrays: Mapping[str, Array], whose: str) -> None:
        """Find the checksums of arrays on the mesh, device by device, and compare what should be the same."""
        if not arrays:
            return
        numbers = [jax.random.key_data(one) if _is_key(one) else one for one in arrays.values()]
        specs = tuple(map(_spec, numbers))
        found = np.asarray(_sums(self._mesh, specs)(numbers))
        devices = [*self._mesh.devices.flat]
        for (name, array), number, sums in zip(arrays.items(), numbers, found.T, strict=True):
            places = number.sharding.devices_indices_map(number.shape)
            first: dict[Any, int] = {}
            for position, device in enumerate(devices):
                place = tuple((cut.start, cut.stop) for cut in places[device])
                same = first.setdefault(place, position)
                if sums[same] != sums[position]:
                    raise InvalidInputError(self._unlike(name, whose, devices[same], device))
            self._known[id(array)] = weakref.ref(array, self._forgetting(id(array))), tuple(map(int, sums))

    def _forgetting(self, number: int) -> Callable[[Any], object]:
        return lambda gone: self._known.pop(number, None)

    def _unlike(self, name: str, whose: str, one: jax.Device, other: jax.Device) -> str:
        return (
            f"{name!r} of {whose} should have the same entries on {one} of process {one.process_index} and on {other} "
            f"of process {other.process_index}, and has not: its curvature would be that of no model. Make it from "
            f"the same numbers in each process, such as from a seed or a file, or send those of one with "
            f"jax.experimental.multihost_utils.broadcast_one_to_all."
        )


def _described(array: Any) -> tuple[Any, ...]:
    values = np.asarray(array)
    return tuple(values.shape), values.dtype.name, checksums.checksum(values)


def _spec(array: Any) -> PartitionSpec:
    spec: PartitionSpec = array.sharding.spec
    return spec


def _is_key(array: Array) -> bool:
    return bool(jnp.issubdtype(array.dtype, jax.dtypes.prng_key))


@functools.cache
def _sums(mesh: Mesh, specs: tuple[PartitionSpec, ...]) -> Any:
    """Return what finds a number for each device's part of each array, the same in all processes."""

    def own(arrays: list[Array]) -> Array:
        return lax.all_gather(jnp.stack([*map(_sum, arrays)]), tuple(mesh.axis_names))

    found = jax.shard_map(own, mesh=mesh, in_specs=([*specs],), out_specs=PartitionSpec(), check_vma=False)
    return settled(jax.jit(found), mesh)


def _sum(array: Array) -> Array:
    """Return a sum over an array's bits, each word mixed with its place by what no two words share the outcome of."""
    words = jnp.concatenate([_words(part) for part in _real_parts(array)])
    return jnp.sum(_mixed(words ^ _mixed(lax.iota(jnp.uint32, len(words)))), dtype=jnp.uint32)


def _mixed(words: Array) -> Array:
    # Not a multiple alone: an even number of changed signs, all in the highest bit, would add up to nothing.
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        words = (words ^ (words >> shift)) * jnp.uint32(factor)
    return words ^ (words >> 16)


def _real_parts(array: Array) -> list[Array]:
    flat = array.reshape(-1)
    return [flat.real, flat.imag] if jnp.issubdtype(array.dtype, np.complexfloating) else [flat]


def _words(flat: Array) -> Array:
    size = flat.dtype.itemsize
    if flat.dtype == np.bool_:
        return flat.astype(jnp.uint32)
    if size < 4:
        return lax.bitcast_convert_type(flat, {1: jnp.uint8, 2: jnp.uint16}[size]).astype(jnp.uint32)
    return lax.bitcast_convert_type(flat, jnp.uint32).reshape(-1)
