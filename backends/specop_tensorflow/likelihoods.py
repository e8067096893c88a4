"""What the core's likelihoods take from TensorFlow: its array functions."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import Tensor

from specop.objectives.likelihoods import ArrayFunctions

__all__ = ["FUNCTIONS"]


def _steps(like: Tensor) -> Tensor:
    steps = tf.range(1, tf.size(like, tf.int64) + 1)
    return tf.reshape(tf.cast(steps, tf.float32), tf.shape(like))


def _one_hot(labels: Tensor, like: Tensor, axis: int) -> Tensor:
    classes = tf.shape(like)[axis]
    places = tf.reshape(tf.range(classes), [-1] + [1] * (-1 - axis))
    return tf.cast(tf.equal(tf.minimum(tf.cast(labels, tf.int32), classes - 1), places), like.dtype)


FUNCTIONS = ArrayFunctions(
    multiply=tf.multiply,
    subtract=tf.subtract,
    divide=tf.divide,
    less=tf.less,
    sin=tf.sin,
    sqrt=tf.sqrt,
    sigmoid=tf.sigmoid,
    softmax=lambda x, axis: tf.nn.softmax(x, axis % x.shape.rank),
    cumsum=tf.cumsum,
    sum=lambda x, axis: tf.reduce_sum(x, axis, keepdims=True),
    mean=lambda x: tf.reduce_mean(x, 0),
    norm=lambda x: tf.norm(tf.cast(x, tf.float64)),
    least=lambda x: tf.cast(tf.reduce_min(x), tf.float64),
    zeros=tf.zeros_like,
    steps=_steps,
    one_hot=_one_hot,
    rows=lambda x, like: tf.reshape(x, tf.concat([tf.shape(x)[:1], tf.shape(like)], 0)),
    cast=lambda x, like: tf.cast(x, like.dtype),
    wide=lambda x: tf.cast(x, tf.float64 if x.dtype == tf.float64 else tf.float32),
)
