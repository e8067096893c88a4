"""Cut a traced computation in two: what a vector reaches, and what is a constant while that vector changes.

A Hessian-vector product by two gradient tapes is linear in the vector, and most of it does not depend on the vector.
The graph of the traced function says which operations do. Everything else runs once; its values that the others read,
the boundary, are kept; a further product runs the others only. The cut looks at edges alone, so it holds for whatever
operations a model is made of.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from specop.errors import InvalidInputError
from specop_tensorflow.joined_products import joined_products
from specop_tensorflow.nodes import VIEWS, data_of, operation_of, tensor_of

__all__ = ["Cut", "Graph", "cut"]

# How tapes name the operations that they add.
_IN_A_DERIVATIVE = re.compile(r"(gradient_tape/[\w/]+)")


class Graph:
    """The operations of a concrete function.

    Parameters
    ----------
    function : tf.types.experimental.ConcreteFunction
        Traced without TensorFlow 1 loops, so that the order of its operations is topological.

    Attributes
    ----------
    inputs, outputs : list of str
        Names of the tensors; captured tensors are the last inputs.
    captured : list of tf.Tensor
        What the function captured: handles of variables, and constants.
    handles : list of str
        Names of the inputs that stand for variables.
    variables : sequence of tf.Variable
        Variable of each handle.
    """

    def __init__(self, function: Any) -> None:
        self._function = function  # keeps alive what Python functions inside the graph need
        self.definition = function.graph.as_graph_def()
        self.nodes = {node.name: node for node in self.definition.node}
        self.inputs = [tensor.name for tensor in function.inputs]
        self.outputs = [tensor.name for tensor in tf.nest.flatten(function.structured_outputs)]
        self.captured = list(function.captured_inputs)
        self.handles = self.inputs[len(self.inputs) - len(self.captured) :]
        self.variables = list(function.variables)

    def tensor(self, name: str) -> Any:
        """Return the symbolic tensor, for its shape and dtype."""
        return self._function.graph.get_tensor_by_name(name)

    def sources(self, fetches: Collection[str], stops: Collection[str] = ()) -> set[str]:
        """Return the names of all operations whose values the fetched tensors are made of, up to the stops."""
        found: set[str] = set()
        waiting = [name for name in fetches if name not in stops]
        while waiting:
            operation = operation_of(waiting.pop())
            if operation not in found:
                found.add(operation)
                waiting += [name for name in data_of(self.nodes[operation]) if name not in stops]
        return found

    def before(self, operation: str) -> set[str]:
        """Return the names of all operations that run before this one, on account of values or of effects."""
        found: set[str] = set()
        waiting = [operation]
        while waiting:
            for name in self.nodes[waiting.pop()].input:
                source = operation_of(name.removeprefix("^"))
                if source not in found:
                    found.add(source)
                    waiting.append(source)
        return found

    def depends(self, operation: str, inputs: Collection[str]) -> bool:
        """Return whether a real value has a derivative in one of these inputs."""
        ends = {operation_of(name) for name in inputs}
        waiting, seen = [operation], set[str]()
        while waiting:
            name = waiting.pop()
            if name in ends:
                return True
            if name not in seen and self.nodes[name].op != "StopGradient":
                seen.add(name)
                waiting += [
                    operation_of(read)
                    for read in data_of(self.nodes[name])
                    if self.tensor(read).dtype.is_floating or self.tensor(read).dtype == tf.resource
                ]
        return False

    def bodies(self) -> Iterator[dict[str, Any]]:
        """Yield the definitions of operations by name: of the graph's own, and of those of each function it calls."""
        yield self.nodes
        for function in self.definition.library.function:
            yield {node.name: node for node in function.node_def}

    def operations(self, names: Collection[str]) -> Iterator[Any]:
        """Yield the definitions of these operations, and of all inside the functions that they call."""
        bodies = {function.signature.name: function.node_def for function in self.definition.library.function}
        waiting, seen = [self.nodes[name] for name in names], set[str]()
        while waiting:
            node = waiting.pop()
            yield node
            for called in _called(node):
                if called in bodies and called not in seen:
                    seen.add(called)
                    waiting += bodies[called]

    def function(self, feeds: Sequence[str], fetches: Sequence[str], *, asserting: bool = False) -> Callable[..., Any]:
        """Return the compiled function from the fed tensors to the fetched ones.

        Parameters
        ----------
        feeds, fetches : sequence of str
            Names of tensors. What lies behind a fed tensor does not run.
        asserting : bool
            Whether the assertions of the graph run too; they must depend on the feeds only.
        """
        asserts = [name for name, node in self.nodes.items() if node.op == "Assert"] if asserting else []
        names = self.sources(fetches, feeds) | {source for name in asserts for source in self._behind(name, feeds)}
        # Fed tensors become placeholders of their own, also where they are results of operations.
        fed = {name: f"specop_feed_{number}" for number, name in enumerate(feeds)}
        part = tf.compat.v1.GraphDef(versions=self.definition.versions, library=self.definition.library)
        for name, placeholder in fed.items():
            node = part.node.add(name=placeholder, op="Placeholder")
            node.attr["dtype"].type = self.tensor(name).dtype.as_datatype_enum
        for original in self.definition.node:
            if original.name in names:
                node = part.node.add()
                node.CopyFrom(original)
                # Control edges order what has effects, colocation places it; nothing here has effects.
                del node.input[:]
                node.input.extend(fed.get(name, name) for name in data_of(original))
                node.attr.pop("_class", None)
        self._join_products(part, fed, {operation_of(name) for name in fetches})

        def run(*tensors: tf.Tensor) -> list[tf.Tensor]:
            found = tf.graph_util.import_graph_def(
                part,
                input_map={f"{placeholder}:0": t for placeholder, t in zip(fed.values(), tensors, strict=True)},
                return_elements=[*(f"{fed[name]}:0" if name in fed else name for name in fetches), *asserts],
                name="",
            )
            with tf.control_dependencies(found[len(fetches) :]):
                return [tf.identity(tensor) for tensor in found[: len(fetches)]]

        symbolic = [self.tensor(name) for name in feeds]
        specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in symbolic]
        compiled: Callable[..., Any] = tf.function(run, autograph=False).get_concrete_function(*specs)

        @functools.wraps(compiled)
        def called(*tensors: tf.Tensor) -> Any:
            with _refusing_failed_derivatives():
                return compiled(*tensors)

        return called

    def _join_products(self, part: Any, fed: Mapping[str, str], kept: Collection[str]) -> None:
        own = {placeholder: name for name, placeholder in fed.items()}
        sums = joined_products(part.node, kept, lambda name: self.tensor(own.get(name, tensor_of(name))).shape)
        replaced = {node.name for one in sums for node in (one.node, *one.products)}
        nodes = [node for node in part.node if node.name not in replaced]
        del part.node[:]
        part.node.extend([*nodes, *(node for one in sums for node in one.nodes())])

    def _behind(self, operation: str, stops: Collection[str]) -> set[str]:
        return {operation} | self.sources(data_of(self.nodes[operation]), stops)


@contextmanager
def _refusing_failed_derivatives() -> Iterator[None]:
    """Turn the error of an operation that only a derivative is made of into InvalidInputError."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = _IN_A_DERIVATIVE.search(error.message)
        if not found:
            raise
        why = error.message.strip().splitlines()[-2].strip() if "\n" in error.message else error.message
        raise InvalidInputError(
            f"TensorFlow's derivative of an operation fails at this point, in {found[1]}: {why} Such derivatives, as "
            f"that of a determinant at a singular matrix, do not exist or come from what does not. Move away from "
            f"the point, or replace the operation."
        ) from error


@dataclass(frozen=True)
class Cut:
    """A graph in two parts.

    Attributes
    ----------
    before : callable
        ``before(*inputs without the vector) -> [*kept, *boundary]``.
    after : callable
        ``after(*boundary, vector) -> [output]``.
    held : list of bool
        Whether a tensor of the boundary takes memory of its own; what a variable holds anyway does not.
    """

    before: Callable[..., Any]
    after: Callable[..., Any]
    held: list[bool]


def cut(graph: Graph, vector: str, kept: Sequence[str], output: str) -> Cut:
    """Cut a graph at what the output needs that does not depend on the vector.

    Parameters
    ----------
    graph : Graph
    vector : str
        Name of the input that changes from product to product.
    kept : sequence of str
        Outputs that do not depend on the vector.
    output : str
        Name of the output that depends on the vector.
    """
    needed = graph.sources([output])
    reached, constant = {operation_of(vector)}, set[str]()
    inputs = {operation_of(name) for name in graph.inputs}
    for node in graph.definition.node:
        behind = {operation_of(name) for name in data_of(node)}
        if behind & reached:
            reached.add(node.name)
        elif node.name not in inputs and behind <= constant:
            constant.add(node.name)
    after = reached & needed
    while True:
        boundary = _boundary(graph, after, reached | constant | after)
        # Lists of tensors and the like cannot be measured, so they are made again in each product, and so is what has
        # the entries of a tensor that is held as well.
        again = {operation_of(name) for name in boundary if graph.tensor(name).dtype == tf.variant}
        again |= {operation_of(name) for name in boundary if _viewed(graph, name) in boundary}
        if again <= inputs:
            break
        after |= again - inputs
    if not after:
        # The vector does not reach the output, as where a second derivative is zero everywhere.
        boundary = [output]
    feeds = [name for name in graph.inputs if name != vector]
    return Cut(
        graph.function(feeds, [*kept, *boundary], asserting=True),
        graph.function([*boundary, vector], [output]),
        [not _is_free(graph, name) for name in boundary],
    )


def _boundary(graph: Graph, after: set[str], inside: set[str]) -> list[str]:
    read = (name for node in graph.definition.node if node.name in after for name in data_of(node))
    return list(dict.fromkeys(name for name in read if operation_of(name) not in inside))


def _viewed(graph: Graph, name: str) -> str | None:
    """Return the tensor whose entries, in this order, a tensor has."""
    node = graph.nodes[operation_of(name)]
    return data_of(node)[0] if node.op in VIEWS else None


def _is_free(graph: Graph, name: str) -> bool:
    node = graph.nodes[operation_of(name)]
    while node.op == "Identity":
        node = graph.nodes[operation_of(node.input[0])]
    return node.op in ("ReadVariableOp", "Placeholder") and (
        node.op == "ReadVariableOp" or graph.tensor(name).dtype == tf.resource
    )


def _called(node: Any) -> Iterator[str]:
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        for function in value.list.func:
            yield function.name
