"""Second derivatives that TensorFlow lacks: those it says it lacks, and those that it takes for zero."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow import Tensor

from specop.errors import InvalidInputError
from specop_tensorflow.graphs import Graph
from specop_tensorflow.nodes import operation_of

__all__ = ["differentiable_moments", "refuse_assumed_zeros", "refusing_first_order"]

# Derivatives of operations, linear in the gradient they are given, that TensorFlow declares to be constants in it.
_ASSUMED_CONSTANT = {
    "FakeQuantWithMinMaxArgsGradient": "tf.quantization.fake_quant_with_min_max_args",
    "FakeQuantWithMinMaxVarsGradient": "tf.quantization.fake_quant_with_min_max_vars",
    "FakeQuantWithMinMaxVarsPerChannelGradient": "tf.quantization.fake_quant_with_min_max_vars_per_channel",
    "ResizeBilinearGrad": "bilinear tf.image.resize, as in UpSampling2D(interpolation='bilinear'),",
    "SparseAddGrad": "tf.sparse.add",
}

_patching = threading.RLock()


class refusing_first_order:  # noqa: N801 - used like a function
    """Turns TensorFlow's errors about missing derivatives into ours."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, (LookupError, NotImplementedError, TypeError)):
            raise InvalidInputError(
                f"TensorFlow has no second derivative of an operation of the forward pass: {error} Replace it."
            ) from error


@contextmanager
def differentiable_moments() -> Iterator[None]:
    """Let tf.nn.moments have a second derivative while a loss is traced.

    Its variance takes the mean for a constant, which changes no first derivative, but all second ones through layers
    that normalize: Keras' LayerNormalization and GroupNormalization, and batch normalization in training mode.
    """
    places = [tf.nn, tf.compat.v1.nn]
    with _patching:
        originals = [place.moments for place in places]
        try:
            tf.nn.moments = _moments
            tf.compat.v1.nn.moments = _first_moments
            yield
        finally:
            for place, original in zip(places, originals, strict=True):
                place.moments = original


def refuse_assumed_zeros(graph: Graph, parameters: Sequence[str]) -> None:
    """Raise if a traced product differentiates what TensorFlow takes for a constant: it would lack whole terms.

    Parameters
    ----------
    graph : Graph
        Graph of a product with a vector. A derivative of an operation stands in it only if parameters lie behind that
        one.
    parameters : sequence of str
        The inputs that are parameters.
    """
    for nodes in graph.bodies():
        for node in nodes.values():
            if node.op in _ASSUMED_CONSTANT:
                raise InvalidInputError(
                    f"TensorFlow takes the derivative of {_ASSUMED_CONSTANT[node.op]} (operation {node.name!r}, "
                    f"{node.op}) for a constant when it is differentiated again, so that the product would be wrong. "
                    f"Replace the operation, for bilinear resizing by a transposed convolution with fixed weights, or "
                    f"take objective.finite_difference_hessian()."
                )
            if node.op == "SquaredDifference" and _is_detached_variance(node, nodes):
                raise InvalidInputError(
                    f"a variance takes its mean for a constant (operation {node.name!r}), so that its second "
                    f"derivative would be wrong: tf.nn.moments in a tf.function that was traced before. Call the "
                    f"undecorated function, or compute the variance by tf.math.reduce_variance."
                )
    for node in graph.nodes.values():
        if node.op == "SoftmaxCrossEntropyWithLogits" and graph.depends(operation_of(node.input[1]), parameters):
            raise InvalidInputError(
                f"TensorFlow's softmax cross-entropy (operation {node.name!r}) takes labels for constants when it is "
                f"differentiated twice, and these depend on the parameters. Use tf.stop_gradient(labels) if they "
                f"are meant to be constants, else -tf.reduce_sum(labels * tf.nn.log_softmax(logits), -1)."
            )


def _moments(
    x: Any, axes: Any, shift: Any = None, keepdims: bool = False, name: str | None = None
) -> tuple[Tensor, Tensor]:
    """Return mean and variance, as `tf.nn.moments`, which does not use `shift` either."""
    with tf.name_scope(name or "moments"):
        x = tf.convert_to_tensor(x)
        # Half precision is too little for squares.
        wide = tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x
        mean = tf.reduce_mean(wide, axes, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(wide, mean), axes, keepdims=keepdims)
        if not keepdims:
            mean = tf.squeeze(mean, axes)
        return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)


def _first_moments(
    x: Any, axes: Any, shift: Any = None, name: str | None = None, keep_dims: Any = None, keepdims: Any = None
) -> tuple[Tensor, Tensor]:
    """Return the same for the arguments of TensorFlow 1."""
    return _moments(x, axes, shift, bool(keep_dims or keepdims), name)


def _is_detached_variance(node: Any, nodes: Mapping[str, Any]) -> bool:
    """Whether an operation is the square of x minus a mean of x that counts as constant."""
    for whole, detached in (node.input, node.input[::-1]):
        stop = nodes.get(operation_of(detached))
        mean = nodes.get(operation_of(stop.input[0])) if stop is not None and stop.op == "StopGradient" else None
        if mean is not None and mean.op == "Mean" and operation_of(mean.input[0]) == operation_of(whole):
            return True
    return False
