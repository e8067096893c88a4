"""The ends of a spectrum where eigenvalues are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from specop.errors import InvalidInputError
from specop.statistics.numbers import Floats, Integers

__all__ = ["End", "ends_of", "share", "wanted"]


@dataclass(frozen=True)
class End:
    """One end of a spectrum, and how many eigenvalues are wanted there.

    Attributes
    ----------
    sides : tuple of int
        1 for the largest, -1 for the smallest, both for the largest in magnitude.
    count : int
        Number of eigenvalues that are wanted at this end.
    is_interior : bool
        Whether those smallest in magnitude are wanted instead.
    """

    sides: tuple[int, ...]
    count: int
    is_interior: bool = False

    def key(self, values: Any) -> Any:
        """Return numbers that are the larger the more the values are wanted."""
        if len(self.sides) > 1:
            return -np.abs(values) if self.is_interior else np.abs(values)
        return self.sides[0] * values

    def values_at(self, keys: Floats) -> Floats:
        """Return the values that have these keys, a row for each side."""
        return np.multiply.outer(np.array(self.sides, dtype=float), keys)

    def best(self, values: Floats) -> Integers:
        """Return the indices of the values, most wanted first."""
        return np.argsort(-self.key(values), kind="stable")

    def keys(self, values: Floats) -> Floats:
        """Return the keys of the wanted ones among the values, most wanted first."""
        return np.asarray(self.key(values[self.best(values)[: self.count]]))


def ends_of(n: int, k: int, which: str) -> list[End]:
    """Return where the k eigenvalues lie that `which` stands for, or raise InvalidInputError."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= n:
        raise InvalidInputError(f"k must be an integer from 1 to n={n}, got {k!r}.")
    ends = {
        "LM": [End((1, -1), k)],
        "LA": [End((1,), k)],
        "SA": [End((-1,), k)],
        "SM": [End((1, -1), k, is_interior=True)],
        "BE": [End((1,), k - k // 2), End((-1,), k // 2)],
    }
    if which not in ends:
        raise InvalidInputError(f"which must be one of {', '.join(ends)}, got {which!r}.")
    return [end for end in ends[which] if end.count]


def wanted(ends: list[End], values: Floats) -> Integers:
    """Return the indices of the wanted values, best first; each end is served from what the others left."""
    return _served(ends, values, [end.count for end in ends])


def share(ends: list[End], values: Floats, count: int) -> Integers:
    """Return the indices of about `count` values, each end having its share."""
    total = sum(end.count for end in ends)
    return _served(ends, values, [max(1, count * end.count // total) for end in ends])


def _served(ends: list[End], values: Floats, counts: list[int]) -> Integers:
    taken: list[int] = []
    for end, count in zip(ends, counts, strict=True):
        taken += [int(i) for i in end.best(values) if int(i) not in taken][:count]
    return np.array(taken, dtype=np.intp)
