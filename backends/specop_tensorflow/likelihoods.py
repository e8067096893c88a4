"""What the core's likelihoods take from TensorFlow: its array functions, and the losses that Keras brings."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from tensorflow import Tensor

from specop.objectives.likelihoods import ArrayFunctions

__all__ = ["FUNCTIONS", "likelihood_of"]

_LOSSES: dict[Any, str] = {
    keras.losses.SparseCategoricalCrossentropy: "categorical",
    keras.losses.CategoricalCrossentropy: "categorical",
    keras.losses.BinaryCrossentropy: "bernoulli",
    keras.losses.MeanSquaredError: "gaussian",
}


def likelihood_of(criterion: Any) -> str | None:
    """Return the likelihood of a loss of Keras."""
    found = _LOSSES.get(type(criterion))
    # Of probabilities the second derivative is another one.
    return found if found == "gaussian" or getattr(criterion, "from_logits", False) else None


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
