"""PyTorch adapter: vectors are one-dimensional tensors on the model's device."""

from torch import distributed

from specop_torch.arrays import TorchBackend, backend
from specop_torch.autodiff import make_autodiff
from specop_torch.normalizers import normalizer
from specop_torch.optimizers import update_rule

__all__ = ["TorchBackend", "backend", "make_autodiff", "normalizer", "processes", "update_rule"]


def processes() -> int:
    """Return the number of processes in the default group of torch.distributed."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
