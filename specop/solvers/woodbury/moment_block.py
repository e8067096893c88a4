"""Diagonal blocks of damping I + (1/m) sum g g' by sums of outer products, where rows are no fewer than entries.

The sums are held in float64 on the host, and inverted anew when that is wanted, because the scaling 1/m of all rows may
have changed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from specop.arrays.backend import Array, Backend
from specop.arrays.layout import Layout
from specop.errors import InvalidInputError
from specop.solvers.woodbury.partition import DOUBLE_EPSILON, WORST_PRECISION, Scaling
from specop.solvers.woodbury.stored_rows import StoredRows, cut
from specop.statistics.numbers import Floats

__all__ = ["MomentBlock", "MomentInverse"]

_ENTRIES_AT_ONCE = 2**23


class MomentBlock:
    """Sums of outer products of the rows' entries in consecutive blocks of columns of one size.

    Parameters
    ----------
    columns : slice
        Entries of the rows that belong to the blocks.
    size : int
        Number of entries in each block; divides the number of columns.
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
            Damping, and the divisor of the sum.
        backend : Backend
            Backend that makes the products with the inverses.
        layout : Layout
            Layout of a row.
        """
        inverses = np.empty(self.sums.shape, layout.dtype)
        diagonal, condition = np.empty(self.sums.shape[:2]), 1.0
        step = max(1, _ENTRIES_AT_ONCE // self.size**2)
        for start in range(0, len(self.sums), step):
            some = slice(start, start + step)
            matrices = self._matrices(some, scaling)
            inverse, worst = _checked_inverses(matrices)
            if not worst * DOUBLE_EPSILON < WORST_PRECISION:
                raise self._singular(matrices, start, scaling)
            inverses[some], diagonal[some] = inverse, inverse.diagonal(axis1=1, axis2=2)
            condition = max(condition, worst)
        native = backend.from_host(inverses, layout)
        return MomentInverse(
            self.columns, self.size, native, diagonal.reshape(-1), layout.epsilon + DOUBLE_EPSILON * condition
        )

    def _matrices(self, some: slice, scaling: Scaling) -> Floats:
        matrices = self.sums[some] / scaling.count
        matrices[:, range(self.size), range(self.size)] += scaling.damping
        return matrices

    def _singular(self, matrices: Floats, first: int, scaling: Scaling) -> InvalidInputError:
        values = np.linalg.eigvalsh(matrices)
        worst = int(np.argmin(values[:, 0] / np.maximum(values[:, -1], np.finfo(float).tiny)))
        start = self.columns.start + (first + worst) * self.size
        return InvalidInputError(
            f"the matrix is singular within rounding: with damping {scaling.damping:g} the eigenvalues of its block "
            f"for the entries {start} to {start + self.size - 1} reach from {values[worst, 0]:.3g} to "
            f"{values[worst, -1]:.3g}. Give a larger damping, or rows that span all dimensions."
        )


def _checked_inverses(matrices: Floats) -> tuple[Floats, float]:
    """Return symmetric inverses and the largest condition number in the 1-norm, infinite for a singular matrix."""
    try:
        inverses = np.linalg.inv(matrices)
    except np.linalg.LinAlgError:
        return matrices, np.inf
    inverses = (inverses + inverses.transpose(0, 2, 1)) / 2
    return inverses, float(np.max(np.abs(matrices).sum(1).max(1) * np.abs(inverses).sum(1).max(1)))


@dataclass(frozen=True, eq=False)
class MomentInverse:
    """Inverses of the diagonal blocks, on the device.

    Attributes
    ----------
    columns : slice
        Entries of the rows that belong to the blocks.
    size : int
        Number of entries in each block.
    inverses : native (k, size, size) array
        The inverse of each block.
    diagonal : ndarray (k * size,)
        Diagonals of these inverses, in float64.
    precision : float
        Relative error of a product.
    """

    columns: slice
    size: int
    inverses: Array
    diagonal: Floats
    precision: float
