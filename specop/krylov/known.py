"""Eigenpairs that are known before a call: brought to its operator, checked, and taken out of what it estimates."""

from __future__ import annotations

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array, Backend, Basis, add_, backend_of, lengths_of
from specop.arrays.layout import Layout
from specop.errors import InvalidInputError
from specop.krylov.run import Run
from specop.results.eigen import EigenResult
from specop.statistics.numbers import Floats

__all__ = ["Complement", "checked_deflation", "eigenvectors_for", "random_beside"]


class Complement:
    """P A P, with P the projection onto the complement of known eigenvectors, and probes that lie there.

    Parameters
    ----------
    run : Run
        Run of A, square unless there are no known eigenpairs; it makes the products.
    deflate : EigenResult or None
        Known eigenpairs of A, which one product checks.

    Attributes
    ----------
    dimension : int
        Dimension of the complement.
    values : ndarray
        Known eigenvalues.
    """

    def __init__(self, run: Run, deflate: EigenResult | None) -> None:
        self.run = run
        self.backend = run.backend
        self.layout = run.A.domain
        vectors, self.values = checked_deflation(run, deflate)
        self.dimension = run.n - len(vectors)
        self._count = len(vectors)
        self._basis: Basis = self.backend.allocate(self.layout, len(vectors), len(vectors)) if vectors else None
        for i, vector in enumerate(vectors):
            self._basis = self.backend.set_row_(self._basis, i, vector, 1.0)

    @property
    def known(self) -> float:
        """Sum of the known eigenvalues."""
        return float(self.values.sum())

    def rademacher(self, index: int) -> Array:
        """Return the part of a vector of random signs that lies in the complement."""
        return self.project(probes.rademacher(self.backend, self.layout, self.run.seed, index))

    def sphere(self, index: int) -> Array:
        """Return a vector uniform on the sphere of radius sqrt(dimension) in the complement."""
        vector = random_beside(self.run, self._count, index)
        if self._count == 0:
            return vector
        vector = self.project(vector)
        (length,) = lengths_of(self.backend, vector)
        return self.backend.scale_(vector, self.dimension**0.5 / length)

    def multiply(self, x: Array) -> Array:
        """Return P A x."""
        return self.project(self.run.multiply(x))

    def multiply_transposed(self, x: Array) -> Array:
        """Return P A.T x."""
        return self.project(self.run.multiply_transposed(x))

    def project(self, x: Array) -> Array:
        """Return P x; `x` is consumed."""
        return self.backend.orthogonalize_(x, self._basis, self._count, ())[0] if self._count else x

    def known_diagonal(self) -> Array:
        """Return the diagonal of A - P A: that of the known eigenpairs."""
        diagonal = self.backend.zeros(self.layout)
        for i, value in enumerate(self.values):
            row = self.backend.row(self._basis, i)
            diagonal = self.backend.axpy_(diagonal, float(value), self.backend.multiply(row, row))
        return diagonal


def random_beside(run: Run, known: int, index: int) -> Array:
    """Return a vector uniform on the sphere of radius sqrt(n) that so many known eigenvectors do not come from.

    The start vector that led to them has nothing beside them along the copies of an eigenvalue (`BESIDE_KNOWN`).
    """
    return probes.sphere(run.backend, run.A.domain, run.seed, (probes.BESIDE_KNOWN if known else 0) + index)


def checked_deflation(run: Run, deflate: EigenResult | None) -> tuple[list[Array], Floats]:
    """Return known eigenvectors and eigenvalues, after one product has shown that they belong to the run's operator."""
    if deflate is None:
        return [], np.zeros(0)
    if not isinstance(deflate, EigenResult):
        raise InvalidInputError(f"deflate must be an EigenResult of the same operator, got {type(deflate).__name__}.")
    if deflate.intervals is not None:
        raise InvalidInputError(
            "deflate holds eigenpairs from a part of the data, whose errors would enter the result unseen. Pass them "
            "with data='part' where there is that option, or those of eigsh(A, v0=deflate), which starts from them."
        )
    if run.A.is_symmetric is False:
        raise InvalidInputError(f"deflate takes eigenpairs of a symmetric operator, got {run.A!r}.")
    vectors = eigenvectors_for(deflate, run.backend, run.A.domain, "deflate")
    if run.left < 2 and len(vectors) < run.n:
        raise InvalidInputError(
            f"{run.name} has {run.left} product(s) left, and deflate takes one to check its eigenpairs. Raise "
            f"max_matvecs."
        )
    _check_pairs(run, vectors, deflate)
    return vectors, deflate.eigenvalues


def eigenvectors_for(eigen: EigenResult, backend: Backend, layout: Layout, what: str) -> list[Array]:
    """Return the eigenvectors of a result as vectors of an operator that may live in another framework.

    Where the result lives in the operator's own framework its rows are returned as they are, to be read only. From
    elsewhere, also from a file, each is copied through the host, one at a time: arrays of two frameworks never share
    memory, because one of them may write where the other promises that nothing changes.

    Parameters
    ----------
    eigen : EigenResult
        Result whose eigenvectors are returned.
    backend : Backend
        Backend of the operator's vectors.
    layout : Layout
        Layout of the operator's vectors.
    what : str
        Names the result in errors.

    Raises
    ------
    InvalidInputError
        If the vectors have another length than the operator's.
    """
    rows = [eigen.eigenvector(i) for i in range(len(eigen.eigenvalues))]
    home = backend_of(eigen.rows)
    if home is backend:
        for row in rows:
            backend.check_vector(row, layout, f"each eigenvector of {what}")
        return rows
    length = home.shape(eigen.rows)[1]
    if length != layout.n:
        raise InvalidInputError(
            f"{what} holds eigenvectors of length {length}, but the operator's vectors have length "
            f"{layout.n}. It belongs to another model."
        )
    return [backend.from_host(home.to_numpy(row).astype(layout.dtype, copy=False), layout) for row in rows]


def _check_pairs(run: Run, vectors: list[Array], eigen: EigenResult) -> None:
    """Multiply the sum of the eigenvectors: pairs of another matrix, or of an earlier one, do not add up."""
    backend, values = run.backend, eigen.eigenvalues
    total = add_(backend, backend.copy(vectors[0]), [1.0] * (len(vectors) - 1), vectors[1:])
    rest = add_(backend, run.multiply(total), -values, vectors)
    (left,) = run.to_host(backend.norm(rest))
    rounding = run.A.precision * len(values) ** 0.5 * float(np.abs(values).max())
    allowed = 10.0 * float(np.linalg.norm(eigen.residuals)) + 100.0 * rounding
    if left > allowed:
        raise InvalidInputError(
            f"deflate holds eigenpairs of another matrix than {run.A!r}: the product with the sum of its "
            f"eigenvectors is off by {float(left):.1e}, where its residuals allow {allowed:.1e}. Compute them again "
            f"for this operator; eigsh(A, v0=...) takes the old ones as its start."
        )
