"""One diagonal block of damping*I + (1/m) sum g g', in the form that is smaller: m x m or n x n.

`GramBlock` keeps the Gram matrix of the rows, `MomentBlock` the sum of outer products: small float64 matrices on the
host, factored from scratch when an inverse is wanted, because the scaling 1/m of all rows may have changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from specop.arrays.backend import Array, Backend
from specop.arrays.layout import Layout
from specop.errors import InvalidInputError
from specop.solvers.woodbury.stored_rows import StoredRows

__all__ = ["GramBlock", "GramInverse", "MomentBlock", "MomentInverse", "Scaling", "cut", "partition"]

_WIDE = float(np.finfo(np.float64).eps)
_ENTRIES_AT_ONCE = 2**23
# Beyond it, no digit of the inverse would be right.
_WORST = 0.1


@dataclass(frozen=True)
class Scaling:
    """What makes a matrix of a sum of outer products: damping on the diagonal, and the divisor of the sum."""

    damping: float
    count: int


def partition(blocks: Any, n: int) -> list[tuple[slice, int]]:
    """Return ranges of columns with the size of the diagonal blocks in each."""
    if blocks is None:
        return [(slice(0, n), n)]
    if isinstance(blocks, (int, np.integer)):
        if isinstance(blocks, bool) or blocks < 1:
            raise InvalidInputError(f"the size of blocks must be a positive integer, got {blocks!r}.")
        size = min(int(blocks), n)
        whole = n // size * size
        return [(slice(0, whole), size)] + ([(slice(whole, n), n - whole)] if whole < n else [])
    bounds = [(part.start or 0, n if part.stop is None else part.stop) for part in blocks]
    ends = [0, *(stop for _, stop in bounds)]
    if [start for start, _ in bounds] != ends[:-1] or ends[-1] != n or any(start >= stop for start, stop in bounds):
        raise InvalidInputError(
            f"blocks must be consecutive, non-empty slices that cover the entries 0 to {n - 1} in order, got {bounds}."
        )
    return [(slice(start, stop), stop - start) for start, stop in bounds]


class GramBlock:
    """Gram matrix of the rows' entries in some columns; the rows must be at hand for products.

    Parameters
    ----------
    columns : slice
        Of the rows.
    """

    def __init__(self, columns: slice) -> None:
        self.columns = columns
        self.gram = np.zeros((0, 0))

    def extend(self, rows: StoredRows) -> None:
        """Take in the rows beyond those that are known; blocks of rows that were known come first."""
        known, total = len(self.gram), len(rows)
        if known == total:
            return
        number = next((i for i, place in enumerate(rows.places()) if place.start >= known), len(rows.blocks))
        gram = np.zeros((total, total))
        gram[:known, :known] = self.gram
        for _, blocks in rows.strips(self.columns):
            new = blocks[number:] if number else blocks
            gram[known:, known:] += rows.backend.row_products(new, new)
            if number:
                gram[known:, :known] += rows.backend.row_products(new, blocks[:number])
        gram[:known, known:] = gram[known:, :known].T
        self.gram = gram

    def keep(self, indices: NDArray[np.intp]) -> None:
        """Forget all other rows."""
        self.gram = self.gram[np.ix_(indices, indices)]

    def inverse(self, scaling: Scaling, active: NDArray[np.intp], layout: Layout) -> GramInverse:
        """Return the inverse of the matrix that the active rows make.

        Parameters
        ----------
        scaling : Scaling
        active : ndarray of int
            Those rows that belong to the sum.
        layout : Layout
            Of a row.
        """
        n = self.columns.stop - self.columns.start
        if scaling.damping == 0:
            raise InvalidInputError(
                f"the matrix is singular: the damping is 0 and {len(active)} rows of length {n} span "
                f"at most {len(active)} dimensions, so its smallest eigenvalue is 0. Give a positive damping, or more "
                f"rows than they are long."
            )
        shift = scaling.damping * scaling.count
        gram = self.gram[np.ix_(active, active)]
        ratio = float(np.linalg.norm(gram)) / shift
        precision = layout.epsilon * (1 + np.sqrt(ratio)) + _WIDE * ratio
        if not precision < _WORST:
            raise InvalidInputError(
                f"the damping {scaling.damping:g} is too small for products in {layout.dtype}: the rows' part of the "
                f"matrix is {ratio:.1e} times as large, and no digit of the inverse would be right. Raise the damping, "
                f"or convert the rows to float64."
            )
        factor = scipy.linalg.cholesky(gram + shift * np.eye(len(gram)), lower=True) if len(gram) else gram
        return GramInverse(self.columns, factor, active, len(self.gram), scaling.damping, float(precision))


class MomentBlock:
    """Sums of outer products of the rows' entries in consecutive blocks of columns of one size.

    Parameters
    ----------
    columns : slice
        Of the rows.
    size : int
        Of a block; divides the number of columns.
    """

    def __init__(self, columns: slice, size: int) -> None:
        self.columns = columns
        self.size = size
        self.sums = np.zeros(((columns.stop - columns.start) // size, size, size))

    def add(self, rows: StoredRows, sign: float = 1.0, first: int = 0) -> None:
        """Add the outer products of all rows from `first` on, or subtract them."""
        for _, piece in rows.pieces(first):
            part = cut(rows.backend, piece, self.columns, rows.layout)
            self.sums += sign * rows.backend.block_products(part, self.size)

    def inverse(self, scaling: Scaling, backend: Backend, layout: Layout) -> MomentInverse:
        """Return the inverses of the blocks.

        Parameters
        ----------
        scaling : Scaling
        backend : Backend
        layout : Layout
            Of a row.
        """
        inverses = np.empty(self.sums.shape, layout.dtype)
        diagonal, condition = np.empty(self.sums.shape[:2]), 1.0
        step = max(1, _ENTRIES_AT_ONCE // self.size**2)
        for start in range(0, len(self.sums), step):
            some = slice(start, start + step)
            matrices = self._matrices(some, scaling)
            inverse, worst = _checked_inverses(matrices)
            if not worst * _WIDE < _WORST:
                raise self._singular(matrices, start, scaling)
            inverses[some], diagonal[some] = inverse, inverse.diagonal(axis1=1, axis2=2)
            condition = max(condition, worst)
        native = backend.from_host(inverses, layout)
        return MomentInverse(self.columns, self.size, native, diagonal.reshape(-1), layout.epsilon + _WIDE * condition)

    def _matrices(self, some: slice, scaling: Scaling) -> NDArray[np.float64]:
        matrices = self.sums[some] / scaling.count
        matrices[:, range(self.size), range(self.size)] += scaling.damping
        return matrices

    def _singular(self, matrices: NDArray[np.float64], first: int, scaling: Scaling) -> InvalidInputError:
        values = np.linalg.eigvalsh(matrices)
        worst = int(np.argmin(values[:, 0] / np.maximum(values[:, -1], np.finfo(float).tiny)))
        start = self.columns.start + (first + worst) * self.size
        return InvalidInputError(
            f"the matrix is singular within rounding: with damping {scaling.damping:g} the eigenvalues of its block "
            f"for the entries {start} to {start + self.size - 1} reach from {values[worst, 0]:.3g} to "
            f"{values[worst, -1]:.3g}. Give a larger damping, or rows that span all dimensions."
        )


def _checked_inverses(matrices: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return symmetric inverses and the largest condition number in the 1-norm, infinite for a singular matrix."""
    try:
        inverses = np.linalg.inv(matrices)
    except np.linalg.LinAlgError:
        return matrices, np.inf
    inverses = (inverses + inverses.transpose(0, 2, 1)) / 2
    return inverses, float(np.max(np.abs(matrices).sum(1).max(1) * np.abs(inverses).sum(1).max(1)))


@dataclass(frozen=True, eq=False)
class GramInverse:
    """``(x - G' (damping count I + G G')^-1 G x) / damping`` for the active rows G.

    Attributes
    ----------
    factor : ndarray
        Lower Cholesky factor of the m x m matrix.
    active : ndarray of int
        Which of the stored rows are in G.
    stored : int
        Number of stored rows.
    """

    columns: slice
    factor: NDArray[np.float64]
    active: NDArray[np.intp]
    stored: int
    damping: float
    precision: float

    def solve(self, products: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the coefficients of all stored rows, from their products with x; zero for those not active."""
        coefficients = np.zeros_like(products)
        if len(self.active):
            coefficients[self.active] = scipy.linalg.cho_solve((self.factor, True), products[self.active])
        return coefficients

    def square_root(self) -> NDArray[np.float64]:
        """Return R with ``G' (...)^-1 G = (G' R)(G' R)'``, a row for each stored row."""
        root = np.zeros((self.stored, len(self.active)))
        if len(self.active):
            eye = np.eye(len(self.active))
            root[self.active] = scipy.linalg.solve_triangular(self.factor, eye, lower=True).T
        return root


@dataclass(frozen=True, eq=False)
class MomentInverse:
    """Inverses of the diagonal blocks, on the device.

    Attributes
    ----------
    inverses : native (k, size, size) array
    diagonal : ndarray of shape (k * size,)
    """

    columns: slice
    size: int
    inverses: Array
    diagonal: NDArray[np.float64]
    precision: float


def cut(backend: Backend, x: Array, columns: slice, layout: Layout) -> Array:
    """Return some entries of a vector, or of each row of a block; itself where that is all."""
    return x if columns == slice(0, layout.n) else backend.section(x, columns.start, columns.stop)
