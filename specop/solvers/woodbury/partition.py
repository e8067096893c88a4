"""How a damped second moment of rows is cut into diagonal blocks, and how each is scaled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from specop.errors import InvalidInputError, checked_count

__all__ = ["DOUBLE_EPSILON", "WORST_PRECISION", "Scaling", "checked_blocks", "partition"]

DOUBLE_EPSILON = float(np.finfo(np.float64).eps)
"""Of the small matrices on the host, whatever the dtype of the rows."""

WORST_PRECISION = 0.1
"""Relative error from which on an inverse is refused: no digit would be right."""


@dataclass(frozen=True)
class Scaling:
    """What makes a matrix of a sum of outer products.

    Attributes
    ----------
    damping : float
        Number that is added to the diagonal.
    count : int
        Number that the sum of outer products is divided by.
    """

    damping: float
    count: int


def checked_blocks(blocks: Any) -> int | tuple[slice, ...] | None:
    """Return blocks as `partition` takes them, or raise InvalidInputError unless they are a size, slices or None."""
    if blocks is None or isinstance(blocks, (int, np.integer)):
        return None if blocks is None else checked_count("the size of blocks", blocks)
    found = tuple(blocks) if isinstance(blocks, Iterable) else (blocks,)
    if not all(isinstance(one, slice) and one.step in (None, 1) for one in found):
        raise InvalidInputError(
            f"blocks must be the size of all blocks or a list of consecutive slices without steps, such as "
            f"list(objective.slices.values()); got {blocks!r}."
        )
    return found


def partition(blocks: int | tuple[slice, ...] | None, n: int) -> list[tuple[slice, int]]:
    """Return ranges of columns with the size of the diagonal blocks in each.

    Parameters
    ----------
    blocks : int, tuple of slice or None
        Size of all blocks, or consecutive slices; None for a single block.
    n : int
        Number of columns.
    """
    if blocks is None:
        return [(slice(0, n), n)]
    if isinstance(blocks, (int, np.integer)):
        size = min(blocks, n)
        whole = n // size * size
        return [(slice(0, whole), size)] + ([(slice(whole, n), n - whole)] if whole < n else [])
    bounds = [(part.start or 0, n if part.stop is None else part.stop) for part in blocks]
    ends = [0, *(stop for _, stop in bounds)]
    if [start for start, _ in bounds] != ends[:-1] or ends[-1] != n or any(start >= stop for start, stop in bounds):
        raise InvalidInputError(
            f"blocks must be consecutive, non-empty slices that cover the entries 0 to {n - 1} in order, got {bounds}."
        )
    return [(slice(start, stop), stop - start) for start, stop in bounds]
