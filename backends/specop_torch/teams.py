"""make_team: the processes of torch.distributed that have the same parameters and each a part of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from specop.arrays.layout import Layout
from specop.errors import InvalidInputError
from specop_torch.arrays import torch_dtype
from specop_torch.autodiff import TorchAutodiff
from specop_torch.groups import Group, group_of
from specop_torch.loaders import check_parts
from specop_torch.sharded import sharded, sharded_layout

__all__ = ["TorchTeam", "make_team"]


def make_team(parallel: Any, autodiff: TorchAutodiff) -> TorchTeam:
    """Return the processes of the default group, or of a mesh.

    Parameters
    ----------
    parallel : True or DeviceMesh
        The argument ``parallel`` as the user gave it.
    autodiff : TorchAutodiff
        Derivatives of this process; it is told who shares its memory.
    """
    device = autodiff.device
    if not distributed.is_initialized():
        raise InvalidInputError(
            "parallel=True is for processes that torch.distributed has joined, and this one is not. Start them with "
            "torchrun --nproc-per-node=2 script.py, and call torch.distributed.init_process_group() in the script."
        )
    if parallel is True:
        parallel = init_device_mesh(device.type, (distributed.get_world_size(),))
    if not isinstance(parallel, DeviceMesh):
        raise InvalidInputError(f"parallel must be True, False, None or a DeviceMesh, got {parallel!r}.")
    if parallel.ndim != 1 or parallel.device_type != device.type:
        raise InvalidInputError(
            f"parallel must be a mesh of one dimension on {device.type!r}, where the parameters are, got {parallel!r}. "
            f"Take a dimension of it, such as mesh['data']."
        )
    group = group_of(parallel)
    autodiff.sharing = group.sharing
    return TorchTeam(group)


class TorchTeam:
    """`specop.objectives.team.Team` of the processes in a group.

    Parameters
    ----------
    processes : Group
    """

    backend = sharded

    def __init__(self, processes: Group) -> None:
        self.processes = processes

    def layout(self, whole: Layout) -> Layout:
        """Return the layout of a vector that they hold together, of that which each has whole."""
        return sharded_layout(whole, self.processes)

    def whole(self, x: DTensor) -> Tensor:
        """Return all entries of a vector in each process."""
        return self.processes.gather(x._local_tensor.detach(), x.shape[0])

    def own(self, whole: Tensor) -> DTensor:
        """Return the vector that they hold together of one that is the same in each process."""
        return self.processes.spread(whole[self.processes.own(len(whole))].clone(), len(whole))

    def sum(self, part: Tensor | None, factor: float, whole: Layout, failed: bool) -> tuple[DTensor, bool]:
        """Return the sum of each process's vector times its factor, and whether any of them has failed."""
        like = torch.empty(0, dtype=torch_dtype(whole.dtype), device=whole.device)
        own, any_failed = self.processes.reduce(part, factor, whole.n, like, failed)
        return self.processes.spread(own, whole.n), any_failed

    def rows(self, block: Tensor | None, counts: Sequence[int], whole: Layout) -> DTensor:
        """Return rows that each process has whole, one process's after the other's, as rows that they hold together."""
        like = torch.empty(0, dtype=torch_dtype(whole.dtype), device=whole.device)
        return self.processes.spread(self.processes.deal(block, counts, whole.n, like), whole.n)

    def total(self, part: Tensor | None, factor: float, failed: bool) -> tuple[Tensor, bool]:
        """Return the sum of each process's scalar times its factor, and whether any of them has failed."""
        value = torch.zeros((), dtype=torch.float64, device=self.processes.device) if part is None else part.detach()
        sent = torch.stack([value.double() * factor, torch.full_like(value, float(failed), dtype=torch.float64)])
        found = self.processes.sum(sent)
        return found[0].to(value.dtype), bool(found[1] != 0)

    def check_data(self, data: Any) -> None:
        """Raise InvalidInputError for a sampler that shuffles, that repeats samples, or that is of other processes."""
        check_parts(data, self.processes.index, self.processes.count)
