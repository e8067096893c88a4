"""Losses written once for three frameworks: a function of (array functions, parameters, batch)."""

import importlib
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest

import specop
from specop.arrays.backend import backend_of

FRAMEWORKS = [name for name in ("torch", "jax", "tensorflow") if find_spec(name) and find_spec(f"specop_{name}")]
each_framework = pytest.mark.parametrize("framework", FRAMEWORKS)


def functions(framework):
    """Return the framework's tanh, relu, exp, log, mean, sum and array (of numbers, in float64)."""
    if framework == "torch":
        torch = importlib.import_module("torch")
        names = {name: getattr(torch, name) for name in ("tanh", "relu", "exp", "log", "mean", "sum")}
        return SimpleNamespace(**names, array=partial(torch.tensor, dtype=torch.float64))
    if framework == "jax":
        jax, jnp = importlib.import_module("jax"), importlib.import_module("jax.numpy")
        names = {name: getattr(jnp, name) for name in ("tanh", "exp", "log", "mean", "sum")}
        return SimpleNamespace(**names, relu=jax.nn.relu, array=partial(jnp.array, dtype="float64"))
    tf = importlib.import_module("tensorflow")
    return SimpleNamespace(
        tanh=tf.tanh,
        relu=tf.nn.relu,
        exp=tf.exp,
        log=tf.math.log,
        mean=tf.reduce_mean,
        sum=tf.reduce_sum,
        array=partial(tf.constant, dtype=tf.float64),
    )


def objective_of(framework, loss, params, data=None, **options):
    """Return the objective of ``loss(functions, params, batch)`` at a dict of NumPy arrays.

    Parameters
    ----------
    framework : str
    loss : callable
        Returns a mean over the batch, by operators and `functions` alone.
    params : dict of NumPy arrays
    data : tuple of NumPy arrays or list of them, optional
        One batch or several; default: a single sample that the loss does not look at.
    **options
        Of `specop.objective`.
    """
    xp = functions(framework)
    native = {name: xp.array(values) for name, values in params.items()}
    if framework == "tensorflow":
        native = {name: importlib.import_module("tensorflow").Variable(values) for name, values in native.items()}
    batches = data if isinstance(data, list) else [(np.zeros((1, 1)),) if data is None else data]
    arrays = [tuple(xp.array(part) for part in batch) for batch in batches]

    def fun(parameters, batch):
        return loss(xp, parameters, batch)

    return specop.objective(fun, params=native, data=arrays, **options)


def quadratic(matrix, at, minimum=0.0, floor=0.0):
    """Return (loss, params) of ``floor + (w - minimum)' H (w - minimum) / 2``, for `objective_of`."""
    matrix, minimum = np.asarray(matrix, dtype=float), np.broadcast_to(minimum, len(matrix)).astype(float)

    def loss(xp, params, batch):
        away = params["w"] - xp.array(minimum)
        return floor + 0.5 * xp.sum(away * xp.sum(xp.array(matrix) * away, -1)) + 0.0 * xp.sum(batch[0])

    return loss, {"w": np.asarray(at, dtype=float)}


def small_cnn(count):
    """Return a CNN of torch in float32, not trained, with so many of scikit-learn's digits and their labels."""
    torch, load_digits = importlib.import_module("torch"), importlib.import_module("sklearn.datasets").load_digits
    torch.manual_seed(0)
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels[:count].reshape(-1, 1, 8, 8) / 16, dtype=torch.float32)
    layers = torch.nn.Conv2d(1, 6, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(3), torch.nn.Flatten()
    return torch.nn.Sequential(*layers, torch.nn.Linear(24, 10)), images, torch.tensor(labels[:count])


def host(values):
    """Return a native array as a NumPy array."""
    return backend_of(values).to_numpy(values)
