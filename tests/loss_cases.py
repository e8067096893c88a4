"""Losses written once for the frameworks and NumPy, and small models with a layer of any function."""

from types import SimpleNamespace

import numpy as np
import pytest

import specop

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
tf = pytest.importorskip("tensorflow")

import keras
from torch import nn

import jax.numpy as jnp  # isort: skip


X = np.random.default_rng(0).normal(size=(6, 4))
Y = np.random.default_rng(1).normal(size=(6, 3)) * np.linspace(1, 3, 6)[:, None]
PARAMS = {"a": np.random.default_rng(2).normal(size=(4, 5)), "b": np.random.default_rng(3).normal(size=(5, 3))}
COUPLED = "several batches do not add up to the loss on all data"
CHANGING = "two calls of the loss on the same batch give"

# The few functions that losses below are made of, in each framework and in NumPy, which says what is true.
numpy = SimpleNamespace(
    array=lambda x: x,
    tanh=np.tanh,
    exp=np.exp,
    log=np.log,
    sqrt=np.sqrt,
    abs=np.abs,
    sum=np.sum,
    mean=np.mean,
    max=np.max,
)
FRAMEWORKS = {
    "torch": SimpleNamespace(
        array=lambda x: torch.tensor(x),
        tanh=torch.tanh, exp=torch.exp, log=torch.log, sqrt=torch.sqrt, abs=torch.abs,
        sum=lambda x, axis=None: x.sum() if axis is None else x.sum(axis),
        mean=lambda x, axis=None: x.mean() if axis is None else x.mean(axis),
        max=torch.max,
    ),
    "jax": SimpleNamespace(
        array=jnp.asarray, tanh=jnp.tanh, exp=jnp.exp, log=jnp.log, sqrt=jnp.sqrt, abs=jnp.abs, sum=jnp.sum,
        mean=jnp.mean, max=jnp.max,
    ),
    "tensorflow": SimpleNamespace(
        array=tf.constant, tanh=tf.tanh, exp=tf.exp, log=tf.math.log, sqrt=tf.sqrt, abs=tf.abs, sum=tf.reduce_sum,
        mean=tf.reduce_mean, max=tf.reduce_max,
    ),
}  # fmt: skip
each_framework = pytest.mark.parametrize("name", FRAMEWORKS)


def plain(xp, z):
    return z


def outputs(xp, params, x, middle=plain):
    return middle(xp, xp.tanh(x @ params["a"])) @ params["b"]


def squares(xp, z, y):
    return xp.mean((z - y) ** 2)


def made(name, criterion, data, middle=plain, **keywords):
    xp = FRAMEWORKS[name]
    data = [tuple(map(xp.array, batch)) for batch in data]
    return specop.objective(
        lambda params, batch: outputs(xp, params, batch[0], middle),
        lambda z, y: criterion(xp, z, y),
        data if len(data) > 1 else data[0],
        params={key: xp.array(value) for key, value in PARAMS.items()},
        **keywords,
    )


def parts(*sizes):
    ends = np.cumsum(sizes)[:-1]
    return list(zip(np.split(X, ends), np.split(Y, ends), strict=True))


def expected(criterion, x, y, middle=plain):
    return criterion(numpy, outputs(numpy, PARAMS, x, middle), y)


def few_for_compiled(cases, first):
    """All cases in torch, where nothing is compiled, and the first of them elsewhere in a quick run."""
    return [
        pytest.param(name, case, marks=[pytest.mark.slow] if name != "torch" and i >= first else [])
        for name in FRAMEWORKS
        for i, case in enumerate(cases)
    ]


class Hidden(nn.Module):
    def __init__(self, call, state):
        super().__init__()
        self.call, self.state = call, state

    def forward(self, h):
        return self.call(self, h)


class KerasNet(keras.Model):
    def __init__(self, call=lambda layer, h: h, state=None):
        super().__init__()
        self.first, self.last = keras.layers.Dense(5, dtype="float64"), keras.layers.Dense(3, dtype="float64")
        self.norm = keras.layers.BatchNormalization(dtype="float64")
        self.middle = lambda layer, h: h
        self.build(X.shape)
        self.middle, self.state = call, state

    def build(self, shape):
        super().build(shape)
        self.norm(self.call(keras.ops.zeros(shape, "float64")) @ keras.ops.zeros((3, 5), "float64"))

    def call(self, x, training=False):
        return self.last(self.middle(self, self.first(x)))


def torch_model(middle):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), middle, nn.Linear(5, 3)).double().eval()
