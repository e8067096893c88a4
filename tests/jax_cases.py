"""Small models of JAX, and their Hessians by JAX alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def normal(*shape, seed=0, dtype="float64"):
    return jnp.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape), dtype)


def labels(n, classes=3):
    return jnp.arange(n) % classes


def cross_entropy(outputs, y):
    return -jnp.take_along_axis(jax.nn.log_softmax(outputs), y[..., None], -1).mean()


def mlp(p, batch):
    x, y = batch
    hidden = jnp.tanh(x @ p["layers"][0]["w"] + p["layers"][0]["b"])
    return cross_entropy(hidden @ p["layers"][1]["w"], y)


def cnn(p, batch):
    x, y = batch
    hidden = jax.lax.conv_general_dilated(x, p["filters"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    pooled = jax.lax.reduce_window(jax.nn.softplus(hidden), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return cross_entropy(pooled.reshape(len(x), -1) @ p["head"], y)


def attention(p, batch):
    # The output layer is the embedding: tied weights.
    x, y = batch
    h = p["embedding"][x]
    q, k, v = jnp.split(h @ p["qkv"], 3, -1)
    scores = jnp.where(jnp.tril(jnp.ones((5, 5), bool)), q @ k.swapaxes(1, 2), -1e9)
    return cross_entropy((h + jax.nn.softmax(scores) @ v) @ p["embedding"].T, y)


def constants_and_unused(p, batch):
    x, y = batch
    return cross_entropy(jnp.sin(x[:, p["columns"]] @ p["w"]) * p["power"], y)


@jax.custom_vjp
def once(x):
    return jnp.tanh(x)


@jax.custom_vjp
def slope(x):
    return 1 - jnp.tanh(x) ** 2


slope.defvjp(lambda x: (slope(x), x), lambda x, g: (-2 * g * jnp.tanh(x) * (1 - jnp.tanh(x) ** 2),))
# A backward rule with a rule of its own: the gradient has no forward derivative.
once.defvjp(lambda x: (once(x), x), lambda x, g: (g * slope(x),))


def backward_only(p, batch):
    return cross_entropy(once(batch[0] @ p), batch[1])


def problem(name, n=11):
    """Loss, parameters and one batch; odd sizes, so that splits are uneven."""
    x, y = normal(n, 3), labels(n)
    tokens = jnp.arange(5 * n).reshape(n, 5) ** 2 % 6
    return {
        "mlp": (
            mlp,
            {"layers": [{"w": normal(3, 4), "b": normal(4)}, {"w": normal(4, 3, seed=1)}]},
            (x, y),
        ),
        "cnn": (cnn, {"filters": normal(3, 3, 1, 2), "head": normal(8, 3)}, (normal(n, 4, 4, 1), y)),
        "attention": (attention, {"embedding": normal(6, 4), "qkv": normal(4, 12)}, (tokens, tokens[:, ::-1])),
        "constants": (
            constants_and_unused,
            {"columns": jnp.array([2, 0]), "w": normal(2, 3), "power": 2, "host": np.ones(2), "unused": normal(2)},
            (x, y),
        ),
        "backward only": (backward_only, normal(3, 3), (x, y)),
    }[name]


# Attention compiles for long, and the transformer of the parity tests has it too.
MODELS = ["mlp", "cnn", pytest.param("attention", marks=pytest.mark.slow), "constants", "backward only"]


def split(batch, *sizes):
    ends = np.cumsum(sizes)[:-1]
    return list(zip(*(jnp.split(part, ends) for part in batch), strict=True))


def dense(objective, loss, batch, theta):
    """The Hessian by JAX itself, row by row backwards, as some functions have no forward derivative."""

    def at(vector):
        return loss(objective.unflatten(vector), batch)

    return jax.jit(jax.jacrev(jax.grad(at)))(theta)


def close(found, expected, tol=1e-10):
    found, expected = np.asarray(found), np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tol * max(1.0, np.abs(expected).max(initial=0)))


class Compilations:
    """Counts what XLA compiles inside a with statement."""

    def __init__(self):
        self.count = 0
        self.active = False
        jax.monitoring.register_event_duration_secs_listener(self.listen)

    def listen(self, event, duration, **_):
        self.count += self.active and event == "/jax/core/compile/backend_compile_duration"

    def __enter__(self):
        self.count, self.active = 0, True
        return self

    def __exit__(self, *_):
        self.active = False
