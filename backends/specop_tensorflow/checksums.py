"""Checksums that tell whether tensors have changed."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from specop.objectives.checksums import WORDS, checksum, weights
from specop_tensorflow.memory import on_gpu
from specop_tensorflow.structures import tensor_of

__all__ = ["checksums", "weighted_sum"]

_INTEGERS = {8: tf.int32, 4: tf.int32, 2: tf.int16, 1: tf.uint8}


def checksums(found: Iterable[Any]) -> tuple[int, ...]:
    """Return checksums of the bits of tensors, variables and NumPy arrays, one for all small tensors on a device."""
    sums: list[int] = []
    elsewhere: list[Tensor] = []
    small: dict[tuple[str, tf.DType], list[Tensor]] = {}
    for item in found:
        if isinstance(item, (np.ndarray, np.generic)) and item.dtype != object:
            sums.append(checksum(np.asarray(item)))
            continue
        tensor = _value(item)
        if tensor.dtype == tf.string:
            tensor = tf.strings.to_hash_bucket_fast(tensor, 2**63 - 1)
        if not on_gpu(tensor.device):
            # Without a copy, and without the dozen microseconds that each eager operation takes.
            sums.append(checksum(np.asarray(tensor)))
            continue
        words = _words(tensor)
        if words.shape[0] > WORDS:
            elsewhere.append(weighted_sum(words))
        else:
            small.setdefault((words.device, words.dtype), []).append(words)
    # A model has many small tensors, and a dozen operations on each would take longer than a product.
    elsewhere += [weighted_sum(tf.concat(together, 0)) for together in small.values()]
    return (*sums, *(int(number) for number in tf.stack(elsewhere).numpy())) if elsewhere else tuple(sums)


def _value(item: Any) -> Tensor:
    # What convert_to_tensor does besides reading, such as telling gradient tapes, takes longer than the checksum.
    if isinstance(item, tf.Variable) and hasattr(item, "handle"):
        return tf.raw_ops.ReadVariableOp(resource=item.handle, dtype=item.dtype)
    return tensor_of(item)


def _words(tensor: Tensor) -> Tensor:
    flat = tf.reshape(tensor, [-1])
    if flat.dtype.is_complex:
        flat = tf.reshape(tf.stack([tf.math.real(flat), tf.math.imag(flat)]), [-1])
    if flat.dtype == tf.bool:
        return tf.cast(flat, tf.uint8)
    return tf.reshape(tf.bitcast(flat, _INTEGERS[flat.dtype.size]), [-1])


def weighted_sum(words: Tensor) -> Tensor:
    """Return a sum of integers of at most 32 bits that depends on their order, in bounded memory."""
    length = int(words.shape[0])
    factors = _weights(words.device)
    total = tf.zeros([], tf.int64)
    for start in range(0, length, WORDS):
        chunk = words[start : start + WORDS] if length > WORDS else words
        total = total * 0x100000001B3 + tf.reduce_sum(tf.cast(chunk, tf.int64) * factors[: chunk.shape[0]])
    return total


@functools.cache
def _weights(device: str) -> Tensor:
    with tf.device(device):
        return tf.constant(weights())
