"""Memory: what is free, and how TensorFlow says that there is none left."""

from __future__ import annotations

import psutil
import tensorflow as tf
from tensorflow.python.client import device_lib

from specop_tensorflow.arrays import on_gpu

__all__ = ["free_memory", "is_out_of_memory"]


def free_memory(device: str) -> int:
    """Return the bytes that are free on a device."""
    if not on_gpu(device):
        return int(psutil.virtual_memory().available)
    name = device.partition("device:")[2]
    (limit,) = (one.memory_limit for one in device_lib.list_local_devices() if one.name.endswith(name))
    return int(limit - tf.config.experimental.get_memory_info(name)["current"])


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the device's memory is used up."""
    return isinstance(error, tf.errors.ResourceExhaustedError)
