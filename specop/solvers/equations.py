"""The systems that a solver works on: products counted, scalars checked, residuals computed anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specop.arrays.backend import Array
from specop.errors import AsymmetryError, NonFiniteError
from specop.operators.operator import LinearOperator

__all__ = ["Equations", "Outcome"]


@dataclass(frozen=True)
class Outcome:
    """How a method ended.

    Attributes
    ----------
    reason : str
        "converged", "limit", "curvature", "full", "rounding" or "least squares".
    steps : int
        Iterations.
    curvature, direction : float or None, native vector or None
        Of a unit vector p, p'Ap and p, where that is not positive.
    """

    reason: str
    steps: int
    curvature: float | None = None
    direction: Array | None = None


class Equations:
    """A X = B for some columns, and where their solutions stand.

    Parameters
    ----------
    operator : LinearOperator
        A, symmetric.
    preconditioner : LinearOperator or None
        M, about the inverse of A.
    rhs : list of native vectors
        B.
    lengths : ndarray
        Their norms.
    start : list of native vectors or None
        First X, consumed; zero if None.
    goals : ndarray
        Norm that each column's residual is to reach.
    update : callable
        Progress: called with products and a note.

    Attributes
    ----------
    x : list of native vectors
        X.
    norms : ndarray
        Of the true residuals, as of the last time that they were computed.
    products : int
    """

    def __init__(
        self,
        operator: LinearOperator,
        preconditioner: LinearOperator | None,
        rhs: list[Array],
        lengths: NDArray[np.float64],
        start: list[Array] | None,
        goals: NDArray[np.float64],
        update: Callable[[int, str], None],
    ) -> None:
        self.operator = operator
        self.backend = operator.backend
        self.preconditioner = preconditioner
        self.rhs = rhs
        self.goals = goals
        self.x = [self.backend.zeros(operator.domain) for _ in rhs] if start is None else start
        self.norms = np.full(len(rhs), np.inf)
        self.lengths = lengths
        self.products = 0
        self._update = update
        self._is_moved = [start is not None for _ in rhs]

    def multiply(self, vector: Array) -> Array:
        """Return A times a vector; the only place where a solver multiplies."""
        self.products += 1
        return self.operator._matvec(vector)

    def precondition(self, residual: Array) -> Array:
        """Return M times a residual, in storage of its own."""
        if self.preconditioner is None:
            return self.backend.copy(residual)
        return self.preconditioner._matvec(residual)

    def residuals(self, columns: range) -> list[Array]:
        """Return b - A x of some columns, computed anew, and note their norms."""
        found = []
        for j in columns:
            if self._is_moved[j]:
                found.append(self.backend.axpy_(self.backend.scale_(self.multiply(self.x[j]), -1.0), 1.0, self.rhs[j]))
            else:
                found.append(self.backend.copy(self.rhs[j]))
        self.norms[columns.start : columns.stop] = self.scalars(*(self.backend.norm(r) for r in found))
        return found

    def move(self, column: int, step: float, direction: Array) -> None:
        """Add to a column's solution."""
        self.x[column] = self.backend.axpy_(self.x[column], step, direction)
        self._is_moved[column] = True

    def begin(self, column: int) -> Array:
        """Return a column's residual, from zero if its present solution is worse than that."""
        only = range(column, column + 1)
        (residual,) = self.residuals(only)
        return residual if self.norms[column] <= self.lengths[column] else self.forget(column)

    def forget(self, column: int) -> Array:
        """Take a column back to zero, and return its residual."""
        self.x[column] = self.backend.zeros(self.operator.domain)
        self._is_moved[column] = False
        return self.residuals(range(column, column + 1))[0]

    def scalars(self, *arrays: Array) -> NDArray[np.float64]:
        """Return device scalars by one transfer, or raise NonFiniteError naming the product behind them."""
        found = np.array([float(value) for value in self.backend.to_host(*arrays)])
        if np.isfinite(found).all():
            return found
        source = f"product {self.products} with {self.operator!r}"
        if self.preconditioner is not None:
            source += f", or one with the preconditioner {self.preconditioner!r},"
        raise NonFiniteError(
            f"{source} holds NaN or infinity, or its norm overflows {self.operator.dtype}. Check the parameters and "
            f"the data for NaN, the loss for overflow, and x0 if there is one."
        )

    def report(self, norms: NDArray[np.float64], goals: NDArray[np.float64]) -> None:
        """Show progress."""
        worst = int(np.argmax(norms / goals)) if goals.all() else int(np.argmax(norms))
        self._update(self.products, f"residual {norms[worst]:.1e}, goal {goals[worst]:.1e}")

    def check_symmetry(self, column: int, residual: Array, direction: Array, image: Array) -> None:
        """Compare p'(A x) with x'(A p), given the residual b - A x and A p: no product is needed for it."""
        backend, x = self.backend, self.x[column]
        ax = backend.axpy_(backend.copy(self.rhs[column]), -1.0, residual)
        left, right, p, q, length, along = self.scalars(
            backend.dot(direction, ax),
            backend.dot(x, image),
            *(backend.norm(vector) for vector in (direction, image, x, ax)),
        )
        deviation, scale = abs(left - right), max(p * along, q * length)
        if deviation > (5e-2 if self.operator.precision > 1e-5 else 1e-3) * scale:
            raise AsymmetryError(
                f"{self.operator!r} is not symmetric: after {self.products} products p'(A x) and x'(A p) differ by "
                f"{deviation / scale:.1e} relative. Symmetrize with (A + A.T) / 2 if A is meant to be symmetric; "
                f"otherwise solve A.T A x = A.T b."
            )
