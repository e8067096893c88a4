r"""joined_products: the sum of two matrix products as one product, of factors side by side.

What a linear layer gives, :math:`h W`, changes by :math:`dh\, W + h\, dW = [dh, h]\, [W; dW]`. Two products and their
sum hold two arrays as large as the result beside what is read, one product holds one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import tensorflow as tf

from specop_tensorflow.nodes import SUMS, operation_of

__all__ = ["JoinedSum", "joined_products"]

# Of the factors' entries: where a result has less, copies of its factors take as long as the sum.
_LARGE = 2


@dataclass(frozen=True)
class JoinedSum:
    """A sum, of whose terms two are products that nothing else reads.

    Attributes
    ----------
    node : NodeDef
        The sum.
    products : pair of NodeDef
        The products.
    others : tuple of str
        Tensors that are added besides.
    """

    node: Any
    products: tuple[Any, Any]
    others: tuple[str, ...]

    def nodes(self) -> list[Any]:
        """Return operations that give the same under the same name."""
        left, right = self.products
        name = f"{self.node.name}/specop_product" if self.others else self.node.name
        made, sides = [], []
        for side, flag in enumerate(("transpose_a", "transpose_b")):
            # The dimension that is summed over: the last one of the first factor, the first one of the second.
            axis = side ^ 1 ^ int(left.attr[flag].b)
            place = tf.compat.v1.NodeDef(name=f"{name}/specop_axis_{side}", op="Const")
            place.attr["dtype"].type = tf.int32.as_datatype_enum
            place.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(axis, tf.int32))
            beside = tf.compat.v1.NodeDef(name=f"{name}/specop_factor_{side}", op="ConcatV2")
            beside.input.extend([left.input[side], right.input[side], place.name])
            beside.attr["N"].i = 2
            beside.attr["T"].CopyFrom(left.attr["T"])
            beside.attr["Tidx"].type = tf.int32.as_datatype_enum
            made += [place, beside]
            sides.append(beside.name)
        product = tf.compat.v1.NodeDef()
        product.CopyFrom(left)
        product.name = name
        product.input[:] = sides
        made.append(product)
        if self.others:
            rest = tf.compat.v1.NodeDef()
            rest.CopyFrom(self.node)
            rest.attr["N"].i -= 1
            rest.input[:] = [product.name, *self.others]
            made.append(rest)
        return made


def joined_products(
    nodes: Sequence[Any], kept: Collection[str], shape_of: Callable[[str], tf.TensorShape]
) -> list[JoinedSum]:
    """Return sums of products that are larger than their factors.

    Parameters
    ----------
    nodes : sequence of NodeDef
        All operations that are to run.
    kept : collection of str
        Names of the operations whose results are read from outside.
    shape_of : callable
        ``shape_of(name)`` of a tensor.
    """
    uses = Counter(operation_of(name) for node in nodes for name in node.input)
    products = {
        node.name: node
        for node in nodes
        if node.op == "MatMul" and uses[node.name] == 1 and node.name not in kept and _is_large(node, shape_of)
    }
    found = []
    for node in nodes:
        if node.op not in SUMS:
            continue
        terms = [products[operation_of(name)] for name in node.input if operation_of(name) in products]
        for pair in combinations(terms, 2):
            if all(pair[0].attr[flag] == pair[1].attr[flag] for flag in ("transpose_a", "transpose_b", "T")):
                names = [product.name for product in pair]
                others = tuple(name for name in node.input if operation_of(name) not in names)
                found.append(JoinedSum(node, pair, others))
                break
    return found


def _is_large(node: Any, shape_of: Callable[[str], tf.TensorShape]) -> bool:
    shapes = [shape_of(name) for name in (node.name, *node.input)]
    if not all(shape.is_fully_defined() for shape in shapes):
        return False
    result, *factors = (shape.num_elements() for shape in shapes)
    return bool(result >= _LARGE * sum(factors))
