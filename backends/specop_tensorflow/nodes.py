"""Operations of a graph: their kinds, and the names of what they read and give."""

from __future__ import annotations

from typing import Any

__all__ = ["SUMS", "VIEWS", "data_of", "operation_of", "tensor_of"]

SUMS = ("Add", "AddN", "AddV2")
"""Operations that add tensors up."""

VIEWS = ("ExpandDims", "Identity", "Reshape", "Squeeze")
"""Operations whose results have the entries of their first operand, in the same order."""


def data_of(node: Any) -> list[str]:
    """Return the tensors that an operation reads, as "operation:output"."""
    return [tensor_of(name) for name in node.input if not name.startswith("^")]


def tensor_of(name: str) -> str:
    """Return the name of a tensor as "operation:output", where a definition leaves the output 0 out."""
    return name if ":" in name else f"{name}:0"


def operation_of(tensor: str) -> str:
    """Return the name of the operation that a tensor, "operation:output", comes from."""
    return tensor.partition(":")[0]
