"""Outputs, gradient and Hessian-vector product of a loss, as they are traced: by one and by two gradient tapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from specop.errors import InvalidInputError
from specop.objectives.refusals import criterion_of_parameters, independent, no_scalar, not_real_outputs
from specop_tensorflow.missing_derivatives import refusing_first_order
from specop_tensorflow.models import Model

__all__ = ["Derivatives"]


@dataclass(frozen=True)
class Derivatives:
    """Derivatives with respect to selected parameters, as one vector.

    Parameters
    ----------
    model : Model
    selected : mapping
        The parameters by name, in the order of the vector: variables that the model reads, or tensors of a function.
    dtype : numpy.dtype
        Dtype of vectors.
    """

    model: Model
    selected: Mapping[str, Any]
    dtype: np.dtype[Any]

    def loss(self, values: Mapping[str, Any], batch: Any) -> Tensor:
        """Return the loss; `values` holds the parameters that a function is given."""
        return self._checked_mean(self.model.loss(values, batch))

    def outputs(self, values: Mapping[str, Any], batch: Any) -> Tensor:
        """Return the outputs that the criterion takes."""
        outputs = self.model.outputs(values, batch)
        if not tf.is_tensor(outputs) or not outputs.dtype.is_floating or outputs.shape.num_elements() == 0:
            raise not_real_outputs(_described(outputs))
        return outputs

    def criterion(self, values: Mapping[str, Any], batch: Any) -> Callable[[Tensor], Tensor]:
        """Return the mean loss of a batch as a function of outputs, and of nothing else that moves."""
        sources = list(self.sources(values).values())

        def compare(outputs: Tensor) -> Tensor:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(sources)
                loss = self._checked_mean(self.model.compare(outputs, batch))
            if any(gradient is not None for gradient in tape.gradient(loss, sources)):
                raise criterion_of_parameters()
            return loss

        return compare

    def _checked_mean(self, loss: Any) -> Tensor:
        if not tf.is_tensor(loss) or not loss.dtype.is_floating or loss.shape.num_elements() not in (1, None):
            raise no_scalar(_described(loss), loss)
        return tf.reshape(loss, [])

    def gradient(self, values: Mapping[str, Any], batch: Any) -> tuple[Tensor, Tensor]:
        """Return loss and gradient."""
        sources = self.sources(values)
        loss, gradients = self._differentiate(sources, values, batch)
        return loss, self.vector(gradients)

    def product(self, values: Mapping[str, Any], batch: Any, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and its Hessian times a vector: the derivative of the gradient's product with it."""
        return self.derivative(values, lambda sources: self._differentiate(sources, values, batch), vector)

    def derivative(
        self,
        values: Mapping[str, Any],
        differentiate: Callable[[Mapping[str, Any]], tuple[Tensor, Mapping[str, Any]]],
        vector: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the loss, and the derivative of a gradient's product with a vector.

        Parameters
        ----------
        values : mapping
        differentiate : callable
            From what derivatives are taken with respect to, to the loss and its gradient in each.
        vector : Tensor
        """
        sources = self.sources(values)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(list(sources.values()))
            loss, gradients = differentiate(sources)
        targets, weights = self.paired(gradients, vector)
        with refusing_first_order():
            found = tape.gradient(targets, list(sources.values()), output_gradients=weights)
        return loss, self.vector(dict(zip(sources, found, strict=True)))

    def paired(self, gradients: Mapping[str, Any], vector: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return tensors that hold all that is not zero of the gradients, and a vector's entries for each."""
        along = self.split(vector)
        targets, weights = [], []
        for name, gradient in gradients.items():
            if isinstance(gradient, tf.IndexedSlices):
                # The rows of a table that the batch looked up; the others have no gradient.
                targets.append(gradient.values)
                weights.append(tf.gather(along[name], gradient.indices))
            elif gradient is not None:
                targets.append(gradient)
                weights.append(along[name])
        return targets, weights

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """Return a vector as parameters by name, each in its own shape and dtype."""
        pieces = tf.split(vector, [like.shape.num_elements() for like in self.selected.values()])
        return {
            name: tf.cast(tf.reshape(piece, like.shape), like.dtype)
            for (name, like), piece in zip(self.selected.items(), pieces, strict=True)
        }

    def sources(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what derivatives are taken with respect to; what is frozen counts as constant."""
        if not self.model.reads_variables:
            return {name: values[name] for name in self.selected}
        constants = self.model.constants()
        moving = {name: variable for name, variable in self.selected.items() if name not in constants}
        if not moving:
            raise InvalidInputError(
                f"none of the {len(self.selected)} selected variables is trainable, such as "
                f"{next(iter(self.selected))!r}. Set trainable = True on their layer."
            )
        return moving

    def _differentiate(
        self, sources: Mapping[str, Any], values: Mapping[str, Any], batch: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(list(sources.values()))
            loss = self.loss(values, batch)
        with refusing_first_order():
            gradients = dict(zip(sources, tape.gradient(loss, list(sources.values())), strict=True))
        if all(gradient is None for gradient in gradients.values()):
            raise self.independent()
        return loss, gradients

    def independent(self) -> InvalidInputError:
        """Return the error about a loss that is constant."""
        return independent([*self.selected], "stop_gradient, numpy() or a variable that was captured instead of passed")

    def vector(self, parts: Mapping[str, Any]) -> Tensor:
        """Return the parts of the named parameters as one vector, with zeros for those that are missing."""
        flat = []
        for name, like in self.selected.items():
            part = parts.get(name)
            if isinstance(part, tf.IndexedSlices):
                part = tf.math.unsorted_segment_sum(part.values, part.indices, like.shape[0])
            part = tf.zeros(like.shape, self.dtype) if part is None else tf.cast(part, self.dtype)
            flat.append(tf.reshape(part, [-1]))
        return tf.concat(flat, 0)


def _described(found: Any) -> str:
    return f"{found.dtype.name} of shape {found.shape}" if tf.is_tensor(found) else type(found).__name__
