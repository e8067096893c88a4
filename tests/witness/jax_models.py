"""Models of JAX for the witness of products."""

import equinox
import jax
import jax.numpy as jnp
from flax import nnx

import specop
from witness.cases import SPREAD, X, Y, weights


def cross_entropy(z, y):
    return -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1).mean()


def objective(model, dtype, params=None, criterion=cross_entropy):
    data = jnp.asarray(X, dtype), jnp.asarray(Y)
    given = {} if params is None else {"params": [jnp.asarray(part) for part in params]}
    return specop.objective(model, criterion, data, likelihood="categorical", **given)


def between(function, dtype, width=6, factor=1.0, criterion=cross_entropy):
    """A network with one layer between linear ones."""
    parts = [factor * weights(12, width, dtype=dtype), factor * weights(width, 3, dtype=dtype, seed=1)]
    return objective(lambda p, batch: function(batch[0] @ p[0]) @ p[1], dtype, parts, criterion)


def convolutional(p, batch):
    form = ("NHWC", "HWIO", "NHWC")
    found = jax.lax.conv_general_dilated(batch[0].reshape(-1, 3, 4, 1), p[0], (1, 1), "SAME", dimension_numbers=form)
    return nnx.max_pool(jax.nn.relu(found), (2, 2)).reshape(len(found), -1) @ p[1]


def recurrent(p, batch):
    def step(h, x):
        return jnp.tanh(h @ p[0] + x @ p[1]), None

    steps = batch[0].reshape(-1, 4, 3).swapaxes(0, 1)
    return jax.lax.scan(step, jnp.zeros_like(p[0], shape=(steps.shape[1], 5)), steps)[0] @ p[2]


def wide_and_deep(p, batch):
    x = batch[0]
    codes = p[0][jnp.clip(4 * jnp.abs(x), 0, 8).astype(int)].mean(1)
    return x @ p[1] + jax.nn.relu(jnp.concatenate([x, codes], 1) @ p[2]) @ p[3]


class Transformer(nnx.Module):
    def __init__(self, dtype):
        rngs = nnx.Rngs(0)
        self.first, self.last = (nnx.Linear(*sizes, rngs=rngs, param_dtype=dtype) for sizes in ((3, 8), (8, 3)))
        self.norm = nnx.LayerNorm(8, rngs=rngs, param_dtype=dtype)
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs, param_dtype=dtype)

    def __call__(self, x):
        z = self.first(x.reshape(-1, 4, 3))
        return self.last(self.norm(z + self.attention(z)).mean(1))


class Spectral(nnx.Module):
    def __init__(self, dtype):
        rngs = nnx.Rngs(0)
        self.first, self.last = (nnx.Linear(*sizes, rngs=rngs, param_dtype=dtype) for sizes in ((12, 6), (6, 3)))
        self.first = nnx.SpectralNorm(self.first, n_steps=50, rngs=rngs)

    def __call__(self, x):
        return self.last(jnp.tanh(self.first(x, update_stats=True)))


class Mapped(equinox.Module):
    single: equinox.nn.MLP

    def __call__(self, x):
        return jax.vmap(self.single)(x)


def mapped(dtype):
    single = equinox.nn.MLP(12, 3, 6, 2, key=jax.random.key(0), dtype=jnp.dtype(dtype))
    return objective(Mapped(single), dtype)


RIGHT = {
    "tanh": lambda dtype: between(jnp.tanh, dtype),
    "ReLU, max pooling": lambda dtype: objective(
        convolutional, dtype, [weights(3, 3, 1, 4, dtype=dtype), weights(24, 3, dtype=dtype)]
    ),
    "wide ReLU": lambda dtype: between(jax.nn.relu, dtype, width=300),
    "Wide&Deep": lambda dtype: objective(
        wide_and_deep, dtype, [weights(*shape, dtype=dtype) for shape in ((9, 4), (12, 3), (16, 8), (8, 3))]
    ),
    "recurrent": lambda dtype: objective(
        recurrent, dtype, [weights(*shape, dtype=dtype) for shape in ((5, 5), (3, 5), (5, 3))]
    ),
    "transformer": lambda dtype: objective(Transformer(dtype), dtype),
    "equinox": mapped,
    "a cast to float32": lambda dtype: between(lambda z: jnp.tanh(z.astype("float32")).astype(z.dtype), dtype),
    "a cast to 16 bit": lambda dtype: between(lambda z: jnp.tanh(z.astype("bfloat16")).astype(z.dtype), dtype),
    **{name: lambda dtype, f=factor: between(jnp.tanh, dtype, factor=f) for name, factor in SPREAD.items()},
}


@jax.custom_vjp
def detached(z):
    return jnp.tanh(z) ** 2


detached.defvjp(
    lambda z: (jnp.tanh(z) ** 2, jax.lax.stop_gradient(2 * jnp.tanh(z) * (1 - jnp.tanh(z) ** 2))),
    lambda slope, g: (g * jax.lax.stop_gradient(slope),),
)


@jax.custom_jvp
def too_small(z):
    return jnp.tanh(z)


too_small.defjvps(lambda t, value, z: 0.9 * t * (1 - value**2))


def detached_loss(z, y):
    slope = jax.lax.stop_gradient((jax.nn.softmax(z) - jax.nn.one_hot(y, 3)) / len(z))
    return jax.lax.stop_gradient(cross_entropy(z, y)) + (slope * (z - jax.lax.stop_gradient(z))).sum()


ALL = ("hessian", "ggn", "exact", "mc", "empirical", "jacobian", "transposed")
WRONG = {
    "spectral normalization in training mode": (lambda dtype: objective(Spectral(dtype), dtype), ("hessian",)),
    "a custom function": (lambda dtype: between(detached, dtype), ("hessian",)),
    "a wrong gradient": (lambda dtype: between(too_small, dtype), ALL),
    "a stopped gradient": (lambda dtype: between(lambda z: jax.lax.stop_gradient(z) * z, dtype), ("hessian", "ggn")),
    "a custom criterion": (lambda dtype: between(jnp.tanh, dtype, criterion=detached_loss), ("hessian", "ggn")),
}
