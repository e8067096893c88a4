"""The benchmark models in JAX: functions of a dictionary of arrays, as people write them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ports import Port, Task

Params = dict[str, jax.Array]
Batch = tuple[jax.Array, jax.Array]
Outputs = Callable[[Params, Batch], jax.Array]


def jax_problem(port: Port) -> Task:
    """Return a ported model as functions of its parameters, and these."""
    outputs = {"cnn": _cnn, "transformer": _transformer, "wide_deep": _wide_deep}[port.name](port)
    criterion = _binary_cross_entropy if port.name == "wide_deep" else _cross_entropy
    params = {name: jnp.asarray(array) for name, array in port.weights.items()}
    return Task(outputs, criterion, params, (jnp.asarray(port.inputs), jnp.asarray(port.targets)), port.likelihood)


def _cnn(port: Port) -> Outputs:
    def outputs(params: Params, batch: Batch) -> jax.Array:
        hidden, _ = batch
        for layer in ("layers.0", "layers.2"):
            kernel = params[f"{layer}.weight"]
            layout = ("NHWC", "HWIO", "NHWC")
            padding = ((1, 1), (1, 1))
            hidden = jax.lax.conv_general_dilated(hidden, kernel, (2, 2), padding, dimension_numbers=layout)
            hidden = jax.nn.relu(hidden + params[f"{layer}.bias"])
        hidden = jax.nn.relu(_linear(params, "layers.5", hidden.reshape(len(hidden), -1)))
        return _linear(params, "layers.7", hidden)

    return outputs


def _transformer(port: Port) -> Outputs:
    depth = 1 + max(int(name.split(".")[1]) for name in port.weights if name.startswith("blocks."))

    def outputs(params: Params, batch: Batch) -> jax.Array:
        codes, _ = batch
        hidden = params["tokens.weight"][codes] + params["positions"][: codes.shape[1]]
        for block in (f"blocks.{i}" for i in range(depth)):
            hidden = hidden + _attention(params, block, _norm(params, f"{block}.first_norm", hidden), port.heads)
            inner = _linear(params, f"{block}.perceptron.0", _norm(params, f"{block}.second_norm", hidden))
            hidden = hidden + _linear(params, f"{block}.perceptron.2", jax.nn.gelu(inner, approximate=False))
        return _linear(params, "head", _norm(params, "norm", hidden))

    return outputs


def _wide_deep(port: Port) -> Outputs:
    def outputs(params: Params, batch: Batch) -> jax.Array:
        table, _ = batch
        codes = table[:, : port.columns].astype(jnp.int32)
        embedded = params["embedding.weight"][codes].reshape(len(table), -1)
        hidden = jnp.concatenate([embedded, table[:, port.columns :]], axis=1)
        hidden = jax.nn.relu(_linear(params, "deep.0", hidden))
        hidden = jax.nn.relu(_linear(params, "deep.2", hidden))
        return (_linear(params, "deep.4", hidden) + params["wide.weight"][codes].sum(1))[:, 0]

    return outputs


def _linear(params: Params, name: str, hidden: jax.Array) -> jax.Array:
    return hidden @ params[f"{name}.weight"] + params[f"{name}.bias"]


def _norm(params: Params, name: str, hidden: jax.Array) -> jax.Array:
    centred = hidden - hidden.mean(-1, keepdims=True)
    scaled = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * params[f"{name}.weight"] + params[f"{name}.bias"]


def _attention(params: Params, block: str, hidden: jax.Array, heads: int) -> jax.Array:
    batch, time, width = hidden.shape
    stacked = _linear(params, f"{block}.attention", hidden).reshape(batch, time, 3, heads, width // heads)
    query, key, value = (stacked[:, :, i] for i in range(3))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / (width // heads) ** 0.5
    scores = jnp.where(jnp.tril(jnp.ones((time, time), dtype=bool)), scores, -jnp.inf)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value)
    return _linear(params, f"{block}.projection", mixed.reshape(batch, time, width))


def _cross_entropy(logits: jax.Array, targets: jax.Array) -> Any:
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)
    return -chosen.mean()


def _binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> Any:
    return jnp.mean(jax.nn.softplus(logits) - labels * logits)
