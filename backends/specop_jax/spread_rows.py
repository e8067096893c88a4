"""What users hold of vectors on a mesh, and the array that holds them there: each device has its own entries."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from specop.errors import InvalidInputError
from specop_jax import mapped as spread_kernels
from specop_jax.groups import put
from specop_jax.mapped import mapped
from specop_jax.order import Order, names_by_dimension
from specop_jax.spread import SpreadArray, hosted, order_of, wrapped

__all__ = ["has_long_columns", "held", "kind_of", "moved", "placed", "rows_of"]


def held(array: Any, mesh: Mesh) -> tuple[Array, Order]:
    """Return what holds a vector, or rows, on a mesh, and the order of the entries there."""
    order = order_of(array, mesh)
    return rows_of(array, order), order


def rows_of(array: Any, order: Order) -> Array:
    """Return what holds a vector, or rows, in an order."""
    if isinstance(array, SpreadArray) and not array.is_transposed:
        return array.rows if array.order == order else moved(array.rows, array.order, order)
    if isinstance(array, SpreadArray):
        return rows_of(placed(hosted(array), Order.plain(order.mesh, array.shape[-1])), order)
    plain = Order.plain(order.mesh, array.shape[-1])
    if plain.is_whole:
        rows = _on_mesh(array, plain.sharding(array.ndim))
    elif array.ndim > 1 and not isinstance(array, jax.core.Tracer) and not array.is_fully_replicated:
        raise InvalidInputError(
            f"rows of length {plain.n} cannot be cut evenly over {order.mesh.devices.size} devices, and the array "
            f"of shape {array.shape} is spread as {array.sharding.spec}. Put it on all of them with jax.device_put("
            f"array, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())), or fill rows up with zeros."
        )
    else:
        # No sharding of JAX's is uneven: all devices have all of it already.
        fill = mapped(order.mesh, spread_kernels.filled, f"a>{kind_of(array)}", plain.local)
        rows = fill(_on_mesh(array, NamedSharding(order.mesh, PartitionSpec())))
    return rows if order == plain else moved(rows, plain, order)


def moved(rows: Array, old: Order, new: Order) -> Array:
    """Return rows in another order."""
    source = np.full(new.padded, -1, np.int64)
    source[new.places] = old.places
    kind = kind_of(rows)
    return mapped(new.mesh, spread_kernels.moved, f"a{kind}>{kind}")(source, rows)


def placed(values: NDArray[Any], order: Order) -> Any:
    """Return entries on the mesh, of which each process gives all, as users hold them."""
    physical = order.to_physical(values)
    sharding = order.sharding(physical.ndim)
    return wrapped(jax.make_array_from_callback(physical.shape, sharding, lambda place: physical[place]), order)


def kind_of(rows: Array) -> str:
    """Return the letter that `mapped` knows an array by."""
    return "avmc"[rows.ndim]


def has_long_columns(matrix: Any) -> bool:
    """Whether a matrix is cut along its columns, not along its rows."""
    if isinstance(matrix, (SpreadArray, jax.core.Tracer)) or matrix.ndim != 2:
        return isinstance(matrix, SpreadArray) and matrix.is_transposed
    first, last = names_by_dimension(matrix.sharding.spec, 2)
    return bool(first) and not last


def _on_mesh(array: Any, sharding: NamedSharding) -> Array:
    return array if getattr(array, "sharding", None) == sharding else put(array, sharding)
