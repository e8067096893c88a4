"""Products with matrices of one batch, as they are traced."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow import Tensor

from specop.objectives.likelihoods import Likelihood, by_sample
from specop.objectives.refusals import check_samples_first
from specop_tensorflow.derivatives import Derivatives
from specop_tensorflow.likelihoods import FUNCTIONS
from specop_tensorflow.missing_derivatives import refusing_first_order
from specop_tensorflow.outputs import output_curvature, output_gradient, output_hessian
from specop_tensorflow.structures import TREES

__all__ = ["Product"]


@dataclass(frozen=True)
class Product:
    """H v, or J v, J'u or J'M J v for the Jacobian J of a batch's outputs.

    Parameters
    ----------
    kind : str
        Kind of the matrix, as `specop.objectives.Matrix` names it.
    likelihood : Likelihood, optional
        Likelihood that the criterion is claimed to be of.
    """

    kind: str
    likelihood: Likelihood | None

    def __call__(
        self, derivatives: Derivatives, values: Mapping[str, Any], batch: Any, *operands: Tensor
    ) -> tuple[Tensor, ...]:
        """Return whether the outputs are finite, the loss, what tells whether the likelihood fits, and the product.

        Operands are the random numbers of a sampled Fisher matrix, and the vector. What a matrix does not depend on
        is not looked at.
        """
        fine, zero, measured = tf.constant(True), tf.zeros([], derivatives.dtype), tf.zeros([3], tf.float64)
        if self.kind == "hessian":
            loss, product = derivatives.product(values, batch, *operands)
            return fine, loss, measured, product
        if self.kind == "output curvature":
            loss, product = output_curvature(derivatives, values, batch, *operands)
            return fine, loss, measured, product
        *noise, vector = operands
        sources = derivatives.sources(values)
        with tf.GradientTape(watch_accessed_variables=False, persistent=True) as tape:
            tape.watch(list(sources.values()))
            outputs = derivatives.outputs(values, batch)

        def pull(u: Tensor) -> dict[str, Any]:
            with refusing_first_order():
                found = tape.gradient(outputs, list(sources.values()), output_gradients=u)
            if all(part is None for part in found):
                raise derivatives.independent()
            return dict(zip(sources, found, strict=True))

        def push(v: Tensor) -> Tensor:
            # J'w is linear in w, and its derivative in w along v is J v. Forward mode would keep more for the next
            # vector, and lacks more operations.
            weights = tf.zeros_like(outputs)
            with tf.GradientTape(watch_accessed_variables=False) as linear:
                linear.watch(weights)
                pulled = pull(weights)
            targets, along = derivatives.paired(pulled, v)
            with refusing_first_order():
                found = linear.gradient(targets, weights, output_gradients=along)
            return tf.zeros_like(outputs) if found is None else tf.convert_to_tensor(found)

        finite = tf.reduce_all(tf.math.is_finite(outputs))
        if self.kind == "transposed jacobian":
            u = tf.cast(tf.reshape(vector, tf.shape(outputs)), outputs.dtype)
            return finite, zero, measured, derivatives.vector(pull(tf.ensure_shape(u, outputs.shape)))
        if self.kind == "jacobian":
            return finite, zero, measured, tf.reshape(tf.cast(push(vector), derivatives.dtype), [-1])
        loss, found, multiply = self._middle(derivatives, values, batch, tf.stop_gradient(outputs), *noise)
        measured = measured if found is None else tf.stack(found)
        return finite, loss, measured, derivatives.vector(pull(multiply(push(vector))))

    def _middle(
        self, derivatives: Derivatives, values: Mapping[str, Any], batch: Any, z: Tensor, *noise: Tensor
    ) -> tuple[Tensor, Any, Callable[[Tensor], Tensor]]:
        """Return the loss, what `fits` looks at, and u -> M u."""
        criterion = derivatives.criterion(values, batch)
        curvature = functools.partial(output_hessian, criterion)
        loss, gradient = output_gradient(criterion, z)
        if self.kind.startswith("empirical fisher"):
            check_samples_first(z.shape, TREES.count(batch))
        if self.kind == "empirical fisher of samples":
            return loss, None, by_sample(FUNCTIONS, gradient, z.shape.rank)
        if self.likelihood is None:
            return loss, None, curvature(z)
        weights, measured = self.likelihood.terms(curvature, z)
        if self.kind == "ggn":
            return loss, measured, curvature(z)
        if self.kind == "fisher":
            return loss, measured, self.likelihood.information(z, weights)
        if self.kind == "empirical fisher of terms":
            return loss, measured, self.likelihood.empirical(gradient, weights, z.shape.rank)
        return loss, measured, self.likelihood.sampled(z, weights, *noise)
