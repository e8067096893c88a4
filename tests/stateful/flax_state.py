"""A flax.nnx module with batch statistics, dropout and random streams."""

import jax
import jax.numpy as jnp
from flax import nnx

from stateful.cases import Subject


class Net(nnx.Module):
    def __init__(self, rngs):
        def linear(inputs, outputs):
            return nnx.Linear(inputs, outputs, param_dtype=jnp.float64, rngs=rngs)

        self.first, self.second = linear(3, 4), linear(4, 3)
        self.norm = nnx.BatchNorm(4, param_dtype=jnp.float64, dtype=jnp.float64, rngs=rngs)
        self.norm.mean, self.norm.var = nnx.BatchStat(jnp.full(4, 0.1)), nnx.BatchStat(jnp.full(4, 1.5))
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.calls = nnx.Variable(jnp.zeros((), int))

    def __call__(self, x):
        self.calls[...] += 1
        return self.second(self.dropout(jnp.tanh(self.norm(self.first(x)))))


def subject():
    model = Net(nnx.Rngs(0, dropout=1))
    model.eval()
    return Subject(model, cross_entropy, jnp.asarray, lambda: state(model), {"likelihood": "categorical"})


def state(model):
    graphdef, found = nnx.split(model)
    leaves = [key_data(leaf) for leaf in jax.tree.leaves(found)]
    return {
        "graph": graphdef,
        "leaves": leaves,
        "same": list(map(id, jax.tree.leaves(found))),
        "x64": jax.config.x64_enabled,
    }


def key_data(leaf):
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def cross_entropy(outputs, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(outputs), labels[:, None], axis=-1).mean()
