"""ReplicatedGroup: the processes of a mesh of two dimensions, several copies of parameters that are each in parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh

from specop.errors import InvalidInputError
from specop_torch.groups import Group

__all__ = ["ReplicatedGroup", "replicated_group"]

_groups: WeakKeyDictionary[DeviceMesh, ReplicatedGroup] = WeakKeyDictionary()


def replicated_group(mesh: DeviceMesh) -> ReplicatedGroup:
    """Return the processes of a mesh of copies times parts; the first call for a mesh is to be made by all of them."""
    found = _groups.get(mesh)
    # A mesh equals one of a group that was destroyed before it was made.
    if found is None or found.holders.handle is not mesh.get_group(1):
        found = _groups[mesh] = ReplicatedGroup(mesh)
    return found


class ReplicatedGroup(Group):
    """Processes that hold vectors together, all of them, and parameters in copies, each in the parts of some of them.

    Parameters
    ----------
    mesh : DeviceMesh
        Two-dimensional, of all processes in their order: the first dimension is that of copies.
    """

    def __init__(self, mesh: DeviceMesh) -> None:
        ranks = mesh.mesh.reshape(-1)
        if not torch.equal(ranks, torch.arange(distributed.get_world_size())):
            raise InvalidInputError(
                f"a mesh of copies times parts must hold all {distributed.get_world_size()} processes in their order, "
                f"as init_device_mesh makes it, got {mesh}."
            )
        super().__init__(DeviceMesh(mesh.device_type, ranks))
        self.home = mesh
        copies, self.holders = (_along(mesh, dimension) for dimension in (0, 1))
        self.copies = copies if copies.count > 1 else None

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
            lines = self.home.mesh if part is self.holders else self.home.mesh.T
            for ranks in lines.tolist():
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


def _along(mesh: DeviceMesh, dimension: int) -> Group:
    return Group(DeviceMesh.from_group(mesh.get_group(dimension), mesh.device_type))
