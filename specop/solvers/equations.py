"""The systems that a solver works on: where their solutions stand, and their residuals, computed anew."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from specop.arrays.backend import Array
from specop.errors import NonFiniteError
from specop.krylov.run import Run
from specop.solvers.operands import Operands
from specop.statistics.numbers import Floats

__all__ = ["Equations", "Outcome"]


@dataclass(frozen=True)
class Outcome:
    """How a method ended.

    Attributes
    ----------
    reason : str
        "converged", "limit", "curvature", "full", "rounding" or "least squares".
    steps : int
        Number of iterations.
    curvature, direction : float or None, native vector or None
        p'Ap and p of a unit vector p, where that is not positive.
    """

    reason: str
    steps: int
    curvature: float | None = None
    direction: Array | None = None


class Equations:
    """A X = B for some columns, and where their solutions stand.

    Parameters
    ----------
    run : Run
        Multiplies by A, which is symmetric.
    operands : Operands
        The right-hand sides B.
    goals : ndarray (k,)
        Norm that each column's residual is to reach.
    start : list of native vectors, optional
        The first X, which is consumed; zero by default.
    preconditioner : Run, optional
        Multiplies by M, about the inverse of A.

    Attributes
    ----------
    x : list of native vectors
        Columns of the present solution X.
    norms : ndarray (k,)
        Norms of the true residuals, as of the last time that they were computed.
    has_start : bool
        Whether X began at something else than zero.
    """

    def __init__(
        self,
        run: Run,
        operands: Operands,
        goals: Floats,
        start: list[Array] | None = None,
        preconditioner: Run | None = None,
    ) -> None:
        self.run = run
        self.A = run.A
        self.backend = run.backend
        self.preconditioner = preconditioner
        self.rhs = operands.columns
        self.lengths = operands.lengths
        self.goals = goals
        self.x = [self.backend.zeros(self.A.domain) for _ in self.rhs] if start is None else start
        self.norms = np.where(self.lengths > 0, np.inf, 0.0)
        self.has_start = start is not None
        self._is_moved = [self.has_start for _ in self.rhs]

    def precondition(self, residual: Array) -> Array:
        """Return M times a residual, in storage of its own."""
        if self.preconditioner is None:
            return self.backend.copy(residual)
        return self.preconditioner.multiply(residual)

    def residuals(self, columns: range) -> list[Array]:
        """Return b - A x of some columns, computed anew, and note their norms."""
        found = []
        for j in columns:
            if self._is_moved[j]:
                image = self.backend.scale_(self.run.multiply(self.x[j]), -1.0)
                found.append(self.backend.axpy_(image, 1.0, self.rhs[j]))
            else:
                found.append(self.backend.copy(self.rhs[j]))
        self.norms[columns] = self.scalars(*map(self.backend.norm, found))
        return found

    def residual(self, column: int) -> Array:
        """Return b - A x of one column, computed anew, and note its norm."""
        return self.residuals(range(column, column + 1))[0]

    def move(self, column: int, step: float, direction: Array) -> None:
        """Add to a column's solution."""
        self.x[column] = self.backend.axpy_(self.x[column], step, direction)
        self._is_moved[column] = True

    def begin(self, column: int) -> Array:
        """Return a column's residual, from zero if its present solution is worse than that."""
        residual = self.residual(column)
        return residual if self.norms[column] <= self.lengths[column] else self.forget(column)

    def forget(self, column: int) -> Array:
        """Take a column back to zero, and return its residual."""
        self.x[column] = self.backend.zeros(self.A.domain)
        self._is_moved[column] = False
        return self.residual(column)

    def scalars(self, *arrays: Array) -> Floats:
        """Return device scalars by one transfer, or raise NonFiniteError naming the product behind them."""
        try:
            return np.array([float(value) for value in self.run.to_host(*arrays)])
        except NonFiniteError as error:
            if self.preconditioner is None:
                raise
            raise NonFiniteError(f"{error} Or one with the preconditioner {self.preconditioner.A!r} does.") from error

    def report(self, norms: Floats, goals: Floats) -> None:
        """Show progress."""
        worst = int(np.argmax(norms / goals)) if goals.all() else int(np.argmax(norms))
        self.run.update(f"residual {norms[worst]:.1e}, goal {goals[worst]:.1e}")

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
        if deviation > self.run.refused_asymmetry * scale:
            self.run.note_asymmetry(deviation / scale, direction)
