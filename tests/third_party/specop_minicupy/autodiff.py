"""Loss, gradient and Hessian-vector products of minicupy models for one batch."""

from __future__ import annotations

import contextlib
import fnmatch
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import minicupy as mp
import numpy as np

from specop.arrays import Layout
from specop.errors import InvalidInputError, MissingOutputsError, NonFiniteError
from specop.objectives import Linearization
from specop_minicupy.arrays import backend


def make_autodiff(model, criterion, *, params=None, select=None, forward=None, likelihood=None, fixed_randomness=None):
    """What `specop.objective` calls for a model or for parameters of minicupy."""
    if not isinstance(model, mp.Regression) or criterion is not None or forward is not None:
        raise InvalidInputError("minicupy differentiates Regression models, which have their loss built in.")
    return MinicupyAutodiff(model, list(model.parameters)).restrict(select)


@dataclass(frozen=True)
class Joined:
    """Samples of several batches in one."""

    pick: Callable


class MinicupyAutodiff:
    """`specop.objectives.Autodiff` on models that have `loss`, `gradient` and `curvature`."""

    backend = backend
    likelihood = None
    output_axis = -1
    accepts_stopped_gradients = False
    was_checked = False
    witness_samples = None
    witness_bytes = math.inf

    def __init__(self, model, names):
        self.model = model
        self.names = tuple(names)
        self.shapes = tuple(model.parameters[name].shape for name in names)
        self.sizes = tuple(int(np.prod(shape)) for shape in self.shapes)
        first = model.parameters[names[0]]
        self.layout = Layout(sum(self.sizes), first.dtype, first.device)

    precision = property(lambda self: self.layout.epsilon)

    # The parameter vector
    def restrict(self, select):
        patterns = ["*"] if select is None else [select] if isinstance(select, str) else select
        chosen = [name for name in self.names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
        if not chosen:
            raise InvalidInputError(f"select={select!r} matches no parameter. There are: {', '.join(self.names)}.")
        return type(self)(self.model, chosen)

    def point(self):
        return self.flatten(self.model.parameters)

    def flatten(self, tree):
        return mp.concatenate([tree[name].reshape(-1) for name in self.names])

    def unflatten(self, vector):
        self.backend.check_vector(vector, self.layout, "the vector")
        ends = np.cumsum(self.sizes)
        parts = [vector[end - size : end] for end, size in zip(ends, self.sizes, strict=True)]
        return {name: part.reshape(*shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}

    # What must not change, and what is put back
    def fingerprint(self, *, fixed=False):
        replaced = self.names if fixed else ()
        return tuple(_checksum(value) for name, value in self.model.parameters.items() if name not in replaced)

    def preserved(self):
        return contextlib.nullcontext()

    def evaluating(self):
        return contextlib.nullcontext()

    def free_memory(self):
        return 2**30

    def is_out_of_memory(self, error):
        return isinstance(error, MemoryError)

    # Batches are pairs of arrays
    def prepare(self, batch):
        return batch

    def count(self, batch):
        return len(batch[0])

    def array_shapes(self, structure):
        return [array.shape for array in (structure if isinstance(structure, tuple) else (structure,))]

    def take(self, batch, start, stop):
        return tuple(array[start:stop] for array in batch)

    def pick(self, batch, indices):
        return tuple(array[indices] for array in batch)

    def gather(self, chosen):
        picked = [self.pick(batch, indices) for batch, indices in chosen]
        joined = tuple(mp.concatenate(arrays) for arrays in zip(*picked, strict=True))
        return [(list(range(len(picked))), Joined(lambda indices: self.pick(joined, indices)))]

    def batch_bytes(self, batch):
        return sum(array.nbytes for array in batch)

    def batch_versions(self, batch):
        return ()

    def batch_fingerprint(self, batch):
        return tuple(_checksum(array) for array in batch)

    # Derivatives
    def loss(self, theta, batch):
        loss = self.model.loss(self._values(theta), batch)
        if not np.isfinite(loss.get()):
            raise NonFiniteError(f"the loss is {loss.get()}. Check the parameters and the data for NaN.")
        return loss

    def gradient(self, theta, batch):
        return self.loss(theta, batch), self.flatten(self.model.gradient(self._values(theta), batch))

    def linearize(self, theta, batch, vector, matrix):
        if matrix.kind != "hessian":
            raise InvalidInputError(f"minicupy has no {matrix.kind}, only Hessians.")
        self.loss(theta, batch)
        multiply, held = self.model.curvature(self._values(theta), batch)
        return Linearization(self._apply(multiply, vector), lambda v: self._apply(multiply, v), held)

    def product(self, theta, batch, vector, matrix):
        return self.linearize(theta, batch, vector, matrix).first

    def importance(self, theta, batch):
        raise MissingOutputsError("minicupy models return their loss.")

    def hidden_state(self):
        return contextlib.nullcontext()

    def check_trained(self, theta, batch, changed):
        pass  # its models are functions

    def constant_parts(self):
        return ()

    def moving(self, vector):
        return vector

    def in_float64(self, batch, most_bytes):
        raise InvalidInputError("check_objective holds these products against differences")

    def outputs(self, theta, batch):
        raise InvalidInputError("minicupy's models have their loss built in, and no outputs.")

    def output_gradient(self, theta, batch, shift):
        raise InvalidInputError("minicupy's models have their loss built in, and no outputs.")

    def sample_gradients(self, theta, batch):
        def row(sample):
            gradient = self.model.gradient(self._values(theta), self.take(batch, sample, sample + 1))
            return self.flatten(gradient) * (1.0 / self.count(batch))

        return lambda start, stop: mp.stack([row(sample) for sample in range(start, stop)])

    def _values(self, theta):
        return self.model.parameters | ({} if theta is None else self.unflatten(theta))

    def _apply(self, multiply, vector):
        # What is not selected stays where it is.
        still = {name: value * 0.0 for name, value in self.model.parameters.items()}
        return self.flatten(multiply(still | self.unflatten(vector)))


def _checksum(array):
    return zlib.crc32(array.get().tobytes())
