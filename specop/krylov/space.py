"""KrylovSpace: orthonormal rows, what A is on them, and the products that made them.

Every spectral algorithm grows one `KrylovSpace`; none has a recurrence of its own.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.linalg

from specop.arrays import probes
from specop.arrays.backend import Array, lengths_of
from specop.errors import InvalidInputError, NonFiniteError
from specop.krylov.orthonormal import OrthonormalRows, coefficient_norm
from specop.krylov.projected import ProjectedMatrix, Ritz
from specop.krylov.recurrence import Recurrence
from specop.krylov.run import Run
from specop.statistics.measure import GaussRule
from specop.statistics.numbers import Floats, Integers

__all__ = ["LARGEST_BASIS", "KrylovSpace"]

LARGEST_BASIS = 2**27
"""Entries of the largest basis that is taken without being asked for: a gigabyte in float64."""

_COUNTERS = ("capacity", "scale", "draws", "is_mixed", "is_restarted", "is_random", "has_closed", "_reach")


class KrylovSpace:
    r"""Orthonormal rows V and what is known of V A V' for a symmetric A, grown one product at a time.

    Some rows have been multiplied, the others are the frontier. One start vector gives the Lanczos recurrence; a
    thick restart (Wu and Simon, 2000) replaces the multiplied rows by Ritz vectors and keeps the frontier; a second
    start vector, orthogonal to all rows, searches where the first Krylov space cannot reach.

    A space begins empty: `start` puts a vector on the frontier, `expand` multiplies one and puts what is new in its
    product there, and `ritz` and `rule` tell what has been found. Rows are counted from zero, and one is named
    only where a part of the space is meant, such as the run behind known eigenvectors.

    Parameters
    ----------
    run : Run
        Makes and counts the products, and watches their symmetry; its seed is that of all random vectors.
    capacity : int
        Largest number of rows that can be multiplied.
    lead : int
        Number of rows that are to outlive the others.

    Attributes
    ----------
    n : int
        Length of a row.
    capacity : int
        Largest number of rows, the frontier included.
    scale : float
        Norm of the largest product of a row so far, those of known eigenvectors included.
    is_mixed : bool
        Whether a vector joined after the first products.
    is_restarted : bool
        Whether rows were replaced by fewer.
    has_closed : bool
        Whether a product had next to nothing outside of the rows, beside other products since the latest start: they
        had nearly found an invariant subspace.
    """

    def __init__(self, run: Run, capacity: int, lead: int = 0) -> None:
        self.run = run
        self.backend = run.backend
        self.n = run.n
        self.capacity = self._most = min(capacity + 1, self.n)
        self.scale = 0.0
        self.draws = 0
        self.is_mixed = False
        self.is_restarted = False
        self.is_random = False
        self.has_closed = False
        # Largest norm of a product since the latest start: outside of large eigenvectors all products are small.
        self._reach = 0.0
        self._epsilon = run.A.domain.epsilon
        self._matrix = ProjectedMatrix(self.capacity)
        self._rows = OrthonormalRows(run, self._matrix, self.capacity, lead)

    @property
    def size(self) -> int:
        """Number of rows."""
        return self._matrix.size

    @property
    def frontier(self) -> Integers:
        """Rows that have not been multiplied, oldest first."""
        return self._matrix.frontier

    @property
    def steps(self) -> int:
        """Number of rows that have been multiplied."""
        return self.size - len(self.frontier)

    @property
    def is_closed(self) -> bool:
        """Whether every row has been multiplied: what they span is invariant, but for what was given up."""
        return len(self.frontier) == 0

    @property
    def is_exhausted(self) -> bool:
        """Whether every direction has been multiplied."""
        return self.size == self.n and self.is_closed

    @property
    def is_chain(self) -> bool:
        """Whether the rows are those of the recurrence from one random vector."""
        return self.is_random and not self.is_mixed and not self.is_restarted and len(self.frontier) < 2

    @property
    def coupling(self) -> float:
        """Norm of what the newest row, not yet multiplied, adds to the product of an earlier one; else zero."""
        ahead = self.frontier
        return float(np.abs(self._matrix.entries[: ahead[-1], ahead[-1]]).max(initial=0.0)) if len(ahead) else 0.0

    @property
    def lost(self) -> float:
        """Norm of the parts of products that lie outside of all rows, because rows were given up."""
        return float(np.linalg.norm(self._matrix.lost))

    @property
    def noise_floor(self) -> float:
        """Typical rounding error of a product, which no residual estimate shows."""
        return 4.0 * self._epsilon * self.scale

    @property
    def error_floor(self) -> float:
        """What rounding does to residuals and eigenvalues at most; it grows with the number of rows."""
        return 2.0 * (1.0 + float(self.size) ** 0.5) * self.noise_floor

    def tolerances(self, values: Any, tol: float) -> Any:
        """Return for each Ritz value the residual at which it has converged to a relative residual of `tol`."""
        smallest = self._epsilon ** (2 / 3) * self.scale
        return np.maximum(tol * np.maximum(smallest, np.abs(values)), self.noise_floor)

    def has_room_for(self, products: int) -> bool:
        """Whether so many rows can be multiplied without a restart; a basis of the whole space is never full."""
        return self.capacity == self.n or self.size + products <= self.capacity

    def confine(self, capacity: int) -> None:
        """Multiply at most so many rows from now on, as if the space had been made so; it may be called again.

        The rows that there are stay until the next restart.
        """
        self.capacity = min(capacity + 1, self._most)

    def start(self, vector: Array | None = None) -> None:
        """Append a row to the frontier: a vector without what it has in the span of the rows, or a random one."""
        self.is_mixed |= self.steps > 0
        self.is_random |= self.size == 0 and vector is None
        self._reach = 0.0
        if vector is not None:
            (length,) = lengths_of(self.backend, vector)
            if not np.isfinite(length) or length == 0:
                raise InvalidInputError(f"the start vector v0 must be finite and not zero; its norm is {length}.")
            if self._append(self.backend.scale_(self.backend.copy(vector), 1.0 / length), smallest=1e-3):
                return
        for _ in range(5):
            vector = probes.normal(self.backend, self.run.A.domain, self.run.seed, self.draws)
            self.draws += 1
            if self._append(self.backend.scale_(vector, self.n**-0.5), smallest=0.1 * self.n**-0.5):
                return
        raise NonFiniteError(
            f"no vector orthogonal to {self.size} rows was found in dimension {self.n}; the rows are not orthonormal. "
            f"If `deflate` was passed, check that its eigenvectors are."
        )

    def hold(self, vectors: list[Array], values: Floats, residuals: Floats) -> None:
        """Append known orthonormal eigenvectors as rows that need no product.

        Parameters
        ----------
        vectors : list of native vectors
        values : ndarray
            Eigenvalue of each vector.
        residuals : ndarray
            Norms of A x - lambda x.
        """
        self.draws += probes.BESIDE_KNOWN
        self.scale = max(self.scale, float(np.abs(values).max(initial=0.0)))
        for vector, value, residual in zip(vectors, values, residuals, strict=True):
            self._rows.set_next(vector, 1.0)
            self._matrix.append_eigenvector(float(value), float(residual))

    def include(self, vector: Array) -> Floats:
        """Put what a vector has outside of the rows on the frontier; return its coordinates along all rows."""
        self.is_mixed |= self.steps > 0
        (length,) = lengths_of(self.backend, vector)
        rest, column, beta = self._rows.orthogonalize(self.backend.copy(vector), [], length)
        if self.size < min(self.n, self.capacity) and beta > self._rows.negligible(length):
            self._rows.set_next(rest, 1.0 / beta)
            self._matrix.append()
            return np.append(column, beta)
        return column

    def expand(self, row: int | None = None) -> None:
        """Multiply a row of the frontier, the newest by default; what is new in its product becomes another row."""
        row = int(self.frontier[-1]) if row is None else row
        product = self.run.multiply(self._rows.row(row))
        expected, known = self._matrix.expected(row)
        rest, column, beta = self._rows.remainder(product, row, self.scale)
        length = math.hypot(coefficient_norm(column), beta)
        self.scale, self._reach = max(self.scale, length), max(self._reach, length)
        self.run.check_size(self.scale)
        self._watch_symmetry(row, (column - expected)[known])
        column[known] = expected[known]
        self._matrix.record(row, column)
        # Below this the rows span an invariant subspace as far as rounding shows, and its eigenpairs are exact.
        negligible = self._rows.negligible(self.scale)
        self.has_closed |= bool(beta <= max(negligible, self._epsilon**0.5 * self._reach))
        if self.size < self.n and beta > negligible:
            self._rows.set_next(rest, 1.0 / beta)
            self._matrix.join(row, beta)

    def advance(self, ritz: Ritz, pair: int) -> None:
        """Multiply the row that reduces the residual of one of the Ritz pairs most, again if its product was lost."""
        row, is_ahead = self._matrix.next_for(ritz, pair)
        if not is_ahead:
            self._matrix.reopen(np.array([row]))
        self.expand(row)

    def neglect(self) -> None:
        """Give up the newest row, which has not been multiplied, and count what products have along it as lost."""
        self._matrix.neglect()

    def reopen(self, level: float) -> None:
        """Put rows on the frontier again that lost more than this of their products."""
        self._matrix.reopen(np.flatnonzero(self._matrix.lost > level))

    def truncate(self, size: int) -> None:
        """Forget all rows from this one on."""
        self._matrix.truncate(size)

    def restart(self, ritz: Ritz, keep: Integers, *, forget_frontier: bool = False) -> None:
        """Replace the rows that Ritz pairs were made of by fewer that span the chosen Ritz vectors.

        Parameters
        ----------
        ritz : Ritz
            Ritz pairs of all rows from some row on; those before it stay.
        keep : ndarray of int
            Numbers of the Ritz pairs that are kept.
        forget_frontier : bool
            Whether to give up the frontier too.
        """
        self._rows.turn(self._matrix.compress(ritz, keep, forget_frontier), int(ritz.rows[0]))
        self.is_restarted = True

    def remove(self, ritz: Ritz, keep: Integers, directions: Floats) -> None:
        """Give up the frontier, and directions in the span of the rows but for what chosen Ritz vectors have there.

        Parameters
        ----------
        ritz : Ritz
            Ritz pairs of all rows.
        keep : ndarray of int
            Numbers of the Ritz pairs that are kept.
        directions : ndarray
            Coordinates along `ritz.rows`, in columns.
        """
        self._rows.turn(self._matrix.remove(ritz, keep, directions), 0)
        self.is_restarted = True

    def complete(self) -> Floats:
        """Multiply every direction; return all eigenvalues, multiple ones as often as due."""
        while not self.is_exhausted:
            if self.is_closed:
                self.start()
            self.expand(int(self.frontier[0]))
            self.run.update()
        return self.eigenvalues(self.size)

    def ritz(self, first: int = 0) -> Ritz:
        """Return the Ritz pairs of the multiplied rows from `first` on."""
        return self._matrix.ritz(first)

    def recurrence(self, first: int = 0) -> Recurrence | None:
        """Return the tridiagonal matrix of the rows from `first` on; None where they do not follow one recurrence."""
        return self._matrix.recurrence(first)

    def rule(self, ritz: Ritz) -> GaussRule:
        """Return the Gauss rule of the newest Lanczos run, from its Ritz pairs."""
        frontier = self.frontier[self.frontier >= ritz.rows[0]]
        lead = ritz.coefficients[0]
        signs = np.where(lead < 0, -1.0, 1.0)
        # At most one row: the sum is over it, or over nothing.
        couplings = signs * (self._matrix.entries[np.ix_(frontier, ritz.rows)] @ ritz.coefficients).sum(axis=0)
        return GaussRule(ritz.values, lead**2 / (lead @ lead), couplings)

    def gauss_rule(self, first: int) -> GaussRule:
        """Return the Gauss rule of the Lanczos run that begins with a row."""
        return self.rule(self.ritz(first))

    def eigenvalues(self, size: int) -> Floats:
        """Return the eigenvalues of the matrix projected on the first rows."""
        return np.asarray(scipy.linalg.eigvalsh(self._matrix.entries[:size, :size], check_finite=False), dtype=float)

    def projected(self, rows: Any = slice(None), columns: Any = slice(None)) -> Floats:
        """Return a copy of a block of V A V', zero where it is not known; rows and columns are indices or slices."""
        known = self._matrix.entries[: self.size, : self.size]
        return np.array(known[rows][:, columns])

    def row(self, i: int) -> Array:
        """Return a row, to be read only, and only until the space changes."""
        return self._rows.row(i)

    def outside(self, vector: Array) -> Array:
        """Return what a vector has outside of all rows; it is consumed."""
        return self._rows.outside(vector)

    def combine(self, coordinates: Floats) -> Array:
        """Return the sum of the first rows times these coordinates."""
        return self._rows.combine(coordinates)

    def noise_of(self, ritz: Ritz, chosen: Integers) -> float:
        """Return what errors of the products add to the residuals of Ritz pairs, zero where symmetry shows none.

        Rows hold what each product was, errors included, so no residual tells of them. How long an error is depends on
        its direction: one more product, with the sum of the chosen vectors, has about the root of the sum of their
        squares, which none of them exceeds.
        """
        if self.run.asymmetry * self.scale <= self.error_floor:
            return 0.0
        total = np.zeros(self.size)
        total[ritz.rows] = ritz.coefficients[:, chosen].sum(axis=1)
        rest = self.run.multiply(self.combine(total))
        rest = self.backend.axpy_(rest, -1.0, self.combine(self._matrix.multiply(total)))
        (left,) = self.run.to_host(self.backend.norm(rest))
        return max(0.0, float(left) - float(self._matrix.lost[: self.size] @ np.abs(total)))

    def extract(self, ritz: Ritz, chosen: Integers) -> Array:
        """Return the chosen Ritz vectors as the rows of one array, and give up the space."""
        change = np.zeros((self.size, len(chosen)))
        change[ritz.rows] = ritz.coefficients[:, chosen]
        return self._rows.extract(change)

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs: plain values, arrays, and functions that copy one row each to the host."""
        return {name: getattr(self, name) for name in _COUNTERS} | self._matrix.state() | self._rows.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state; the space must be new and have the same arguments."""
        for name in _COUNTERS:
            setattr(self, name, state[name])
        self._matrix.restore(state)
        self._rows.restore(state)

    def _watch_symmetry(self, row: int, difference: Floats) -> None:
        # For a symmetric A the first Gram-Schmidt coefficients are known before they are measured.
        # Rounding adds up over restarts, so what is seen after one says less.
        if len(difference) == 0 or self.scale == 0 or self.is_restarted:
            return
        found = float(np.abs(difference).max())
        if found > self.run.refused_asymmetry * self.scale:
            # Where all products so far are rounding, as from a start vector that A takes to zero, the scale is too.
            self.scale = max(self.scale, self._another_length())
        self.run.note_asymmetry(found / self.scale, self._rows.row(row))

    def _another_length(self) -> float:
        """Return the norm of the product with a random unit vector."""
        vector = probes.normal(self.backend, self.run.A.domain, self.run.seed, self.draws)
        length, image = self.backend.norm(vector), self.backend.norm(self.run.multiply(vector))
        lengths = self.run.to_host(length, image)
        return float(lengths[1] / lengths[0])

    def _append(self, vector: Array, smallest: float) -> bool:
        vector, _, beta = self._rows.orthogonalize(vector, [], 1.0)
        if not beta > smallest:
            return False
        self._rows.set_next(vector, 1.0 / beta)
        self._matrix.append()
        return True
