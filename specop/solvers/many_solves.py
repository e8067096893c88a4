"""ManySolves: one symmetric system for many right-hand sides, which come in blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from specop.arrays.backend import Array
from specop.errors import NotConvergedError
from specop.krylov.task import Task
from specop.operators.operator import LinearOperator
from specop.solvers.decompositions import Decomposition, decomposed
from specop.solvers.solve import solve
from specop.statistics.numbers import Floats

__all__ = ["LARGEST", "Attempts", "ManySolves", "Solutions"]

# A right-hand side takes at least about this many products, so that fewer unknowns than that are solved for densely.
_EACH = 4
LARGEST = 1000


class ManySolves:
    """Solves with one operator, by the way that takes the fewest products for all right-hand sides together.

    Where the solves would take more products than the matrix has columns, or its entries are known, it is inverted on
    the host in float64. Residuals are looked at all the same, and what rounding leaves too inexact is solved for by
    products.

    Parameters
    ----------
    attempts : Attempts
        Solves by products; remembers the residuals of all.
    A : LinearOperator
        Symmetric matrix of all systems.
    count : int
        Number of right-hand sides in all.
    matrix : ndarray (n, n), optional
        The entries of A, where they are at hand.
    """

    def __init__(self, attempts: Attempts, A: LinearOperator, count: int, matrix: Floats | None = None) -> None:
        self._attempts, self._operator = attempts, A
        self._dense: Decomposition | None = None
        is_worth_it = attempts.allows(A.shape[1]) and A.shape[1] <= min(LARGEST, _EACH * count)
        if matrix is not None or is_worth_it:
            self._dense = decomposed(A, matrix)
            lowest = self._dense.regular()[0]
            if lowest < 0:
                attempts.remark(f"converged; {A!r} is not positive definite: it has the eigenvalue {lowest:.3g}")

    def __call__(self, block: Array) -> Solutions:
        """Return the solutions for the columns of a native (n, k) block."""
        if self._dense is not None:
            values, vectors = self._dense.values[:, None], self._dense.vectors
            (b,) = self._operator.backend.to_host(block)
            x = vectors @ ((vectors.T @ b) / values)
            residuals = np.linalg.norm(b - vectors @ (values * (vectors.T @ x)), axis=0)
            if self._attempts.accept(residuals, np.linalg.norm(b, axis=0)):
                return Solutions(self._operator, on_host=x)
        return Solutions(self._operator, native=self._attempts.solve(self._operator, block))


@dataclass(frozen=True, eq=False)
class Solutions:
    """Solutions of a block of right-hand sides.

    Attributes
    ----------
    operator : LinearOperator
        Matrix of the systems.
    native : native array (n, k), optional
        One solution in each column.
    on_host : ndarray (n, k), optional
        The solutions in float64, as exact as that whatever the operator's dtype is; where there is no native array.
    """

    operator: LinearOperator
    native: Array = None
    on_host: Floats | None = None

    def products(self, rows: Array) -> Floats:
        """Return the inner product of each row of a native block (b, n) with each solution, (b, k)."""
        backend = self.operator.backend
        if self.on_host is None:
            return backend.row_products([rows], [backend.transpose(self.native)])
        return backend.to_host(rows)[0] @ self.on_host

    def paired(self, rows: Array) -> Floats:
        """Return the inner product of each row of a native block (k, n) with its own solution, (k,)."""
        backend = self.operator.backend
        if self.on_host is not None:
            return np.einsum("ij,ji->i", backend.to_host(rows)[0], self.on_host)
        pairs = zip(backend.columns(backend.transpose(rows)), self.columns(), strict=True)
        return np.array(backend.to_host(*(backend.dot(row, x) for row, x in pairs)))

    def columns(self) -> list[Array]:
        """Return the solutions as native vectors."""
        if self.on_host is None:
            return self.operator.backend.columns(self.native)
        return [self.operator.backend.from_host(x, self.operator.domain) for x in self.on_host.T]


@dataclass
class Attempts:
    """Solves of one task under its limit, without warnings: what they had to say is remembered.

    Parameters
    ----------
    task : Task
        The call that the solves are a part of; it counts the products.
    rtol, atol : float
        Goal for each residual, the larger of ``rtol |b|`` and `atol`.
    max_matvecs : int, optional
        Limit on the task's products; a solve that comes later gets two.
    preconditioner : LinearOperator, optional
        An approximation of the inverse.

    Attributes
    ----------
    residuals : list of ndarray
        Norms of b - A x for each block.
    converged : bool
        Whether all of them are small enough.
    message : str
        Message of the first solve that failed, or else of the first with something to say.
    """

    task: Task
    rtol: float
    atol: float
    max_matvecs: int | None = None
    preconditioner: Any = None
    residuals: list[Floats] = field(default_factory=list)
    converged: bool = True
    message: str = "converged"

    def solve(self, A: LinearOperator, b: Array) -> Array:
        """Return a solution in the form of b, a native vector (n,) or block (n, k)."""
        left = None if self.max_matvecs is None else max(2, self.max_matvecs - self.task.products)
        try:
            found = solve(
                A,
                b,
                rtol=self.rtol,
                atol=self.atol,
                max_matvecs=left,
                preconditioner=self.preconditioner,
                seed=self.task.seed,
                raise_on_failure=True,
            )
        except NotConvergedError as error:
            found = error.result
        self.residuals.append(found.residuals)
        self.remark(found.message, found.converged)
        return found.solution

    def allows(self, products: int) -> bool:
        """Return whether a dense matrix may stand for the solves, and take so many products."""
        left = products if self.max_matvecs is None else self.max_matvecs - self.task.products
        return self.preconditioner is None and products <= left

    def accept(self, residuals: Floats, lengths: Floats) -> bool:
        """Take in the residuals of solutions that were found otherwise, if they are small enough; return whether so."""
        small = bool((residuals <= np.maximum(self.rtol * lengths, self.atol)).all())
        self.residuals += [residuals] * small
        return small

    def remark(self, message: str, converged: bool = True) -> None:
        """Remember what a solve had to say."""
        if (converged, message == "converged") < (self.converged, self.message == "converged"):
            self.converged, self.message = converged, message
