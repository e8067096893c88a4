"""A random sketch of an operator: its range, grown probe by probe, and what each probe says of the rest."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from specop.arrays import probes
from specop.arrays.backend import Array, Basis
from specop.krylov.known import Complement
from specop.krylov.orthonormal import coefficient_norm
from specop.spectral.orthogonal import OrthogonalProbes
from specop.statistics.numbers import Floats

__all__ = ["Sketch"]

# Two do unless a product lies in the span of the rows almost entirely.
_MOST_PASSES = 4
# Random directions for products that lie in the span of the others: far from the indices of probes.
_SPARE = 1 << 32
_TINY = 1e-150


class Sketch:
    r"""Probes :math:`\Omega`, their products :math:`B\Omega = Q R`, and the part of B that Q shows.

    `draw` takes one product for a probe and appends a row to Q; `multiply` takes another one for that row. The
    numbers of all of them are kept on the host: W = Q'Omega, R = Q'B Omega, G = Q'BQ, T = (BQ)'Omega. From them
    follows what each probe says of the trace of B beyond the span of the others' products, without another pass over
    vectors.

    Held are Q and Omega, and for an operator not known to be symmetric BQ.

    Parameters
    ----------
    space : Complement
        The matrix B that is sketched, on the complement of known eigenvectors.
    capacity : int
        Largest number of probes.
    nystrom : bool
        Whether the probes are for `specop.spectral.nystrom`, which needs Omega'Omega and products with B + shift I.
    signs : bool
        Whether probes are random signs, deflated or not, instead of vectors on a sphere of the complement.
    """

    def __init__(
        self,
        space: Complement,
        capacity: int,
        *,
        nystrom: bool = False,
        signs: bool = False,
    ) -> None:
        self.space = space
        self.capacity = min(capacity, space.dimension)
        self.drawn = 0
        self.multiplied = 0
        self.shift = 0.0
        self.is_symmetric = bool(space.run.A.is_symmetric)
        self.W, self.R, self.T, self.G, self.gram = np.zeros((5, self.capacity, self.capacity))
        self.inner = np.zeros(self.capacity)
        self.lengths = np.zeros(self.capacity)
        self.Q, self.Omega, self.Z = (space.backend.allocate(space.layout, self.capacity, 0) for _ in range(3))
        self._keep_products = not (self.is_symmetric or signs)
        self._is_nystrom = nystrom
        self._rows_then = np.zeros(self.capacity, dtype=np.intp)
        self._probe = self._signs if signs else space.sphere
        self._scale = 0.0

    def draw(self, count: int) -> None:
        """Multiply as many new probes."""
        for _ in range(count):
            self._draw()

    def multiply(self, count: int) -> None:
        """Multiply as many rows of Q, oldest first."""
        for _ in range(count):
            self._multiply()

    @property
    def is_zero(self) -> bool:
        """Whether all products so far were zero: rows then stand for nothing, and R holds what keeps it invertible."""
        return self._scale == 0.0

    def trace(self) -> float:
        """Trace of the part of B within the multiplied rows."""
        return float(np.trace(self.G[: self.multiplied, : self.multiplied]))

    def left_out(self) -> Floats:
        r"""Return an estimate of B's trace for each probe whose row was multiplied, from the other rows (XTrace).

        With unit vectors :math:`s_i` along the columns of :math:`R^{-T}`, the rows without those of probe i span the
        complement of :math:`Q s_i` in the span of Q, and the probe's part there has the coefficients
        :math:`v_i = w_i - (s_i^\top w_i) s_i`.
        """
        p = self.multiplied
        W, R, T, G = (matrix[:p, :p] for matrix in (self.W, self.R, self.T, self.G))
        S = self.directions()
        V = W - S * np.sum(S * W, axis=0)
        lost = np.sum(S * (G @ S), axis=0)
        return self._samples(np.trace(G) - lost, p - 1, V, np.sum(W * R, axis=0), R, T, G)

    def fresh(self) -> Floats:
        """Return an estimate of B's trace for each probe whose row was not multiplied, from all rows that were."""
        p, rest = self.multiplied, slice(self.multiplied, self.drawn)
        W, R, T = (matrix[:p, rest] for matrix in (self.W, self.R, self.T))
        G = self.G[:p, :p]
        return self._samples(np.full(self.drawn - p, np.trace(G)), p, W, self.inner[rest], R, T, G)

    def beyond(self, vector: Array) -> Array:
        """Return the part of a vector, which is consumed, beyond the multiplied rows and known eigenvectors."""
        return self.space.backend.orthogonalize_(self.space.project(vector), self.Q, self.multiplied, ())[0]

    def sample(self, index: int, beside: OrthogonalProbes | None = None) -> float:
        """Multiply the part of a new probe beyond the multiplied rows; return its estimate of B's trace.

        With others beside which it is drawn, it is made orthogonal to these.
        """
        space, backend = self.space, self.space.backend
        probe = self.beyond(space.sphere(index)) if beside is None else beside.draw(space.sphere(index))
        product = space.multiply(probe)
        length, value = space.run.to_host(backend.dot(probe, probe), backend.dot(probe, product))
        return self.trace() + (space.dimension - self.multiplied) * float(value / length)

    def directions(self, p: int | None = None) -> Floats:
        """Return S: column i is the unit vector, within the first p rows, that only probe i's product reaches.

        By default of the multiplied rows.
        """
        p = self.multiplied if p is None else p
        if p == 0:
            return np.zeros((0, 0))
        # Columns of R to unit length first: they differ by orders of magnitude where the spectrum decays.
        R = self.R[:p, :p] / np.linalg.norm(self.R[:p, :p], axis=0)
        S = scipy.linalg.solve_triangular(R, np.eye(p), trans="T", check_finite=False)
        return np.asarray(S / np.linalg.norm(S, axis=0))

    def gain(self) -> float:
        """Estimate what each of the latest rows takes from the squared Frobenius norm of the rest of B less its mean.

        It is read off the probes that came after those rows, which know nothing of them. What the rows see of earlier
        ones is no gain: it was known.
        """
        rows = slice(0, self.drawn // 2)
        if self.multiplied:
            rows = slice(self.multiplied - max(4, self.multiplied // 4), self.multiplied)
        later = slice(rows.stop, self.drawn)
        seen = self.R[rows, later] - self.G[rows, : rows.start] @ self.W[: rows.start, later]
        return float(np.mean((seen - self.mean_eigenvalue() * self.W[rows, later]) ** 2))

    def variance(self) -> float:
        """Estimate the variance of a fresh estimate, from the lengths of products: much less noisy than theirs."""
        p, rest = self.multiplied, slice(self.multiplied, self.drawn)
        mean, d = self.mean_eigenvalue(), self.space.dimension
        W, R, G = self.W[:p, rest], self.R[:p, rest], self.G[:p, :p]
        squares = np.sum(self.R[:, rest] ** 2, axis=0) - 2 * mean * self.inner[rest] + mean**2 * d
        beyond = float(np.mean(squares - np.sum((R - mean * W) ** 2, axis=0)))
        # From the left only; what lies right of Q is known.
        beyond -= float(np.sum(self.lengths[:p] ** 2) - np.sum(G**2))
        return 2.0 * max(0.0, beyond)

    def concentration(self) -> float:
        r"""Estimate tr C^4 / (tr C^2)^2 of C, B less its mean eigenvalue, where no row was multiplied.

        Inner products of different probes' products, :math:`z_i^\top C^2 z_j`, tell it also where all of these probes
        have little of the largest eigenvector.
        """
        m, mean = self.drawn, self.mean_eigenvalue()
        if m < 2:
            return 1.0
        R, W = self.R[:m, :m], self.W[:m, :m]
        along = W.T @ R
        # Probes are orthogonal but for chance.
        products = R.T @ R - mean * (along + along.T) + mean**2 * self.space.dimension * np.eye(m)
        lengths, apart = np.diag(products), ~np.eye(m, dtype=bool)
        squares = float(np.mean(np.outer(lengths, lengths)[apart]))
        return min(1.0, float(np.mean(products[apart] ** 2)) / squares) if squares > 0.0 else 1.0

    def mean_eigenvalue(self) -> float:
        """Estimate the mean eigenvalue beyond the multiplied rows."""
        p = self.multiplied
        return (float(np.mean(self.fresh())) - self.trace()) / (self.space.dimension - p)

    def rounding(self) -> float:
        """Estimate the rounding error that all estimates have in common."""
        p = self.multiplied
        return self.space.run.A.precision * p**0.5 * float(np.linalg.norm(self.G[:p, :p]))

    def _samples(
        self,
        base: Floats,
        rank: int,
        V: Floats,
        inner: Floats,
        R: Floats,
        T: Floats,
        G: Floats,
    ) -> Floats:
        """Return base + c (omega - Qv)'B(omega - Qv), the rest of each probe put back on the sphere by c."""
        if self.is_zero:
            return np.zeros_like(base)
        d = self.space.dimension
        values = inner - np.sum(V * (R + T), axis=0) + np.sum(V * (G @ V), axis=0)
        return np.asarray(base + (d - rank) / (d - np.sum(V**2, axis=0)) * values)

    def _signs(self, index: int) -> Array:
        return probes.rademacher(self.space.backend, self.space.layout, self.space.run.seed, index)

    def _draw(self) -> None:
        space, backend, j, p = self.space, self.space.backend, self.drawn, self.multiplied
        probe = self._probe(j)
        self.Omega = backend.set_row_(self.Omega, j, probe, 1.0)
        known = [self._along(self.Q, j, probe)]
        if self._keep_products:
            known.append(self._along(self.Z, p, probe))
        if self._is_nystrom:
            known.append(self._along(self.Omega, j + 1, probe))
        product = space.multiply(probe)
        if self._is_nystrom:
            if j == 0:
                self.shift = self._rounding_of(product)
            product = backend.axpy_(product, self.shift, probe)
        inner, w, *others = space.run.to_host(backend.dot(probe, product), *known)
        self.inner[j], self.W[:j, j] = inner, w
        if self._keep_products:
            self.T[:p, j] = others[0]
        if self._is_nystrom:
            self.gram[: j + 1, j] = self.gram[j, : j + 1] = others[-1]
        self._append(product, j)
        self.drawn += 1
        (self.W[j, : j + 1],) = backend.to_host(self._along(self.Omega, j + 1, backend.row(self.Q, j)))
        if not self._keep_products:
            self.T[:, j] = self.R[:, j]

    def _rounding_of(self, product: Array) -> float:
        """Return an eigenvalue that rounding of the products hides; the probe's length is sqrt(dimension)."""
        (length,) = self.space.run.to_host(self.space.backend.norm(product))
        return 30.0 * self.space.run.A.precision * float(length) / self.space.dimension**0.5

    def _append(self, product: Array, j: int) -> None:
        """Make what a product has beyond the rows the next one, and note its coefficients."""
        space, backend = self.space, self.space.backend
        product, column, beta = self._orthogonalized(product, j)
        space.run.check_size(max(self._scale, beta, float(np.abs(column).max())))
        self._scale = max(self._scale, float(np.hypot(coefficient_norm(column), beta)))
        smallest = max(10, j) * self.space.layout.epsilon * self._scale
        index = _SPARE + j
        while beta <= smallest:
            # The range is exhausted. A random direction with next to no weight is what rounding would give.
            spare = space.project(probes.normal(backend, space.layout, space.run.seed, index))
            product, _, length = self._orthogonalized(spare, j)
            if length > 0.1:
                column[j] = max(smallest, _TINY)
                self.Q = backend.set_row_(self.Q, j, product, 1.0 / length)
                break
            index += self.capacity
        else:
            column[j] = beta
            self.Q = backend.set_row_(self.Q, j, product, 1.0 / beta)
        self.R[:, j] = column

    def _orthogonalized(self, vector: Array, rows: int) -> tuple[Array, Floats, float]:
        column = np.zeros(self.capacity)
        for _ in range(_MOST_PASSES):
            vector, _, h, norm = self.space.backend.orthogonalize_(vector, self.Q, rows, ())
            removed, beta = self.space.run.to_host(h, norm)
            column[:rows] += removed
            if coefficient_norm(removed) <= beta:
                break
            # What is left is short beside its rounding, of which a part lies along known eigenvectors.
            vector = self.space.project(vector)
        return vector, column, float(beta)

    def _multiply(self) -> None:
        space, backend, i = self.space, self.space.backend, self.multiplied
        row = backend.row(self.Q, i)
        product = space.multiply(row)
        if self._keep_products:
            self.Z = backend.set_row_(self.Z, i, product, 1.0)
            self.G[i, :i], self.T[i, : self.drawn] = space.run.to_host(
                self._along(self.Z, i, row), self._along(self.Omega, self.drawn, product)
            )
        _, _, h, beta = backend.orthogonalize_(product, self.Q, self.drawn, ())
        column, beyond = space.run.to_host(h, beta)
        if self.is_symmetric:
            self._check_symmetry(i, column)
            self.G[i, : self.drawn] = column
        self.G[: self.drawn, i] = column
        self.lengths[i] = np.hypot(coefficient_norm(column), beyond)
        self._rows_then[i] = self.drawn
        self.multiplied += 1

    def _along(self, basis: Basis, rows: int, vector: Array) -> Array:
        """Return the coefficients of a vector along rows."""
        backend = self.space.backend
        return backend.orthogonalize_(backend.copy(vector), basis, rows, ())[2]

    def _check_symmetry(self, i: int, column: Floats) -> None:
        """Compare the new column of G with the row that earlier products gave, as the formulas rely on it."""
        known = np.flatnonzero(self._rows_then[:i] > i)
        asymmetry = float(np.abs(column[known] - self.G[known, i]).max(initial=0.0))
        if asymmetry:
            # Rounding is relative to all of A, known eigenvalues included.
            scale = max(float(np.abs(part).max(initial=0.0)) for part in (self.G, column, self.space.values))
            self.space.run.note_asymmetry(asymmetry / scale)
