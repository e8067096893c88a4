"""The operator that `ShermanMorrison` makes of its rows at one time."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from specop.arrays.backend import Array
from specop.errors import InvalidInputError, check_unmasked
from specop.operators.operator import LinearOperator
from specop.solvers.woodbury.gram_block import GramInverse
from specop.solvers.woodbury.moment_block import MomentInverse
from specop.solvers.woodbury.stored_rows import StoredRows, cut
from specop.statistics.numbers import Floats

__all__ = ["DampedInverse"]

# Number of entries in a strip of columns when the diagonal is computed.
_STRIP = 2**24


class DampedInverse(LinearOperator):
    r"""Inverse of :math:`\delta I + \frac1m \sum g g^T`, or of its diagonal blocks; made by `ShermanMorrison`.

    Parameters
    ----------
    rows : StoredRows
        The rows, for the blocks whose products need them.
    blocks : sequence of GramInverse or MomentInverse
        Inverses of diagonal blocks, which cover all entries.
    samples : int
        Number of rows in the sum.
    structure : object, optional
        With the methods `flatten` and `unflatten` between parameter structures and vectors.
    """

    def __init__(
        self,
        rows: StoredRows,
        blocks: Sequence[GramInverse | MomentInverse],
        samples: int,
        structure: Any = None,
    ) -> None:
        super().__init__(rows.backend, rows.layout, is_psd=True)
        self._rows = rows
        self._blocks = sorted(blocks, key=lambda block: block.columns.start)
        self._grams = [block for block in self._blocks if isinstance(block, GramInverse)]
        self._samples = samples
        self._structure = structure

    @property
    def precision(self) -> float:
        return max(block.precision for block in self._blocks)

    @property
    def samples(self) -> int:
        return self._samples

    def flatten(self, tree: Any) -> Array | None:
        return None if self._structure is None else self._structure.flatten(tree)

    def unflatten(self, vector: Array) -> Any:
        return super().unflatten(vector) if self._structure is None else self._structure.unflatten(vector)

    def diagonal(self) -> Array:
        """Return the diagonal as a native vector.

        With m rows held it costs m times as much as a product with one vector, without m more passes over the rows.
        """
        return self.backend.from_host(np.concatenate([self._diagonal_of(block) for block in self._blocks]), self.domain)

    def columns(self, indices: ArrayLike) -> Array:
        """Return some columns as a native (n, k) array.

        Parameters
        ----------
        indices : array_like of int
            Numbers of the columns, from 0 to n - 1.
        """
        check_unmasked("indices", indices)
        chosen = np.atleast_1d(np.asarray(indices))
        if chosen.ndim != 1 or chosen.size == 0 or not np.issubdtype(chosen.dtype, np.integer):
            raise InvalidInputError(f"indices must be a non-empty one-dimensional array of integers, got {indices!r}.")
        for index in chosen:
            self._checked(index)
        one = self._from_host(np.ones(1))
        units = [self.backend.scatter(one, np.array([index], dtype=np.intp), self.domain) for index in chosen]
        return self.backend.stack_columns(self._matmat(units))

    def __getitem__(self, entry: tuple[int, int]) -> float:
        """Return one entry; its cost does not depend on n."""
        i, j = (self._checked(index) for index in entry)
        block = next(block for block in self._blocks if i < block.columns.stop)
        if not block.columns.start <= j < block.columns.stop:
            return 0.0
        if isinstance(block, GramInverse):
            left, right = self._rows.column(i), self._rows.column(j)
            return float((i == j) - left @ block.solve(right)) / block.damping
        (number, row), (other, column) = (divmod(index - block.columns.start, block.size) for index in (i, j))
        if number != other:
            return 0.0
        entries = self.backend.index(self.backend.index(block.inverses, number), row)
        return float(self.backend.to_host(entries)[0][column])

    def _matvec(self, x: Array) -> Array:
        # A list for each block that needs rows, and one transfer for all of them.
        products: list[list[Array]] = [[] for _ in self._grams]
        for _, rows in self._rows.pieces():
            for several, block in zip(products, self._grams, strict=True):
                several.append(self.backend.apply_rows(self._cut(rows, block), self._cut(x, block)))
        flat = [part for several in products for part in several]
        hosted = iter(self.backend.to_host(*flat) if flat else ())
        together = [np.concatenate([np.zeros(0), *(next(hosted) for _ in several)]) for several in products]
        return self._combined([x], [block.solve(found) for block, found in zip(self._grams, together, strict=True)])[0]

    def _matmat(self, columns: list[Array]) -> list[Array]:
        coefficients = []
        for block in self._grams:
            products = np.zeros((len(self._rows), len(columns)))
            for some, rows in self._rows.strips(block.columns) if len(self._rows) else ():
                parts = self.backend.stack([cut(self.backend, x, some, self.domain) for x in columns])
                products += self.backend.row_products(rows, [parts])
            coefficients.append(block.solve(products))
        return self._combined(columns, coefficients)

    def _combined(self, columns: list[Array], coefficients: list[Floats]) -> list[Array]:
        """Return the products, given the coefficients of the rows for each block that needs them."""
        sums: list[Array] = [None] * len(self._grams)
        for where, rows in self._rows.pieces():
            for number, block in enumerate(self._grams):
                weights = self._from_host(coefficients[number][where])
                part = self.backend.combine_rows(self._cut(rows, block), weights)
                sums[number] = part if sums[number] is None else self.backend.axpy_(sums[number], 1.0, part)
        totals, images = iter(sums), []
        for one in self._blocks:
            parts = [self._cut(x, one) for x in columns]
            if isinstance(one, GramInverse):
                images.append(self._shrunk(parts, next(totals), one.damping))
            else:
                images.append([self.backend.apply_blocks(one.inverses, part) for part in parts])
        return [self._joined(list(parts)) for parts in zip(*images, strict=True)]

    def _shrunk(self, parts: list[Array], total: Array | None, damping: float) -> list[Array]:
        """Return ``(x - total) / damping`` for each."""
        if total is None:
            return [self.backend.scale_(self.backend.copy(part), 1.0 / damping) for part in parts]
        totals = self.backend.columns(total) if len(self.backend.shape(total)) == 2 else [total]
        return [
            self.backend.axpy_(self.backend.scale_(image, -1.0 / damping), 1.0 / damping, part)
            for image, part in zip(totals, parts, strict=True)
        ]

    def _joined(self, parts: list[Array]) -> Array:
        if len(parts) == 1:
            return parts[0]
        joined = self.backend.zeros(self.domain)
        for part, block in zip(parts, self._blocks, strict=True):
            places = np.arange(block.columns.start, block.columns.stop, dtype=np.intp)
            joined = self.backend.axpy_(joined, 1.0, self.backend.scatter(part, places, self.domain))
        return joined

    def _diagonal_of(self, block: GramInverse | MomentInverse) -> Floats:
        if isinstance(block, MomentInverse):
            return block.diagonal
        if not len(block.active):
            return np.full(block.columns.stop - block.columns.start, 1.0 / block.damping)
        root, places = block.square_root(), self._rows.places()
        weights = [self._from_host(root[place]) for place in places]
        ones = self._from_host(np.ones(len(block.active)))
        found = []
        for _, strip in self._rows.strips(block.columns, max(1, _STRIP // len(self._rows))):
            total: Array | None = None
            for rows, weight in zip(strip, weights, strict=True):
                part = self.backend.combine_rows(rows, weight)
                total = part if total is None else self.backend.axpy_(total, 1.0, part)
            found.append(self.backend.apply_rows(self.backend.multiply(total, total), ones))
        return (1.0 - np.concatenate(self.backend.to_host(*found))) / block.damping

    def _cut(self, x: Array, block: GramInverse | MomentInverse) -> Array:
        return cut(self.backend, x, block.columns, self.domain)

    def _from_host(self, array: Floats) -> Array:
        """Return an array that is no vector of the operator, in the operator's dtype and on its device."""
        return self.backend.from_host(array, self.domain.of_length(len(array)))

    def _checked(self, index: Any) -> int:
        found, n = operator.index(index), self.shape[0]
        if not 0 <= found < n:
            raise InvalidInputError(f"indices must lie in 0..{n - 1}, got {found}.")
        return found
