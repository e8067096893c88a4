"""Terms that are zero whatever the vector is.

An operation with several outputs, such as softmax cross-entropy with its loss and its slopes, has a derivative that is
a sum over them. A gradient tape hands zeros to those that nothing depends on, and adds their term up all the same: an
array as large as the logits that every product would hold and add. Torch and JAX leave such terms out.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from specop_tensorflow.graphs import Graph
from specop_tensorflow.nodes import SUMS, VIEWS, data_of

__all__ = ["drop_zeros"]

_SAME = (*VIEWS, "Neg")


def drop_zeros(graph: Graph) -> None:
    """Leave terms that are constants of zeros, or products with them, out of a graph's sums."""
    zeros: set[str] = set()
    for node in graph.definition.node:
        read = data_of(node)
        if node.op in SUMS:
            whole = graph.tensor(f"{node.name}:0").shape
            terms = [name for name in read if name not in zeros]
            if not terms:
                zeros.add(f"{node.name}:0")
            # A zero may be what spreads a term over more entries.
            elif whole.is_fully_defined() and all(graph.tensor(name).shape == whole for name in terms):
                _keep(node, terms)
        elif _is_zero(node, read, zeros):
            zeros.add(f"{node.name}:0")


def _is_zero(node: Any, read: list[str], zeros: set[str]) -> bool:
    if node.op == "Const":
        value = node.attr["value"].tensor
        return tf.dtypes.as_dtype(value.dtype).is_floating and not tf.make_ndarray(value).any()
    if node.op == "ZerosLike":
        return True
    if node.op == "Mul":
        return not zeros.isdisjoint(read)
    # What fills, by which it is filled.
    return (node.op in _SAME and read[0] in zeros) or (node.op == "Fill" and read[1] in zeros)


def _keep(node: Any, terms: list[str]) -> None:
    """Make a sum one of these terms only."""
    if node.op == "AddN":
        node.attr["N"].i = len(terms)
    elif len(terms) == 2:
        return
    if len(terms) == 1:
        node.op = "Identity"
        node.attr.pop("N", None)
    ordered = [name for name in node.input if name.startswith("^")]
    node.input[:] = [*terms, *ordered]
