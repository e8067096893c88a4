"""MeshGroup: the processes of a mesh of two dimensions, along one of which parameters are in parts."""

from __future__ import annotations

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

_groups: WeakKeyDictionary[DeviceMesh, dict[tuple[str, str], MeshGroup]] = WeakKeyDictionary()


def group_of_copies(mesh: DeviceMesh) -> MeshGroup:
    """Return the processes of a mesh of copies times parts; the first call for a mesh is to be made by all of them."""
    return _group(mesh, ("copies", "parts"))


def group_over_tensor_parallel(mesh: DeviceMesh, ranks: Tensor) -> MeshGroup:
    """Return the processes of a mesh, along one dimension of which tensor parallelism cuts layers; as above.

    Parameters
    ----------
    mesh : DeviceMesh
    ranks : Tensor
        The processes, of which this is one, that run each layer together.
    """
    if mesh.ndim == 2:
        row, column = mesh.get_coordinate() or (0, 0)
        if torch.equal(ranks, mesh.mesh[row]):
            return _group(mesh, ("parts", "tensor"))
        if torch.equal(ranks, mesh.mesh[:, column]):
            return _group(mesh, ("tensor", "parts"))
    raise InvalidInputError(
        f"tensor parallelism has cut layers over the processes {ranks.tolist()}, and parallel= is {mesh}: pass the "
        f"mesh of two dimensions along one of which these are, and along the other one fully_shard's, such as "
        f"init_device_mesh(device, (2, 4), mesh_dim_names=('data', 'tensor'))."
    )


def _group(mesh: DeviceMesh, roles: tuple[str, str]) -> MeshGroup:
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
        Two-dimensional, of all processes in their order.
    roles : pair of str
        What its dimensions are for: "parts" of parameters, and "copies" of these or layers that are cut by "tensor"
        parallelism, whose processes have the same samples.
    """

    def __init__(self, mesh: DeviceMesh, roles: tuple[str, str]) -> None:
        ranks = mesh.mesh.reshape(-1)
        if not torch.equal(ranks, torch.arange(distributed.get_world_size())):
            raise InvalidInputError(
                f"a mesh of two dimensions must hold all {distributed.get_world_size()} processes in their order, as "
                f"init_device_mesh makes it, got {mesh}."
            )
        super().__init__(DeviceMesh(mesh.device_type, ranks))
        self.home = mesh
        self._axes = tuple(
            Axis(role, size, step) for role, size, step in zip(roles, mesh.mesh.shape, mesh.mesh.stride(), strict=True)
        )
        self._along = roles.index("parts")
        self.holders = _line(mesh, self._along)
        if "tensor" in roles:
            self.readers = Readers(self, mesh.mesh.select(1 - self._along, 0).tolist(), self.holders.index)
        else:
            copies = _line(mesh, 1 - self._along)
            self.copies = copies if copies.count > 1 else None

    def axes(self, mesh: DeviceMesh) -> tuple[Axis, ...] | None:
        if mesh == self.home:
            return self._axes
        if self.copies is not None or not any(axis.role == "tensor" for axis in self._axes):
            return None
        row, column = self.home.get_coordinate() or (0, 0)
        # As fully_shard joins two dimensions, and either of them.
        lines = {(1, 0): self.home.mesh.T, (0,): self.home.mesh[:, column], (1,): self.home.mesh[row]}
        order = next((order for order, ranks in lines.items() if torch.equal(mesh.mesh, ranks)), None)
        return None if order is None else tuple(self._axes[dimension] for dimension in order)

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
            along = self._along if part is self.holders else 1 - self._along
            for ranks in self.home.mesh.movedim(along, 1).tolist():
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
