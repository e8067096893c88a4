"""Vectors that are spread over the devices of a mesh: the array that holds one, and its order."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding
from numpy.typing import NDArray

from specop_jax.order import Order, Spread

__all__ = ["SpreadArray", "hosted", "is_spread", "mesh_of", "order_of", "wrapped"]


@jax.tree_util.register_pytree_node_class
class SpreadArray:
    """A vector, or rows, that JAX has no array for: cut unevenly, or in the order in which parameters lie on devices.

    Where the number of entries is a multiple of the number of devices, and they lie in their own order, a vector is a
    `jax.Array` with a ``NamedSharding``. Otherwise it is this: an array ``rows``, whose last dimension has each
    device's entries one after the other, filled up with zeros. ``numpy.asarray`` and ``jax.numpy.asarray`` give the
    entries themselves, in the order of the parameters, and sums and multiples are those of vectors.
    """

    # NumPy would otherwise add entry by entry.
    __array_ufunc__ = None

    def __init__(self, rows: Array, order: Order, is_transposed: bool = False) -> None:
        self.rows = rows
        self.order = order
        self.is_transposed = is_transposed

    def tree_flatten(self) -> tuple[tuple[Array], tuple[Order, bool]]:
        """Return what is traced, and what is not."""
        return (self.rows,), (self.order, self.is_transposed)

    @classmethod
    def tree_unflatten(cls, facts: tuple[Order, bool], children: tuple[Array]) -> SpreadArray:
        """Return the array again."""
        return cls(children[0], *facts)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape without the zeros."""
        shape = (*self.rows.shape[:-1], self.order.n)
        return shape[::-1] if self.is_transposed else shape

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(np.prod(self.shape))

    @property
    def dtype(self) -> Any:
        """The dtype of the entries."""
        return self.rows.dtype

    @property
    def sharding(self) -> Any:
        """The sharding of `rows`."""
        return self.rows.sharding

    @property
    def nbytes(self) -> int:
        """Memory of all devices together."""
        return int(self.rows.nbytes)

    @property
    def T(self) -> SpreadArray:
        """The transpose of a matrix, a vector itself."""
        return self if self.ndim == 1 else SpreadArray(self.rows, self.order, not self.is_transposed)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        found = hosted(self)
        return found if dtype is None else found.astype(dtype, copy=False)

    def __jax_array__(self) -> Array:
        return jnp.asarray(hosted(self))

    def __getitem__(self, key: Any) -> Array:
        return jnp.asarray(hosted(self)[key])

    def __add__(self, other: Any) -> SpreadArray:
        return self._with(jnp.add, other)

    def __sub__(self, other: Any) -> SpreadArray:
        return self._with(jnp.subtract, other)

    def __mul__(self, factor: Any) -> SpreadArray:
        if isinstance(factor, SpreadArray):
            return self._with(jnp.multiply, factor)
        return SpreadArray(self.rows * factor, self.order, self.is_transposed) if _is_scalar(factor) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, factor: Any) -> SpreadArray:
        return SpreadArray(self.rows / factor, self.order, self.is_transposed) if _is_scalar(factor) else NotImplemented

    def __neg__(self) -> SpreadArray:
        return SpreadArray(-self.rows, self.order, self.is_transposed)

    def __repr__(self) -> str:
        return f"SpreadArray(shape={self.shape}, dtype={self.dtype}, on {Spread(self.order.mesh)})"

    def _with(self, operation: Any, other: Any) -> SpreadArray:
        alike = isinstance(other, SpreadArray) and other.order == self.order and other.shape == self.shape
        if not alike or other.is_transposed != self.is_transposed:
            return NotImplemented
        return SpreadArray(operation(self.rows, other.rows), self.order, self.is_transposed)


def is_spread(array: Any) -> bool:
    """Whether an array lies on several devices."""
    if isinstance(array, SpreadArray):
        return True
    return isinstance(array, Array) and not isinstance(array, jax.core.Tracer) and len(array.sharding.device_set) > 1


def mesh_of(array: Any) -> Any:
    """Return the mesh that an array is spread over, or None where it is not described by one."""
    if isinstance(array, SpreadArray):
        return array.order.mesh
    return array.sharding.mesh if isinstance(array.sharding, NamedSharding) else None


def order_of(array: Any, mesh: Any) -> Order:
    """Return the order of the entries in the last dimension of an array as users hold it."""
    if isinstance(array, SpreadArray) and not array.is_transposed:
        return array.order
    return Order.plain(mesh, array.shape[-1])


def wrapped(rows: Array, order: Order) -> Any:
    """Return rows as users hold them: JAX's own array where there is one."""
    return rows if order.is_whole else SpreadArray(rows, order)


def hosted(array: Any) -> NDArray[Any]:
    """Return all entries as a NumPy array, in their own order, in every process."""
    rows: Any = array.rows if isinstance(array, SpreadArray) else array
    if not rows.is_fully_addressable and not rows.is_fully_replicated:
        everywhere = NamedSharding(rows.sharding.mesh, jax.sharding.PartitionSpec())
        rows = jax.block_until_ready(jax.device_put(rows, everywhere))
    values = np.asarray(rows)
    if not isinstance(array, SpreadArray):
        return values
    values = array.order.to_logical(values)
    return values.T if array.is_transposed else values


def _is_scalar(value: Any) -> bool:
    return np.ndim(value) == 0 and not isinstance(value, SpreadArray)
