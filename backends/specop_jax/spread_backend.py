"""The array primitives of specop for JAX arrays that are spread over the devices of a mesh.

Every primitive runs on each device's own part; what has to cross devices is written out here and in `mapped`, so that
no vector is ever gathered without a word.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from specop.arrays.backend import Backend
from specop.arrays.layout import Layout
from specop.arrays.processes import Processes
from specop.errors import InvalidInputError
from specop.statistics.numbers import Floats, Integers
from specop_jax import kernels
from specop_jax import mapped as spread_kernels
from specop_jax.arrays import (
    JaxBackend,
    Part,
    alive,
    enable_x64,
    placed_rows,
    require_precision,
    require_transfers,
)
from specop_jax.groups import free_on, processes_on, waiting_on
from specop_jax.mapped import mapped
from specop_jax.order import Order, Spread, device_of_process
from specop_jax.spread import SpreadArray, hosted, is_spread, mesh_of, order_of, wrapped
from specop_jax.spread_basis import SpreadBasis
from specop_jax.spread_rows import has_long_columns, held, kind_of, placed, rows_of

__all__ = ["SpreadBackend"]


class SpreadBackend(JaxBackend):
    """`specop.arrays.Backend` for float32 and float64 arrays on the devices of one mesh.

    Parameters
    ----------
    mesh : Mesh
    """

    conversion = "jax.device_put(jax.numpy.asarray(x, '{dtype}'), jax.sharding.NamedSharding(mesh, P()))"

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.array_type = (Array, SpreadArray)  # type: ignore[assignment]
        self.device = device_of_process(mesh)
        self.everywhere = NamedSharding(mesh, PartitionSpec())

    def spread(self, order: Order | None = None) -> Spread:
        """Return the sharding of a layout on this mesh."""
        return Spread(self.mesh, order)

    def layout(self, array: Any) -> Layout:
        require_precision(array.dtype, "a vector")
        if isinstance(array, jax.core.Tracer):
            return Layout(array.shape[-1], array.dtype, self.device, self.spread())
        order = order_of(alive_rows(array, "a vector"), self.mesh)
        return Layout(array.shape[-1], array.dtype, self.device, self.spread(order))

    def check_vector(self, x: Any, layout: Layout, what: str) -> None:
        require_precision(layout.dtype, "the operator")
        require_transfers()
        if not isinstance(x, (Array, SpreadArray)):
            raise self._refusal(what, f"be a jax.Array on {layout.sharding}", type(x).__name__, layout)
        if not isinstance(x, jax.core.Tracer) and not is_spread(alive_rows(x, what)):
            raise InvalidInputError(
                f"{what} must be spread over {layout.sharding}, got one on {next(iter(x.sharding.device_set))}. Put "
                f"it there with jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())), or "
                f"make it of a parameter structure with flatten; specop never moves a vector between devices by itself."
            )
        found = mesh_of(x) if not isinstance(x, jax.core.Tracer) else self.mesh
        if found != self.mesh:
            raise InvalidInputError(
                f"{what} must be spread over {layout.sharding}, got one whose sharding is {x.sharding}. Put it there "
                f"with jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))."
            )
        if self.shape(x) != (layout.n,):
            raise InvalidInputError(f"{what} must have shape ({layout.n},), got {self.shape(x)}.")
        if x.dtype != layout.dtype:
            raise self._refusal(what, f"have dtype {layout.dtype}", str(x.dtype), layout)

    def vector(self, array: Any) -> tuple[Array, Order]:
        """Return what holds an array, and its order."""
        return held(array, self.mesh)

    def _mapped(self, kernel: Any, kinds: str, *static: Any, donate: bool = False) -> Any:
        return mapped(self.mesh, kernel, kinds, *static, donate=donate)

    # Vectors
    def dot(self, x: Any, y: Any) -> Array:
        left, order = self.vector(x)
        return self._mapped(spread_kernels.dot, "vv>a")(left, rows_of(y, order))

    def norm(self, x: Any) -> Array:
        return self._mapped(spread_kernels.norm, "v>a")(self.vector(x)[0])

    def axpy_(self, y: Any, alpha: float, x: Any) -> Any:
        if not self.shape(y):
            return kernels.axpy(y, float(alpha), x)
        target, order = self.vector(y)
        kind = kind_of(target)
        kernel = self._mapped(kernels.axpy, f"{kind}a{kind}>{kind}", donate=True)
        return wrapped(kernel(target, float(alpha), rows_of(x, order)), order)

    def scale_(self, x: Any, alpha: float) -> Any:
        if not self.shape(x):
            return kernels.scale(x, float(alpha))
        return self._by_row(
            x, lambda rows, kind: self._mapped(kernels.scale, f"{kind}a>{kind}", donate=True)(rows, float(alpha))
        )

    def copy(self, x: Any) -> Any:
        if not self.shape(x):
            return kernels.copy(x)
        return self._by_row(x, lambda rows, kind: self._mapped(kernels.copy, f"{kind}>{kind}")(rows))

    def _by_row(self, x: Any, function: Any) -> Any:
        """Apply what neither knows nor changes the places of entries to rows, also to those of a transposed matrix."""
        if has_long_columns(x):
            return self._by_row(x.T, function).T
        rows, order = self.vector(x)
        return wrapped(function(rows, kind_of(rows)), order)

    def multiply(self, x: Any, y: Any) -> Any:
        rows, order = self.vector(x)
        kind = kind_of(rows)
        return wrapped(self._mapped(kernels.multiply, f"{kind}{kind}>{kind}")(rows, rows_of(y, order)), order)

    def clip(self, x: Any, low: float, high: float) -> Any:
        rows, order = self.vector(x)
        return wrapped(self._mapped(spread_kernels.clip, "vvaa>v")(rows, _valid(order), low, high), order)

    def processes(self, held: Any) -> Processes:
        return processes_on(self.mesh)

    def free_memory(self, layout: Layout) -> int:
        return free_on(self.mesh)

    def row_bytes(self, layout: Layout) -> int:
        return self._order(layout).local * layout.dtype.itemsize

    def zeros(self, layout: Layout) -> Any:
        order = self._order(layout)
        return wrapped(jnp.zeros(order.padded, layout.dtype, device=order.sharding()), order)

    def gather(self, x: Any, indices: Integers) -> Any:
        rows, order = self.vector(x)
        chosen = Order.plain(self.mesh, len(indices))
        source = np.full(chosen.padded, -1, np.int64)
        source[: len(indices)] = order.places[np.asarray(indices)]
        return wrapped(self._mapped(spread_kernels.moved, f"a{kind_of(rows)}>{kind_of(rows)}")(source, rows), chosen)

    def scatter(self, x: Any, indices: Integers, layout: Layout) -> Any:
        rows, order = self.vector(x)
        whole = self._order(layout)
        source = np.full(whole.padded, -1, np.int64)
        source[whole.places[np.asarray(indices)]] = order.places
        return wrapped(self._mapped(spread_kernels.moved, "av>v")(source, rows), whole)

    def section(self, x: Any, start: int, stop: int) -> Any:
        return self.gather(x, np.arange(start, stop, dtype=np.intp))

    # A basis
    def allocate(self, layout: Layout, capacity: int, lead: int) -> SpreadBasis:
        return SpreadBasis(layout, self._order(layout), capacity, lead)

    def set_row_(self, basis: Any, i: int, x: Any, alpha: float) -> SpreadBasis:
        basis.set_row(i, rows_of(x, basis.order), alpha)
        return basis

    def row(self, basis: Any, i: int) -> Any:
        return wrapped(basis.row(i), basis.order)

    def orthogonalize_(self, x: Any, basis: Any, k: int, near: Sequence[int]) -> tuple[Any, Part, Part, Part]:
        x, *coefficients = basis.orthogonalize(rows_of(x, basis.order), k, near)
        return wrapped(x, basis.order), *coefficients

    def combine_(self, basis: Any, coefficients: Floats, start: int) -> SpreadBasis:
        basis.combine(coefficients, start)
        return basis

    def take(self, basis: Any, k: int) -> Any:
        if k == basis.lead:
            return wrapped(basis.blocks[0], basis.order)
        return self.stack([self.row(basis, i) for i in range(k)])

    # Matrices
    def stack(self, rows: Sequence[Any]) -> Any:
        first, order = self.vector(rows[0])
        others = [rows_of(row, order) for row in rows[1:]]
        kinds = "v" * len(rows) + ">m"
        return wrapped(self._mapped(spread_kernels.stack, kinds)(first, *others), order)

    def stack_columns(self, vectors: Sequence[Any]) -> Any:
        return self.transpose(self.stack(vectors))

    def transpose(self, matrix: Any) -> Any:
        return matrix.T

    def columns(self, block: Any) -> list[Any]:
        rows = self.transpose(block)
        return [self.index(rows, i) for i in range(self.shape(rows)[0])]

    def index(self, matrix: Any, i: int) -> Any:
        if len(self.shape(matrix)) != 2 or (isinstance(matrix, SpreadArray) and matrix.is_transposed):
            found = hosted(matrix)[i]
            return placed(found, Order.plain(self.mesh, found.shape[-1]))
        rows, order = self.vector(matrix)
        return wrapped(self._mapped(kernels.row, "ma>v")(rows, i), order)

    def apply_rows(self, matrix: Any, x: Any) -> Any:
        if has_long_columns(matrix):
            return self.combine_rows(self.transpose(matrix), x)
        rows, order = self.vector(matrix)
        found = Order.plain(self.mesh, rows.shape[0])
        apply_rows = self._mapped(spread_kernels.apply_rows_spread, "mv>v", found.padded)
        return wrapped(apply_rows(rows, rows_of(x, order)), found)

    def combine_rows(self, matrix: Any, y: Any) -> Any:
        if len(self.shape(y)) > 1:
            columns = [self.combine_rows(matrix, column) for column in self.columns(y)]
            return self.stack_columns(columns)
        if has_long_columns(matrix):
            return self.apply_rows(self.transpose(matrix), y)
        rows, order = self.vector(matrix)
        inner = rows_of(y, Order.plain(self.mesh, rows.shape[0]))
        return wrapped(self._mapped(spread_kernels.combine_rows, "mv>v")(rows, inner), order)

    def row_products(self, x: Sequence[Any], y: Sequence[Any]) -> Floats:
        order = self.vector(x[0])[1]
        left = [rows_of(rows, order) for rows in x]
        right = left if y is x else [rows_of(rows, order) for rows in y]
        total = np.empty((sum(map(len, left)), sum(map(len, right))))
        with enable_x64(True):
            product = self._mapped(spread_kernels.row_products, "mm>a")
            for i, one in placed_rows(left):
                for j, other in placed_rows(right):
                    total[i, j] = np.asarray(product(one, other))
        return total

    def block_products(self, rows: Any, size: int) -> Floats:
        return Backend.block_products(self, rows, size)

    def apply_blocks(self, blocks: Any, x: Any) -> Any:
        return Backend.apply_blocks(self, blocks, x)

    def cast(self, x: Any, dtype: np.dtype[Any]) -> Any:
        return self._by_row(
            x, lambda rows, kind: self._mapped(spread_kernels.cast, f"{kind}>{kind}", np.dtype(dtype))(rows)
        )

    # Exchange with the host
    def to_host(self, *arrays: Any) -> list[Floats]:
        long = {i for i, array in enumerate(arrays) if not isinstance(array, Part) and self.shape(array)}
        others = [array for i, array in enumerate(arrays) if i not in long]
        # On devices of their own it is here that programs are waited for.
        with waiting_on(self.mesh):
            short = iter(super().to_host(*others) if others else ())
            return [
                np.array(hosted(array), dtype=np.float64) if i in long else next(short)
                for i, array in enumerate(arrays)
            ]

    def from_host(self, array: NDArray[Any], layout: Layout) -> Any:
        require_precision(layout.dtype, "a vector")
        require_transfers()
        values = np.asarray(array, dtype=layout.dtype)
        spread = layout.sharding
        return placed(np.array(values), spread.order_of(values.shape[-1]))

    def to_numpy(self, x: Any) -> NDArray[Any]:
        return np.array(hosted(x))

    def _order(self, layout: Layout) -> Order:
        order: Order = layout.sharding.order_of(layout.n)
        return order


def alive_rows(array: Any, what: str) -> Any:
    """Return an array that has its numbers, or raise InvalidInputError."""
    alive(array.rows if isinstance(array, SpreadArray) else array, what)
    return array


@functools.lru_cache(8)
def _valid(order: Order) -> Array:
    """Return where a padded array has entries."""
    there = order.to_physical(np.ones(order.n, bool))
    return jax.make_array_from_callback(there.shape, order.sharding(), lambda place: there[place])
