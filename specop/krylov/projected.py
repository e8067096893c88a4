"""The small matrix of a Krylov space: what products have told about A on its rows, and the algebra of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from specop.krylov.recurrence import Recurrence, eigenpairs
from specop.statistics.numbers import Booleans, Floats, Integers

__all__ = ["ProjectedMatrix", "Ritz"]


# Directions that differ by less than this share are one.
_SMALL_SHARE = 1e-3
# What chosen vectors leave of a direction of their span.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Ritz:
    """Eigenpairs of a projected matrix.

    Attributes
    ----------
    rows : ndarray of int
        Rows of the space that the matrix was projected on.
    values : ndarray
        Ritz values, ascending.
    coefficients : ndarray
        Coordinates of the Ritz vectors along `rows`, in columns.
    residuals : ndarray
        Norms of A x - theta x.
    inner_residuals : ndarray
        Norms of A x - theta x without its part along rows of the space before the first of `rows`.
    """

    rows: Integers
    values: Floats
    coefficients: Floats
    residuals: Floats
    inner_residuals: Floats


class ProjectedMatrix:
    r"""G = V A V' for orthonormal rows V, as far as products have told.

    Some rows have been multiplied, the others are the frontier. With M the multiplied and U the frontier rows,

        A V_M' = V_M' G_MM + V_U' G_UM,

    and the residual of a Ritz pair (theta, V_M's) of G_MM is \|G_UM s\|. A part of a product that no row holds any more
    counts as `lost`, and adds to the residuals.

    Parameters
    ----------
    capacity : int
        Largest number of rows.

    Attributes
    ----------
    size : int
        Number of rows.
    entries : ndarray (capacity, capacity)
        G; zero where it is not known.
    multiplied : ndarray of bool (capacity,)
    lost : ndarray (capacity,)
        Norm of the part of each row's product that lies outside of all rows.
    chain : int
        From this row on G is tridiagonal, and only the last row may be on the frontier.
    """

    def __init__(self, capacity: int) -> None:
        self.size = 0
        self.entries = np.zeros((capacity, capacity))
        self.multiplied = np.zeros(capacity, dtype=bool)
        self.lost = np.zeros(capacity)
        self.chain = 0
        self._frontier: Integers | None = None

    @property
    def frontier(self) -> Integers:
        """Rows that have not been multiplied, oldest first."""
        if self._frontier is None:
            self._frontier = np.flatnonzero(~self.multiplied[: self.size])
        return self._frontier

    def append(self) -> None:
        """Add a row to the frontier."""
        self.chain = self.size
        self.size += 1
        self._frontier = None

    def append_eigenvector(self, value: float, residual: float) -> None:
        """Add a row that need not be multiplied."""
        self.entries[self.size, self.size] = value
        self.multiplied[self.size] = True
        self.lost[self.size] = residual
        self.size += 1
        self._frontier = None

    def expected(self, row: int) -> tuple[Floats, Booleans]:
        """Return what a row's product has along all rows, and where that is known before it is measured."""
        return self.entries[: self.size, row], self.multiplied[: self.size] & (self.lost[: self.size] == 0)

    def record(self, row: int, column: Floats) -> None:
        """Count a row as multiplied; `column` is what its product has along all rows."""
        self.entries[: self.size, row] = self.entries[row, : self.size] = column
        self.multiplied[row] = True
        self._frontier = None
        if column[self.chain : max(row - 1, 0)].any():
            self.chain = row

    def join(self, row: int, coupling: float) -> None:
        """Add a row to the frontier: what the product of another row has outside of all rows, `coupling` long."""
        self.entries[self.size, row] = self.entries[row, self.size] = coupling
        if row != self.size - 1:
            self.chain = self.size
        self.size += 1
        self._frontier = None

    def neglect(self) -> None:
        """Give up the newest row, which is not multiplied; what products have along it is lost."""
        newest = self.size - 1
        self.lost[:newest] = np.hypot(self.lost[:newest], self.entries[:newest, newest])
        self.truncate(newest)

    def reopen(self, rows: Integers) -> None:
        """Put multiplied rows on the frontier again."""
        self.multiplied[rows] = False
        self.lost[rows] = 0.0
        self.chain = self.size
        self._frontier = None

    def truncate(self, size: int) -> None:
        """Forget all rows from this one on."""
        self.size = size
        self.chain = min(self.chain, size)
        self._frontier = None
        self.entries[size:] = self.entries[:, size:] = 0.0
        self.multiplied[size:] = False
        self.lost[size:] = 0.0

    def ritz(self, first: int = 0) -> Ritz:
        """Return the Ritz pairs of the multiplied rows from `first` on."""
        rows, frontier = first + np.flatnonzero(self.multiplied[first : self.size]), self.frontier
        if first >= self.chain:
            diagonal, beside = self._tridiagonal(first, first + len(rows))
            values, coefficients = eigenpairs(diagonal, beside)
        else:
            values, coefficients = _eigh(self.entries[np.ix_(rows, rows)])
        if len(frontier) == 1 and frontier[0] > first >= self.chain:
            # Of a recurrence only the last row leads on.
            inner = known = np.abs(self.entries[frontier[0], frontier[0] - 1] * coefficients[-1])
        else:
            coupling = self.entries[np.ix_(frontier, rows)] @ coefficients
            inner = np.linalg.norm(coupling[frontier >= first], axis=0)
            known = np.linalg.norm(coupling, axis=0)
        return Ritz(rows, values, coefficients, np.hypot(known, self.lost[rows] @ np.abs(coefficients)), inner)

    def recurrence(self, first: int = 0) -> Recurrence | None:
        """Return the recurrence that the rows from one on follow, where G is tridiagonal there; else None."""
        # From `chain` on only the last row may be ahead.
        m = self.size - (self.size - 1 in self.frontier[-1:])
        if first < self.chain or m <= first or self.lost[first:m].any():
            return None
        return Recurrence(*self._tridiagonal(first, m), float(self.entries[m - 1, m]) if m < self.size else 0.0)

    def _tridiagonal(self, first: int, last: int) -> tuple[Floats, Floats]:
        """Return the diagonal of some rows of G, and what stands beside it."""
        return np.diagonal(self.entries)[first:last], np.diagonal(self.entries, 1)[first : max(last - 1, first)]

    def multiply(self, x: Floats) -> Floats:
        """Return G x."""
        G = self.entries[: self.size, : self.size]
        if self.chain:
            # No BLAS, whose threads would spin beside those of a framework.
            return np.einsum("ij,j->i", G, x)
        beside = np.diagonal(G, 1)
        product = np.diagonal(G) * x
        product[:-1] += beside * x[1:]
        product[1:] += beside * x[:-1]
        return product

    def next_for(self, ritz: Ritz, pair: int) -> tuple[int, bool]:
        """Return the row whose product reduces a pair's residual most, and whether it is on the frontier."""
        weights = ritz.coefficients[:, pair]
        frontier = self.frontier
        along = np.abs(self.entries[np.ix_(frontier, ritz.rows)] @ weights)
        missing = self.lost[ritz.rows] * np.abs(weights)
        if len(frontier) and along.max() >= missing.max():
            return int(frontier[np.argmax(along)]), True
        return int(ritz.rows[np.argmax(missing)]), False

    def remove(self, ritz: Ritz, keep: Integers, directions: Floats) -> Floats:
        """Give up rows, as `KrylovSpace.remove` says; return coordinates of the new ones along the old, in columns."""
        kept, frontier = ritz.coefficients[:, keep], self.frontier
        rest = directions - kept @ (kept.T @ directions)
        lengths = np.linalg.norm(rest, axis=0)
        beside = lengths > _ROUNDING * np.linalg.norm(directions, axis=0)
        rest, sizes, _ = np.linalg.svd(rest[:, beside] / lengths[beside], full_matrices=False)
        given_up = rest[:, sizes > _SMALL_SHARE * sizes.max(initial=0.0)]
        others = np.linalg.qr(np.concatenate([kept, given_up], axis=1), mode="complete")[0]
        turn = np.concatenate([kept, others[:, kept.shape[1] + given_up.shape[1] :]], axis=1)
        G = self.entries[np.ix_(ritz.rows, ritz.rows)] @ turn
        inside = turn.T @ G
        outside = np.concatenate([G - turn @ inside, self.entries[np.ix_(frontier, ritz.rows)] @ turn])
        lost = np.hypot(self.lost[ritz.rows] @ np.abs(turn), np.linalg.norm(outside, axis=0))
        change = np.zeros((self.size, turn.shape[1]))
        change[ritz.rows] = turn
        self.truncate(0)
        self.size = self.chain = turn.shape[1]
        self.entries[: self.size, : self.size] = inside
        self.multiplied[: self.size] = True
        self.lost[: self.size] = lost
        self._frontier = None
        return change

    def compress(self, ritz: Ritz, keep: Integers, forget_frontier: bool) -> Floats:
        """Replace rows, as `KrylovSpace.restart` says; return coordinates of the new ones along the old, in columns.

        The old ones count from the first of `ritz.rows` on. With one frontier row the new rows are chosen so that G is
        tridiagonal again.
        """
        first = int(ritz.rows[0])
        frontier = self.frontier[self.frontier >= first]
        coefficients, values = ritz.coefficients[:, keep], np.diag(ritz.values[keep])
        lost = self.lost[ritz.rows] @ np.abs(coefficients)
        if forget_frontier:
            lost = np.hypot(lost, ritz.inner_residuals[keep])
            frontier = frontier[:0]
        coupling = self.entries[np.ix_(frontier, ritz.rows)] @ coefficients
        is_chain = len(frontier) == 1 and not lost.any()
        if is_chain:
            turn, values, coupling = _bordered(ritz.values[keep], coupling[0])
            coefficients = coefficients @ turn
        outside = self.entries[:first, ritz.rows] @ coefficients
        beyond = self.entries[np.ix_(np.arange(first), frontier)]

        p = len(keep)
        change = np.zeros((self.size - first, p + len(frontier)))
        change[ritz.rows - first, :p] = coefficients
        change[frontier - first, p + np.arange(len(frontier))] = 1.0
        self.truncate(first)
        self.size = first + p + len(frontier)
        self.chain = first if is_chain else self.size
        kept, ahead = slice(first, first + p), slice(first + p, self.size)
        self.entries[kept, kept] = values
        self.entries[ahead, kept], self.entries[kept, ahead] = coupling, coupling.T
        self.entries[:first, kept], self.entries[kept, :first] = outside, outside.T
        self.entries[:first, ahead], self.entries[ahead, :first] = beyond, beyond.T
        self.multiplied[kept] = True
        self.lost[kept] = lost
        self._frontier = None
        return change

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as plain values and arrays."""
        m = self.size
        small = {"multiplied": self.multiplied[:m], "lost": self.lost[:m], "entries": self.entries[:m, :m].copy()}
        return {"size": m, "chain": self.chain} | small

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        m = self.size = state["size"]
        self.chain = state["chain"]
        self.entries[:m, :m] = state["entries"]
        self.multiplied[:m], self.lost[:m] = state["multiplied"], state["lost"]
        self._frontier = None


def _eigh(G: Floats) -> tuple[Floats, Floats]:
    """Return the eigenvalues and eigenvectors of a small symmetric matrix.

    This wakes the threads of SciPy's BLAS, which then spin beside those of a framework on the same cores: products ran
    at half their speed for it.
    """
    if len(G) == 0:
        return np.zeros(0), np.zeros((0, 0))
    values, vectors = scipy.linalg.eigh(G, driver="evr", check_finite=False)
    return np.asarray(values, dtype=np.float64), np.asarray(vectors, dtype=np.float64)


def _bordered(values: Floats, coupling: Floats) -> tuple[Floats, Floats, Floats]:
    """Turn diag(values) with one coupling row into a tridiagonal matrix coupled through its last entry only.

    Householder reflections of the bordered matrix keep its first row, here the coupling, apart from the others.
    """
    p = len(values)
    bordered = np.diag(np.concatenate([[0.0], values]))
    bordered[0, 1:] = bordered[1:, 0] = coupling
    reduced, turn = scipy.linalg.hessenberg(bordered, calc_q=True)
    reduced = np.asarray(reduced, dtype=np.float64)[:0:-1, :0:-1]
    turn = np.asarray(turn, dtype=np.float64)[1:, :0:-1]
    diagonal, beside = np.diagonal(reduced), np.diagonal(reduced, 1)
    tridiagonal = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
    ahead = np.zeros((1, p))
    ahead[0, -1] = turn[:, -1] @ coupling
    return turn, tridiagonal, ahead
