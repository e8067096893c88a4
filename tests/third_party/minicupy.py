"""A stand-in for an array framework that specop does not know: CuPy's manners, NumPy underneath.

Arrays are of a class of their own, live on a device, and are never converted to NumPy's without being asked. To the
core of specop they are opaque: it may hand them on, and nothing else. `RowBlocks` alone is a tool of adapters.
"""

from __future__ import annotations

import functools
import sys

import numpy as np


def refuse_the_core(what):
    caller = sys._getframe(2).f_globals["__name__"]
    if caller.partition(".")[0] == "specop" and caller != "specop.arrays.rows":
        raise TypeError(f"{caller} looks into an array by {what}, which only a backend may do.")


def guarded(method):
    @functools.wraps(method)
    def call(self, *operands):
        refuse_the_core(method.__name__)
        return method(self, *operands)

    return call


class ndarray:  # noqa: N801
    """An array in device memory; indexing gives views."""

    device = "mini:0"
    __array_ufunc__ = None

    def __init__(self, memory):
        self._memory = memory

    def __getattribute__(self, name):
        if name != "__class__":  # which isinstance asks for
            refuse_the_core(name)
        return object.__getattribute__(self, name)

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed; use .get().")

    shape = property(lambda self: self._memory.shape)
    dtype = property(lambda self: self._memory.dtype)
    nbytes = property(lambda self: self._memory.nbytes)
    T = property(lambda self: ndarray(self._memory.T))

    def get(self):
        """Return a copy in host memory."""
        return self._memory.copy()

    def copy(self):
        return ndarray(self._memory.copy())

    def astype(self, dtype):
        return ndarray(self._memory.astype(dtype))

    def reshape(self, *shape):
        return ndarray(self._memory.reshape(*shape))

    @guarded
    def __len__(self):
        return len(self._memory)

    @guarded
    def __getitem__(self, key):
        return ndarray(self._memory[_unwrap(key)])

    @guarded
    def __setitem__(self, key, value):
        self._memory[_unwrap(key)] = _unwrap(value)

    @guarded
    def __add__(self, other):
        return ndarray(self._memory + _unwrap(other))

    @guarded
    def __sub__(self, other):
        return ndarray(self._memory - _unwrap(other))

    @guarded
    def __mul__(self, other):
        return ndarray(self._memory * _unwrap(other))

    @guarded
    def __iadd__(self, other):
        self._memory += _unwrap(other)
        return self

    @guarded
    def __isub__(self, other):
        self._memory -= _unwrap(other)
        return self

    @guarded
    def __imul__(self, other):
        self._memory *= _unwrap(other)
        return self

    @guarded
    def __matmul__(self, other):
        if not isinstance(other, ndarray):
            return NotImplemented
        # Sums are as exact as those of a GPU, which adds up in a tree.
        with np.errstate(invalid="ignore"):
            product = self._memory.astype(np.float64) @ other._memory.astype(np.float64)
        return ndarray(np.asarray(product, dtype=self.dtype))


def asarray(host):
    """Return a copy of a NumPy array in device memory."""
    return ndarray(np.array(host))


def empty(shape, dtype):
    return ndarray(np.empty(shape, dtype))


def zeros(shape, dtype):
    return ndarray(np.zeros(shape, dtype))


def concatenate(arrays):
    return ndarray(np.concatenate([array._memory for array in arrays]))


def stack(arrays, axis=0):
    return ndarray(np.stack([array._memory for array in arrays], axis=axis))


def ascontiguousarray(array):
    return ndarray(np.ascontiguousarray(array._memory))


def sqrt(array):
    return ndarray(np.asarray(np.sqrt(array._memory)))


def tanh(array):
    return ndarray(np.tanh(array._memory))


def _unwrap(value):
    return value._memory if isinstance(value, ndarray) else value


class Regression:
    """A model that brings its derivatives along: least squares for tanh(x @ weight + bias)."""

    def __init__(self, inputs):
        rng = np.random.default_rng(0)
        self.parameters = {"weight": asarray(rng.standard_normal(inputs) / 2), "bias": asarray(np.array([0.1]))}

    def loss(self, values, batch):
        error = self._outputs(values, batch) - batch[1]
        return error @ error * (0.5 / len(error))

    def gradient(self, values, batch):
        """Return the derivative of the loss by name."""
        outputs = self._outputs(values, batch)
        return self._pull_back((outputs - batch[1]) * (outputs * outputs - 1.0) * (-1.0 / len(outputs)), batch)

    def curvature(self, values, batch):
        """Return v -> H v on dictionaries, with what does not depend on v computed once, and the memory it holds."""
        outputs = self._outputs(values, batch)
        slope = outputs * outputs * -1.0 + 1.0
        bend = slope * slope + (outputs - batch[1]) * outputs * slope * -2.0

        def multiply(vectors):
            moved = batch[0] @ vectors["weight"] + vectors["bias"]
            return self._pull_back(bend * moved * (1.0 / len(outputs)), batch)

        return multiply, bend.nbytes

    def _outputs(self, values, batch):
        return tanh(batch[0] @ values["weight"] + values["bias"])

    def _pull_back(self, along, batch):
        return {"weight": along @ batch[0], "bias": (along @ (along * 0.0 + 1.0)).reshape(1)}
