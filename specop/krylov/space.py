"""The Lanczos recurrence: an orthonormal basis, the projected matrix, and the products that made them.

Every spectral algorithm grows one `KrylovSpace`; none has a recurrence of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg

from specop.arrays import probes
from specop.arrays.backend import Array
from specop.arrays.rows import rows_of_block
from specop.errors import InvalidInputError, NonFiniteError
from specop.krylov.known import eigenvectors_for
from specop.krylov.orthogonality import Orthogonality
from specop.krylov.projected import ProjectedMatrix, Ritz
from specop.krylov.run import Run
from specop.results.eigen import EigenResult
from specop.statistics.measure import GaussRule
from specop.statistics.numbers import Booleans, Floats, Integers

__all__ = ["LARGEST_BASIS", "KrylovSpace", "coefficient_norm"]

LARGEST_BASIS = 2**27
"""Entries of the largest basis that is taken without being asked for: a gigabyte in float64."""

# Two do unless nearly all dimensions are taken; the last one is for rows that are not orthonormal, where none does.
_MOST_PASSES = 4
# Index of random vectors that no other call with this seed has drawn.
_FAR = 1 << 32
_COUNTERS = ("capacity", "scale", "draws", "is_mixed", "is_restarted", "is_random", "has_closed")


class KrylovSpace:
    r"""Orthonormal rows V and what is known of V A V' for a symmetric A, grown one product at a time.

    Some rows have been multiplied, the others are the frontier. One start vector gives the Lanczos recurrence; a
    thick restart (Wu and Simon, 2000) replaces the multiplied rows by Ritz vectors and keeps the frontier; a second
    start vector, orthogonal to all rows, searches where the first Krylov space cannot reach. Orthogonality comes from
    the recurrence, followed by a classical Gram-Schmidt pass against every row unless `Orthogonality` tells that the
    recurrence was enough, and by a second pass where the first removed much.

    A space begins empty: `begin` or `start` puts vectors on the frontier, `expand` multiplies one and puts what is new
    in its product there, and `ritz` and `rule` tell what has been found. Rows are counted from zero, and one is named
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
        Norm of the largest product of a row so far.
    is_mixed : bool
        Whether a vector joined after the first products.
    has_closed : bool
        Whether a product had next to nothing outside of the rows: they had nearly found an invariant subspace.
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
        self._layout = run.A.domain
        self._matrix = ProjectedMatrix(self.capacity)
        self._orthogonality = Orthogonality(self.capacity, self.n, max(self._layout.epsilon, run.A.precision))
        self._basis = self.backend.allocate(self._layout, self.capacity, lead)
        self._paid = 0

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
        return 4.0 * self._layout.epsilon * self.scale

    @property
    def error_floor(self) -> float:
        """What rounding does to residuals and eigenvalues at most; it grows with the number of rows."""
        return 2.0 * (1.0 + float(self.size) ** 0.5) * self.noise_floor

    def tolerances(self, values: Any, tol: float) -> Any:
        """Return for each Ritz value the residual at which it has converged to a relative residual of `tol`."""
        smallest = self._layout.epsilon ** (2 / 3) * self.scale
        return np.maximum(tol * np.maximum(smallest, np.abs(values)), self.noise_floor)

    def has_room_for(self, products: int) -> bool:
        """Whether so many rows can be multiplied without a restart; a basis of the whole space is never full."""
        return self.capacity == self.n or self.size + products <= self.capacity

    def confine(self, capacity: int) -> None:
        """Multiply at most so many rows from now on, as if the space had been made so; it may be called again.

        The rows that there are stay until the next restart.
        """
        self.capacity = min(capacity + 1, self._most)

    def begin(self, v0: Array | EigenResult | None, k: int, block_size: int, tol: float) -> None:
        """Put the first rows into an empty space.

        Of an earlier result the sum of all eigenvectors is multiplied. If the product shows that they still span an
        invariant subspace, up to `tol`, each is worth a product of its own, and no other is needed; otherwise the
        Krylov space of the sum finds the new ones in fewer products than that of a random vector.

        Parameters
        ----------
        v0 : native vector, EigenResult or None
            Where to begin; None for a random vector.
        k : int
            How many eigenvalues are wanted.
        block_size : int
            How many vectors start together.
        tol : float
            Relative residual at which a pair has converged.
        """
        if not isinstance(v0, EigenResult):
            if v0 is not None:
                self.backend.check_vector(v0, self._layout, "v0")
            for i in range(min(block_size, self.n)):
                self.start(v0 if i == 0 else None)
            return
        vectors = eigenvectors_for(v0, self.backend, self._layout, "v0")
        for i in range(min(block_size, self.n)):
            self.start(self._sum(vectors[i::block_size], noise=min(1e-3, 0.1 * tol)))
        if block_size == 1 and len(vectors) <= k and self.has_room_for(2 * len(vectors)):
            self.expand()
            if self._outside(vectors) <= tol * float(np.abs(v0.eigenvalues).min()):
                self._multiply_all(vectors, k)

    def start(self, vector: Array | None = None) -> None:
        """Append a row to the frontier: a vector without what it has in the span of the rows, or a random one."""
        self.is_mixed |= self.steps > 0
        self.is_random |= self.size == 0 and vector is None
        if vector is not None:
            (length,) = self.backend.to_host(self.backend.norm(vector))
            if not np.isfinite(length) or length == 0:
                raise InvalidInputError(f"the start vector v0 must be finite and not zero; its norm is {length}.")
            unit = self.backend.scale_(self.backend.copy(vector), 1.0 / float(length))
            if self._append(unit, smallest=1e-3):
                return
        for _ in range(5):
            vector = probes.normal(self.backend, self._layout, self.run.seed, self.draws)
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
            Their eigenvalues.
        residuals : ndarray
            Norms of A x - lambda x.
        """
        # Where eigenvalues have copies, eigenvectors may be spanned by random vectors of this very seed.
        self.draws += _FAR
        for vector, value, residual in zip(vectors, values, residuals, strict=True):
            self._basis = self.backend.set_row_(self._basis, self.size, vector, 1.0)
            self._matrix.append_eigenvector(float(value), float(residual))

    def include(self, vector: Array) -> Floats:
        """Put what a vector has outside of the rows on the frontier; return its coordinates along all rows."""
        self.is_mixed |= self.steps > 0
        (length,) = self.backend.to_host(self.backend.norm(vector))
        rest, column, beta = self._orthogonalize(self.backend.copy(vector), [], float(length))
        if self.size < min(self.n, self.capacity) and beta > self._negligible(float(length)):
            self._set_row(rest, 1.0 / beta)
            self._matrix.append()
            return np.append(column, beta)
        return column

    def expand(self, row: int | None = None) -> None:
        """Multiply a row of the frontier, the newest by default; what is new in its product becomes another row."""
        row = int(self.frontier[-1]) if row is None else row
        product = self.run.multiply(self.backend.row(self._basis, row))
        expected, known = self._matrix.expected(row)
        rest, column, beta = self._remainder(product, row, expected, known)
        self.run.check_size(self.scale)
        self._watch_symmetry(row, (column - expected)[known])
        column[known] = expected[known]
        self._matrix.record(row, column)
        self.has_closed |= bool(beta < self._layout.epsilon**0.5 * self.scale)
        # Below this the rows span an invariant subspace as far as rounding shows, and its eigenpairs are exact.
        if self.size < self.n and beta > self._negligible(self.scale):
            self._set_row(rest, 1.0 / beta)
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
            Of all rows from some row on; those before it stay.
        keep : ndarray of int
            The chosen pairs.
        forget_frontier : bool
            Whether to give up the frontier too.
        """
        first = int(ritz.rows[0])
        change = self._matrix.compress(ritz, keep, forget_frontier)
        self._turn(change, first)
        self.is_restarted = True

    def drift(self, values: Floats) -> Floats:
        """Return what rounding may have put into the rows of copies of these eigenvalues that a Lanczos run lacks.

        Returns
        -------
        ndarray (rows, k)
            About the largest coordinates along each row; of no meaning beyond 1, but for their ratios.
        """
        return self._matrix.drift(values, self._layout.epsilon * self.scale)

    def remove(self, ritz: Ritz, keep: Integers, directions: Floats) -> None:
        """Give up the frontier, and directions in the span of the rows but for what chosen Ritz vectors have there.

        Parameters
        ----------
        ritz : Ritz
            Of all rows.
        keep : ndarray of int
            The chosen pairs.
        directions : ndarray
            Coordinates along `ritz.rows`, in columns.
        """
        self._turn(self._matrix.remove(ritz, keep, directions), 0)
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

    def pair(self, side: int, rank: int) -> tuple[float, float] | None:
        """Return one Ritz value of a Lanczos run and its residual, or None where that takes no less than all of them.

        Parameters
        ----------
        side : int
            1 to count from the largest Ritz value, -1 from the smallest.
        rank : int
            Its number, from 1.
        """
        return self._matrix.pair(side, rank)

    def count(self, side: int, value: float) -> int:
        """Return the number of Ritz values above a value (side 1) or below it (side -1), where `pair` returns one."""
        return self._matrix.count(side, value)

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
        return self.backend.row(self._basis, i)

    def outside(self, vector: Array) -> Array:
        """Return what a vector has outside of all rows; it is consumed."""
        return self.backend.orthogonalize_(vector, self._basis, self.size, ())[0]

    def combine(self, coordinates: Floats) -> Array:
        """Return the sum of the first rows times these coordinates."""
        total = self.backend.zeros(self._layout)
        for row in np.flatnonzero(coordinates):
            total = self.backend.axpy_(total, float(coordinates[row]), self.backend.row(self._basis, int(row)))
        return total

    def extract(self, ritz: Ritz, chosen: Integers) -> Array:
        """Return the chosen Ritz vectors as the rows of one array, and give up the space."""
        change = np.zeros((self.size, len(chosen)))
        change[ritz.rows] = ritz.coefficients[:, chosen]
        return self.backend.take(self.backend.combine_(self._basis, change, 0), len(chosen))

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs: plain values, arrays, and functions that copy one row each to the host."""
        matrix, size = self._matrix, self.size
        rows = {f"row{i}": lambda i=i: self.backend.to_numpy(self.backend.row(self._basis, i)) for i in range(size)}
        plain = {name: getattr(self, name) for name in _COUNTERS} | {"size": size, "chain": matrix.chain}
        small = {"multiplied": matrix.multiplied[:size], "lost": matrix.lost[:size], "entries": self.projected()}
        return plain | small | self._orthogonality.state(size) | rows

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state; the space must be new and have the same arguments."""
        for name in _COUNTERS:
            setattr(self, name, state[name])
        matrix, size = self._matrix, state["size"]
        for i in range(size):
            self._basis = self.backend.set_row_(
                self._basis, i, self.backend.from_host(state[f"row{i}"], self._layout), 1.0
            )
        matrix.size, matrix.chain = size, state["chain"]
        matrix.entries[:size, :size] = state["entries"]
        matrix.multiplied[:size], matrix.lost[:size] = state["multiplied"], state["lost"]
        self._orthogonality.restore(state)

    def _sum(self, vectors: list[Array], noise: float) -> Array | None:
        if not vectors:
            return None
        # A little noise, so that what the old eigenvectors lack can enter.
        backend, share = self.backend, noise * (len(vectors) / self.n) ** 0.5
        total = backend.scale_(probes.sphere(backend, self._layout, self.run.seed, 0), share)
        for vector in vectors:
            total = backend.axpy_(total, 1.0, vector)
        return total

    def _outside(self, vectors: list[Array]) -> float:
        """Return the norm of what the first product has outside of the vectors' span."""
        if self.is_closed:
            return 0.0
        backend = self.backend
        rest = backend.copy(backend.row(self._basis, int(self.frontier[0])))
        overlaps = backend.to_host(*(backend.dot(vector, rest) for vector in vectors))
        for vector, overlap in zip(vectors, overlaps, strict=True):
            rest = backend.axpy_(rest, -float(overlap), vector)
        (left,) = backend.to_host(backend.norm(rest))
        return float(left) * self.coupling

    def _multiply_all(self, vectors: list[Array], k: int) -> None:
        # The sum and its product are two vectors of the span already.
        for vector in vectors[: len(vectors) - self.size]:
            self.start(vector)
        for row in range(1, min(self.size, len(vectors))):
            self.expand(row)
        if len(vectors) < k:
            # What the old eigenvectors lack does not show in their small residuals: look elsewhere.
            ritz = self.ritz()
            self.restart(ritz, np.arange(len(ritz.values)), forget_frontier=True)
            self.start()

    def _watch_symmetry(self, row: int, difference: Floats) -> None:
        # For a symmetric A the first Gram-Schmidt coefficients are known before they are measured.
        # Rounding adds up over restarts, so what is seen after one says less.
        if len(difference) == 0 or self.scale == 0 or self.is_restarted:
            return
        found = float(np.abs(difference).max())
        if found > self.run.refused_asymmetry * self.scale:
            # Where all products so far are rounding, as from a start vector that A takes to zero, the scale is too.
            self.scale = max(self.scale, self._another_length())
        self.run.note_asymmetry(found / self.scale, self.backend.row(self._basis, row))

    def _another_length(self) -> float:
        """Return the norm of the product with a random unit vector."""
        vector = probes.normal(self.backend, self._layout, self.run.seed, self.draws)
        length, image = self.backend.norm(vector), self.backend.norm(self.run.multiply(vector))
        lengths = self.run.to_host(length, image)
        return float(lengths[1] / lengths[0])

    def _remainder(self, product: Array, row: int, expected: Floats, known: Booleans) -> tuple[Array, Floats, float]:
        """Return what a product has outside of all rows, its coefficients along them and the norm of what is left.

        For a symmetric A the coefficients along multiplied rows are known before they are measured, and mostly zero.
        Without the few others, the product is nearly orthogonal to all rows, and one pass over them does, or none.
        """
        near, unknown = np.flatnonzero(known & (expected != 0)).tolist(), np.flatnonzero(~known).tolist()
        if 4 * len(near + unknown) > self.size or not self._orthogonality.may_wait(self.size):
            rest, column, beta = self._orthogonalize(product, [*near, row], self.scale)
            self.scale = max(self.scale, float(np.hypot(coefficient_norm(column), beta)))
            return rest, column, beta
        near, column = near + unknown, np.zeros(self.size)
        rest, *scalars = self.backend.orthogonalize_(product, self._basis, 0, near)
        column[near], _, left = self.run.to_host(*scalars)
        beta = float(left)
        self.scale = max(self.scale, float(np.hypot(coefficient_norm(column), beta)))
        noise = max(self._layout.epsilon, self.run.asymmetry) * self.scale
        if not self._orthogonality.accept(self.projected(), row, column, beta, noise):
            rest, more, beta = self._orthogonalize(rest, [], self.scale)
            column += more
        return rest, column, beta

    def _orthogonalize(self, vector: Array, near: list[int], scale: float) -> tuple[Array, Floats, float]:
        """Return what a vector has outside of the rows, its coefficients along them, and the norm of what is left."""
        column = np.zeros(self.size)
        for _ in range(_MOST_PASSES):
            vector, *scalars = self.backend.orthogonalize_(vector, self._basis, self.size, near)
            first, second, left = self.run.to_host(*scalars)
            beta, removed = float(left), coefficient_norm(second)
            column[near] += first
            column += second
            scale = max(scale, float(np.hypot(coefficient_norm(column), beta)))
            # Where a pass removed no more than it left, its own rounding is small beside what is left (Daniel, Gragg,
            # Kaufman and Stewart, 1976).
            if removed <= beta or beta <= self._negligible(scale):
                break
            near = []
        self._orthogonality.renew(self.size)
        return vector, column, beta

    def _turn(self, change: Floats, first: int) -> None:
        self._basis = self.backend.combine_(self._basis, change, first)
        self._orthogonality.combine(change, first)

    def _negligible(self, scale: float) -> float:
        return max(10, self.size) * self._layout.epsilon * scale

    def _append(self, vector: Array, smallest: float) -> bool:
        vector, _, beta = self._orthogonalize(vector, [], 1.0)
        if not beta > smallest:
            return False
        self._set_row(vector, 1.0 / beta)
        self._matrix.append()
        return True

    def _set_row(self, vector: Array, factor: float) -> None:
        """Write the next row; raise NotEnoughMemoryError before memory runs out."""
        if self.size >= self._paid:
            self._paid = self.size + self.run.pay(self.size, rows_of_block(self._layout))
        self._basis = self.backend.set_row_(self._basis, self.size, vector, factor)


def coefficient_norm(x: Floats) -> float:
    """Return the norm of coefficients: infinity where their squares overflow, which `Run.check_size` then refuses."""
    with np.errstate(over="ignore"):
        return float(np.linalg.norm(x))
