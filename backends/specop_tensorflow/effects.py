"""What a traced loss does besides computing: random numbers, writes to variables, calls of Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from specop.errors import InvalidInputError, NondeterministicError
from specop_tensorflow.graphs import Graph
from specop_tensorflow.nodes import operation_of

__all__ = ["refuse_effects"]

_PYTHON = ("PyFunc", "PyFuncStateless", "EagerPyFunc")
_RANDOM = (
    "Multinomial",
    "NonDeterministicInts",
    "ParameterizedTruncatedNormal",
    "RngReadAndSkip",
    "RngSkip",
    "TruncatedNormal",
)


def refuse_effects(graph: Graph, values: Sequence[str], *, fixed: bool) -> list[int]:
    """Raise if a loss is no function of variables and data; return which captured tensors are seeds.

    Writes that it does not read, such as those to moving averages and counters, are left out of what is compiled,
    so the user's variables are never written to.

    Parameters
    ----------
    graph : Graph
    values : sequence of str
        Names of the tensors of loss and outputs.
    fixed : bool
        Whether the state of Keras seed generators is to be replaced.

    Returns
    -------
    list of int
        Positions in ``graph.captured`` of seed generators' states that the loss reads.
    """
    alive = graph.sources(values)
    for node in graph.operations(alive):
        if node.op in _PYTHON:
            raise InvalidInputError(
                f"the forward pass calls Python (tf.py_function or tf.numpy_function, operation {node.name!r}), which "
                f"has no second derivative. Write that part in TensorFlow operations."
            )
        if _is_random(node):
            raise NondeterministicError(
                f"the forward pass draws random numbers (operation {node.name!r}, {node.op}), so every product would "
                f"be of another matrix. Switch sampling off, or draw with tf.random.stateless_* or a "
                f"keras.random.SeedGenerator, whose seed fixed_randomness= can fix."
            )
        # A write at the top has no value that the loss could be made of, so this one is inside a called function.
        if _writes(node):
            raise InvalidInputError(
                f"a function that the forward pass calls writes to a variable (operation {node.name!r}, {node.op}). "
                f"Move the write out of the tf.function."
            )
    return [
        position
        for position, handle in enumerate(graph.handles)
        if _is_updated(graph, alive, handle, graph.captured[position], fixed)
    ]


def _is_updated(graph: Graph, alive: set[str], handle: str, captured: Any, fixed: bool) -> bool:
    """Whether a variable is both read by the loss and written: the state of a random generator, if that is allowed."""
    writers = {name for name, node in graph.nodes.items() if _writes(node) and _reads(node, handle)}
    readers = [name for name in alive if _reads(graph.nodes[name], handle)]
    if not writers or not readers:
        return False
    if any(writers & graph.before(name) for name in readers):
        raise InvalidInputError(
            f"the forward pass writes to the variable of operation {readers[0]!r} and reads it again, so the loss is "
            f"no function of the parameters. Update it outside of the forward pass."
        )
    if not fixed:
        raise NondeterministicError(
            f"the forward pass reads and updates a variable (operation {readers[0]!r}), such as the state of a seed "
            f"generator, so every product would be of another matrix. Switch dropout and sampling off, or pass "
            f"fixed_randomness=0 for the curvature under one fixed mask."
        )
    # What else the forward pass updates, such as a vector of a power iteration, stays at its present value.
    found = next(variable for variable in graph.variables if variable.handle is captured)
    return bool(found.dtype.is_integer and found.shape == [2])


def _is_random(node: Any) -> bool:
    if node.op.startswith("Stateless"):
        return False
    return (
        node.op.startswith("Random") or (node.op.startswith("Stateful") and "Call" not in node.op) or node.op in _RANDOM
    )


def _writes(node: Any) -> bool:
    return bool(node.op.startswith(("Assign", "ResourceScatter", "ResourceApply")))


def _reads(node: Any, handle: str) -> bool:
    return any(operation_of(name) == operation_of(handle) for name in node.input if not name.startswith("^"))
