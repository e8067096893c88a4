"""Parts of a curvature matrix: its diagonal blocks, and what couples two parts of the parameters."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from specop.arrays.backend import Array
from specop.errors import InvalidInputError
from specop.objectives.autodiff import Autodiff
from specop.objectives.products import Multiply, Products, accumulate
from specop.operators.operator import Composite, LinearOperator
from specop.statistics.numbers import Integers

__all__ = ["BlockDiagonalOperator", "CouplingOperator"]


class BlockDiagonalOperator(Composite):
    """Diagonal blocks of a curvature matrix; made by `CurvatureOperator.block_diagonal`.

    Parameters
    ----------
    operator : LinearOperator
        The whole matrix.
    products : Products
        What multiplies by it.
    blocks : sequence of selections, optional
        Disjoint parts that cover all parameters; default: one for each module.

    Attributes
    ----------
    names : tuple of tuple of str
        The parameters of each block.
    """

    def __init__(self, operator: LinearOperator, products: Products, blocks: Sequence[Any] | None) -> None:
        super().__init__((operator,), operator.domain, operator.codomain, is_symmetric=True, is_psd=operator.is_psd)
        autodiff = products.point.autodiff
        self.names = _by_module(autodiff.names) if blocks is None else _selected(autodiff, blocks)
        self._products = products
        self._slices = [_slices(autodiff, names) for names in self.names]
        self._indices = [_indices(slices) for slices in self._slices]

    def _matvec(self, x: Array) -> Array:
        if self._products.matrix.kind == "empirical fisher of samples":
            return self._products.over_samples(x, self._add_samples)
        return self._products.combined(x, self._multiply)

    @contextmanager
    def _brief_session(self) -> Iterator[None]:
        # Gradients of samples run the model, whatever linearizations are held.
        with self.session():
            yield

    def _multiply(self, multiply: Multiply, x: Array) -> Array:
        """Return the sum over blocks of P P' A P P' x, with the columns of P in the block."""
        total: Array | None = None
        for indices in self._indices:
            image = multiply(self._only(indices, x))
            total = accumulate(self.backend, total, 1.0, self._only(indices, image))
        return total

    def _add_samples(self, total: Array | None, rows: Array, factor: float, x: Array) -> Array:
        """Add, for each block, ``factor G' G x`` with its columns G of the samples' gradients."""
        for slices in self._slices:
            inner: Array | None = None
            for part in slices:
                own, entries = (self.backend.section(array, part.start, part.stop) for array in (rows, x))
                inner = accumulate(self.backend, inner, 1.0, self.backend.apply_rows(own, entries))
            for part in slices:
                image = self.backend.combine_rows(self.backend.section(rows, part.start, part.stop), inner)
                whole = self.backend.scatter(image, np.arange(part.start, part.stop, dtype=np.intp), self.domain)
                total = accumulate(self.backend, total, factor, whole)
        return total

    def _only(self, indices: Integers, x: Array) -> Array:
        return self.backend.scatter(self.backend.gather(x, indices), indices, self.domain)


class CouplingOperator(Composite):
    """Block of a curvature matrix between two parts; made by `CurvatureOperator.coupling`.

    Parameters
    ----------
    operator : LinearOperator
        The whole matrix.
    autodiff : Autodiff
        Derivatives of its model.
    rows, columns : str, list, module or callable
        Selections of parameters.
    """

    def __init__(self, operator: LinearOperator, autodiff: Autodiff, rows: Any, columns: Any) -> None:
        self._rows, self._columns = (
            _indices(_slices(autodiff, autodiff.restrict(select).names)) for select in (rows, columns)
        )
        layouts = [operator.domain.of_length(len(indices)) for indices in (self._columns, self._rows)]
        same = np.array_equal(self._rows, self._columns)
        super().__init__(
            (operator,), *layouts, is_symmetric=True if same else None, is_psd=operator.is_psd if same else None
        )

    def _matvec(self, x: Array) -> Array:
        return self._between(x, self._columns, self._rows)

    def _rmatvec(self, y: Array) -> Array:
        return self._between(y, self._rows, self._columns)

    def flatten(self, tree: Any) -> None:
        return None

    def unflatten(self, vector: Array) -> Any:
        raise InvalidInputError("a coupling of two parts has no parameter structure: multiply vectors.")

    def _between(self, x: Array, inside: Integers, outside: Integers) -> Array:
        (whole,) = self.parts
        return self.backend.gather(whole._matvec(self.backend.scatter(x, inside, whole.domain)), outside)


def _by_module(names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(name.rpartition(".")[0], []).append(name)
    return tuple(map(tuple, found.values()))


def _selected(autodiff: Autodiff, blocks: Sequence[Any]) -> tuple[tuple[str, ...], ...]:
    found = tuple(autodiff.restrict(select).names for select in blocks)
    seen = [name for names in found for name in names]
    twice = [name for name in autodiff.names if seen.count(name) > 1]
    if twice:
        raise InvalidInputError(f"blocks must be disjoint, but {twice[0]!r} is in more than one.")
    left = [name for name in autodiff.names if name not in seen]
    if left:
        raise InvalidInputError(
            f"blocks must cover all parameters, but {len(left)} are in none, such as {left[0]!r}. Add a block, or take "
            f"the operator of objective.restrict(...)."
        )
    return found


def _slices(autodiff: Autodiff, names: Sequence[str]) -> list[slice]:
    ends = list(itertools.accumulate(autodiff.sizes))
    places = {
        name: slice(end - size, end) for name, size, end in zip(autodiff.names, autodiff.sizes, ends, strict=True)
    }
    return [places[name] for name in names]


def _indices(slices: Sequence[slice]) -> Integers:
    return np.concatenate([np.arange(part.start, part.stop, dtype=np.intp) for part in slices])
