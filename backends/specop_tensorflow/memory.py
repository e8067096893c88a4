"""Memory: what is free, and how TensorFlow says that there is none left."""

from __future__ import annotations

import functools

import tensorflow as tf
from tensorflow.python.client import device_lib

from specop.arrays.memory import free_host_memory

__all__ = ["free_memory", "is_out_of_memory", "on_gpu"]


def on_gpu(device: str) -> bool:
    """Whether a device, as TensorFlow names it, is a GPU."""
    return "GPU" in device


def free_memory(device: str) -> int:
    """Return the bytes that are free on a device."""
    if not on_gpu(device):
        return free_host_memory()
    name = device.partition("device:")[2]
    return int(_limit(name) - tf.config.experimental.get_memory_info(name)["current"])


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the device's memory is used up."""
    return isinstance(error, tf.errors.ResourceExhaustedError)


# The list is made by asking every device, which takes milliseconds; the limit is set when a process starts.
@functools.cache
def _limit(name: str) -> int:
    (limit,) = (one.memory_limit for one in device_lib.list_local_devices() if one.name.endswith(name))
    return int(limit)
