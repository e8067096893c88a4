"""TensorFlow adapter: vectors are one-dimensional eager tensors on the model's device."""

import tensorflow as tf

from specop_tensorflow.arrays import TensorflowBackend, backend
from specop_tensorflow.autodiff import make_autodiff
from specop_tensorflow.optimizers import update_rule

__all__ = ["TensorflowBackend", "backend", "make_autodiff", "processes", "update_rule"]


def processes() -> int:
    """Return the number of replicas of the tf.distribute strategy in whose scope this is called."""
    return int(tf.distribute.get_strategy().num_replicas_in_sync)
