"""Products with matrices made of the Jacobian of the outputs, as they are traced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from specop.objectives.refusals import check_samples_first
from specop_tensorflow.derivatives import Derivatives
from specop_tensorflow.likelihoods import Likelihood
from specop_tensorflow.missing_derivatives import refusing_first_order
from specop_tensorflow.outputs import output_gradient, output_hessian

__all__ = ["JacobianProduct"]


@dataclass(frozen=True)
class JacobianProduct:
    """J v, J'u or J'M J v for the Jacobian J of a batch's outputs.

    Parameters
    ----------
    kind : str
        As that of `specop.objectives.Matrix`.
    samples : int
        In the batch.
    likelihood : Likelihood, optional
        That the criterion is claimed to be of.
    """

    kind: str
    samples: int
    likelihood: Likelihood | None

    def __call__(
        self, derivatives: Derivatives, values: Mapping[str, Any], batch: Any, *operands: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Return whether the outputs are finite, the loss, whether the likelihood fits, and the product.

        Operands are the random numbers of a sampled Fisher matrix, and the vector. Of a Jacobian nothing but the
        outputs is looked at.
        """
        *noise, vector = operands
        sources = derivatives.sources(values)
        with tf.GradientTape(watch_accessed_variables=False, persistent=True) as tape:
            tape.watch(list(sources.values()))
            outputs = derivatives.outputs(values, batch)

        def pull(u: tf.Tensor) -> dict[str, Any]:
            with refusing_first_order():
                found = tape.gradient(outputs, list(sources.values()), output_gradients=u)
            if all(part is None for part in found):
                raise derivatives.independent()
            return dict(zip(sources, found, strict=True))

        def push(v: tf.Tensor) -> tf.Tensor:
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
            return finite, derivatives.vector(pull(tf.ensure_shape(u, outputs.shape)))
        if self.kind == "jacobian":
            return finite, tf.reshape(tf.cast(push(vector), derivatives.dtype), [-1])
        loss, fits, multiply = self._middle(derivatives, values, batch, tf.stop_gradient(outputs), *noise)
        return finite, loss, fits, derivatives.vector(pull(multiply(push(vector))))

    def _middle(
        self, derivatives: Derivatives, values: Mapping[str, Any], batch: Any, z: tf.Tensor, *noise: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        """Return the loss, whether the likelihood fits, and u -> M u."""
        criterion = derivatives.criterion(values, batch)
        loss, gradient = output_gradient(criterion, z)
        if self.kind == "empirical fisher":
            check_samples_first(z.shape, self.samples)
            r = tf.reshape(gradient, [self.samples, -1])

            def multiply(u: tf.Tensor) -> tf.Tensor:
                along = tf.reduce_sum(r * tf.reshape(u, [self.samples, -1]), 1, keepdims=True)
                return tf.reshape(r * along, tf.shape(u))

            return loss, tf.constant(True), multiply
        if self.likelihood is None:
            return loss, tf.constant(True), output_hessian(criterion, z)
        fits, weights = self.likelihood.terms(criterion, z)
        if self.kind == "ggn":
            return loss, fits, output_hessian(criterion, z)
        if self.kind == "fisher":
            return loss, fits, self.likelihood.fisher(z, weights)
        return loss, fits, self.likelihood.sampled_fisher(z, weights, *noise)
