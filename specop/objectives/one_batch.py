"""OneBatch: what adapters share for one batch, a vector of selected parameters and batches that hold arrays."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Self

import numpy as np

from specop.arrays.backend import Array, Backend
from specop.arrays.layout import Layout
from specop.errors import InvalidInputError
from specop.objectives.hidden import HiddenState
from specop.objectives.parameters import checked_shapes
from specop.objectives.trees import Joined, Trees
from specop.statistics.numbers import Integers

__all__ = ["OneBatch"]


class OneBatch(ABC):
    """Base of adapters: a described model, some of its parameters as one vector, and batches that hold arrays.

    Parameters
    ----------
    model : object
        With the methods ``select(select, among)``, ``arrays_of(structure, names)``, ``structure_of(values)``,
        ``hidden_state()`` and ``evaluating()``.
    selected : mapping from names to arrays
        The parameters, in the order of the vector.
    likelihood : str or None
        Likelihood that the criterion is the negative logarithm of, as `Autodiff` names it.
    fixed_randomness : int or None
        Seed of every forward pass.
    layout : callable
        ``layout(size)``: describes a vector of that many entries.
    """

    backend: Backend
    trees: Trees
    accepts_stopped_gradients = False
    was_checked = False
    witness_samples: int | None = None
    witness_bytes: float = math.inf

    def __init__(
        self,
        model: Any,
        selected: Mapping[str, Array],
        likelihood: str | None,
        fixed_randomness: int | None,
        layout: Callable[[int], Layout],
    ) -> None:
        self.model = model
        self.parameters = dict(selected)
        self.likelihood = likelihood
        self.fixed_randomness = fixed_randomness
        self.names = tuple(selected)
        self.shapes = tuple(self.trees.shape(array) or () for array in selected.values())
        self.sizes = tuple(map(math.prod, self.shapes))
        self.layout = layout(sum(self.sizes))

    def restrict(self, select: Any) -> Self:
        """Return the same for a part of the parameters selected now."""
        chosen = self.model.select(select, among=self.parameters)
        part = type(self)(self.model, chosen, self.likelihood, self.fixed_randomness)  # type: ignore[call-arg]
        part.accepts_stopped_gradients = self.accepts_stopped_gradients
        return part

    def moving(self, vector: Array) -> Array:
        """Return the vector, with zeros where parameters count as constants; it may be consumed."""
        ends = np.cumsum(self.sizes)
        mask = np.ones(self.layout.n)
        for name, start, stop in self._constant_entries():
            first = int(ends[self.names.index(name)]) - self.sizes[self.names.index(name)]
            mask[first + start : first + stop] = 0.0
        return vector if mask.all() else self.backend.multiply(vector, self.backend.from_host(mask, self.layout))

    def constant_parts(self) -> tuple[str, ...]:
        """Return a remark on each part of a trained parameter that counts as a constant."""
        sizes = dict(zip(self.names, self.sizes, strict=True))
        return tuple(
            f"entries {start} to {stop - 1} of {name!r} count as constants"
            for name, start, stop in self._constant_entries()
            if stop - start < sizes[name]
        )

    def _constant_entries(self) -> Iterator[tuple[str, int, int]]:
        """Yield ranges of entries, by their parameter's name, that the framework's gradient takes for constants."""
        yield from ()

    @contextmanager
    def in_float64(self, batch: Any, most_bytes: int) -> Iterator[Any]:
        """Give the same derivatives in float64, and the batch for them; raise where that cannot be."""
        if self.layout.dtype == np.float64:
            yield self, batch
            return
        if self.fixed_randomness is not None:
            raise InvalidInputError("under a fixed seed two precisions draw other masks")
        entries = sum(math.prod(self.trees.shape(array) or ()) for array in self._state())
        if 3 * 8 * entries > most_bytes:
            raise InvalidInputError("a copy in float64 would take more than a tenth of the memory budget")
        with self._widened(batch) as found:
            yield found

    def hidden_state(self) -> HiddenState:
        """Put back what calls of the model change in plain attributes of its layers, and give what names it."""
        found: HiddenState = self.model.hidden_state()
        return found

    def evaluating(self) -> AbstractContextManager[Any]:
        """Hold the model in evaluation mode, unless its randomness is fixed."""
        held: AbstractContextManager[Any] = self.model.evaluating() if self.fixed_randomness is None else nullcontext()
        return held

    def point(self) -> Array:
        """Return the selected parameters' current values as a vector."""
        return self._join(self._current())

    def current(self) -> dict[str, Array]:
        """Return the selected parameters themselves by name, as the model has them now."""
        return dict(zip(self.names, self._current(), strict=True))

    def joined(self, parts: Sequence[Array]) -> Array:
        """Return arrays of the parameters' shapes as a vector."""
        return self._join(parts)

    def parts(self, vector: Array) -> Sequence[Array]:
        """Return a vector as arrays of the parameters' shapes and dtypes."""
        return self._split(vector)

    def flatten(self, tree: Any) -> Array:
        """Return a parameter structure, or a mapping by name, as a vector."""
        found = self.model.arrays_of(tree, self.names)
        return self._join(checked_shapes(found, dict(zip(self.names, self.shapes, strict=True)), self.trees.shape))

    def unflatten(self, vector: Array) -> Any:
        """Return a vector in the structure of the parameters: a mapping by name, or what the function takes."""
        self.backend.check_vector(vector, self.layout, "the vector")
        return self.model.structure_of(dict(zip(self.names, self._split(vector), strict=True)))

    def count(self, batch: Any) -> int:
        """Return the number of samples in a batch."""
        return self.trees.count(batch)

    def array_shapes(self, structure: Any) -> list[tuple[int, ...]]:
        """Return the shapes of the arrays in a batch or a part of one, those without dimensions left out."""
        return self.trees.shapes(structure)

    def take(self, batch: Any, start: int, stop: int) -> Any:
        """Return the batch's samples from `start` to `stop`."""
        return self.trees.take(batch, start, stop)

    def pick(self, batch: Any, indices: Integers) -> Any:
        """Return the batch's samples at these places."""
        return self.trees.pick(batch, indices)

    def gather(self, chosen: Iterable[tuple[Any, Integers]]) -> list[tuple[list[int], Joined]]:
        """Return samples at these places of several batches, those of batches of the same kind together."""
        return self.trees.gather(chosen, self.batch_fingerprint)

    @abstractmethod
    def batch_fingerprint(self, batch: Any) -> Any:
        """Return a checksum of a batch."""

    @abstractmethod
    def _state(self) -> Iterable[Array]:
        """Return all that the model holds."""

    @abstractmethod
    def _widened(self, batch: Any) -> AbstractContextManager[Any]:
        """Return a context that gives a copy of the model in float64, and the batch; it may raise anything."""

    @abstractmethod
    def _current(self) -> list[Array]:
        """Return the selected parameters as the model has them now: it may hold other arrays than at first."""

    @abstractmethod
    def _join(self, parts: Sequence[Array]) -> Array:
        """Return arrays of the parameters' shapes as a vector."""

    @abstractmethod
    def _split(self, vector: Array) -> Sequence[Array]:
        """Return a vector as arrays of the parameters' shapes and dtypes."""
