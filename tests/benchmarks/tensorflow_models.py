"""The benchmark models in TensorFlow: functions of a dictionary of variables, as people write them."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from ports import Port

Params = dict[str, Any]
Batch = tuple[Any, Any]
Loss = Callable[[Params, Batch], Any]


def tensorflow_problem(port: Port) -> tuple[Loss, Params, Batch]:
    """Return loss, parameters and batch of a ported model."""
    losses = {"cnn": _cnn, "transformer": _transformer, "wide_deep": _wide_deep}
    params = {name: tf.Variable(array) for name, array in port.weights.items()}
    return losses[port.name](port), params, (tf.constant(port.inputs), tf.constant(port.targets))


def _cnn(port: Port) -> Loss:
    def loss(params: Params, batch: Batch) -> Any:
        hidden, labels = batch
        for layer in ("layers.0", "layers.2"):
            kernel = params[f"{layer}.weight"]
            hidden = tf.nn.conv2d(hidden, kernel, 2, [[0, 0], [1, 1], [1, 1], [0, 0]])
            hidden = tf.nn.relu(hidden + params[f"{layer}.bias"])
        hidden = tf.reshape(hidden, (labels.shape[0], -1))
        hidden = tf.nn.relu(_linear(params, "layers.5", hidden))
        return _cross_entropy(_linear(params, "layers.7", hidden), labels)

    return loss


def _transformer(port: Port) -> Loss:
    depth = 1 + max(int(name.split(".")[1]) for name in port.weights if name.startswith("blocks."))

    def loss(params: Params, batch: Batch) -> Any:
        codes, targets = batch
        hidden = tf.gather(params["tokens.weight"], codes) + params["positions"][: codes.shape[1]]
        for block in (f"blocks.{i}" for i in range(depth)):
            hidden = hidden + _attention(params, block, _norm(params, f"{block}.first_norm", hidden), port.heads)
            inner = _linear(params, f"{block}.perceptron.0", _norm(params, f"{block}.second_norm", hidden))
            hidden = hidden + _linear(params, f"{block}.perceptron.2", tf.nn.gelu(inner, approximate=False))
        return _cross_entropy(_linear(params, "head", _norm(params, "norm", hidden)), targets)

    return loss


def _wide_deep(port: Port) -> Loss:
    def loss(params: Params, batch: Batch) -> Any:
        table, labels = batch
        codes = tf.cast(table[:, : port.columns], tf.int32)
        embedded = tf.reshape(tf.gather(params["embedding.weight"], codes), (table.shape[0], -1))
        hidden = tf.concat([embedded, table[:, port.columns :]], axis=1)
        hidden = tf.nn.relu(_linear(params, "deep.0", hidden))
        hidden = tf.nn.relu(_linear(params, "deep.2", hidden))
        wide = tf.reduce_sum(tf.gather(params["wide.weight"], codes), axis=1)
        logits = (_linear(params, "deep.4", hidden) + wide)[:, 0]
        return tf.reduce_mean(tf.nn.softplus(logits) - labels * logits)

    return loss


def _linear(params: Params, name: str, hidden: Any) -> Any:
    return tf.matmul(hidden, params[f"{name}.weight"]) + params[f"{name}.bias"]


def _norm(params: Params, name: str, hidden: Any) -> Any:
    centred = hidden - tf.reduce_mean(hidden, -1, keepdims=True)
    scaled = centred * tf.math.rsqrt(tf.reduce_mean(centred**2, -1, keepdims=True) + 1e-5)
    return scaled * params[f"{name}.weight"] + params[f"{name}.bias"]


def _attention(params: Params, block: str, hidden: Any, heads: int) -> Any:
    batch, time, width = hidden.shape
    stacked = tf.reshape(_linear(params, f"{block}.attention", hidden), (batch, time, 3, heads, width // heads))
    query, key, value = tf.unstack(stacked, axis=2)
    scores = tf.einsum("bqhd,bkhd->bhqk", query, key) / (width // heads) ** 0.5
    visible = tf.linalg.band_part(tf.ones((time, time), dtype=tf.bool), -1, 0)
    scores = tf.where(visible, scores, tf.constant(float("-inf"), scores.dtype))
    mixed = tf.einsum("bhqk,bkhd->bqhd", tf.nn.softmax(scores), value)
    return _linear(params, f"{block}.projection", tf.reshape(mixed, (batch, time, width)))


def _cross_entropy(logits: Any, targets: Any) -> Any:
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits))
