"""An operator on the complement of its known eigenvectors, which is what estimators sample."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from specop.arrays import probes
from specop.arrays.backend import Array, Basis
from specop.errors import InvalidInputError, NonFiniteError
from specop.krylov.exchange import eigenvectors_for
from specop.operators.operator import LinearOperator
from specop.results.eigen import EigenResult

__all__ = ["Complement", "checked_deflation"]


class Complement:
    """P A P, with P the projection onto the complement of known eigenvectors, and probes that lie there.

    Parameters
    ----------
    operator : LinearOperator
        A, square.
    deflate : EigenResult or None
        Its known eigenpairs.
    seed : int
        Of the probes.

    Attributes
    ----------
    dimension : int
        Of the complement.
    values : ndarray
        Known eigenvalues.
    products : int
        Products so far.
    checks : int
        Products that it took to see that the eigenpairs are those of A.
    """

    def __init__(self, operator: LinearOperator, deflate: EigenResult | None, seed: int) -> None:
        self.operator = operator
        self.backend = operator.backend
        self.layout = operator.domain
        self.seed = probes.check_seed(seed)
        vectors, self.values, self.checks = checked_deflation(operator, deflate)
        self.dimension = operator.shape[0] - len(vectors)
        self.products = 0
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
        return self.project(probes.rademacher(self.backend, self.layout, self.seed, index))

    def sphere(self, index: int) -> Array:
        """Return a vector uniform on the sphere of radius sqrt(dimension) in the complement."""
        if self._count == 0:
            return probes.sphere(self.backend, self.layout, self.seed, index)
        vector = self.project(probes.normal(self.backend, self.layout, self.seed, index))
        (length,) = self.backend.to_host(self.backend.norm(vector))
        return self.backend.scale_(vector, float(self.dimension**0.5 / length))

    def unit(self, i: int) -> Array:
        """Return the i-th unit vector."""
        entries = np.zeros(self.layout.n, dtype=self.layout.dtype)
        entries[i] = 1.0
        return self.backend.from_host(entries, self.layout)

    def multiply(self, x: Array) -> Array:
        """Return P A x."""
        self.products += 1
        return self.project(self.operator._matvec(x))

    def multiply_transposed(self, x: Array) -> Array:
        """Return P A.T x."""
        self.products += 1
        return self.project(self.operator._rmatvec(x))

    def known_diagonal(self) -> Array:
        """Return the diagonal of A - P A: that of the known eigenpairs."""
        diagonal = self.backend.zeros(self.layout)
        for i, value in enumerate(self.values):
            row = self.backend.row(self._basis, i)
            diagonal = self.backend.axpy_(diagonal, float(value), self.backend.multiply(row, row))
        return diagonal

    def checked(self, scalars: list[Array]) -> NDArray[np.float64]:
        """Move one scalar of each of the latest products to the host together, and look which one is not finite."""
        found = self.backend.to_host(*scalars)
        first = self.products - len(found) + 1
        return np.array([float(self.finite([value], first + i)[0]) for i, value in enumerate(found)])

    def project(self, x: Array) -> Array:
        """Return P x; `x` is consumed."""
        return self.backend.orthogonalize_(x, self._basis, self._count, ())[0] if self._count else x

    def to_host(self, *arrays: Any) -> list[NDArray[np.float64]]:
        """Return what the latest product led to, as float64; raise if it is not finite."""
        return self.finite(self.backend.to_host(*arrays), self.products)

    def finite(self, numbers: list[NDArray[np.float64]], product: int) -> list[NDArray[np.float64]]:
        """Return the numbers, or raise NonFiniteError naming the product that they came from."""
        if all(np.isfinite(part).all() for part in numbers):
            return numbers
        raise NonFiniteError(
            f"product {product} with {self.operator!r} holds NaN or infinity, or its norm overflows "
            f"{self.operator.dtype}. Check the parameters and the data for NaN, and the loss for overflow."
        )


def checked_deflation(
    operator: LinearOperator, deflate: EigenResult | None
) -> tuple[list[Array], NDArray[np.float64], int]:
    """Return known eigenvectors and eigenvalues, and the products it took to see that they belong to this operator."""
    if deflate is None:
        return [], np.zeros(0), 0
    if not isinstance(deflate, EigenResult):
        raise InvalidInputError(f"deflate must be an EigenResult of the same operator, got {type(deflate).__name__}.")
    vectors = eigenvectors_for(deflate, operator.backend, operator.domain, "deflate")
    _check_pairs(operator, vectors, deflate)
    return vectors, deflate.eigenvalues, 1


def _check_pairs(operator: LinearOperator, vectors: list[Array], eigen: EigenResult) -> None:
    """Multiply the sum of the eigenvectors: pairs of another matrix, or of an earlier one, do not add up."""
    backend, values = operator.backend, eigen.eigenvalues
    total = backend.copy(vectors[0])
    for vector in vectors[1:]:
        total = backend.axpy_(total, 1.0, vector)
    rest = operator.matvec(total)
    for vector, value in zip(vectors, values, strict=True):
        rest = backend.axpy_(rest, -float(value), vector)
    (left,) = backend.to_host(backend.norm(rest))
    rounding = operator.precision * len(values) ** 0.5 * float(np.abs(values).max())
    allowed = 10.0 * float(np.linalg.norm(eigen.residuals)) + 100.0 * rounding
    if left > allowed:
        raise InvalidInputError(
            f"deflate holds eigenpairs of another matrix than {operator!r}: the product with the sum of its "
            f"eigenvectors is off by {float(left):.1e}, where its residuals allow {allowed:.1e}. Compute them again "
            f"for this operator; eigsh(A, v0=...) takes the old ones as its start."
        )
