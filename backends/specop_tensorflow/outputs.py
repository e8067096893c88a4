"""Derivatives of a criterion in the outputs of a model, as they are traced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
from tensorflow import Tensor

from specop.errors import InvalidInputError
from specop_tensorflow.derivatives import Derivatives
from specop_tensorflow.missing_derivatives import refusing_first_order

__all__ = ["Criterion", "moved_gradient", "output_curvature", "output_gradient", "output_hessian"]

Criterion = Callable[[Tensor], Tensor]
"""From outputs to mean loss."""


def moved_gradient(
    derivatives: Derivatives, values: Mapping[str, Any], batch: Any, shift: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the loss and its gradient in the outputs, as a vector, at outputs that are moved by another vector."""
    outputs = tf.stop_gradient(derivatives.outputs(values, batch))
    moved = outputs + tf.cast(tf.reshape(shift, tf.shape(outputs)), outputs.dtype)
    loss, gradient = output_gradient(derivatives.criterion(values, batch), tf.ensure_shape(moved, outputs.shape))
    return loss, tf.reshape(tf.cast(gradient, derivatives.dtype), [-1])


def output_curvature(
    derivatives: Derivatives, values: Mapping[str, Any], batch: Any, vector: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the loss, and the product with the Hessian without its Gauss-Newton part.

    That is the derivative of J'r in J alone, with the criterion's gradient r in the outputs.
    """

    def differentiate(sources: Mapping[str, Any]) -> tuple[Tensor, Mapping[str, Any]]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(list(sources.values()))
            outputs = derivatives.outputs(values, batch)
        loss, residual = output_gradient(derivatives.criterion(values, batch), tf.stop_gradient(outputs))
        with refusing_first_order():
            gradients = tape.gradient(outputs, list(sources.values()), output_gradients=residual)
        return loss, dict(zip(sources, gradients, strict=True))

    return derivatives.derivative(values, differentiate, vector)


def output_gradient(criterion: Criterion, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss and its gradient in the outputs."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(outputs)
        loss = criterion(outputs)
    with refusing_first_order():
        gradient = tape.gradient(loss, outputs)
    if gradient is None:
        raise InvalidInputError("the criterion does not depend on the outputs: look for stop_gradient in it.")
    return loss, tf.convert_to_tensor(gradient)


def output_hessian(criterion: Criterion, outputs: Tensor) -> Callable[[Tensor], Tensor]:
    """Return u -> (d^2 loss / d outputs^2) u, to be called once."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(outputs)
        _, gradient = output_gradient(criterion, outputs)

    def multiply(u: Tensor) -> Tensor:
        with refusing_first_order():
            found = tape.gradient(gradient, outputs, output_gradients=u)
        return tf.zeros_like(u) if found is None else tf.convert_to_tensor(found)

    return multiply
