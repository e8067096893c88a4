"""MeanLoss: the mean loss over data as a function of a parameter vector, its gradient and those of single samples."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from specop.arrays.backend import Array, Backend, framework_adapter
from specop.arrays.memory import MemoryBudget
from specop.arrays.processes import Processes
from specop.errors import InvalidInputError
from specop.objectives.autodiff import Autodiff
from specop.objectives.data import Batches
from specop.objectives.importance import importance
from specop.objectives.point import Point
from specop.objectives.products import accumulate
from specop.objectives.select import checked_samples
from specop.objectives.splitting import block_bytes as default_block_bytes
from specop.objectives.splitting import fitting, gradient_blocks
from specop.objectives.trained import reading, verified
from specop.objectives.update_rule import UpdateRule, no_rule
from specop.statistics.numbers import Floats, Integers

__all__ = ["MeanLoss", "mean_gradient"]


class MeanLoss:
    """What an objective is before its matrices.

    Parameters
    ----------
    autodiff : Autodiff
        Derivatives of the model for one batch.
    data : Batches
        What the loss is the mean over.
    budget : MemoryBudget
        What batches and linearizations may take.
    """

    def __init__(self, autodiff: Autodiff, data: Batches, budget: MemoryBudget) -> None:
        self._autodiff = autodiff
        self._data = data
        self._budget = budget

    @property
    def backend(self) -> Backend:
        """Backend of the parameter vectors."""
        return self._autodiff.backend

    @property
    def output_axis(self) -> int:
        """Axis of a parameter of two or more dimensions that the outputs of the framework's own layers lie along."""
        return self._autodiff.output_axis

    @property
    def processes(self) -> Processes:
        """Those that make each call together: more than one where vectors are spread over several."""
        return self.backend.processes(self._autodiff.layout)

    @property
    def n(self) -> int:
        """Number of selected parameters."""
        return self._autodiff.layout.n

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the selected parameters, in the order of the vector."""
        return self._autodiff.names

    @property
    def slices(self) -> dict[str, slice]:
        """Where the entries of each parameter stand in a vector."""
        ends = list(itertools.accumulate(self._autodiff.sizes))
        sizes = zip(self.names, self._autodiff.sizes, ends, strict=True)
        return {name: slice(end - size, end) for name, size, end in sizes}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter."""
        return dict(zip(self.names, self._autodiff.shapes, strict=True))

    @property
    def samples(self) -> int:
        """Number of samples in the data."""
        return self._data.samples

    @property
    def terms(self) -> float:
        """Number of loss terms in the data: the sum of the batches' weights, by default of their samples."""
        return self._data.terms

    @property
    def theta(self) -> Array:
        """The current values of the selected parameters, a copy as a native vector (n,)."""
        return self._autodiff.point()

    def flatten(self, tree: Any) -> Array:
        """Return a parameter structure, for a module a mapping from names to tensors, as a native vector."""
        return self._autodiff.flatten(tree)

    def unflatten(self, vector: Array) -> Any:
        """Return a native vector in the structure of the parameters."""
        self.processes.agree()
        return self._autodiff.unflatten(vector)

    def loss(self, theta: Array | None = None) -> Array:
        """Return the mean loss as a native scalar.

        Parameters
        ----------
        theta : native vector (n,), optional
            Parameters at which it is computed; default: the model's current ones.
        """
        point = self._at(theta)
        with point.staying():
            return fitting(point, _mean_loss, point)

    def gradient(self, theta: Array | None = None) -> Array:
        """Return the gradient of the mean loss as a native vector (n,).

        Parameters
        ----------
        theta : native vector (n,), optional
            Parameters at which it is computed; default: the model's current ones.
        """
        point = self._at(theta)
        with point.staying():
            return mean_gradient(point)

    def loss_and_gradient(self, theta: Array | None = None) -> tuple[Array, Array]:
        """Return the mean loss and its gradient from one pass over the data.

        Parameters
        ----------
        theta : native vector (n,), optional
            Parameters at which it is computed; default: the model's current ones.
        """
        point = self._at(theta)
        with point.staying():
            return fitting(point, _loss_and_gradient, point)

    def per_sample_gradients(self, theta: Array | None = None, *, block_bytes: int | None = None) -> Iterator[Array]:
        r"""Yield the gradients of single samples, as the rows of native (b, n) blocks in the order of the data.

        Row i is m times what sample i of m adds to the gradient of L, so that the mean of all rows is that gradient and
        the empirical Fisher matrix is ``G.T @ G / m``: the gradient of the sample's own loss where the criterion is a
        plain mean over samples. A sample is an entry of the outputs' leading dimension. Batch normalization in training
        mode, and whatever else makes samples depend on each other, raises.

        Parameters
        ----------
        theta : native vector (n,), optional
            Parameters at which it is computed; default: the model's current ones.
        block_bytes : int, optional
            Memory for a block, at least one row; computing it takes a few times as much. Default: 32 MiB, or an
            eighth of the memory budget if that is less. On a GPU larger blocks may be faster.

        Examples
        --------
        >>> import torch, specop
        >>> data = (torch.randn(8, 3), torch.randn(8, 1))
        >>> objective = specop.objective(torch.nn.Linear(3, 1), torch.nn.functional.mse_loss, data)
        >>> sum(block.sum(0) for block in objective.per_sample_gradients()).shape
        torch.Size([4])
        """
        if block_bytes is not None and block_bytes <= 0:
            raise InvalidInputError(f"block_bytes must be a positive number of bytes, got {block_bytes!r}.")
        point = self._at(theta)
        return _sample_gradients(point, block_bytes or default_block_bytes(point))

    def numbered_gradients(self, theta: Array | None = None) -> Iterator[tuple[Integers, Array]]:
        """Yield the numbers of samples and their gradients, as `per_sample_gradients` does but in any order.

        Several processes compute theirs at the same time.

        Parameters
        ----------
        theta : native vector (n,), optional
            Parameters at which it is computed; default: the model's current ones.
        """
        start = 0
        for block in self.per_sample_gradients(theta):
            count = self._autodiff.backend.shape(block)[0]
            yield np.arange(start, start + count), block
            start += count

    def check_numbered(self) -> None:
        """Raise NondeterministicError if a loader that shuffles or augments leaves samples without lasting numbers."""
        self._data.check_numbered()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Hold the model in evaluation mode, for curvature in the middle of training.

        Dropout is off and batch normalization takes its running statistics, as after ``model.eval()``; under
        `fixed_randomness` modes stay as they are. In torch an ``autocast`` around the call is switched off, so that the
        curvature is that of the model in the dtypes of its parameters. On leaving, each layer's mode, what layers keep
        in plain attributes, and all random states are what they were, bit for bit.

        Examples
        --------
        >>> import torch, specop
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(), torch.nn.Linear(4, 1))
        >>> data = (torch.randn(8, 3), torch.randn(8, 1))
        >>> objective = specop.objective(model, torch.nn.functional.mse_loss, data)
        >>> with objective.evaluating():
        ...     eigen = specop.eigsh(objective.hessian(), k=1)
        >>> model.training
        True
        """
        with self._autodiff.evaluating(), self._autodiff.hidden_state(), self._data.random_states_preserved():
            yield

    def importance(self, theta: Array | None = None) -> Floats:
        r"""Return how much each sample may add to the curvature, up to a common factor, by one forward pass.

        From a sample's outputs z and its label alone: the trace of the criterion's second derivative in z, plus the
        length of its first derivative, each summed over the sample's terms. For a cross-entropy with probabilities p,

        .. math:: w = 1 - \sum_j p_j^2 + |p - y|

        times the weight of the term. Where the likelihood is not known it is the length of the derivative, and one for
        every sample of a function that returns a loss and no outputs. In a trained network most of the curvature
        belongs to few samples; how steep the outputs are in the parameters is not looked at.

        Parameters
        ----------
        theta : native vector (n,), optional
            Parameters at which it is computed; default: the model's current ones.

        Returns
        -------
        ndarray (m,), float64
            Numbers that are not negative, one for each sample in the order of the data.

        Examples
        --------
        >>> import torch, specop
        >>> data = (torch.randn(8, 3), torch.arange(8) % 2)
        >>> objective = specop.objective(torch.nn.Linear(3, 2), torch.nn.functional.cross_entropy, data)
        >>> objective.importance().shape
        (8,)
        """
        point = self._at(theta)
        with point.staying():
            return importance(point)

    def batches(self) -> list[Self]:
        """Return an objective of each batch, with the same parameters; together they hold all data.

        Batches of weight zero have none. The objective is the mean of these, weighted by their numbers of loss terms.
        """
        with self._at(None).staying(), self._data.reading_whole() as batches:
            return [type(self)(self._autodiff, self._data.of(batch), self._budget) for batch, _, _ in batches]

    def subset(self, indices: ArrayLike) -> Self:
        """Return the mean loss over some of the samples, with the same parameters.

        Parameters
        ----------
        indices : array_like of int
            Distinct numbers of samples, in the order in which the data give them; any order. The subset has the order
            of the data.

        Examples
        --------
        >>> import torch, specop
        >>> data = (torch.randn(8, 3), torch.randn(8, 1))
        >>> objective = specop.objective(torch.nn.Linear(3, 1), torch.nn.functional.mse_loss, data)
        >>> objective.subset([0, 5]).samples
        2
        """
        with self._at(None).staying():
            chosen = checked_samples(indices, self._data.samples)
            return type(self)(self._autodiff, self._data.subset(np.sort(chosen)), self._budget)

    def restrict(self, select: Any) -> Self:
        """Return the objective as a function of a part of its parameters; the others stay where they are.

        Parameters
        ----------
        select : str, list, module or callable
            A name pattern such as ``"blocks.*.attn.*"``, the name of a module, a list of those or of parameters, a
            module, or a predicate of (name, parameter).
        """
        return type(self)(self._autodiff.restrict(select), self._data, self._budget)

    def update_rule(self, optimizer: Any, gradient: Array) -> UpdateRule:
        """Return what an optimizer does with the gradient while its second moments stand still.

        Parameters
        ----------
        optimizer : object
            Optimizer of the model's framework, as `specop.landscape.stability` takes it.
        gradient : native vector (n,)
            Gradient of the loss where the optimizer is, which may clip it.
        """
        adapter = framework_adapter(self.theta)
        if not hasattr(adapter, "update_rule"):
            raise no_rule(type(optimizer).__name__, f"none of {adapter.backend.name}")
        with self._at(None).staying():
            found: UpdateRule = adapter.update_rule(self._autodiff, optimizer, gradient)
        return found

    def __repr__(self) -> str:
        layout = self._autodiff.layout
        return f"<Objective of {self.n} parameters in {len(self.names)} arrays, {layout.dtype}, {layout.device}>"

    def _at(self, theta: Array | None) -> Point:
        if theta is not None:
            self._autodiff.backend.check_vector(theta, self._autodiff.layout, "theta")
        return Point.of(self._autodiff, self._data, self._budget, theta)


def mean_gradient(point: Point) -> Array:
    """Return the gradient of the mean loss as a native vector."""
    return fitting(point, _mean_gradient, point)


def _mean_loss(point: Point) -> Array:
    total: Array | None = None
    with reading(point) as batches:
        for batch, share, _ in batches:
            # A copy, because a loss may be one of the parameters themselves.
            part = point.backend.copy(point.autodiff.loss(point.theta, batch))
            total = accumulate(point.backend, total, share, part)
    return total


def _mean_gradient(point: Point) -> Array:
    return _loss_and_gradient(point)[1]


def _loss_and_gradient(point: Point) -> tuple[Array, Array]:
    loss: Array | None = None
    gradient: Array | None = None
    with reading(point) as batches:
        for batch, share, _ in batches:
            value, part = point.autodiff.gradient(point.theta, batch)
            # A copy, because a loss may be one of the parameters themselves.
            loss = accumulate(point.backend, loss, share, point.backend.copy(value))
            gradient = accumulate(point.backend, gradient, share, part)
    return loss, gradient


def _sample_gradients(point: Point, block_bytes: int) -> Iterator[Array]:
    data, given = point.data, point.data.first_sample
    for batch, share, first in verified(point, data.one_by_one()):
        yield from _rows_without_terms(point, first - given, block_bytes)
        blocks = gradient_blocks(point, batch, block_bytes)
        while True:
            # Watched while it computes; in between, control is the user's.
            with point.unchanged():
                block = next(blocks, None)
            if block is None:
                break
            yield point.backend.scale_(block, share * data.samples)
        given = first + point.autodiff.count(batch)
    yield from _rows_without_terms(point, data.first_sample + data.samples - given, block_bytes)


def _rows_without_terms(point: Point, count: int, block_bytes: int) -> Iterator[Array]:
    """Yield the rows of samples none of whose terms counts, as of batches with nothing but padding: zeros."""
    layout = point.autodiff.layout
    most = max(1, block_bytes // (layout.n * layout.dtype.itemsize))
    for start in range(0, count, most):
        yield point.backend.stack([point.backend.zeros(layout) for _ in range(min(most, count - start))])
