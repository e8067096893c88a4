"""An equinox module with dropout and an integer array."""

import equinox as eqx
import jax
import jax.numpy as jnp

from stateful.cases import Subject
from stateful.flax_state import cross_entropy


class Net(eqx.Module):
    layers: eqx.nn.MLP
    dropout: eqx.nn.Dropout
    columns: jax.Array

    def __init__(self):
        self.layers = eqx.nn.MLP(3, 3, 4, 1, activation=jnp.tanh, key=jax.random.key(0), dtype=jnp.float64)
        self.dropout = eqx.nn.Dropout(0.5)
        self.columns = jnp.array([2, 0, 1])

    def __call__(self, x):
        return self.dropout(jax.vmap(self.layers)(x[:, self.columns]))


def subject():
    model = eqx.nn.inference_mode(Net())
    return Subject(model, cross_entropy, jnp.asarray, lambda: state(model), {"likelihood": "categorical"})


def state(model):
    leaves, treedef = jax.tree.flatten(model)
    return {"leaves": leaves, "same": list(map(id, leaves)), "structure": treedef, "x64": jax.config.x64_enabled}
