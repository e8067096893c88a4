"""A small symmetric matrix by its eigenvalues: what its inverse is, and which damping it needs to have one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from specop.errors import DomainError
from specop.krylov.run import Run
from specop.operators.explicit import DenseOperator
from specop.operators.operator import LinearOperator
from specop.statistics.numbers import Floats

__all__ = ["Decomposition", "decomposed", "dense_on_host"]

# Roundings of a product by which an eigenvalue of the matrix that products make may be off.
_ROUNDINGS = 10


@dataclass(frozen=True, eq=False)
class Decomposition:
    r"""Eigenvalues and eigenvectors of a symmetric matrix A, on the host in float64.

    Attributes
    ----------
    operator : LinearOperator
        The matrix A.
    diagonal : ndarray (n,)
        Diagonal of A.
    values : ndarray (n,)
        Eigenvalues, ascending.
    vectors : ndarray (n, n)
        Eigenvectors, as columns.
    """

    operator: LinearOperator
    diagonal: Floats
    values: Floats
    vectors: Floats

    @property
    def rounding(self) -> float:
        """Size below which an eigenvalue cannot be told from zero."""
        relative = _ROUNDINGS * self.operator.precision + len(self.values) * np.finfo(np.float64).eps
        return float(relative * np.abs(self.values).max())

    @property
    def least_damping(self) -> float:
        """Damping above which A + damping I is positive definite beyond rounding; negative where A is."""
        return self.rounding - float(self.values[0])

    def regular(self, damping: float = 0.0) -> Floats:
        """Return the eigenvalues of A + damping I.

        Raises
        ------
        DomainError
            If that is singular to rounding; the text has the eigenvalue.
        """
        values = self.values + damping
        smallest = float(values[np.argmin(np.abs(values))])
        if abs(smallest) <= self.rounding:
            raise DomainError(
                f"{self.operator!r} is singular to rounding: it has the eigenvalue {smallest:.3g} beside one of "
                f"{np.abs(values).max():.3g}. Add damping, such as A + d * identity_like(A)."
            )
        return values

    def inverse(self, damping: float = 0.0) -> tuple[DenseOperator, Floats]:
        """Return ``(A + damping I)^-1`` as a native operator that knows its sign, and its diagonal in float64."""
        values = self.regular(damping)
        inverted = (self.vectors / values) @ self.vectors.T
        layout = self.operator.domain.of_length(len(values))
        native = self.operator.backend.from_host(inverted, layout)
        return DenseOperator(native, is_symmetric=True, is_psd=bool(values[0] > 0)), inverted.diagonal()


def decomposed(operator: LinearOperator, matrix: Floats | None = None) -> Decomposition:
    """Return the eigenvalues and eigenvectors of a small operator.

    Parameters
    ----------
    operator : LinearOperator
        Operator that is symmetric but for rounding.
    matrix : ndarray (n, n), optional
        Entries of the operator, where they are at hand; without them they take n products.
    """
    entries = dense_on_host(operator) if matrix is None else matrix
    values, vectors = scipy.linalg.eigh((entries + entries.T) / 2)
    return Decomposition(operator, entries.diagonal(), values, vectors)


def dense_on_host(operator: LinearOperator) -> Floats:
    """Return an operator's entries, by n products."""
    with Run(operator, "the dense matrix") as run:
        units = (run.backend.from_host(row, operator.domain) for row in np.eye(run.n))
        return np.stack(run.to_host(*[run.multiply(unit) for unit in units]), axis=1)
