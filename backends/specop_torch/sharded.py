"""The array primitives of specop on DTensors: vectors of which each process of a group holds a part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from specop.arrays.backend import Backend
from specop.arrays.layout import Layout
from specop.arrays.processes import Processes
from specop.arrays.rows import RowBlocks
from specop.errors import InvalidInputError
from specop.statistics.numbers import Floats, Integers
from specop_torch.arrays import backend, known_dtype, row_sums
from specop_torch.groups import Group, group_of

__all__ = ["ShardedBackend", "sharded", "sharded_layout"]

_CUT = (Shard(0),)
# Squares of float64 outside of this range have lost digits, or are lost.
_SMALLEST, _LARGEST = 1e-280, 1e280


def sharded_layout(layout: Layout, group: Group) -> Layout:
    """Return the layout of vectors that a group holds together, of one for each process alone."""
    return replace(layout, sharding=(group.mesh, _CUT))


class ShardedBackend(Backend):
    """`specop.arrays.Backend` for one-dimensional DTensors that are cut over a one-dimensional mesh.

    A matrix is cut along its last axis, as the rows in it, and an (n, k) block along its first. What is made of a
    scalar product is the same tensor in each process.
    """

    name = "torch"
    array_type = DTensor
    conversion = "torch.distributed.tensor.distribute_tensor(x, mesh, [torch.distributed.tensor.Shard(0)])"

    def layout(self, array: DTensor) -> Layout:
        mesh, placements = array.device_mesh, array.placements
        if mesh.ndim != 1 or not placements[0].is_shard(array.ndim - 1):
            raise InvalidInputError(
                f"an array of {array.ndim} dimensions must be cut along its last one over a mesh of one dimension; got "
                f"{placements} over {mesh}. Pass x.redistribute(placements=[Shard({array.ndim - 1})])."
            )
        return Layout(array.shape[-1], known_dtype(array), array._local_tensor.device, (mesh, _CUT))

    def processes(self, held: Layout | DTensor) -> Processes:
        return group_of(held.sharding[0] if isinstance(held, Layout) else held.device_mesh)

    def shape(self, x: Any) -> tuple[int, ...]:
        return tuple(getattr(x, "shape", ()))

    def check_vector(self, x: Any, layout: Layout, what: str) -> None:
        if isinstance(x, DTensor):
            try:
                self.layout(x)
            except InvalidInputError as error:
                if "must be cut" in str(error):
                    raise InvalidInputError(f"{what}: {error}") from None
        super().check_vector(x, layout, what)
        if x.requires_grad and torch.is_grad_enabled():
            raise InvalidInputError(
                f"{what} requires a gradient, which does not flow through products. Pass x.detach()."
            )

    # Entries by entries
    def axpy_(self, y: Any, alpha: float, x: Any) -> Any:
        backend.axpy_(_local(y), alpha, _local(x))
        return y

    def scale_(self, x: Any, alpha: float) -> Any:
        backend.scale_(_local(x), alpha)
        return x

    def copy(self, x: Any) -> Any:
        return _mapped(backend.copy, x)

    def multiply(self, x: DTensor, y: DTensor) -> DTensor:
        return _mapped(lambda one: backend.multiply(one, _local(y)), x)

    def clip(self, x: DTensor, low: float, high: float) -> DTensor:
        return _mapped(lambda one: backend.clip(one, low, high), x)

    def cast(self, x: DTensor, dtype: np.dtype[Any]) -> DTensor:
        return _mapped(lambda one: backend.cast(one, dtype), x)

    # Memory, of this process
    def free_memory(self, layout: Layout) -> int:
        return backend.free_memory(layout) // group_of(layout.sharding[0]).sharing

    def row_bytes(self, layout: Layout) -> int:
        return group_of(layout.sharding[0]).width(layout.n) * layout.dtype.itemsize

    def zeros(self, layout: Layout) -> DTensor:
        group = group_of(layout.sharding[0])
        return group.spread(backend.zeros(_part(layout, group)), layout.n)

    # Sums
    def dot(self, x: DTensor, y: DTensor) -> Tensor:
        return _group(x).sum(_wide(backend.dot(_local(x), _local(y))))

    def norm(self, x: DTensor) -> Tensor:
        return _norm(_group(x), _local(x))

    def apply_rows(self, matrix: DTensor, x: DTensor) -> DTensor:
        group, rows = _group(x), _rows(matrix)
        sums = _wide(row_sums(rows.detach(), _local(x).detach()))
        own, _ = group.reduce(sums, 1.0, len(sums), sums, False)
        return group.spread(own.to(rows.dtype), len(sums))

    def combine_rows(self, matrix: DTensor, y: DTensor) -> DTensor:
        group = _group(matrix)
        return group.spread(backend.combine_rows(_rows(matrix), _whole(y)), matrix.shape[-1], 0)

    def row_products(self, x: Sequence[DTensor], y: Sequence[DTensor]) -> Floats:
        left = [_rows(rows) for rows in x]
        found = backend.row_products(left, left if y is x else [_rows(rows) for rows in y])
        group = _group(x[0])
        return group.sum(torch.from_numpy(found).to(group.device)).cpu().numpy()

    # A basis
    def allocate(self, layout: Layout, capacity: int, lead: int) -> _Rows:
        group = group_of(layout.sharding[0])
        part = backend.allocate(_part(layout, group), capacity, lead)
        return _Rows(part.layout, capacity, lead, part._empty, group, layout.n)

    def set_row_(self, basis: _Rows, i: int, x: DTensor, alpha: float) -> _Rows:
        backend.set_row_(basis, i, _local(x), alpha)
        return basis

    def row(self, basis: _Rows, i: int) -> DTensor:
        return basis.group.spread(basis.row(i), basis.n)

    def take(self, basis: _Rows, k: int) -> DTensor:
        return basis.group.spread(backend.take(basis, k), basis.n)

    def orthogonalize_(
        self, x: DTensor, basis: _Rows, k: int, near: Sequence[int]
    ) -> tuple[DTensor, Tensor, Tensor, Tensor]:
        """Return what `Primitives.orthogonalize_` does, by two sums over the processes: rows `near` go together."""
        group, local = basis.group, _local(x)
        c = local.new_empty(0, dtype=torch.float64)
        if near:
            rows = [basis.row(i) for i in near]
            c = group.sum(torch.stack([_wide(backend.dot(row, local)) for row in rows]))
            for row, one in zip(rows, c.to(local.dtype), strict=True):
                local.addcmul_(row, one, value=-1)
        parts = basis.parts(0, k)
        if not parts:
            return x, c, c.new_empty(0), _norm(group, local)
        length = _length(local) ** 2
        sums = group.sum(torch.cat([*(_wide(row_sums(rows, local)) for _, rows in parts), length.reshape(1)]))
        h, square = sums[:-1], sums[-1]
        for where, rows in parts:
            local.addmv_(rows.T, h[where].to(local.dtype), alpha=-1)
        left = square - torch.dot(h, h)
        # Where next to nothing was removed Pythagoras is as exact as a sum of squares, which would be another round.
        exact = bool((left > 0.5 * square) & (square > _SMALLEST) & (square < _LARGEST))
        return x, c, h, left.sqrt() if exact else _norm(group, local)

    def combine_(self, basis: _Rows, coefficients: Floats, start: int) -> _Rows:
        backend.combine_(basis, coefficients, start)
        return basis

    # Matrices
    def stack(self, rows: Sequence[DTensor]) -> DTensor:
        return _group(rows[0]).spread(torch.stack([_local(row) for row in rows]), rows[0].shape[-1])

    def index(self, matrix: DTensor, i: int) -> DTensor:
        return _group(matrix).spread(_rows(matrix)[i].detach().contiguous(), matrix.shape[-1])

    def transpose(self, matrix: DTensor) -> DTensor:
        axis = 1 - matrix.placements[0].dim  # type: ignore[attr-defined]
        return _group(matrix).spread(_local(matrix).T, matrix.shape[1 - axis], axis)

    def columns(self, block: DTensor) -> list[DTensor]:
        group, n = _group(block), block.shape[0]
        local = block if block.placements[0].is_shard(0) else block.redistribute(placements=_CUT)
        return [group.spread(column, n) for column in backend.columns(_local(local))]

    def gather(self, x: DTensor, indices: Integers) -> DTensor:
        group, local = _group(x), _rows(x)
        own = group.own(x.shape[-1])
        places = np.flatnonzero((indices >= own.start) & (indices < own.stop))
        found = local.new_zeros(*local.shape[:-1], len(indices))
        found[..., torch.from_numpy(places).to(found.device)] = backend.gather(local, indices[places] - own.start)
        return group.spread(group.sum(found)[..., group.own(len(indices))].contiguous(), len(indices))

    def scatter(self, x: DTensor, indices: Integers, layout: Layout) -> DTensor:
        group, entries = group_of(layout.sharding[0]), _whole(x)
        own = group.own(layout.n)
        places = np.flatnonzero((indices >= own.start) & (indices < own.stop))
        kept = backend.gather(entries, places)
        return group.spread(backend.scatter(kept, indices[places] - own.start, _part(layout, group)), layout.n)

    # Exchange with the host, and with vectors that each process holds whole
    def to_host(self, *arrays: Any) -> list[Floats]:
        return backend.to_host(*(_whole(array) if isinstance(array, DTensor) else array for array in arrays))

    def from_host(self, array: NDArray[Any], layout: Layout) -> DTensor:
        group, n = group_of(layout.sharding[0]), array.shape[-1]
        return group.spread(backend.from_host(array[..., group.own(n)], layout), n)

    def to_numpy(self, x: DTensor) -> NDArray[Any]:
        return backend.to_numpy(_whole(x))


class _Rows(RowBlocks):
    """The part of a basis that this process holds."""

    def __init__(
        self, layout: Layout, capacity: int, lead: int, empty: Callable[[int, int], Any], group: Group, n: int
    ) -> None:
        super().__init__(layout, capacity, lead, empty)
        self.group = group
        self.n = n


def _group(x: DTensor) -> Group:
    return group_of(x.device_mesh)


def _part(layout: Layout, group: Group) -> Layout:
    """Return the layout of what this process holds of a vector."""
    own = group.own(layout.n)
    return replace(layout, n=own.stop - own.start, sharding=None)


def _local(x: Any) -> Tensor:
    """Return what this process holds of a DTensor; of a scalar all."""
    if not isinstance(x, DTensor):
        return x
    local = x._local_tensor
    # What comes from a collective may still be on its way.
    return local if type(local) is Tensor else x.to_local().detach()


def _mapped(function: Callable[[Tensor], Tensor], x: Any) -> Any:
    if not isinstance(x, DTensor):
        return function(x)
    axis = x.placements[0].dim  # type: ignore[attr-defined]
    return _group(x).spread(function(_local(x)), x.shape[axis], axis)


def _rows(matrix: DTensor) -> Tensor:
    """Return this process's part of each row, or of a vector."""
    last = matrix.ndim - 1
    return _local(matrix if matrix.placements[0].is_shard(last) else matrix.redistribute(placements=[Shard(last)]))


def _whole(x: DTensor) -> Tensor:
    """Return all entries in this process, in storage of their own."""
    if x.ndim == 2 and x.placements[0].is_shard(0):
        return _group(x).gather(_local(x).T, x.shape[0]).T
    return _group(x).gather(_local(x).detach(), x.shape[-1])


def _wide(sums: Tensor) -> Tensor:
    return sums.to(torch.float64)


def _length(local: Tensor) -> Tensor:
    # An empty tensor has no largest entry.
    return _wide(backend.norm(local)) if len(local) else local.new_zeros((), dtype=torch.float64)


def _norm(group: Group, local: Tensor) -> Tensor:
    length = _length(local)
    square = group.sum(length**2)
    # Those of float32 stay in range.
    if local.dtype != torch.float64 or _SMALLEST < float(square) < _LARGEST:
        return square.sqrt()
    lengths = group.gather(length.reshape(1), group.count)
    largest = lengths.max()
    return largest * torch.linalg.vector_norm(lengths / largest) if 0 < float(largest) < torch.inf else lengths.sum()


sharded = ShardedBackend()
