"""In which order the entries of a vector lie on the devices of a mesh.

A vector of parameters that are spread over a mesh lies there as they do: each device has its own pieces of the
parameters, one after the other, and no product has to move them. Of what several devices have in common each keeps a
part. Zeros fill up the parts, which JAX wants equally long.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

__all__ = ["Order", "Spread", "names_by_dimension"]

Names = tuple[str, ...]


@dataclass(frozen=True)
class Order:
    """How many entries there are, and where each lies.

    Parameters
    ----------
    mesh : Mesh
        Mesh of the devices.
    shapes : tuple of tuples of int
        Shapes of the arrays whose entries, one array after the other, are those of the vector.
    cuts : tuple
        For each dimension of each array the names of the mesh's axes that it is cut along.
    """

    mesh: Mesh
    shapes: tuple[tuple[int, ...], ...]
    cuts: tuple[tuple[Names, ...], ...]

    @classmethod
    def plain(cls, mesh: Mesh, n: int) -> Order:
        """Return the order of the entries themselves: the first device has the first ones."""
        return cls(mesh, ((n,),), (((),),))

    @classmethod
    def of(cls, mesh: Mesh, shapes: Sequence[tuple[int, ...]], specs: Sequence[PartitionSpec]) -> Order:
        """Return the order for arrays that are cut like this."""
        cuts = tuple(names_by_dimension(spec, len(shape)) for shape, spec in zip(shapes, specs, strict=True))
        if not any(any(cut) for cut in cuts):
            return cls.plain(mesh, sum(map(math.prod, shapes)))
        return cls(mesh, tuple(map(tuple, shapes)), cuts)

    @functools.cached_property
    def n(self) -> int:
        """Number of entries."""
        return sum(map(math.prod, self.shapes))

    @property
    def is_plain(self) -> bool:
        """Whether entries lie in their own order."""
        return not any(any(cut) for cut in self.cuts)

    @property
    def is_whole(self) -> bool:
        """Whether entries lie in their own order without any zeros between or behind them."""
        return self.is_plain and self.padded == self.n

    @property
    def axes(self) -> Names:
        """All axes of the mesh."""
        return tuple(self.mesh.axis_names)

    @property
    def padded(self) -> int:
        """Number of entries of the array that holds the vector."""
        return int(self.mesh.devices.size) * self.local

    @functools.cached_property
    def local(self) -> int:
        """Number of entries on each device."""
        return sum(group.chunk for group in self.groups)

    @property
    def specs(self) -> list[PartitionSpec]:
        """How each array is cut."""
        return [PartitionSpec(*(cut or None for cut in cuts)) for cuts in self.cuts]

    def sharding(self, dimensions: int = 1) -> NamedSharding:
        """Return the sharding of an array whose last dimension is the padded vector's."""
        return NamedSharding(self.mesh, PartitionSpec(*[None] * (dimensions - 1), self.axes))

    @functools.cached_property
    def groups(self) -> tuple[_Group, ...]:
        """The arrays by what devices have in common of them, in the order in which a device has them."""
        members: dict[Names, list[int]] = {}
        for number, cuts in enumerate(self.cuts):
            used = {name for cut in cuts for name in cut}
            members.setdefault(tuple(name for name in self.axes if name not in used), []).append(number)
        return tuple(_Group(self, shared, tuple(numbers)) for shared, numbers in members.items())

    # On the host
    def to_physical(self, logical: NDArray[Any]) -> NDArray[Any]:
        """Return an array whose last dimension holds entries in their own order as the devices have them."""
        lead = logical.shape[:-1]
        if self.is_plain:
            return np.pad(logical, [(0, 0)] * len(lead) + [(0, self.padded - self.n)])
        arrays = [part.reshape(*lead, *shape) for part, shape in zip(self._cut(logical), self.shapes, strict=True)]
        out = np.zeros((*lead, self.mesh.devices.size, self.local), logical.dtype)
        for device, start, chunk, group, rank in self._chunks():
            pieces = [arrays[number][group.place(number, device)] for number in group.numbers]
            flat = np.concatenate([piece.reshape(*lead, -1) for piece in pieces], axis=-1)
            part = flat[..., rank * chunk : (rank + 1) * chunk]
            out[..., self._index(device), start : start + part.shape[-1]] = part
        return out.reshape(*lead, -1)

    def to_logical(self, physical: NDArray[Any]) -> NDArray[Any]:
        """Return an array whose last dimension is as the devices have it with entries in their own order."""
        lead = physical.shape[:-1]
        if self.is_plain:
            return np.array(physical[..., : self.n])
        cut = physical.reshape(*lead, self.mesh.devices.size, self.local)
        arrays = [np.zeros((*lead, *shape), physical.dtype) for shape in self.shapes]
        flats: dict[Any, NDArray[Any]] = {}
        for device, start, chunk, group, rank in self._chunks():
            # One flat piece for all devices that have a part of it.
            key = (group.shared, tuple(place for name, place in device.items() if name not in group.shared))
            if key not in flats:
                flats[key] = np.zeros((*lead, chunk * group.replicas), physical.dtype)
            flats[key][..., rank * chunk : (rank + 1) * chunk] = cut[..., self._index(device), start : start + chunk]
            if rank == group.replicas - 1:
                flat, at = flats.pop(key), 0
                for number in group.numbers:
                    piece = group.piece(number)
                    size = math.prod(piece)
                    arrays[number][group.place(number, device)] = flat[..., at : at + size].reshape(*lead, *piece)
                    at += size
        return np.concatenate([array.reshape(*lead, -1) for array in arrays], axis=-1)

    @functools.cached_property
    def places(self) -> NDArray[np.intp]:
        """For each entry its place in the padded array."""
        numbers = self.to_physical(np.arange(1, self.n + 1))
        places = np.empty(self.n, np.intp)
        filled = np.flatnonzero(numbers)
        places[numbers[filled] - 1] = filled
        return places

    def _cut(self, logical: NDArray[Any]) -> list[NDArray[Any]]:
        return np.split(logical, np.cumsum([*map(math.prod, self.shapes)])[:-1], axis=-1)

    def _index(self, device: dict[str, int]) -> int:
        return int(np.ravel_multi_index(tuple(device.values()), self.mesh.devices.shape))

    def _chunks(self) -> Iterator[tuple[dict[str, int], int, int, _Group, int]]:
        """Yield, for each device's part of each group, where it is: (device, start, length, group, rank)."""
        for place in np.ndindex(*self.mesh.devices.shape):
            device, start = dict(zip(self.axes, place, strict=True)), 0
            for group in self.groups:
                yield device, start, group.chunk, group, group.rank(group.shared, device)
                start += group.chunk

    # On each device, inside of shard_map over all axes
    def split(self, local: Array) -> list[Array]:
        """Return this device's pieces of the arrays."""
        pieces: dict[int, Array] = {}
        start = 0
        for group in self.groups:
            flat = local[start : start + group.chunk]
            start += group.chunk
            if group.replicas > 1:
                flat = lax.all_gather(flat, group.shared, tiled=True)
            at = 0
            for number in group.numbers:
                piece = group.piece(number)
                size = math.prod(piece)
                pieces[number] = flat[at : at + size].reshape(piece)
                at += size
        return [pieces[number] for number in range(len(self.shapes))]

    def join(self, pieces: Sequence[Array], dtype: Any, *, is_sum: bool = False) -> Array:
        """Return this device's part of the vector, given its pieces of the arrays.

        Parameters
        ----------
        pieces : sequence of arrays
        dtype : numpy.dtype
        is_sum : bool
            Whether devices that share a piece are to add up what they have, instead of having the same.
        """
        parts = []
        for group in self.groups:
            flat = jnp.concatenate([pieces[number].reshape(-1).astype(dtype) for number in group.numbers])
            flat = jnp.pad(flat, (0, group.chunk * group.replicas - len(flat)))
            if group.replicas > 1 and is_sum:
                flat = lax.psum_scatter(flat, group.shared, tiled=True)
            elif group.replicas > 1:
                flat = lax.dynamic_slice_in_dim(flat, lax.axis_index(group.shared) * group.chunk, group.chunk)
            parts.append(flat)
        return jnp.concatenate(parts)

    def gather_pieces(self, pieces: Sequence[Array]) -> list[Array]:
        """Return the whole arrays, given this device's pieces."""
        whole = []
        for piece, cuts in zip(pieces, self.cuts, strict=True):
            for dimension, names in enumerate(cuts):
                if names:
                    piece = lax.all_gather(piece, names, axis=dimension, tiled=True)
            whole.append(piece)
        return whole

    def scatter_sums(self, arrays: Sequence[Array]) -> list[Array]:
        """Return this device's pieces, added up over the devices that they are cut along."""
        pieces = []
        for piece, cuts in zip(arrays, self.cuts, strict=True):
            for dimension, names in enumerate(cuts):
                if names:
                    piece = lax.psum_scatter(piece, names, scatter_dimension=dimension, tiled=True)
            pieces.append(piece)
        return pieces


@dataclass(frozen=True)
class _Group:
    """Arrays of an order that the same devices share: along the axes `shared` of the mesh they have the same."""

    order: Order
    shared: Names
    numbers: tuple[int, ...]

    @property
    def replicas(self) -> int:
        """Number of devices that have the same."""
        return math.prod(self.order.mesh.shape[name] for name in self.shared)

    @property
    def chunk(self) -> int:
        """Entries that each of them keeps."""
        return -(-sum(math.prod(self.piece(number)) for number in self.numbers) // self.replicas)

    def piece(self, number: int) -> tuple[int, ...]:
        """Shape of a device's piece of an array."""
        sizes = self.order.mesh.shape
        cuts = self.order.cuts[number]
        return tuple(
            length // math.prod(sizes[name] for name in names)
            for length, names in zip(self.order.shapes[number], cuts, strict=True)
        )

    def rank(self, names: Names, device: dict[str, int]) -> int:
        """Place of a device among those along some axes."""
        shape = tuple(self.order.mesh.shape[name] for name in names)
        return int(np.ravel_multi_index(tuple(device[name] for name in names), shape)) if names else 0

    def place(self, number: int, device: dict[str, int]) -> Any:
        """Return where a device's piece of an array is, in its last dimensions."""
        ranks = [self.rank(names, device) for names in self.order.cuts[number]]
        piece = self.piece(number)
        return (..., *(slice(i * size, (i + 1) * size) for i, size in zip(ranks, piece, strict=True)))


@dataclass(frozen=True)
class Spread:
    """The sharding of a `Layout`: equal to others on the same mesh, in whatever order vectors are made there."""

    mesh: Mesh
    order: Order | None = field(default=None, compare=False)

    def order_of(self, n: int) -> Order:
        """Return the order of a vector of n entries."""
        return self.order if self.order is not None and self.order.n == n else Order.plain(self.mesh, n)

    def __str__(self) -> str:
        shape = ", ".join(f"{name}: {size}" for name, size in self.mesh.shape.items())
        return f"{self.mesh.devices.size} devices of the mesh ({shape})"


def names_by_dimension(spec: PartitionSpec, dimensions: int) -> tuple[Names, ...]:
    """Return for each dimension the names of the axes that it is cut along."""
    entries = [*spec, *[None] * (dimensions - len(spec))]
    return tuple(() if entry is None else (entry,) if isinstance(entry, str) else tuple(entry) for entry in entries)


def device_of_process(mesh: Mesh) -> jax.Device:
    """Return the first device of a mesh that belongs to this process, or of all if none does."""
    own = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    return (own or list(mesh.devices.flat))[0]
