"""A traced computation in float64: the same operations on other types, whatever model they come from."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

from specop_tensorflow.graphs import Graph

__all__ = ["WideGraph", "wide"]

_NARROW = {tf.float32.as_datatype_enum, tf.float16.as_datatype_enum, tf.bfloat16.as_datatype_enum}
_WIDE = tf.float64.as_datatype_enum
# Functions are known by their names in all of a process.
_SUFFIX = "_specop_in_float64"


def wide(tensor: Any) -> Any:
    """Return a tensor in float64 if it holds floating-point numbers."""
    return tf.cast(tensor, tf.float64) if tensor.dtype.is_floating else tf.convert_to_tensor(tensor)


class WideGraph(Graph):
    """A graph with float64 in place of all other floating types, casts inside of the model included."""

    def __init__(self, graph: Graph) -> None:
        self.__dict__.update(graph.__dict__)
        self.definition = copy.deepcopy(graph.definition)
        renamed = {one.signature.name for one in self.definition.library.function}
        for function in self.definition.library.function:
            function.signature.name += _SUFFIX
            for argument in (*function.signature.input_arg, *function.signature.output_arg):
                argument.type = _widened(argument.type)
                argument.ClearField("experimental_full_type")
            for node in function.node_def:
                _widen(node, renamed)
        for function in self.definition.library.function:
            # An imported graph calls functions that the process knows.
            context.context().add_function_def(function)
        for node in self.definition.node:
            _widen(node, renamed)
        self.nodes = {node.name: node for node in self.definition.node}

    def tensor(self, name: str) -> Any:
        """Return shape and dtype."""
        found = super().tensor(name)
        return tf.TensorSpec(found.shape, tf.dtypes.as_dtype(_widened(found.dtype.as_datatype_enum)))


def _widen(node: Any, renamed: set[str]) -> None:
    node.ClearField("experimental_type")
    if node.op in renamed:
        node.op += _SUFFIX
    for value in node.attr.values():
        # One of several fields holds the value; to touch another one clears it.
        kind = value.WhichOneof("value")
        if kind == "type":
            value.type = _widened(value.type)
        elif kind == "tensor" and value.tensor.dtype in _NARROW:
            value.tensor.CopyFrom(tf.make_tensor_proto(tf.make_ndarray(value.tensor).astype(np.float64)))
        elif kind == "list":
            value.list.type[:] = [_widened(one) for one in value.list.type]
        for function in [value.func] if kind == "func" else value.list.func if kind == "list" else ():
            function.name += _SUFFIX * (function.name in renamed)


def _widened(kind: int) -> int:
    return _WIDE if kind in _NARROW else kind
