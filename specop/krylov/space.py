"""The Lanczos recurrence: an orthonormal basis, the projected matrix, and the products that made them.

Every spectral algorithm grows one `KrylovSpace`; none has a recurrence of its own.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from specop.arrays import probes
from specop.arrays.backend import Array
from specop.errors import AsymmetryError, InvalidInputError, NoiseWarning, NondeterministicError, NonFiniteError
from specop.krylov.ranges import check_size, coefficient_norm
from specop.operators.operator import LinearOperator

__all__ = ["KrylovSpace", "Ritz"]

# Two do unless nearly all dimensions are taken; the last one is for rows that are not orthonormal, where none does.
_MOST_PASSES = 4
_COUNTERS = ("rows", "products", "asymmetry", "scale", "restarted", "mixed", "random_start", "draws")


@dataclass(frozen=True)
class Ritz:
    """Eigenpairs of a projected matrix: values ascending, coefficients in columns, residual norms.

    `residuals` are the full ones; `inner_residuals` leave out what lies along rows before the projection's first.
    """

    rows: NDArray[np.intp]
    values: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    residuals: NDArray[np.float64]
    inner_residuals: NDArray[np.float64]


class KrylovSpace:
    r"""Orthonormal rows V and what is known of G = V A V' for a symmetric A, grown one product at a time.

    Some rows have been multiplied, the others are the frontier. A multiplied row's product lies in the span of all
    rows, so with M the multiplied and U the frontier rows

        A V_M' = V_M' G_MM + V_U' G_UM,

    and the residual of a Ritz pair (theta, V_M's) of G_MM is \|G_UM s\|. One start vector gives the Lanczos
    recurrence; a thick restart (Wu and Simon, 2000) replaces V_M by Ritz vectors and keeps U; a second start vector,
    orthogonal to all rows, searches where the first Krylov space cannot reach. Where frontier rows are given up, the
    residual that lay along them stays in the books as `lost`. Orthogonality comes from the recurrence
    followed by a classical Gram-Schmidt pass against every row, and a second one where the first removed much.

    Parameters
    ----------
    A : LinearOperator
        Square; its symmetry is watched while it is multiplied.
    capacity : int
        Largest number of rows that can be multiplied.
    lead : int
        Number of rows that are to outlive the others.
    seed : int
        Of the random vectors.

    Attributes
    ----------
    rows, products : int
        How many there are.
    mixed : bool
        Whether a vector joined after the first products.
    """

    def __init__(self, A: LinearOperator, capacity: int, lead: int, seed: int) -> None:
        self.A = A
        self.backend = A.backend
        self.n = A.shape[0]
        self.capacity = min(capacity + 1, self.n)
        self.seed = probes.check_seed(seed)
        self.rows = 0
        self.mixed = False
        self.random_start = False
        self.products = 0
        self.asymmetry = 0.0
        self.scale = 0.0
        self.G = np.zeros((self.capacity, self.capacity))
        self.multiplied = np.zeros(self.capacity, dtype=bool)
        self.lost = np.zeros(self.capacity)
        self.restarted = False
        self.basis = self.backend.allocate(A.domain, self.capacity, lead)
        self.draws = 0

    @property
    def frontier(self) -> NDArray[np.intp]:
        """Rows that have not been multiplied, oldest first."""
        return np.flatnonzero(~self.multiplied[: self.rows])

    def has_room_for(self, products: int) -> bool:
        """Whether so many rows can be multiplied without a restart; a basis of the whole space is never full."""
        return self.capacity == self.n or self.rows + products <= self.capacity

    @property
    def is_chain(self) -> bool:
        """Whether the rows are those of the recurrence from one random vector."""
        return self.random_start and not self.mixed and not self.restarted and len(self.frontier) < 2

    @property
    def is_exhausted(self) -> bool:
        """Whether every direction has been multiplied."""
        return self.rows == self.n and bool(self.multiplied.all())

    @property
    def noise_floor(self) -> float:
        """Typical rounding error of a product, which no residual estimate shows."""
        return 4.0 * self.A.domain.epsilon * self.scale

    @property
    def error_floor(self) -> float:
        """What rounding does to residuals and eigenvalues at most; it grows with the number of rows."""
        return 2.0 * (1.0 + float(self.rows) ** 0.5) * self.noise_floor

    def start(self, vector: Array | None = None) -> None:
        """Append a row to the frontier: a vector without what it has in the span of the rows, or a random one."""
        self.mixed |= self.products > 0
        self.random_start |= self.rows == 0 and vector is None
        if vector is not None:
            (length,) = self.backend.to_host(self.backend.norm(vector))
            if not np.isfinite(length) or length == 0:
                raise InvalidInputError(f"the start vector v0 must be finite and not zero; its norm is {length}.")
            unit = self.backend.scale_(self.backend.copy(vector), 1.0 / float(length))
            if self._append(unit, smallest=1e-3):
                return
        for _ in range(5):
            vector = probes.normal(self.backend, self.A.domain, self.seed, self.draws)
            self.draws += 1
            if self._append(self.backend.scale_(vector, self.n**-0.5), smallest=0.1 * self.n**-0.5):
                return
        raise NonFiniteError(
            f"no vector orthogonal to {self.rows} rows was found in dimension {self.n}; the rows are not orthonormal. "
            f"If `deflate` was passed, check that its eigenvectors are."
        )

    def include(self, vector: Array) -> NDArray[np.float64]:
        """Put what a vector has outside of the rows on the frontier; return its coordinates along all rows."""
        self.mixed |= self.products > 0
        (length,) = self.backend.to_host(self.backend.norm(vector))
        rest, column, beta = self._orthogonalize(self.backend.copy(vector), [], float(length))
        if self.rows < min(self.n, self.capacity) and beta > max(10, self.rows) * self.A.domain.epsilon * float(length):
            self.basis = self.backend.set_row_(self.basis, self.rows, rest, 1.0 / beta)
            self.rows += 1
            return np.append(column, beta)
        return column

    def append_eigenvectors(
        self, vectors: list[Array], values: NDArray[np.float64], residuals: NDArray[np.float64]
    ) -> None:
        """Append approximate orthonormal eigenvectors as rows that count as multiplied."""
        for vector, value, residual in zip(vectors, values, residuals, strict=True):
            self.basis = self.backend.set_row_(self.basis, self.rows, vector, 1.0)
            self.G[self.rows, self.rows] = value
            self.multiplied[self.rows] = True
            self.lost[self.rows] = residual
            self.rows += 1

    def truncate(self, rows: int) -> None:
        """Forget all rows from this one on."""
        self.rows = rows
        self.G[rows:] = self.G[:, rows:] = 0.0
        self.multiplied[rows:] = False
        self.lost[rows:] = 0.0

    def multiply(self, row: int) -> tuple[Array, NDArray[np.float64], float]:
        """Return what a row's product has outside of all rows, its coefficients along them, and the rest's norm."""
        product = self.A._matvec(self.backend.row(self.basis, row))
        self.products += 1
        known = self.multiplied[: self.rows] & (self.lost[: self.rows] == 0)
        expected = self.G[: self.rows, row]
        # For a symmetric A the coefficients along multiplied rows are known before they are measured, and mostly zero.
        # Without the few large ones, what is left is nearly orthogonal to all rows: one full pass then does.
        near = [int(i) for i in np.flatnonzero(known & (expected != 0))] + [row]
        rest, column, beta = self._orthogonalize(product, near, self.scale)
        self.scale = max(self.scale, float(np.hypot(coefficient_norm(column), beta)))
        check_size(self.scale, self.A)
        self._watch_symmetry(row, (column - expected)[known])
        column[known] = expected[known]
        return rest, column, beta

    def record(self, row: int, column: NDArray[np.float64], lost: float) -> None:
        """Count a row as multiplied without a new one for what its product has outside of all rows.

        What earlier rows lost along this one was measured in its product.
        """
        self.G[: self.rows, row] = self.G[row, : self.rows] = column
        self.multiplied[row] = True
        others = np.flatnonzero(self.lost[: self.rows])
        # Their squares are known to rounding only, and where they cancel, that is what is left.
        left = np.maximum(self.lost[others] ** 2 - column[others] ** 2, 0.0)
        self.lost[others] = np.sqrt(left + 2.0 * self.lost[others] * self.noise_floor)
        self.lost[row] = lost

    def expand(self, row: int) -> None:
        """Multiply a row of the frontier; what its product has outside of all rows becomes a new one."""
        rest, column, beta = self.multiply(row)
        self.G[: self.rows, row] = self.G[row, : self.rows] = column
        self.multiplied[row] = True
        # Below this the rows span an invariant subspace as far as rounding shows, and its eigenpairs are exact.
        if self.rows < self.n and beta > self._negligible(self.scale):
            # The new row is off by rounding over beta: from here on it is little better than another random start.
            self.mixed |= bool(beta < self.A.domain.epsilon**0.5 * self.scale)
            self.basis = self.backend.set_row_(self.basis, self.rows, rest, 1.0 / float(beta))
            self.G[self.rows, row] = self.G[row, self.rows] = beta
            self.rows += 1

    def ritz(self, first: int = 0) -> Ritz:
        """Return the Ritz pairs of the multiplied rows from `first` on."""
        rows = first + np.flatnonzero(self.multiplied[first : self.rows])
        values, coefficients = _eigh(self.G[np.ix_(rows, rows)])
        frontier = self.frontier
        coupling = self.G[np.ix_(frontier, rows)] @ coefficients
        inner = np.linalg.norm(coupling[frontier >= first], axis=0)
        known = np.linalg.norm(coupling, axis=0)
        return Ritz(rows, values, coefficients, np.hypot(known, self.lost[rows] @ np.abs(coefficients)), inner)

    def next_for(self, ritz: Ritz, pair: int) -> int:
        """Return the row whose product reduces the pair's residual most, and put it on the frontier if it is not."""
        weights = ritz.coefficients[:, pair]
        frontier = self.frontier
        along = np.abs(self.G[np.ix_(frontier, ritz.rows)] @ weights)
        missing = self.lost[ritz.rows] * np.abs(weights)
        if len(frontier) and along.max() >= missing.max():
            return int(frontier[np.argmax(along)])
        # Its product is partly lost: multiply it again.
        row = int(ritz.rows[np.argmax(missing)])
        self.multiplied[row] = False
        self.lost[row] = 0.0
        return row

    def restart(self, ritz: Ritz, keep: NDArray[np.intp], *, forget_frontier: bool = False) -> None:
        """Replace the rows that the Ritz pairs were made of by fewer that span the chosen Ritz vectors.

        Rows before them stay, and so does the frontier unless it is to be forgotten. With one frontier row the new
        rows are chosen so that G is tridiagonal again.
        """
        first = int(ritz.rows[0])
        frontier = self.frontier[self.frontier >= first]
        coefficients, values = ritz.coefficients[:, keep], np.diag(ritz.values[keep])
        lost = self.lost[ritz.rows] @ np.abs(coefficients)
        if forget_frontier:
            lost = np.hypot(lost, ritz.inner_residuals[keep])
            frontier = frontier[:0]
        coupling = self.G[np.ix_(frontier, ritz.rows)] @ coefficients
        if len(frontier) == 1 and not lost.any():
            turn, values, coupling = _tridiagonal(ritz.values[keep], coupling[0])
            coefficients = coefficients @ turn
        outside = self.G[:first, ritz.rows] @ coefficients
        beyond = self.G[np.ix_(np.arange(first), frontier)]

        p, rows, self.restarted = len(keep), self.rows - first, True
        change = np.zeros((rows, p + len(frontier)))
        change[ritz.rows - first, :p] = coefficients
        change[frontier - first, p + np.arange(len(frontier))] = 1.0
        self.basis = self.backend.combine_(self.basis, change, first)
        self.truncate(first)
        self.rows = first + p + len(frontier)
        kept, ahead = slice(first, first + p), slice(first + p, self.rows)
        self.G[kept, kept] = values
        self.G[ahead, kept], self.G[kept, ahead] = coupling, coupling.T
        self.G[:first, kept], self.G[kept, :first] = outside, outside.T
        self.G[:first, ahead], self.G[ahead, :first] = beyond, beyond.T
        self.multiplied[kept] = True
        self.lost[kept] = lost

    def state(self) -> tuple[dict[str, Any], Iterator[tuple[str, NDArray[Any]]]]:
        """Return what `restore` needs: plain values, and arrays that are copied one by one as they are asked for."""
        rows = self.rows
        plain = {name: getattr(self, name) for name in _COUNTERS}
        small = {"G": self.G[:rows, :rows], "multiplied": self.multiplied[:rows], "lost": self.lost[:rows]}
        vectors = ((f"row{i}", self.backend.to_numpy(self.backend.row(self.basis, i))) for i in range(rows))
        return plain, itertools.chain(small.items(), vectors)

    def restore(self, plain: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a state; the space must be new and have the same arguments."""
        for name in _COUNTERS:
            setattr(self, name, plain[name])
        rows = self.rows
        self.G[:rows, :rows] = arrays["G"]
        self.multiplied[:rows], self.lost[:rows] = arrays["multiplied"], arrays["lost"]
        for i in range(rows):
            vector = self.backend.from_host(arrays[f"row{i}"], self.A.domain)
            self.basis = self.backend.set_row_(self.basis, i, vector, 1.0)

    def extract(self, ritz: Ritz, chosen: NDArray[np.intp]) -> Array:
        """Return the chosen Ritz vectors as the rows of one array, and give up the space."""
        change = np.zeros((self.rows, len(chosen)))
        change[ritz.rows] = ritz.coefficients[:, chosen]
        basis = self.backend.combine_(self.basis, change, 0)
        return self.backend.take(basis, len(chosen))

    def warn_of_noise(self) -> bool:
        """Warn if products were less exact or less symmetric than their dtype promises; return whether so."""
        threshold = _clean_level(self.A)
        if self.asymmetry <= threshold:
            return False
        warnings.warn(
            f"products with {self.A!r} are asymmetric by {self.asymmetry:.1e} relative to its norm, where clean ones "
            f"stay below {threshold:.0e}: they carry noise (reduced-precision matrix products, atomics, a matrix that "
            f"is only nearly symmetric). Error bounds were widened; run in a higher precision for more.",
            NoiseWarning,
            stacklevel=4,
        )
        return True

    def _watch_symmetry(self, row: int, difference: NDArray[np.float64]) -> None:
        # For a symmetric A the first Gram-Schmidt coefficients are known before they are measured.
        # Rounding adds up over restarts, so what is seen after one says less.
        if len(difference) == 0 or self.scale == 0 or self.restarted:
            return
        found = float(np.abs(difference).max())
        if found > _refused_level(self.A) * self.scale:
            # Where all products so far are rounding, as from a start vector that A takes to zero, the scale is too.
            self.scale = max(self.scale, self._another_length())
        self.asymmetry = max(self.asymmetry, found / self.scale)
        if self.asymmetry <= _refused_level(self.A):
            return
        vector = self.backend.row(self.basis, row)
        once, again = self.A._matvec(vector), self.A._matvec(vector)
        length = self.backend.norm(once)
        deviation, length = self.backend.to_host(self.backend.norm(self.backend.axpy_(again, -1.0, once)), length)
        if deviation > 1e-3 * self.asymmetry * length:
            raise NondeterministicError(
                f"two products of {self.A!r} with the same vector differ by {float(deviation / length):.1e} relative. "
                f"Look for dropout, sampling, data augmentation or a shuffling loader behind the product."
            )
        raise AsymmetryError(
            f"{self.A!r} is not symmetric: the relative asymmetry seen after {self.products} products is "
            f"{self.asymmetry:.1e}. If that is rounding, symmetrize with (A + A.T) / 2 or use float64; if A is not "
            f"meant to be symmetric, this method does not apply."
        )

    def _another_length(self) -> float:
        """Return the norm of the product with a random unit vector."""
        vector = probes.normal(self.backend, self.A.domain, self.seed, self.draws)
        self.products += 1
        lengths = self.backend.to_host(self.backend.norm(vector), self.backend.norm(self.A._matvec(vector)))
        return float(lengths[1] / lengths[0])

    def _orthogonalize(self, vector: Array, near: list[int], scale: float) -> tuple[Array, NDArray[np.float64], float]:
        """Return what a vector has outside of the rows, its coefficients along them, and the norm of what is left."""
        column = np.zeros(self.rows)
        for _ in range(_MOST_PASSES):
            vector, *scalars = self.backend.orthogonalize_(vector, self.basis, self.rows, near)
            first, second, left = self.backend.to_host(*scalars)
            beta, removed = float(left), coefficient_norm(second)
            if not (np.isfinite(beta) and np.isfinite(removed) and np.isfinite(first).all()):
                raise NonFiniteError(
                    f"product {self.products} with {self.A!r} holds NaN or infinity, or its norm overflows "
                    f"{self.A.dtype}. Check the parameters and the data for NaN, and the loss for overflow; a loss "
                    f"whose second derivative is infinite somewhere (sqrt at 0, norm at 0) does this too."
                )
            column[near] += first
            column += second
            scale = max(scale, float(np.hypot(coefficient_norm(column), beta)))
            # Where a pass removed no more than it left, its own rounding is small beside what is left (Daniel, Gragg,
            # Kaufman and Stewart, 1976).
            if removed <= beta or beta <= self._negligible(scale):
                break
            near = []
        return vector, column, beta

    def _negligible(self, scale: float) -> float:
        return max(10, self.rows) * self.A.domain.epsilon * scale

    def _append(self, vector: Array, smallest: float) -> bool:
        vector, _, beta = self._orthogonalize(vector, [], 1.0)
        if not beta > smallest:
            return False
        self.basis = self.backend.set_row_(self.basis, self.rows, vector, 1.0 / beta)
        self.rows += 1
        return True


def _eigh(G: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigendecomposition of a small symmetric matrix that is mostly tridiagonal.

    A dense solver wakes the threads of NumPy's or SciPy's BLAS, which then spin beside those of a framework on the same
    cores: products ran at half their speed for it. The tridiagonal one calls no BLAS.
    """
    if len(G) == 0:
        return np.zeros(0), np.zeros((0, 0))
    if not np.triu(G, 2).any():
        values, vectors = scipy.linalg.eigh_tridiagonal(np.diagonal(G), np.diagonal(G, 1), check_finite=False)
    else:
        values, vectors = scipy.linalg.eigh(G, driver="evr", check_finite=False)
    return np.asarray(values, dtype=np.float64), np.asarray(vectors, dtype=np.float64)


def _tridiagonal(
    values: NDArray[np.float64], coupling: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
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


def _clean_level(A: LinearOperator) -> float:
    if A.precision > 1e-5:
        return 1e-2
    # Clean float32 networks read 2e-7 to 4e-7, clean ill-conditioned dense matrices up to 4e-6.
    return 1e-5 if A.domain.epsilon > 1e-10 else 1e-12


def _refused_level(A: LinearOperator) -> float:
    return 5e-2 if A.precision > 1e-5 else 1e-3
