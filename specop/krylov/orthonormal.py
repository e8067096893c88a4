"""OrthonormalRows: vectors on the device that every new one is made orthogonal to, as far as that is needed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from specop.arrays.backend import Array
from specop.arrays.rows import rows_of_block
from specop.krylov.orthogonality import Orthogonality
from specop.krylov.projected import ProjectedMatrix
from specop.krylov.run import Run
from specop.statistics.numbers import Floats

__all__ = ["OrthonormalRows", "coefficient_norm"]

# Two do unless nearly all dimensions are taken; the last one is for rows that are not orthonormal, where none does.
_MOST_PASSES = 4


class OrthonormalRows:
    """Orthonormal rows V, as many as the matrix projected on them has.

    Orthogonality comes from the recurrence, followed by a classical Gram-Schmidt pass against every row unless
    `Orthogonality` tells that the recurrence was enough, and by a second pass where the first removed much.

    Parameters
    ----------
    run : Run
        Moves scalars to the host, and asks for memory before rows are taken.
    matrix : ProjectedMatrix
        V A V', which tells what a product has along the rows before that is measured.
    capacity : int
        Largest number of rows.
    lead : int
        Number of rows that are to outlive the others.
    """

    def __init__(self, run: Run, matrix: ProjectedMatrix, capacity: int, lead: int) -> None:
        self._run = run
        self._backend = run.backend
        self._layout = run.A.domain
        self._epsilon = self._layout.epsilon
        self._matrix = matrix
        self._orthogonality = Orthogonality(capacity, run.n, max(self._epsilon, run.A.precision))
        self._basis = self._backend.allocate(self._layout, capacity, lead)
        self._paid = 0

    def row(self, i: int) -> Array:
        """Return a row, to be read only."""
        return self._backend.row(self._basis, i)

    def set_next(self, vector: Array, factor: float) -> None:
        """Write the next row, a vector times a factor; raise NotEnoughMemoryError before memory runs out."""
        size = self._matrix.size
        if size >= self._paid:
            self._paid = size + self._run.pay(size, rows_of_block(self._layout))
        self._basis = self._backend.set_row_(self._basis, size, vector, factor)

    def remainder(self, product: Array, row: int, scale: float) -> tuple[Array, Floats, float]:
        """Return what the product of a row has outside of all rows, its coefficients along them, and what is left.

        For a symmetric A the coefficients along multiplied rows are known before they are measured, and mostly zero.
        Without the few others, the product is nearly orthogonal to all rows, and one pass over them does, or none.

        Parameters
        ----------
        product : native vector
            Product of a row; it is consumed.
        row : int
            The row that was multiplied.
        scale : float
            Norm of the largest product so far.
        """
        size, orthogonality = self._matrix.size, self._orthogonality
        expected, known = self._matrix.expected(row)
        near, unknown = np.flatnonzero(known & (expected != 0)).tolist(), size - int(np.count_nonzero(known))
        if 4 * (len(near) + unknown) > size or not orthogonality.may_wait(size):
            return self.orthogonalize(product, [*near, row], scale)
        near += np.flatnonzero(~known).tolist()
        column = np.zeros(size)
        rest, *scalars = self._backend.orthogonalize_(product, self._basis, 0, near)
        column[near], _, left = self._run.to_host(*scalars)
        beta = float(left)
        scale = max(scale, math.hypot(coefficient_norm(column), beta))
        noise = max(self._epsilon, self._run.asymmetry) * scale
        if not orthogonality.accept(self._matrix, row, near, column, beta, noise):
            rest, more, beta = self.orthogonalize(rest, [], scale)
            column += more
        return rest, column, beta

    def orthogonalize(self, vector: Array, near: list[int], scale: float) -> tuple[Array, Floats, float]:
        """Return what a vector has outside of the rows, its coefficients along them, and the norm of what is left.

        Parameters
        ----------
        vector : native vector
            Vector to make orthogonal to all rows; it is consumed.
        near : list of int
            Rows along which the vector may be long.
        scale : float
            Norm that rounding is relative to.
        """
        size = self._matrix.size
        column = np.zeros(size)
        for _ in range(_MOST_PASSES):
            vector, *scalars = self._backend.orthogonalize_(vector, self._basis, size, near)
            first, second, left = self._run.to_host(*scalars)
            beta, removed = float(left), coefficient_norm(second)
            column[near] += first
            column += second
            scale = max(scale, math.hypot(coefficient_norm(column), beta))
            # Where a pass removed no more than it left, its own rounding is small beside what is left (Daniel, Gragg,
            # Kaufman and Stewart, 1976).
            if removed <= beta or beta <= self.negligible(scale):
                break
            near = []
        self._orthogonality.renew(size)
        return vector, column, beta

    def outside(self, vector: Array) -> Array:
        """Return a vector after one pass of Gram-Schmidt against all rows; it is consumed."""
        return self._backend.orthogonalize_(vector, self._basis, self._matrix.size, ())[0]

    def negligible(self, scale: float) -> float:
        """Return the length below which what is left of a vector this long is rounding."""
        return max(10, self._matrix.size) * self._epsilon * scale

    def turn(self, change: Floats, first: int) -> None:
        """Replace the rows from `first` on by ``change.T @ rows``."""
        self._basis = self._backend.combine_(self._basis, change, first)
        self._orthogonality.combine(change, first)

    def combine(self, coordinates: Floats) -> Array:
        """Return the sum of the first rows times these coordinates."""
        total = self._backend.zeros(self._layout)
        for i in np.flatnonzero(coordinates):
            total = self._backend.axpy_(total, float(coordinates[i]), self.row(int(i)))
        return total

    def extract(self, change: Floats) -> Array:
        """Return ``change.T @ rows`` as the rows of one array, and give up the basis."""
        return self._backend.take(self._backend.combine_(self._basis, change, 0), change.shape[1])

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs: plain values, arrays, and functions that copy one row each to the host."""
        size = self._matrix.size
        rows = {f"row{i}": lambda i=i: self._backend.to_numpy(self.row(i)) for i in range(size)}
        return self._orthogonality.state(size) | rows

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state, once the matrix has been restored."""
        for i in range(self._matrix.size):
            row = self._backend.from_host(state[f"row{i}"], self._layout)
            self._basis = self._backend.set_row_(self._basis, i, row, 1.0)
        self._orthogonality.restore(state)


def coefficient_norm(x: Floats) -> float:
    """Return the norm of coefficients, also where their squares overflow."""
    return math.hypot(*x.tolist())
