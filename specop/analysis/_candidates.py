"""What may be removed: single weights, or groups of them that go together."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from specop.errors import InvalidInputError
from specop.objectives.select import choose
from specop.statistics.numbers import Booleans, Floats, Integers

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["Candidates", "Members", "candidates_of"]

_AXES = {"rows": 0, "columns": -1}
# How often factors of layers are chosen anew: two layers of two may choose the same ones.
_TRIALS = 6
# Relative deviation, in roundings, that ratios of gradients have without a second flow of data.
_ALIKE = 1e4


@dataclass(frozen=True, eq=False)
class Candidates:
    """Disjoint sets of entries of the parameter vector.

    Attributes
    ----------
    group : ndarray (n,) of int
        Number of the group that an entry belongs to; -1 for entries that stay.
    labels : tuple of str
        A name for each group; empty where each weight is its own.
    attached : ndarray (n,) of bool
        Entries of biases and of factors of normalization that go with the weights of their group.
    layer : ndarray (n,) of int
        Number of the parameter, that with the group's weights, which must not lose too many of its groups.
    """

    group: Integers
    labels: tuple[str, ...]
    attached: Booleans
    layer: Integers

    def left(self, values: Floats) -> Integers:
        """Return which entries are there at a point: those that are not zero, and those that may not go."""
        alive = values != 0
        if self.labels:
            # A bias that happens to be zero is there as long as its weights are.
            living = np.unique(self.group[alive & (self.group >= 0)])
            alive |= self.attached & np.isin(self.group, living)
        return np.flatnonzero(alive | (self.group < 0))

    def among(self, left: Integers) -> Members:
        """Return what is still there of each group when only these entries of the vector are."""
        group = self.group[left]
        places = np.flatnonzero(group >= 0)
        numbers, first, owners = np.unique(group[places], return_index=True, return_inverse=True)
        return Members(numbers, places, owners, self.layer[left[places[first]]])


@dataclass(frozen=True, eq=False)
class Members:
    """Groups of those weights that are left.

    Attributes
    ----------
    numbers : ndarray (k,) of int
        Numbers of the groups that have weights left.
    places : ndarray of int
        Places of these groups' weights among all weights that are left.
    owners : ndarray of int
        For each of these weights, which of the k groups it belongs to.
    layers : ndarray (k,) of int
        Number of each group's parameter.
    """

    numbers: Integers
    places: Integers
    owners: Integers
    layers: Integers

    @property
    def sizes(self) -> Integers:
        """Numbers of weights."""
        return np.bincount(self.owners, minlength=len(self.numbers))

    def sums(self, values: Floats) -> Floats:
        """Add up, in each group, values that all weights have that are left."""
        return np.bincount(self.owners, values[self.places], len(self.numbers)).astype(np.float64)

    def each(self) -> Iterator[Integers]:
        """Yield the places of one group after the other."""
        yield from np.split(self.places[np.argsort(self.owners, kind="stable")], np.cumsum(self.sizes)[:-1])

    def of(self, groups: Integers) -> Integers:
        """Return the places of some of the k groups."""
        return self.places[np.isin(self.owners, groups)]


def candidates_of(objective: Objective, groups: Any, exclude: Any) -> Candidates:
    """Return what `groups` and `exclude` of `saliency` mean for an objective's parameters."""
    layer = np.repeat(np.arange(len(objective.shapes)), [int(np.prod(shape)) for shape in objective.shapes.values()])
    group = np.full(objective.n, -1, dtype=np.intp)
    attached = np.zeros(objective.n, dtype=bool)
    if isinstance(groups, Iterable) and not isinstance(groups, str):
        return Candidates(group, _given(group, groups), attached, layer)
    if groups is not None and groups not in _AXES:
        raise InvalidInputError(f"groups must be 'rows', 'columns' or a list of index arrays, got {groups!r}.")
    out: tuple[str, ...] = ()
    if exclude is None:
        out = _outputs(objective, _AXES[groups]) if groups is not None else ()
    elif isinstance(exclude, str) or len(exclude):
        out = choose(objective.shapes, exclude, "exclude")
    matrices = [name for name, shape in objective.shapes.items() if len(shape) >= 2 and name not in out]
    if not matrices and out:
        raise InvalidInputError(
            f"nothing is left that may go without {', '.join(out)}"
            f"{', whose groups are the outputs' if exclude is None else ''}. Pass exclude=() to let them go too."
        )
    if not matrices:
        raise InvalidInputError(
            f"no parameter has two or more dimensions, and others, such as biases, are not pruned by default: there "
            f"are {', '.join(objective.names)}. Pass groups=, such as np.arange(objective.n)[:, None] for all weights."
        )
    if groups is None:
        for name in matrices:
            where = objective.slices[name]
            group[where] = np.arange(where.start, where.stop)
        return Candidates(group, (), attached, layer)
    labels: list[str] = []
    together = _vectors_with(objective, _AXES[groups])
    for name in matrices:
        shape = objective.shapes[name]
        axis = _AXES[groups] % len(shape)
        numbers = len(labels) + np.arange(shape[axis])
        group[objective.slices[name]] = np.broadcast_to(
            numbers.reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape
        ).reshape(-1)
        for vector in together[name]:
            where = objective.slices[vector]
            if vector not in out and not attached[where].any():
                group[where], attached[where], layer[where] = numbers, True, layer[objective.slices[name].start]
        labels += [f"{name}[{i}]" if axis == 0 else f"{name}[..., {i}]" for i in range(shape[axis])]
    return Candidates(group, tuple(labels), attached, layer)


def _vectors_with(objective: Objective, axis: int) -> dict[str, list[str]]:
    """Return for each matrix the vectors with an entry for each of its slices that go with these.

    They are those of the matrix's own module, as biases are, if no other matrix there has as many slices; and those of
    a module without a matrix that scales the slices' outputs, as normalization does.
    """
    shapes = objective.shapes
    module = {name: name.rpartition(".")[0] for name in shapes}
    found: dict[str, list[str]] = {name: [] for name, shape in shapes.items() if len(shape) >= 2}
    layers: dict[str, list[str]] = {}
    is_of_outputs = axis == objective.output_axis
    with_matrix = {module[name] for name in found}
    for name, shape in shapes.items():
        if len(shape) == 1 and module[name] not in with_matrix:
            layers.setdefault(module[name], []).append(name)
        elif len(shape) == 1:
            own = [other for other in found if module[other] == module[name] and shapes[other][axis] == shape[0]]
            if len(own) == 1 and (is_of_outputs or shapes[own[0]].count(shape[0]) == 1):
                found[own[0]].append(name)
    if is_of_outputs:
        for name, vectors in _scaled(objective, axis, found, [*layers.values()]):
            found[name] += vectors
    return found


def _scaled(
    objective: Objective, axis: int, own: dict[str, list[str]], layers: list[list[str]]
) -> Iterator[tuple[str, list[str]]]:
    """Yield the layers of vectors that scale the outputs of one matrix's slices and of nothing else, with that matrix.

    The order in which a model names its parameters says nothing of how its data flow. What does: where some of a
    layer's factors are zero, the slices before these have no gradient, and others have. And without these slices the
    layer's channels are constant, so that the gradients of its factors and of its shifts have a constant ratio.
    """
    shapes, rng = objective.shapes, np.random.default_rng(0)
    epsilon = objective.backend.layout(objective.theta).epsilon
    possible: list[tuple[list[str], int, set[str]]] = []
    for vectors in layers:
        length = shapes[vectors[0]][0]
        fitting = {name for name in own if shapes[name][axis] == length}
        if len(vectors) <= 2 and fitting and length > 1 and shapes[vectors[-1]] == (length,):
            possible.append((vectors, length, fitting))
    slopes: list[list[tuple[Booleans, Floats]]] = [[] for _ in possible]
    for trial in range(2 * _TRIALS if possible else 0):
        # All layers at once: each has slices of its own choice that are zero, first its own and then the matrix's.
        halves = [rng.permutation(length) < length // 2 for _, length, _ in possible]
        zeros = [
            (name, half)
            for (vectors, _, fitting), half in zip(possible, halves, strict=True)
            for name in (vectors if trial < _TRIALS else [each for one in fitting for each in (one, *own[one])])
        ]
        along = _slopes_without(objective, axis, zeros)
        for (vectors, _, fitting), half, found in zip(possible, halves, slopes, strict=True):
            if trial >= _TRIALS:
                found.append((half, np.stack([along[name][:, 0] for name in vectors])))
                continue
            for name in [*fitting]:
                is_dead = (along[name] == 0).all(axis=1)
                if not is_dead[half].all() or is_dead[~half].all():
                    fitting.remove(name)
    for (vectors, _, fitting), found in zip(possible, slopes, strict=True):
        if len(fitting) == 1 and _are_constant(found, _ALIKE * epsilon):
            yield fitting.pop(), vectors


def _slopes_without(objective: Objective, axis: int, zeros: list[tuple[str, Booleans]]) -> dict[str, Floats]:
    """Return the gradient at the present point without some slices, as a row for each slice of each parameter."""
    theta, backend = objective.theta, objective.backend
    (point,) = backend.to_host(theta)

    def rows(vector: Floats, name: str) -> Floats:
        return np.moveaxis(vector[objective.slices[name]].reshape(objective.shapes[name]), axis, 0)

    for name, chosen in zeros:
        rows(point, name)[chosen] = 0.0
    (slopes,) = backend.to_host(objective.gradient(backend.from_host(point, backend.layout(theta))))
    with_slices = [name for name, shape in objective.shapes.items() if shape]
    return {name: (found := rows(slopes, name)).reshape(len(found), -1) for name in with_slices}


def _are_constant(found: list[tuple[Booleans, Floats]], tolerance: float) -> bool:
    """Return whether gradients of factors and shifts have one ratio, channel by channel; of factors alone, are zero."""
    for (half, one), (other_half, other) in itertools.combinations(found, 2):
        both = half & other_half
        if len(one) == 1:
            if one[0, half].any():
                return False
            continue
        left, right = one[0, both] * other[1, both], one[1, both] * other[0, both]
        if (np.abs(left - right) > tolerance * (np.abs(left) + np.abs(right))).any():
            return False
    return True


def _outputs(objective: Objective, axis: int) -> tuple[str, ...]:
    """Return the parameters whose slices along an axis are the outputs: no other slice changes one of them."""
    try:
        transposed = objective.jacobian().T
    except InvalidInputError:
        # A loss without a criterion has no outputs.
        return ()
    count, rest = divmod(transposed.shape[1], objective.samples)
    if rest or count < 2:
        return ()
    backend = transposed.backend
    weights = np.random.default_rng(0).uniform(1.0, 2.0, transposed.shape[1])
    touched: list[dict[str, Integers]] = []
    for output in range(2):
        chosen = np.where(np.arange(len(weights)) % count == output, weights, 0.0)
        (slopes,) = backend.to_host(transposed @ backend.from_host(chosen, transposed.domain))
        touched.append({})
        for name, shape in objective.shapes.items():
            if len(shape) >= 2:
                others = tuple(i for i in range(len(shape)) if i != axis % len(shape))
                moves = (slopes[objective.slices[name]].reshape(shape) != 0).any(axis=others)
                touched[-1][name] = np.flatnonzero(moves)
    first, second = touched
    return tuple(name for name in first if len(first[name]) == len(second[name]) == 1 and first[name] != second[name])


def _given(group: Integers, groups: Iterable[Any]) -> tuple[str, ...]:
    """Number the entries of given groups in place; return the groups' names."""
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
    return tuple(f"group {number}" for number in range(count))
