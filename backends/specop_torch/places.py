"""place_of, gathered_of, first_holder: how a group's processes hold a parameter, read off its mesh and placements."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from specop.errors import InvalidInputError
from specop_torch.exchange import Cut, Place
from specop_torch.gathered import Gathered
from specop_torch.groups import Group
from specop_torch.readers import Axis

__all__ = ["first_holder", "gathered_of", "place_of"]


def place_of(name: str, parameter: Tensor, group: Group) -> Place:
    """Return how processes hold a parameter, or raise InvalidInputError where that is not built."""
    cuts = (_cut_by_tensor_parallel(name, parameter, group), _cut_into_parts(name, parameter, group))
    return Place(tuple(parameter.shape), tuple(cut for cut in cuts if cut is not None))


def gathered_of(name: str, parameter: Tensor, group: Group, own: Tensor) -> Gathered:
    """Return how a layer's parameter is made whole; raise InvalidInputError where that is not built.

    Parameters
    ----------
    name : str
    parameter : Tensor
        The parameter, as this process holds a part of it.
    group : Group
    own : Tensor
        The parameter of the module without hooks, a DTensor where tensor parallelism has cut it.
    """
    outer, inner = _cut_by_tensor_parallel(name, parameter, group), _cut_into_parts(name, parameter, group)
    _check_alike(name, parameter, group, own)
    shape = Place(tuple(parameter.shape), () if outer is None else (outer,)).local_shape(group.index)
    place = Place(shape, () if inner is None else (replace(inner, step=1),))
    return Gathered(group.holders, place, group.copies, own._spec if isinstance(own, DTensor) else None)


def first_holder(parameter: DTensor, group: Group) -> tuple[tuple[str, ...], int]:
    """Return what cuts a parameter, and the number of the first process that holds the same part as this one."""
    axes = group.axes(parameter.device_mesh)
    if axes is None:
        # Of other meshes nothing is known.
        return ("unknown",), group.index
    cut = [axis for axis, one in zip(axes, parameter.placements, strict=True) if not one.is_replicate()]
    first = sum(group.index // axis.step % axis.count * axis.step for axis in cut)
    return tuple(sorted(axis.role for axis in cut)), first


def _cut_by_tensor_parallel(name: str, parameter: Tensor, group: Group) -> Cut | None:
    found = _placements(name, parameter, group).get("tensor")
    return None if found is None else _cut(parameter, *found)


def _cut_into_parts(name: str, parameter: Tensor, group: Group) -> Cut | None:
    """Return how fully_shard has cut a parameter, or what tensor parallelism has left of it."""
    placements = _placements(name, parameter, group)
    if "parts" not in placements:
        return None
    axis, placement = placements["parts"]
    factor = 1
    if "tensor" in placements:
        outer, other = placements["tensor"]
        # A mesh dimension that comes later cuts what those before it have left, unless the placement says otherwise.
        is_earlier = list(placements).index("parts") < list(placements).index("tensor")
        if is_earlier and other.dim % parameter.ndim == placement.dim % parameter.ndim:
            factor = outer.count
    if getattr(placement, "split_factor", 1) != factor:
        raise _unknown(name, parameter)
    return _cut(parameter, axis, placement)


def _cut(parameter: Tensor, axis: Axis, placement: Any) -> Cut:
    return Cut(placement.dim % parameter.ndim, axis.count, axis.step)


def _placements(name: str, parameter: Tensor, group: Group) -> dict[str, tuple[Axis, Any]]:
    """Return what cuts a parameter, by the role of the mesh dimension, in the order of these."""
    if not isinstance(parameter, DTensor):
        return {}
    axes = group.axes(parameter.device_mesh)
    if axes is None:
        raise InvalidInputError(
            f"the parameter {name!r} lies on {parameter.device_mesh}, and parallel= is {group.home}: all sharded "
            f"parameters must lie on one mesh, the one that is passed."
        )
    found: dict[str, tuple[Axis, Any]] = {}
    for axis, placement in zip(axes, parameter.placements, strict=True):
        if type(placement) is Replicate:
            continue
        if axis.role == "copies" or not isinstance(placement, _KNOWN[axis.role]):
            raise _unknown(name, parameter)
        found[axis.role] = axis, placement
    return found


_KNOWN: dict[str, tuple[type[Placement], ...]] = {"tensor": (Shard,), "parts": (Shard, _StridedShard)}


def _check_alike(name: str, parameter: Tensor, group: Group, own: Tensor) -> None:
    """Raise InvalidInputError unless tensor parallelism has cut a parameter as it has the one in the module."""
    given: tuple[Placement, ...] = ()
    if isinstance(parameter, DTensor):
        roles = [axis.role for axis in group.axes(parameter.device_mesh) or ()]
        given = tuple(one for role, one in zip(roles, parameter.placements, strict=True) if role == "tensor")
    known = own.placements if isinstance(own, DTensor) else ()
    if given != known:
        raise InvalidInputError(
            f"tensor parallelism has cut the parameter {name!r} of params= as {given or 'not at all'}, and that of the "
            f"module without hooks as {known or 'not at all'}: they would be another function. Cut both by the same "
            f"plan, parallelize_module(model, mesh['tensor'], plan)."
        )


def _unknown(name: str, parameter: Any) -> InvalidInputError:
    return InvalidInputError(
        f"the parameter {name!r} has the placements {parameter.placements} over {parameter.device_mesh}: only Shard "
        f"and Replicate are known, and on a mesh of two dimensions copies along the first. Of fully_shard over tensor "
        f"parallel the module without hooks must be cut, too, parallelize_module(model, mesh['tensor'], plan); "
        f"anything else is to be redistributed."
    )
