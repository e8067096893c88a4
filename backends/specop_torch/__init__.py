"""PyTorch adapter: vectors are one-dimensional tensors on the model's device."""

from specop_torch.arrays import TorchBackend, backend
from specop_torch.autodiff import make_autodiff

__all__ = ["TorchBackend", "backend", "make_autodiff"]
