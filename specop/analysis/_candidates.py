"""What may be removed: single weights, or groups of them that go together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from specop.errors import InvalidInputError

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["Candidates", "Members", "candidates_of"]

_AXES = {"rows": 0, "columns": -1}


@dataclass(frozen=True, eq=False)
class Candidates:
    """Disjoint sets of entries of the parameter vector.

    Attributes
    ----------
    group : ndarray (n,) of int
        Number of the group that an entry belongs to; -1 for entries that stay.
    labels : tuple of str
        A name for each group; empty where each weight is its own.
    """

    group: NDArray[np.intp]
    labels: tuple[str, ...]

    def among(self, left: NDArray[np.intp]) -> Members:
        """Return what is still there of each group when only these entries of the vector are."""
        group = self.group[left]
        places = np.flatnonzero(group >= 0)
        numbers, owners = np.unique(group[places], return_inverse=True)
        return Members(numbers, places, owners)


@dataclass(frozen=True, eq=False)
class Members:
    """Groups of those weights that are left.

    Attributes
    ----------
    numbers : ndarray (k,) of int
        Of the groups that have any.
    places : ndarray of int
        Where their weights stand among those that are left.
    owners : ndarray of int
        Which of the k groups each of these belongs to.
    """

    numbers: NDArray[np.intp]
    places: NDArray[np.intp]
    owners: NDArray[np.intp]

    @property
    def sizes(self) -> NDArray[np.intp]:
        """Numbers of weights."""
        return np.bincount(self.owners, minlength=len(self.numbers))

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add up, in each group, values that all weights have that are left."""
        return np.bincount(self.owners, values[self.places], len(self.numbers)).astype(np.float64)

    def each(self) -> Iterator[NDArray[np.intp]]:
        """Yield the places of one group after the other."""
        yield from np.split(self.places[np.argsort(self.owners, kind="stable")], np.cumsum(self.sizes)[:-1])

    def of(self, groups: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the places of some of the k groups."""
        return self.places[np.isin(self.owners, groups)]


def candidates_of(objective: Objective, groups: Any) -> Candidates:
    """Return what `groups` of `saliency` means for an objective's parameters.

    Parameters
    ----------
    objective : Objective
    groups : as in `saliency`
    """
    group = np.full(objective.n, -1, dtype=np.intp)
    matrices = [name for name, shape in objective.shapes.items() if len(shape) >= 2]
    if not isinstance(groups, str) and groups is not None:
        return _given(group, groups)
    if groups is not None and groups not in _AXES:
        raise InvalidInputError(f"groups must be 'rows', 'columns' or a list of index arrays, got {groups!r}.")
    if not matrices:
        raise InvalidInputError(
            f"no parameter has two or more dimensions, and others, such as biases, are not pruned by default: there "
            f"are {', '.join(objective.names)}. Pass groups=, such as np.arange(objective.n)[:, None] for all weights."
        )
    if groups is None:
        for name in matrices:
            where = objective.slices[name]
            group[where] = np.arange(where.start, where.stop)
        return Candidates(group, ())
    labels: list[str] = []
    for name in matrices:
        shape = objective.shapes[name]
        axis = _AXES[groups] % len(shape)
        numbers = len(labels) + np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
        group[objective.slices[name]] = np.broadcast_to(numbers, shape).reshape(-1)
        labels += [f"{name}[{i}]" if axis == 0 else f"{name}[..., {i}]" for i in range(shape[axis])]
    return Candidates(group, tuple(labels))


def _given(group: NDArray[np.intp], groups: Iterable[Any]) -> Candidates:
    count = 0
    for number, given in enumerate(groups):
        indices = np.asarray(given)
        if indices.ndim != 1 or not indices.size or not np.issubdtype(indices.dtype, np.integer):
            raise InvalidInputError(f"group {number} must be a non-empty array of integers, got {given!r}.")
        if indices.min() < 0 or indices.max() >= len(group):
            raise InvalidInputError(
                f"group {number} holds indices from {indices.min()} to {indices.max()}, and there are "
                f"{len(group)} parameters."
            )
        if len(np.unique(indices)) < len(indices) or (group[indices] >= 0).any():
            raise InvalidInputError(f"group {number} holds an index twice, or one that another group holds.")
        group[indices] = number
        count += 1
    if not count:
        raise InvalidInputError("groups is empty: nothing could be removed.")
    return Candidates(group, tuple(f"group {number}" for number in range(count)))
