"""PyTorch adapter: vectors are one-dimensional tensors on the model's device."""

import sys
from typing import Any

from torch import distributed

from specop.arrays.backend import Backend
from specop_torch.arrays import TorchBackend, backend
from specop_torch.autodiff import TorchAutodiff, make_autodiff
from specop_torch.normalizers import normalizer, terms_of
from specop_torch.optimizers import update_rule

__all__ = [
    "TorchBackend",
    "backend",
    "backend_for",
    "make_autodiff",
    "make_spread",
    "normalizer",
    "processes",
    "team",
    "terms_of",
    "update_rule",
]


def backend_for(array: Any) -> Backend:
    """Return the backend of a tensor: another one where it is spread over processes."""
    # Where nothing has imported it, there is no DTensor, and its import takes as long as torch's own.
    tensors = sys.modules.get("torch.distributed.tensor")
    if tensors is None or not isinstance(array, tensors.DTensor):
        return backend
    from specop_torch.sharded import sharded

    return sharded


def processes() -> int:
    """Return the number of processes in the default group of torch.distributed."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def make_spread(model: Any, criterion: Any, parallel: Any, **options: Any) -> Any:
    """Return derivatives of a model whose parameters lie in parts on several processes, or None for any other."""
    # DTensors take as long to import as torch: where nothing has imported them, there are none.
    if "torch.distributed.tensor" not in sys.modules:
        return None
    from specop_torch.spreading import make_spread as make

    return make(model, criterion, parallel, **options)


def team(parallel: Any, autodiff: TorchAutodiff) -> Any:
    """Return the processes that share a model's data, of the default group or of a mesh."""
    from specop_torch.teams import make_team

    return make_team(parallel, autodiff)
