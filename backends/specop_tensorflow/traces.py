"""Derivatives as compiled functions, traced once for each shape of batch."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow import Tensor

from specop.errors import InvalidInputError, NondeterministicError, SpecopError
from specop.objectives.refusals import refusing_global_draws
from specop.objectives.trees import Frame
from specop_tensorflow.derivatives import Derivatives
from specop_tensorflow.effects import refuse_effects
from specop_tensorflow.graphs import Graph, cut
from specop_tensorflow.missing_derivatives import differentiable_moments, refuse_assumed_zeros
from specop_tensorflow.tiles import drop_tiles
from specop_tensorflow.wide import WideGraph, wide
from specop_tensorflow.zeros import drop_zeros

__all__ = ["Linear", "Trace", "spec_of"]

Functions = Callable[..., list[Tensor]]
Batch = tuple[list[tf.TensorSpec], Frame]


class Trace:
    """A traced function and its inputs.

    Parameters
    ----------
    derivatives : Derivatives
    points : mapping
        All parameters that a function is given, by name; empty for a model, which reads its variables.
    batch : tuple
        Shapes and dtypes of a batch's tensors, as tf.TensorSpec, and the `Frame` that puts the batch together.
    seed : int, optional
        Seed of everything random in the forward pass; without it nothing may be.
    run : callable
        ``run(values, batch, *rest)`` returns tensors; the last one may be a derivative of the others.
    rest : tf.TensorSpec
        Shapes and dtypes of further arguments of `run`.

    Attributes
    ----------
    variables : dict
        Variables that have to be given to a trace in float64, by name.
    """

    def __init__(
        self, derivatives: Derivatives, points: Mapping[str, Any], batch: Batch, seed: int | None, run: Any, *rest: Any
    ) -> None:
        names = list(points)
        specs, frame = batch
        refused: list[SpecopError] = []

        def traced(values: list[Any], data: list[Any], *operands: Any) -> Any:
            given = dict(zip(names, values, strict=True))
            refused.clear()
            try:
                return run(given, frame.fill(data), *operands)
            except SpecopError as error:
                refused.append(error)
                raise

        try:
            self.graph = _traced(traced, ([spec_of(point) for point in points.values()], specs, *rest))
        except Exception:
            # AutoGraph makes an exception of its own from what passes through it.
            if refused:
                raise refused[0] from None
            raise
        self._captured = list(self.graph.captured)
        self._places = {
            name: place
            for name, variable in derivatives.selected.items()
            for place, captured in enumerate(self._captured)
            if derivatives.model.reads_variables and captured is variable.handle
        }
        if not derivatives.model.reads_variables:
            self._refuse_bypassed(derivatives.selected)
        self.variables: dict[str, Any] = {}
        # Seeds come from variables of our own; they live as long as the trace.
        self._seeds = []
        # The last output is a derivative of the others.
        values = self.graph.outputs[: max(1, len(self.graph.outputs) - 1)]
        for place in refuse_effects(self.graph, values, fixed=seed is not None):
            dtype = next(found.dtype for found in self.graph.variables if found.handle is self._captured[place])
            own = tf.Variable([(seed or 0) & 0x7FFFFFFF, place], dtype=dtype, trainable=False)
            self._seeds.append(own)
            self._captured[place] = own.handle

    def _refuse_bypassed(self, selected: Mapping[str, Any]) -> None:
        for name, variable in selected.items():
            if isinstance(variable, tf.Variable) and any(one is variable.handle for one in self._captured):
                raise InvalidInputError(
                    f"the function reads the parameter {name!r} itself, not the value that it is given, so its "
                    f"derivative would lack that part. Use the parameters that the function is called with."
                )

    @functools.cached_property
    def call(self) -> Functions:
        """The compiled function, ``call(*inputs) -> [outputs]``."""
        return self.graph.function(self.graph.inputs, self.graph.outputs, asserting=True)

    @functools.cached_property
    def first(self) -> Functions:
        """The same for the first output alone."""
        return self.graph.function(self.graph.inputs, self.graph.outputs[:1], asserting=True)

    @property
    def draws(self) -> bool:
        """Whether the forward pass draws random numbers, under our own seed."""
        return bool(self._seeds)

    def inputs(
        self,
        points: Sequence[Any],
        arrays: Sequence[Tensor],
        shadows: Mapping[str, Any],
        operands: Sequence[Tensor],
    ) -> list[Any]:
        """Return the tensors that the compiled functions take, the vector apart.

        `shadows` are variables that stand in for the model's own ones of these names.
        """
        captured = list(self._captured)
        for name, place in self._places.items():
            if name in shadows:
                captured[place] = shadows[name].handle
        return [*points, *arrays, *operands, *captured]

    def widened(self) -> Trace:
        """Return the same in float64; all real variables are then given by name."""
        made = copy.copy(self)
        # What was compiled is of the other graph.
        made.__dict__.pop("call", None)
        made.graph = WideGraph(self.graph)
        made._captured = [wide(captured) for captured in self._captured]
        names = {place: name for name, place in self._places.items()}
        for place, captured in enumerate(self._captured):
            for variable in self.graph.variables:
                if variable.handle is captured and variable.dtype.is_floating:
                    name = names.get(place, f"captured {place}")
                    made._places = made._places | {name: place}
                    made.variables = made.variables | {name: variable}
        return made


class Linear(Trace):
    """Products with a matrix, cut at what does not depend on the vector.

    Parameters
    ----------
    run : callable
        ``run(values, batch, *operands, vector) -> (*checks, product)``.

    Attributes
    ----------
    before : callable
        ``before(*inputs) -> [*checks, *boundary]``.
    after : callable
        ``after(*boundary, vector) -> [product]``.
    """

    def __init__(self, derivatives: Derivatives, points: Mapping[str, Any], *arguments: Any) -> None:
        super().__init__(derivatives, points, *arguments)
        given = self.graph.inputs[: len(points)]
        refuse_assumed_zeros(self.graph, [*given, *(self.graph.handles[place] for place in self._places.values())])
        drop_zeros(self.graph)
        drop_tiles(self.graph)
        self._split()

    def widened(self) -> Linear:
        """Return the same in float64; all real variables are then given by name."""
        made: Any = super().widened()
        made._split()
        return made

    def _split(self) -> None:
        position = len(self.graph.inputs) - len(self.graph.captured) - 1
        *checks, product = self.graph.outputs
        parts = cut(self.graph, self.graph.inputs[position], checks, product)
        self.before: Functions = parts.before
        self.after: Functions = parts.after
        self._held = parts.held

    def bytes(self, boundary: Sequence[Tensor]) -> int:
        """Return the memory that is held for further products, beyond what the model holds anyway."""
        return sum(
            tensor.shape.num_elements() * tensor.dtype.size
            for tensor, held in zip(boundary, self._held, strict=True)
            if held
        )


def _traced(function: Callable[..., Any], specs: Sequence[Any]) -> Graph:
    def once(autograph: bool) -> Graph:
        with differentiable_moments(), refusing_global_draws():
            return Graph(tf.function(function, autograph=autograph).get_concrete_function(*specs))

    def converted(autograph: bool) -> Graph:
        try:
            return once(autograph)
        except NondeterministicError:
            # What Keras makes at its first use draws a seed of its own once. A forward pass that draws does so again.
            return once(autograph)

    try:
        return converted(False)
    except TypeError:
        # Python cannot decide on a tensor: of `if`, `while` and `for` AutoGraph makes operations. It takes as long as
        # all else together to look through Keras's layers and our own functions, so only where it is needed.
        return converted(True)


def spec_of(tensor: Any) -> tf.TensorSpec:
    """Return what a function is traced for."""
    return tf.TensorSpec(tensor.shape, tensor.dtype)
