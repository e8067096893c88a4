"""How arrays of the parameters' shapes make a vector, on one device or spread over the devices of a mesh."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from specop_jax.order import Order
from specop_jax.spread import SpreadArray, wrapped

__all__ = ["Form", "constrained", "joined", "pieces_of"]


@dataclass(frozen=True)
class Form:
    """Shapes and dtypes of the selected parameters, in the order of the vector, and how that is spread.

    Parameters
    ----------
    kinds : tuple of (shape, dtype)
    dtype : numpy.dtype
        Dtype of vectors.
    order : Order or None
        Which device has which entries; None on one device.
    """

    kinds: tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]
    dtype: np.dtype[Any]
    order: Order | None = None

    @property
    def mesh(self) -> Mesh | None:
        """The devices, if several."""
        return None if self.order is None else self.order.mesh

    def split(self, vector: Any) -> list[Array]:
        """Return the parts of a vector as the parameters' shapes and dtypes."""
        return _split(vector, self)

    def join(self, parts: Sequence[Array]) -> Any:
        """Return the parts as one vector."""
        return _join(list(parts), self)

    def join_rows(self, parts: Sequence[Array]) -> Any:
        """Return parts with a leading dimension more as rows."""
        order = self.order
        if order is None:
            return jnp.concatenate([part.reshape(len(part), -1).astype(self.dtype) for part in parts], axis=1)
        join: Callable[..., Array] = jax.vmap(lambda *pieces: joined(pieces, self))
        specs = [PartitionSpec(None, *spec) for spec in _specs(self)]
        return wrapped(self._manual(lambda *pieces: join(*pieces), specs, order.sharding(2).spec)(*parts), order)

    def flat(self, z: Array) -> Any:
        """Return outputs as a vector."""
        if self.order is None:
            return jnp.copy(z.reshape(-1).astype(self.dtype))
        plain = Order.plain(self.order.mesh, z.size)
        # Outputs are cut by samples, and devices are to agree on the order of entries: each gets all of them first.
        z = z if self._is_auto else constrained(z, self._everywhere)
        flat = constrained(z.reshape(-1), self._everywhere)
        join = self._manual(lambda *pieces: plain.join(pieces, self.dtype), [PartitionSpec()], plain.sharding().spec)
        return wrapped(join(flat), plain)

    def shaped(self, u: Any, like: jax.ShapeDtypeStruct) -> Array:
        """Return a vector as outputs of this shape, dtype and sharding; it may have their shape."""
        if u.shape == like.shape and not isinstance(u, SpreadArray):
            return u.astype(like.dtype)
        if self.order is None:
            return u.reshape(like.shape).astype(like.dtype)
        plain = Order.plain(self.order.mesh, math.prod(like.shape))
        rows = u.rows if isinstance(u, SpreadArray) else u
        split = self._manual(lambda local: plain.split(local)[0], [plain.sharding().spec], PartitionSpec())
        made: Array = split(rows).reshape(like.shape).astype(like.dtype)
        sharding: Any = like.sharding
        return made if sharding is None else constrained(made, sharding)

    def sharding_of(self, z: Any) -> Any:
        """Return how outputs are cut, where that belongs to their type."""
        found = getattr(z, "sharding", None)
        if self.order is None or self._is_auto or not isinstance(found, NamedSharding):
            return None
        return NamedSharding(self.order.mesh, found.spec)

    @property
    def _is_auto(self) -> bool:
        assert self.order is not None
        return all(kind == AxisType.Auto for kind in self.order.mesh.axis_types)

    @property
    def _everywhere(self) -> NamedSharding:
        assert self.order is not None
        return NamedSharding(self.order.mesh, PartitionSpec())

    def _manual(self, function: Callable[..., Any], specs: Sequence[PartitionSpec], out: Any) -> Callable[..., Any]:
        """Return a function of whole arrays that each device runs on its pieces."""
        assert self.order is not None
        mesh = self.order.mesh
        whole = jax.shard_map(function, mesh=mesh, in_specs=tuple(specs), out_specs=out, check_vma=False)

        def run(*arrays: Array) -> Any:
            pairs = zip(arrays, specs, strict=True)
            return whole(*[constrained(array, NamedSharding(mesh, spec)) for array, spec in pairs])

        return run


def constrained(array: Array, sharding: NamedSharding) -> Array:
    """Return the array with a sharding, inside of a compiled function."""
    if any(kind == AxisType.Explicit for kind in sharding.mesh.axis_types):
        return jax.sharding.reshard(array, sharding)
    return jax.lax.with_sharding_constraint(array, sharding)


@functools.partial(jax.jit, static_argnums=1)
def _split(vector: Any, form: Form) -> list[Array]:
    order = form.order
    if order is None:
        return _cut(vector, form)
    rows = vector.rows if isinstance(vector, SpreadArray) else vector
    return form._manual(lambda local: pieces_of(local, form), [order.sharding().spec], _specs(form))(rows)


@functools.partial(jax.jit, static_argnums=1)
def _join(parts: list[Array], form: Form) -> Any:
    # A copy, because a compiled function hands an argument that it returns straight through, and the caller writes
    # into what it gets.
    order = form.order
    if order is None:
        return jnp.copy(_strung(parts, form))
    join = form._manual(lambda *pieces: joined(pieces, form), _specs(form), order.sharding().spec)
    return wrapped(jnp.copy(join(*parts)), order)


def pieces_of(local: Array, form: Form) -> list[Array]:
    """Return this device's pieces of the parts, given its part of the vector."""
    assert form.order is not None
    pieces = form.order.split(local)
    if form.order.is_plain:
        return _cut(pieces[0], form)
    return [piece.astype(dtype) for piece, (_, dtype) in zip(pieces, form.kinds, strict=True)]


def joined(pieces: Sequence[Array], form: Form, *, is_sum: bool = False) -> Array:
    """Return this device's part of the vector; `is_sum` as in `Order.join`."""
    assert form.order is not None
    held = [_strung(pieces, form)] if form.order.is_plain else pieces
    return form.order.join(held, form.dtype, is_sum=is_sum)


def _specs(form: Form) -> list[PartitionSpec]:
    assert form.order is not None
    return [PartitionSpec()] * len(form.kinds) if form.order.is_plain else form.order.specs


def _cut(vector: Array, form: Form) -> list[Array]:
    sizes = [math.prod(shape) for shape, _ in form.kinds]
    pieces = jnp.split(vector, np.cumsum(sizes)[:-1])
    return [piece.reshape(shape).astype(dtype) for piece, (shape, dtype) in zip(pieces, form.kinds, strict=True)]


def _strung(parts: Sequence[Array], form: Form) -> Array:
    return jnp.concatenate([part.reshape(-1).astype(form.dtype) for part in parts])
