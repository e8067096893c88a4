"""One diagonal block of damping I + (1/m) sum g g' by the Gram matrix of its rows, where those are fewer than entries.

The Gram matrix is held in float64 on the host, and factored anew when an inverse is wanted, because the scaling 1/m of
all rows may have changed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from specop.arrays.layout import Layout
from specop.errors import InvalidInputError
from specop.solvers.woodbury.partition import DOUBLE_EPSILON, WORST_PRECISION, Scaling
from specop.solvers.woodbury.stored_rows import StoredRows
from specop.statistics.numbers import Floats, Integers

__all__ = ["GramBlock", "GramInverse"]


class GramBlock:
    """Gram matrix of the rows' entries in some columns; the rows must be at hand for products.

    Parameters
    ----------
    columns : slice
        Entries of the rows that belong to the block.
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
            new = blocks[number:]
            gram[known:, known:] += rows.backend.row_products(new, new)
            if number:
                gram[known:, :known] += rows.backend.row_products(new, blocks[:number])
        gram[:known, known:] = gram[known:, :known].T
        self.gram = gram

    def keep(self, indices: Integers) -> None:
        """Forget all other rows."""
        self.gram = self.gram[np.ix_(indices, indices)]

    def inverse(self, scaling: Scaling, active: Integers, layout: Layout) -> GramInverse:
        """Return the inverse of the matrix that the active rows make.

        Parameters
        ----------
        scaling : Scaling
            Damping, and the divisor of the sum.
        active : ndarray of int
            Numbers of the rows that belong to the sum.
        layout : Layout
            Layout of a row.
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
        precision = layout.epsilon * (1 + np.sqrt(ratio)) + DOUBLE_EPSILON * ratio
        if not precision < WORST_PRECISION:
            raise InvalidInputError(
                f"the damping {scaling.damping:g} is too small for products in {layout.dtype}: the rows' part of the "
                f"matrix is {ratio:.1e} times as large, and no digit of the inverse would be right. Raise the damping, "
                f"or convert the rows to float64."
            )
        factor = scipy.linalg.cholesky(gram + shift * np.eye(len(gram)), lower=True) if len(gram) else gram
        return GramInverse(self.columns, factor, active, len(self.gram), scaling.damping, float(precision))


@dataclass(frozen=True, eq=False)
class GramInverse:
    """``(x - G' (damping count I + G G')^-1 G x) / damping`` for the active rows G.

    Attributes
    ----------
    columns : slice
        Entries of the rows that belong to the block.
    factor : ndarray (m, m)
        Lower Cholesky factor of the matrix that is inverted on the host.
    active : ndarray of int (m,)
        Numbers of the stored rows that are in G.
    stored : int
        Number of stored rows.
    damping : float
        Added to the diagonal of the block.
    precision : float
        Relative error of a product.
    """

    columns: slice
    factor: Floats
    active: Integers
    stored: int
    damping: float
    precision: float

    def solve(self, products: Floats) -> Floats:
        """Return the coefficients of all stored rows, from their products with x; zero for those not active."""
        coefficients = np.zeros_like(products)
        if len(self.active):
            coefficients[self.active] = scipy.linalg.cho_solve((self.factor, True), products[self.active])
        return coefficients

    def square_root(self) -> Floats:
        """Return R with ``G' (...)^-1 G = (G' R)(G' R)'``, a row for each stored row."""
        root = np.zeros((self.stored, len(self.active)))
        if len(self.active):
            eye = np.eye(len(self.active))
            root[self.active] = scipy.linalg.solve_triangular(self.factor, eye, lower=True).T
        return root
