"""Terms that repeat a smaller tensor.

The derivative of a sum over rows, such as that of a bias, is the same number in each row, and a tape tiles it to an
array as large as what it is added to. The sum repeats it by itself.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from specop_tensorflow.graphs import Graph
from specop_tensorflow.nodes import SUMS, data_of, operation_of

__all__ = ["drop_tiles"]


def drop_tiles(graph: Graph) -> None:
    """Let sums of two terms repeat the entries of one where a graph tiles them first."""
    uses = Counter(name for node in graph.definition.node for name in data_of(node)) + Counter(graph.outputs)
    for node in graph.definition.node:
        read = data_of(node)
        if node.op in SUMS and len(read) == 2:
            for place in (0, 1):
                tile = graph.nodes[operation_of(read[place])]
                if tile.op == "Tile" and uses[read[place]] == 1 and _is_repeated(graph, tile, read[1 - place]):
                    _add(node, data_of(tile)[0], place)
                    break


def _is_repeated(graph: Graph, tile: Any, other: str) -> bool:
    """Whether a tile has the other term's shape, and repeats single entries only."""
    (small, _), large = data_of(tile), graph.tensor(other).shape
    given, made = graph.tensor(small).shape, graph.tensor(f"{tile.name}:0").shape
    if not (given.is_fully_defined() and made.is_fully_defined() and made == large):
        return False
    return all(before in (1, after) for before, after in zip(given, made, strict=True))


def _add(node: Any, small: str, place: int) -> None:
    node.op = "AddV2"
    node.attr.pop("N", None)
    node.input[place] = small
