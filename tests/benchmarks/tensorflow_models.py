"""The benchmark models in TensorFlow: functions of a dictionary of variables, as people write them."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from ports import Port, Task

Params = dict[str, Any]
Batch = tuple[Any, Any]
Outputs = Callable[[Params, Batch], Any]


def tensorflow_problem(port: Port) -> Task:
    """Return a ported model as functions of its variables, and these."""
    outputs = {"cnn": _cnn, "transformer": _transformer, "wide_deep": _wide_deep}[port.name](port)
    criterion = _binary_cross_entropy if port.name == "wide_deep" else _cross_entropy
    params = {name: tf.Variable(array) for name, array in port.weights.items()}
    return Task(outputs, criterion, params, (tf.constant(port.inputs), tf.constant(port.targets)), port.likelihood)


def _cnn(port: Port) -> Outputs:
    def outputs(params: Params, batch: Batch) -> Any:
        hidden, _ = batch
        for layer in ("layers.0", "layers.2"):
            kernel = params[f"{layer}.weight"]
            hidden = tf.nn.conv2d(hidden, kernel, 2, [[0, 0], [1, 1], [1, 1], [0, 0]])
            hidden = tf.nn.relu(hidden + params[f"{layer}.bias"])
        hidden = tf.reshape(hidden, (hidden.shape[0], -1))
        hidden = tf.nn.relu(_linear(params, "layers.5", hidden))
        return _linear(params, "layers.7", hidden)

    return outputs


def _transformer(port: Port) -> Outputs:
    depth = 1 + max(int(name.split(".")[1]) for name in port.weights if name.startswith("blocks."))

    def outputs(params: Params, batch: Batch) -> Any:
        codes, _ = batch
        hidden = tf.gather(params["tokens.weight"], codes) + params["positions"][: codes.shape[1]]
        for block in (f"blocks.{i}" for i in range(depth)):
            hidden = hidden + _attention(params, block, _norm(params, f"{block}.first_norm", hidden), port.heads)
            inner = _linear(params, f"{block}.perceptron.0", _norm(params, f"{block}.second_norm", hidden))
            hidden = hidden + _linear(params, f"{block}.perceptron.2", tf.nn.gelu(inner, approximate=False))
        return _linear(params, "head", _norm(params, "norm", hidden))

    return outputs


def _wide_deep(port: Port) -> Outputs:
    def outputs(params: Params, batch: Batch) -> Any:
        table, _ = batch
        codes = tf.cast(table[:, : port.columns], tf.int32)
        embedded = tf.reshape(tf.gather(params["embedding.weight"], codes), (table.shape[0], -1))
        hidden = tf.concat([embedded, table[:, port.columns :]], axis=1)
        hidden = tf.nn.relu(_linear(params, "deep.0", hidden))
        hidden = tf.nn.relu(_linear(params, "deep.2", hidden))
        wide = tf.reduce_sum(tf.gather(params["wide.weight"], codes), axis=1)
        return (_linear(params, "deep.4", hidden) + wide)[:, 0]

    return outputs


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


def _binary_cross_entropy(logits: Any, labels: Any) -> Any:
    return tf.reduce_mean(tf.nn.softplus(logits) - labels * logits)
