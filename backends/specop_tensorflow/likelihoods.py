r"""Likelihoods that a criterion is the negative logarithm of.

The losses of terms i add up to :math:`\ell = \sum_i c_i (A(z_i) - z_i^T t_i)` with the log-partition A of the family:
log-sum-exp for a categorical, softplus for a Bernoulli variable, :math:`z^2 / 2` for a Gaussian. What a criterion does
besides (means, sample weights, ignored labels, label smoothing, :math:`1/C` of a squared error) is in the weights
:math:`c_i`, and these are read off its second derivative: no option of any criterion has to be known.

Everything here is traced. Whether a criterion fits is a tensor, which the caller looks at.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from specop.errors import InvalidInputError
from specop.objectives.refusals import check_likelihood
from specop_tensorflow.outputs import Criterion, output_hessian

__all__ = ["Likelihood", "recognise"]

Map = Callable[[tf.Tensor], tf.Tensor]

_LOSSES: dict[Any, str] = {
    keras.losses.SparseCategoricalCrossentropy: "categorical",
    keras.losses.CategoricalCrossentropy: "categorical",
    keras.losses.BinaryCrossentropy: "bernoulli",
    keras.losses.MeanSquaredError: "gaussian",
}


def recognise(criterion: Any, given: str | None) -> str | None:
    """Return the likelihood that the user names, or that of a loss of Keras; None for another.

    Parameters
    ----------
    criterion : callable or None
    given : str or None
        The name that the user gave.
    """
    function = criterion
    while isinstance(function, functools.partial):
        function = function.func
    known = _LOSSES.get(type(function))
    # Of probabilities the second derivative is another one.
    if known != "gaussian" and not getattr(function, "from_logits", False):
        known = None
    check_likelihood(criterion, given)
    if None not in (known, given) and given != known:
        raise InvalidInputError(f"the criterion's likelihood is {known}, not {given}.")
    return given or known


@dataclass(frozen=True)
class Likelihood:
    """A family of distributions with natural parameters z, the model's outputs.

    Parameters
    ----------
    name : str
        One of `specop.objectives.LIKELIHOODS`.
    axis : int
        That of the classes, 1 or -1; of no meaning for the other families.
    tolerance : float
        Relative error allowed to second derivatives of the criterion.
    """

    name: str
    axis: int
    tolerance: float

    def terms(self, criterion: Criterion, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return whether the criterion is of this family, and the weight of each term.

        Weights have the outputs' shape, with one entry along the classes.
        """
        # A point in the middle of the family, where no probability is near zero, shows what the criterion is.
        steps = tf.range(tf.size(outputs, tf.int64))
        steps = tf.reshape(tf.cast(steps, tf.float32), tf.shape(outputs))
        point = tf.cast(1.5 * tf.sin(steps), outputs.dtype)
        direction = tf.cast(tf.cos(1.7 * steps), outputs.dtype)
        weights = self._weights(criterion, outputs)
        found = output_hessian(criterion, point)(direction)
        expected = self.fisher(point, weights)(direction)
        error, norm = tf.norm(tf.cast(found - expected, tf.float64)), tf.norm(tf.cast(expected, tf.float64))
        return tf.logical_and(error <= self.tolerance * norm, tf.reduce_all(weights >= 0)), weights

    def fisher(self, z: tf.Tensor, weights: tf.Tensor) -> Map:
        """Return u -> M u with M of blocks c_i E[s s'], s the score of a label drawn from the model."""
        if self.name == "categorical":
            p = tf.nn.softmax(z, self.axis)
            scaled = weights * p
            return lambda u: scaled * (u - tf.reduce_sum(p * u, self.axis, keepdims=True))
        if self.name == "bernoulli":
            variance = weights * tf.sigmoid(z) * tf.sigmoid(-z)
            return lambda u: variance * u
        return lambda u: weights * u

    def sampled_fisher(self, z: tf.Tensor, weights: tf.Tensor, noise: tf.Tensor) -> Map:
        """Return the same with the mean over labels made of (draws, terms) random numbers."""
        draws = tf.cast(tf.shape(noise)[0], z.dtype)
        scores = self._scores(z, noise) * tf.sqrt(weights / draws)
        if self.name == "categorical":
            along = self.axis if self.axis < 0 else self.axis + 1
            return lambda u: tf.reduce_sum(scores * tf.reduce_sum(scores * u, along, keepdims=True), 0)
        # Each entry has a label of its own, independent of the others.
        squares = tf.reduce_sum(tf.square(scores), 0)
        return lambda u: squares * u

    def _weights(self, criterion: Criterion, outputs: tf.Tensor) -> tf.Tensor:
        zero = tf.zeros_like(outputs)
        if self.name == "categorical":
            # Along the first class, where all have probability 1/K.
            classes = tf.shape(outputs)[self.axis]
            first = tf.one_hot(0, classes, dtype=outputs.dtype)
            shape = [1] * outputs.shape.rank
            shape[self.axis] = -1
            found = output_hessian(criterion, zero)(zero + tf.reshape(first, shape))
            share = 1 / tf.cast(classes, outputs.dtype)
            return tf.gather(found, [0], axis=self.axis) / (share - share**2)
        found = output_hessian(criterion, zero)(tf.ones_like(outputs))
        return 4 * found if self.name == "bernoulli" else found

    def _scores(self, z: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """Return mean minus label, (draws, *shape), for labels drawn at the outputs."""
        every = tf.concat([tf.shape(noise)[:1], tf.shape(z)], 0)
        if self.name == "gaussian":
            return tf.reshape(tf.cast(noise, z.dtype), every)
        exact = tf.float64 if z.dtype == tf.float64 else tf.float32
        noise = tf.cast(noise, exact)
        if self.name == "bernoulli":
            p = tf.sigmoid(z)
            return p - tf.cast(tf.reshape(noise, every) < tf.cast(p, exact), z.dtype)
        order = list(range(z.shape.rank))
        order.append(order.pop(self.axis))
        p = tf.nn.softmax(tf.transpose(z, order), -1)
        below = tf.cumsum(tf.cast(p, exact), -1)
        noise = tf.reshape(noise, tf.concat([tf.shape(noise)[:1], tf.shape(p)[:-1], [1]], 0))
        classes = tf.shape(p)[-1]
        drawn = tf.minimum(tf.reduce_sum(tf.cast(below < noise, tf.int32), -1), classes - 1)
        scores = p - tf.one_hot(drawn, classes, dtype=p.dtype)
        # Back to where the classes were.
        back = [order.index(i) + 1 for i in range(z.shape.rank)]
        return tf.transpose(scores, [0, *back])
