"""Arrays inside containers of any kind: batches, and the parameters that a function is given."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import itertools
import types
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from specop.arrays.backend import Array
from specop.errors import check_unmasked
from specop.statistics.numbers import Integers

__all__ = ["Constant", "Frame", "Joined", "Trees", "by_optree", "leaves_of", "lengths"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type, types.MethodType)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trees:
    """Structures of one framework's arrays: its own containers, dataclasses, and other mutable mappings.

    Attributes
    ----------
    flatten : callable
        ``flatten(structure) -> (leaves, treedef)``, with a hashable description of the containers that the framework
        knows. What it does not know is a leaf.
    unflatten : callable
        ``unflatten(treedef, leaves)``.
    names : callable
        ``names(structure)``: where the leaves are, such as ``layers.0.w``.
    as_array : callable
        ``as_array(leaf)``: the leaf as an array, or None if it is none.
    shape : callable
        ``shape(array)``: a tuple of int, or None for what is no array of the framework's.
    between : callable
        ``between(array, start, stop)``: entries of the leading dimension.
    at : callable
        ``at(array, indices)``: the same for a NumPy array of integers.
    join : callable
        ``join(arrays)``: arrays one below the other.
    """

    flatten: Callable[[Any], tuple[list[Any], Any]]
    unflatten: Callable[[Any, list[Any]], Any]
    names: Callable[[Any], list[str]]
    as_array: Callable[[Any], Array | None]
    shape: Callable[[Any], tuple[int, ...] | None]
    between: Callable[[Array, int, int], Array]
    at: Callable[[Array, Integers], Array]
    join: Callable[[Sequence[Array]], Array]

    def __reduce__(self) -> tuple[Any, ...]:
        # Its functions are the adapter's, and stand in the module that makes the only object of this kind.
        return _trees_of, (self.as_array.__module__,)

    def take_apart(self, structure: Any) -> tuple[list[Array], Frame]:
        """Return the arrays of a structure in a fixed order, and what puts them together again."""
        leaves, treedef = self.flatten(structure)
        arrays: list[Array] = []
        places: list[Any] = []
        for leaf in leaves:
            check_unmasked("an array of the batch or of params", leaf)
            array = self.as_array(leaf)
            if array is not None:
                arrays.append(array)
                places.append(None)
                continue
            inside = _items(leaf)
            if inside is None:
                places.append(Constant(leaf))
                continue
            make, items = inside
            found, frame = self.take_apart(items)
            arrays += found
            places.append((make, frame))
        return arrays, Frame(self.unflatten, treedef, tuple(places))

    def arrays(self, structure: Any) -> list[Array]:
        """Return the arrays of a structure in a fixed order."""
        return self.take_apart(structure)[0]

    def named(self, structure: Any, prefix: str = "") -> dict[str, Any]:
        """Return the leaves that are arrays by name, in the same order."""
        found: dict[str, Any] = {}
        for name, leaf in zip(self.names(structure), self.flatten(structure)[0], strict=True):
            inside = _items(leaf)
            if self.as_array(leaf) is not None:
                found[prefix + name] = leaf
            elif inside is not None:
                found |= self.named(inside[1], f"{prefix}{name}.")
        return found

    def map(self, function: Callable[[Array], Array], structure: Any) -> Any:
        """Return the structure with each array replaced; everything else stays as it is."""
        arrays, frame = self.take_apart(structure)
        return frame.fill(map(function, arrays))

    def count(self, batch: Any) -> int:
        """Return the number of samples in a batch: the last of its arrays' `lengths`."""
        return [1, *lengths(self.shapes(batch))][-1]

    def shapes(self, structure: Any) -> list[tuple[int, ...]]:
        """Return the shapes of a structure's arrays, those without dimensions left out."""
        return [shape for shape in map(self.shape, self.arrays(structure)) if shape]

    def take(self, batch: Any, start: int, stop: int) -> Any:
        """Return the batch's samples from `start` to `stop`."""
        arrays, rebuild = self.samples(batch)
        return rebuild(self.between(array, start, stop) for array in arrays)

    def pick(self, batch: Any, indices: Integers) -> Any:
        """Return the batch's samples at these places."""
        arrays, rebuild = self.samples(batch)
        return rebuild(self.at(array, indices) for array in arrays)

    def gather(
        self, chosen: Iterable[tuple[Any, Integers]], checksum: Callable[[Any], Any]
    ) -> list[tuple[list[int], Joined]]:
        """Return samples of several batches, those of batches of the same kind together.

        Parameters
        ----------
        chosen : iterable of (batch, indices)
            Distinct places in each batch.
        checksum : callable
            ``checksum(structure of arrays)``: batches are of one kind only if what belongs to no sample is equal.

        Returns
        -------
        list of (positions, Joined)
            For each kind, which of the batches it is made of, in order.
        """
        kinds: dict[Any, tuple[list[int], list[list[Array]]]] = {}
        for position, (batch, indices) in enumerate(chosen):
            arrays, frame = self.take_apart(batch)
            own = tuple(self.have_samples(batch))
            fixed = [array for array, is_own in zip(arrays, own, strict=True) if not is_own]
            alone = self.count(batch) == 1 or not all(map(self.shape, fixed))
            forms = tuple((self.shape(array) or ())[1:] for array in itertools.compress(arrays, own))
            dtypes = tuple(str(array.dtype) for array in itertools.compress(arrays, own))
            # Of a batch of one sample nobody knows which of its arrays belong to it. Copies are compared, because
            # reading memory from the host may end what watches it.
            constants = position if alone else checksum([self.join([array]) for array in fixed])
            key = frame, own, forms, dtypes, alone, constants
            picked = [self.at(a, indices) if is_own else a for a, is_own in zip(arrays, own, strict=True)]
            positions, parts = kinds.setdefault(key, ([], []))
            positions.append(position)
            parts.append(picked)
        found = []
        for (frame, own, *_), (positions, parts) in kinds.items():
            columns = zip(*parts, strict=True)
            joined = [self.join(column) if is_own else column[0] for column, is_own in zip(columns, own, strict=True)]
            found.append((positions, Joined(self, joined, own, frame)))
        return found

    def samples(self, batch: Any) -> tuple[list[Array], Callable[[Iterable[Array]], Any]]:
        """Return the arrays with an entry for each sample, and what makes a batch of others in their place."""
        arrays, frame = self.take_apart(batch)
        chosen = self.have_samples(batch)

        def rebuild(replaced: Iterable[Array]) -> Any:
            waiting = iter(replaced)
            return frame.fill(next(waiting) if own else array for array, own in zip(arrays, chosen, strict=True))

        return list(itertools.compress(arrays, chosen)), rebuild

    def have_samples(self, batch: Any) -> list[bool]:
        """Return which of a batch's arrays have an entry for each sample."""
        shapes = [self.shape(array) or () for array in self.arrays(batch)]
        count = self.count(batch)
        return [shape[:1] == (count,) for shape in shapes]


def _trees_of(module: str) -> Any:
    return importlib.import_module(module).TREES


def lengths(shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """Return the leading dimensions that most of these shapes have, one where it is clear which are samples."""
    found = Counter(shape[0] for shape in shapes)
    return [length for length, times in found.items() if times == max(found.values())]


def by_optree(optree: Any) -> dict[str, Any]:
    """Return how structures are flattened by the library optree, for the functions of `Trees` of these names.

    Parameters
    ----------
    optree : module
        Which adapters depend on, and the core does not.
    """
    # In it, dicts keep the order in which their user wrote them: concatenated values are then vectors.
    options = {"none_is_leaf": True, "namespace": "specop"}

    def flatten(structure: Any) -> tuple[list[Any], Any]:
        with optree.dict_insertion_ordered(True, namespace="specop"):
            return optree.tree_flatten(structure, **options)

    def names(structure: Any) -> list[str]:
        with optree.dict_insertion_ordered(True, namespace="specop"):
            paths, *_ = optree.tree_flatten_with_path(structure, **options)
        return [".".join(map(str, path)) or "params" for path in paths]

    return {"flatten": flatten, "unflatten": optree.tree_unflatten, "names": names}


def leaves_of(structure: Any) -> Iterator[Any]:
    """Yield what stands in mappings, lists, tuples and dataclasses, whatever framework it belongs to."""
    inside: Iterable[Any]
    if isinstance(structure, Mapping):
        inside = structure.values()
    elif isinstance(structure, (list, tuple)):
        inside = structure
    elif dataclasses.is_dataclass(structure) and not isinstance(structure, type):
        inside = (getattr(structure, field.name) for field in dataclasses.fields(structure))
    else:
        if structure is not None:
            yield structure
        return
    for item in inside:
        yield from leaves_of(item)


@dataclasses.dataclass(frozen=True)
class Joined:
    """Samples of several batches in one; made by `Trees.gather`."""

    trees: Trees
    arrays: list[Array]
    own: tuple[bool, ...]
    frame: Frame

    def pick(self, indices: Integers) -> Any:
        """Return a batch of the samples at these places."""
        pairs = zip(self.arrays, self.own, strict=True)
        return self.frame.fill(self.trees.at(array, indices) if own else array for array, own in pairs)


@dataclasses.dataclass(frozen=True)
class Frame:
    """A structure without its arrays; equal frames hold the same constants in the same places."""

    unflatten: Callable[[Any, list[Any]], Any]
    treedef: Any
    places: tuple[Any, ...]

    def fill(self, arrays: Iterable[Array]) -> Any:
        """Return the structure with these arrays in it."""
        return self._fill(iter(arrays))

    def _fill(self, arrays: Iterator[Array]) -> Any:
        leaves = []
        for place in self.places:
            if place is None:
                leaves.append(next(arrays))
            elif isinstance(place, Constant):
                leaves.append(place.value)
            else:
                make, frame = place
                leaves.append(make(frame._fill(arrays)))
        return self.unflatten(self.treedef, leaves)


class Constant:
    """A value that compiled code has taken in: plain values are compared with their type, others by identity."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Constant) or type(self.value) is not type(other.value):
            return False
        return self.value is other.value or (isinstance(self.value, _PLAIN) and bool(self.value == other.value))

    def __reduce__(self) -> tuple[Any, ...]:
        return Constant, (self.value,)

    def __hash__(self) -> int:
        return hash(self.value) if isinstance(self.value, _PLAIN) else id(self.value)


class _Make:
    """Puts the values of fields or keys into a new container of the same kind."""

    def __init__(self, prototype: Any, constant: tuple[Any, ...]) -> None:
        self.prototype = prototype
        self.constant = constant

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Make) and self.constant == other.constant

    def __hash__(self) -> int:
        return hash(self.constant)

    def __call__(self, items: dict[Any, Any]) -> Any:
        if isinstance(self.prototype, type):
            return self.prototype(**items)
        clone = copy.copy(self.prototype)
        clone.update(items)
        return clone


def _items(leaf: Any) -> tuple[_Make, dict[Any, Any]] | None:
    kind = type(leaf)
    if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
        items = {item.name: getattr(leaf, item.name) for item in dataclasses.fields(leaf) if item.init}
        return _Make(kind, (kind,)), items
    if isinstance(leaf, MutableMapping):
        # Without its values: a frame must not keep a batch in memory.
        prototype = copy.copy(leaf)
        prototype.update(dict.fromkeys(leaf))
        return _Make(prototype, (kind, *leaf)), dict(leaf)
    return None
