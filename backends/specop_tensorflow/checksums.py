"""Checksums that tell whether tensors have changed."""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf

__all__ = ["checksums"]

_CHUNK = 1 << 18
_WORDS = {8: tf.int64, 4: tf.int32, 2: tf.int16, 1: tf.uint8}


def checksums(tensors: Iterable[tf.Tensor]) -> tuple[int, ...]:
    """Order-sensitive checksums of the tensors' bits, computed on the device and fetched in one transfer."""
    sums, small = [], dict[tf.DType, list[tf.Tensor]]()
    for tensor in tensors:
        flat = tf.reshape(tensor, [-1])
        if flat.shape[0] > _CHUNK:
            sums.append(_checksum(flat))
        else:
            small.setdefault(flat.dtype, []).append(flat)
    # A model has many small tensors, and a dozen operations on each would take longer than a product.
    sums += [_checksum(tf.concat(flats, 0)) for flats in small.values()]
    return tuple(int(value) for value in tf.stack(sums).numpy()) if sums else ()


def _checksum(flat: tf.Tensor) -> tf.Tensor:
    words = _words(flat)
    length = int(words.shape[0])
    # Odd multipliers are invertible modulo 2**64: a change of one word always changes the sum.
    weights = tf.range(1, 2 * min(_CHUNK, max(length, 1)), 2, dtype=tf.int64) * 0x9E3779B1
    total = tf.zeros([], tf.int64)
    for start in range(0, length, _CHUNK):
        chunk = words[start : start + _CHUNK] if length > _CHUNK else words
        total = total * 0x100000001B3 + tf.reduce_sum(tf.cast(chunk, tf.int64) * weights[: chunk.shape[0]])
    return total


def _words(flat: tf.Tensor) -> tf.Tensor:
    if flat.dtype == tf.string:
        return tf.strings.to_hash_bucket_fast(flat, 2**63 - 1)
    if flat.dtype == tf.bool:
        return tf.cast(flat, tf.uint8)
    if flat.dtype.is_complex:
        flat = tf.reshape(tf.stack([tf.math.real(flat), tf.math.imag(flat)]), [-1])
    return tf.bitcast(flat, _WORDS[flat.dtype.size])
