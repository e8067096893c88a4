"""MeshGroup: the processes of a mesh of two or three dimensions, along one of which parameters are in parts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh

from specop.errors import InvalidInputError
from specop_torch.groups import Group
from specop_torch.readers import Axis, Readers

__all__ = ["MeshGroup", "group_of_copies", "group_over_tensor_parallel"]

_groups: WeakKeyDictionary[DeviceMesh, dict[tuple[str, ...], MeshGroup]] = WeakKeyDictionary()


def group_of_copies(mesh: DeviceMesh) -> MeshGroup:
    """Return the processes of a mesh of copies times parts; the first call for a mesh is to be made by all of them."""
    return _group(mesh, ("copies", "parts"))


def group_over_tensor_parallel(mesh: DeviceMesh, ranks: Tensor) -> MeshGroup:
    """Return the processes of a mesh, along one dimension of which tensor parallelism cuts layers; as above.

    Parameters
    ----------
    mesh : DeviceMesh
    ranks : Tensor
        Numbers of the processes, this one among them, that run each layer together.
    """
    # The last one first: of two that have one process each it is as good.
    for dimension in reversed(range(mesh.ndim)) if mesh.ndim in (2, 3) else ():
        if torch.equal(ranks, _ranks_along(mesh, (dimension,))):
            others = ("copies", "parts")[3 - mesh.ndim :]
            return _group(mesh, (*others[:dimension], "tensor", *others[dimension:]))
    raise InvalidInputError(
        f"tensor parallelism has cut layers over the processes {ranks.tolist()}, and parallel= is {mesh}: pass the "
        f"mesh along one dimension of which these are, and along the other one, or copies times parts, fully_shard's, "
        f"such as init_device_mesh(device, (2, 4), mesh_dim_names=('data', 'tensor'))."
    )


def _group(mesh: DeviceMesh, roles: tuple[str, ...]) -> MeshGroup:
    made = _groups.setdefault(mesh, {})
    # A mesh equals one of a group that was destroyed before it was made.
    if roles not in made or made[roles].holders.handle is not mesh.get_group(roles.index("parts")):
        made[roles] = MeshGroup(mesh, roles)
    return made[roles]


class MeshGroup(Group):
    """Processes that hold vectors together, all of them, and parameters in the parts that some of them have.

    Parameters
    ----------
    mesh : DeviceMesh
        A mesh of all processes in their order.
    roles : sequence of str
        Purpose of each dimension: "parts" of parameters, "copies" of these, or "tensor" parallelism, which
        cuts layers, and whose processes have the same samples.
    """

    def __init__(self, mesh: DeviceMesh, roles: tuple[str, ...]) -> None:
        ranks = mesh.mesh.reshape(-1)
        if not torch.equal(ranks, torch.arange(distributed.get_world_size())):
            raise InvalidInputError(
                f"a mesh of several dimensions must hold all {distributed.get_world_size()} processes in their order, "
                f"as init_device_mesh makes it, got {mesh}."
            )
        super().__init__(DeviceMesh(mesh.device_type, ranks))
        self.home = mesh
        self._axes = tuple(
            Axis(role, size, step) for role, size, step in zip(roles, mesh.mesh.shape, mesh.mesh.stride(), strict=True)
        )
        self._dimension = {role: dimension for dimension, role in enumerate(roles)}
        self.holders = _line(mesh, self._dimension["parts"])
        if "copies" in roles:
            copies = _line(mesh, self._dimension["copies"])
            self.copies = copies if copies.count > 1 else None
        if "tensor" in roles:
            first = mesh.mesh.select(self._dimension["tensor"], 0).reshape(-1).tolist()
            own = mesh.mesh.movedim(self._dimension["tensor"], -1).reshape(len(first), -1)
            self.readers = Readers(self, self.sum, first, int((own == self.index).any(1).nonzero()))

    def axes(self, mesh: DeviceMesh) -> tuple[Axis, ...] | None:
        if mesh == self.home:
            return self._axes
        if "tensor" not in self._dimension:
            return None
        # As fully_shard joins dimensions, and some of them.
        for count in range(1, self.home.ndim + 1):
            for order in itertools.permutations(range(self.home.ndim), count):
                if torch.equal(mesh.mesh, _ranks_along(self.home, order)):
                    return tuple(self._axes[dimension] for dimension in order)
        return None

    @contextmanager
    def inside(self) -> Iterator[None]:
        if self._is_inside:
            yield
            return
        try:
            with super().inside():
                yield
        finally:
            for part in self._parts:
                part._is_inside = False

    def _open(self) -> None:
        if self._inner is None and self.device.type == "cpu":
            self._connect()
        super()._open()
        for part in self._parts:
            part._is_inside, part._has_left = True, False

    def _connect(self) -> None:
        """Make connections of its own for each line of the mesh; all processes make those of all of them."""
        for part in self._parts:
            along = self._dimension["parts" if part is self.holders else "copies"]
            for ranks in self.home.mesh.movedim(along, -1).reshape(-1, part.count).tolist():
                made = distributed.new_group(ranks, self._timeout, "gloo")
                if self.index in ranks:
                    part._inner = made

    def _close(self) -> None:
        super()._close()
        for part in self._parts:
            part._close()

    @property
    def _parts(self) -> list[Group]:
        return [one for one in (self.copies, self.holders) if one is not None and one.count > 1]


def _line(mesh: DeviceMesh, dimension: int) -> Group:
    return Group(DeviceMesh.from_group(mesh.get_group(dimension), mesh.device_type))


def _ranks_along(mesh: DeviceMesh, dimensions: tuple[int, ...]) -> Tensor:
    """Return the processes that have this one's place along all other dimensions."""
    coordinates = mesh.get_coordinate() or [0] * mesh.ndim
    ranks = mesh.mesh.permute(*dimensions, *(one for one in range(mesh.ndim) if one not in dimensions))
    for dimension in range(mesh.ndim):
        if dimension not in dimensions:
            ranks = ranks.select(len(dimensions), coordinates[dimension])
    return ranks
