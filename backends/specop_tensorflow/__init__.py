"""TensorFlow adapter: vectors are one-dimensional eager tensors on the model's device."""

from specop_tensorflow.arrays import TensorflowBackend, backend
from specop_tensorflow.autodiff import make_autodiff

__all__ = ["TensorflowBackend", "backend", "make_autodiff"]
