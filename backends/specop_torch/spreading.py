"""make_spread: derivatives of models whose parameters lie in parts on several processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from specop.errors import InvalidInputError
from specop.objectives.likelihoods import recognise
from specop_torch.fully_sharded import FullyShardedAutodiff
from specop_torch.groups import Group, group_of
from specop_torch.hooked import HookedAutodiff
from specop_torch.hooked_modules import HookedModule, is_hooked
from specop_torch.likelihoods import likelihood_of
from specop_torch.meshes import group_of_copies, group_over_tensor_parallel
from specop_torch.models import FunctionModel, Model, ModuleModel
from specop_torch.refusals import refuse_hooks
from specop_torch.sharded_modules import ShardedModule
from specop_torch.spread import SpreadAutodiff
from specop_torch.structures import TREES
from specop_torch.tensor_parallel import TensorParallelAutodiff

__all__ = ["make_spread"]


def make_spread(
    model: Any,
    criterion: Callable[..., Tensor] | None,
    parallel: Any,
    *,
    params: Any,
    select: Any,
    forward: Callable[[Any, Any], Any] | None,
    likelihood: str | None,
    fixed_randomness: int | None,
) -> SpreadAutodiff | None:
    """Return derivatives of a model with sharded parameters, or None where each process has all of them.

    A module with `params` is one without hooks that stands for a fully sharded one: each process has its part of the
    data, as it has for one inside of its hooks, which has a gradient and no more. DTensors that are a module's own, or
    a function's, are of tensor parallelism: each process has all data.
    """
    is_module = isinstance(model, nn.Module)
    is_run_by_hooks = is_module and params is None and isinstance(parallel, DeviceMesh) and is_hooked(model)
    if is_module:
        refuse_hooks(model, may_be_second=is_run_by_hooks)
    if is_run_by_hooks:
        sharded = _resharded(model)
        group = _group(parallel, sharded[0], may_have_copies=True, tensor=_ranks_beside_parts(sharded))
        described: Model = HookedModule(model, criterion, forward, group)
        kind: type[SpreadAutodiff] = HookedAutodiff
    elif is_module and params is not None:
        if not isinstance(params, Mapping) or not all(isinstance(one, Tensor) for one in params.values()):
            raise InvalidInputError(
                "params= of a module is a mapping from the names of its parameters to DTensors, such as "
                "dict(sharded.named_parameters()) of the same model under fully_shard."
            )
        sharded = [one for one in params.values() if isinstance(one, DTensor)]
        if not sharded:
            raise InvalidInputError(
                "none of params is a DTensor: each process has all of the parameters. Leave params= out, and load them "
                "into the module."
            )
        cut = next((one.device_mesh.mesh for one in model.parameters() if isinstance(one, DTensor)), None)
        group = _group(parallel, sharded[0], may_have_copies=True, tensor=cut)
        described = ShardedModule(model, criterion, forward, params, group)
        kind = FullyShardedAutodiff
    else:
        held = model.parameters() if is_module else TREES.arrays(params)
        sharded = [one for one in held if isinstance(one, DTensor)]
        if not sharded:
            return None
        group = _group(parallel, sharded[0], may_have_copies=False)
        described = (
            ModuleModel(model, criterion, forward, check_modes=True, is_sharded=True)
            if is_module
            else FunctionModel(model, criterion, params, forward)
        )
        kind = TensorParallelAutodiff
    name = recognise(criterion, likelihood, likelihood_of)
    return kind(described, described.select(select), name, fixed_randomness, group)


def _resharded(model: nn.Module) -> list[DTensor]:
    for layer in model.modules():
        if is_hooked(layer):
            # What a forward pass has gathered.
            layer.reshard()  # type: ignore[operator]
    return [one for one in model.parameters() if isinstance(one, DTensor)]


def _ranks_beside_parts(sharded: Sequence[DTensor]) -> Tensor | None:
    """Return the processes that run layers of tensor parallelism together, where fully_shard has met some."""
    for one in sharded:
        # Copies of parts come first, and what tensor parallelism has cut comes last.
        mesh = one.device_mesh
        if mesh.ndim == 3 or (mesh.ndim == 2 and not one.placements[0].is_replicate()):
            return mesh.mesh[tuple(mesh.get_coordinate() or ())[:-1]]
    return None


def _group(parallel: Any, parameter: DTensor, *, may_have_copies: bool, tensor: Tensor | None = None) -> Group:
    if not isinstance(parallel, DeviceMesh):
        raise InvalidInputError(
            f"the parameters are DTensors: pass parallel=mesh, the mesh that they lie on, got parallel={parallel!r}. "
            f"Parameters of a tensor-parallel module go with the same data in each process, those of fully_shard, as "
            f"params= of a module without hooks, with a part of the data in each."
        )
    if parallel.device_type != parameter.device_mesh.device_type:
        raise InvalidInputError(
            f"parallel is a mesh on {parallel.device_type!r}, and the parameters lie on "
            f"{parameter.device_mesh.device_type!r}. Pass the mesh that they lie on."
        )
    if tensor is not None:
        return group_over_tensor_parallel(parallel, tensor)
    if parallel.ndim == 2 and may_have_copies:
        return group_of_copies(parallel)
    if parallel.ndim != 1:
        raise InvalidInputError(
            f"parallel must be a mesh of one dimension, or under fully_shard one of two, copies times parts, got "
            f"{parallel!r}. Tensor parallel over other dimensions is not available yet."
        )
    return group_of(parallel)
