"""What each sample of a batch adds to the gradient.

With outputs z and r = d loss / d z, sample i has d(z_i . r_i) / d theta. These add up to the gradient of the batch's
loss whatever the criterion averages over.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow import Tensor

from specop.objectives.likelihoods import Likelihood, importance
from specop.objectives.refusals import check_samples_first
from specop_tensorflow.derivatives import Derivatives
from specop_tensorflow.likelihoods import FUNCTIONS
from specop_tensorflow.outputs import output_gradient, output_hessian
from specop_tensorflow.structures import TREES

__all__ = ["Importance", "SampleRoots", "SampleRows", "sample_weights"]


def sample_weights(
    derivatives: Derivatives, values: Mapping[str, Any], batch: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return whether the outputs are finite, the loss, the outputs z, and r."""
    outputs = derivatives.outputs(values, batch)
    check_samples_first(outputs.shape, TREES.count(batch))
    loss, gradient = output_gradient(derivatives.criterion(values, batch), outputs)
    return tf.reduce_all(tf.math.is_finite(outputs)), loss, outputs, gradient


@dataclass(frozen=True)
class Importance:
    """What each row of the outputs may add to curvature.

    Parameters
    ----------
    likelihood : Likelihood, optional
        Likelihood that the criterion is claimed to be of.
    """

    likelihood: Likelihood | None

    def __call__(
        self, derivatives: Derivatives, values: Mapping[str, Any], batch: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return whether the outputs are finite, the loss, what tells whether the likelihood fits, and the numbers."""
        outputs = tf.stop_gradient(derivatives.outputs(values, batch))
        criterion = derivatives.criterion(values, batch)
        loss, gradient = output_gradient(criterion, outputs)
        measured, terms = tf.zeros([3], tf.float64), None
        if self.likelihood is not None:
            weights, found = self.likelihood.terms(functools.partial(output_hessian, criterion), outputs)
            measured, terms = tf.stack(found), (self.likelihood, outputs, weights)
        rows = importance(FUNCTIONS, gradient, outputs.shape.rank, terms)
        return tf.reduce_all(tf.math.is_finite(outputs)), loss, measured, tf.reshape(tf.cast(rows, tf.float64), [-1])


@dataclass(frozen=True)
class SampleRoots:
    """L u for random signs u of the outputs, where L L' is the information of the likelihood.

    Parameters
    ----------
    likelihood : Likelihood
        Likelihood that the criterion is claimed to be of.
    precision : float
        Relative rounding error of outputs.
    """

    likelihood: Likelihood
    precision: float

    def __call__(
        self, derivatives: Derivatives, values: Mapping[str, Any], batch: Any, signs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return whether outputs are finite, the loss, what tells whether the likelihood fits, the outputs, and L u."""
        outputs = tf.stop_gradient(derivatives.outputs(values, batch))
        check_samples_first(outputs.shape, TREES.count(batch))
        criterion = derivatives.criterion(values, batch)
        curvature = functools.partial(output_hessian, criterion)
        weights, measured = self.likelihood.terms(curvature, outputs)
        drawn = tf.ensure_shape(tf.cast(tf.reshape(signs, tf.shape(outputs)), outputs.dtype), outputs.shape)
        there = self.likelihood.deviation(curvature, outputs, weights, drawn, self.precision)
        roots = self.likelihood.root(outputs, weights)(drawn)
        finite = tf.reduce_all(tf.math.is_finite(outputs))
        return finite, criterion(outputs), tf.stack([measured, there]), outputs, roots


@dataclass(frozen=True)
class SampleRows:
    """Gradients of the samples of a part of a batch.

    Parameters
    ----------
    sliced : tuple of bool
        Which tensors of the batch have samples.
    are_squared : bool
        Whether the squared lengths of the rows are asked for in their place.
    """

    sliced: tuple[bool, ...]
    are_squared: bool = False

    def __call__(
        self, derivatives: Derivatives, values: Mapping[str, Any], batch: Any, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the outputs of the samples, each computed alone, and the gradients as rows."""
        sources = derivatives.sources(values)
        arrays, frame = TREES.take_apart(batch)

        def row(elements: tuple[list[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
            sample, weight = elements
            parts = iter(sample)
            alone = frame.fill(
                next(parts)[None] if own else array for array, own in zip(arrays, self.sliced, strict=True)
            )
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(list(sources.values()))
                outputs = derivatives.outputs(values, alone)
            gradients = tape.gradient(outputs, list(sources.values()), output_gradients=weight[None])
            found = derivatives.vector(dict(zip(sources, gradients, strict=True)))
            return outputs[0], tf.reduce_sum(tf.square(found)) if self.are_squared else found

        outputs, rows = tf.vectorized_map(row, (list(itertools.compress(arrays, self.sliced)), weights))
        return outputs, rows
