"""low_rank_update: the inverse of A + U C V' from the inverse of A."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from specop.arrays.backend import Array, checked_columns
from specop.errors import InvalidInputError, check_unmasked
from specop.operators.operator import Composite, LinearOperator
from specop.operators.scipy import aslinearoperator
from specop.statistics.numbers import Floats

__all__ = ["low_rank_update"]


def low_rank_update(inverse: Any, U: Array, C: ArrayLike | None = None, V: Array | None = None) -> LinearOperator:
    r"""Return the inverse of a matrix after an update of low rank, by the identity of Woodbury [1]_.

    .. math:: (A + U C V^T)^{-1} = A^{-1} - A^{-1} U (I + C V^T A^{-1} U)^{-1} C V^T A^{-1}

    Parameters
    ----------
    inverse : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Multiplies by the inverse of A, n x n, such as a `ShermanMorrison.operator`, a `DiagonalOperator` or what this
        function returned for another update.
    U : native array (n, k)
        Columns on the left of the update, kept by reference.
    C : array_like (k, k) or (k,), optional
        Matrix in the middle of the update, on the host, or its diagonal; negative entries remove. It may be singular.
        Default: the identity.
    V : native array (n, k), optional
        Columns on the right of the update, kept by reference. Default: U.

    Returns
    -------
    LinearOperator
        The updated inverse, whose products take one with `inverse` and two passes over the columns; making it takes k
        products with `inverse`.

    Raises
    ------
    InvalidInputError
        If A + U C V' is singular within rounding.

    References
    ----------
    .. [1] W. W. Hager, Updating the inverse of a matrix, SIAM Review 31 (1989), 221-239.

    Examples
    --------
    >>> import numpy as np, specop
    >>> inverse = specop.DiagonalOperator(np.array([0.5, 0.25]))  # of diag(2, 4)
    >>> (specop.low_rank_update(inverse, np.array([[1.0], [0.0]])) @ np.ones(2)).round(3)
    array([0.333, 0.25 ])
    """
    return UpdatedInverse(aslinearoperator(inverse), U, C, V)


class UpdatedInverse(Composite):
    """Inverse of A + U C V'; made by `low_rank_update`."""

    def __init__(self, inverse: LinearOperator, U: Array, C: ArrayLike | None, V: Array | None) -> None:
        if inverse.domain != inverse.codomain:
            raise InvalidInputError(f"only a square matrix has an inverse, got shape {inverse.shape}.")
        k = _columns_of(inverse, U, "U")
        if V is not None and _columns_of(inverse, V, "V") != k:
            shapes = " and ".join(str(inverse.backend.shape(block)) for block in (U, V))
            raise InvalidInputError(f"U and V must have as many columns, got shapes {shapes}.")
        middle = _checked_middle(C, k)
        symmetric = V is None or V is U
        mirrored = bool(inverse.is_symmetric) and symmetric and np.array_equal(middle, middle.T)
        positive = bool(inverse.is_psd) and mirrored and float(np.linalg.eigvalsh(middle)[0]) >= 0
        super().__init__(
            (inverse,),
            inverse.domain,
            inverse.codomain,
            is_symmetric=True if mirrored else None,
            is_psd=True if positive else None,
        )
        backend = self.backend
        self._U, self._V = U, U if V is None else V
        with inverse.session():
            self._solved = backend.stack_columns(inverse._matmat(backend.columns(U)))
        # The small matrix I + C V' A^-1 U decides whether there is an inverse, and how many digits it has.
        small = np.eye(k) + middle @ _products(self, self._V, self._solved)
        if not np.isfinite(small).all():
            raise InvalidInputError("U, C, V or A^-1 U hold NaN or infinity.")
        self._condition = float(np.linalg.cond(small))
        if not self._condition * inverse.precision < 0.1:
            raise InvalidInputError(
                f"the matrix A + U C V' is singular within rounding: I + C V' A^-1 U has the condition number "
                f"{self._condition:.1e}, and products with A^-1 have a precision of {inverse.precision:.1e}. Change "
                f"U, C or V, or use float64."
            )
        self._middle = np.asarray(np.linalg.solve(small, middle), dtype=np.float64)
        self._solved_transposed: Array | None = self._solved if mirrored else None

    @property
    def precision(self) -> float:
        return self.parts[0].precision * self._condition

    def _matvec(self, x: Array) -> Array:
        return self._corrected(self.parts[0]._matvec(x), self._V, self._middle, self._solved)

    def _rmatvec(self, y: Array) -> Array:
        inverse = self.parts[0]
        if self._solved_transposed is None:
            solved = [inverse._rmatvec(column) for column in self.backend.columns(self._V)]
            self._solved_transposed = self.backend.stack_columns(solved)
        return self._corrected(inverse._rmatvec(y), self._U, self._middle.T, self._solved_transposed)

    def _corrected(self, y: Array, left: Array, middle: Floats, right: Array) -> Array:
        """Return ``y - right middle left' y``."""
        backend = self.backend
        (products,) = backend.to_host(backend.apply_rows(backend.transpose(left), y))
        coefficients = middle @ products
        inner = backend.from_host(coefficients, self.domain.of_length(len(coefficients)))
        image = backend.combine_rows(backend.transpose(right), inner)
        return backend.axpy_(y, -1.0, image)


def _columns_of(inverse: LinearOperator, block: Array, name: str) -> int:
    shape = inverse.backend.shape(block)
    if len(shape) != 2 or 0 in shape:
        raise InvalidInputError(
            f"{name} must be a non-empty native ({inverse.shape[0]}, k) array, got {shape or block!r}."
        )
    return len(checked_columns(inverse.backend, block, inverse.domain, name))


def _checked_middle(C: ArrayLike | None, k: int) -> Floats:
    check_unmasked("C", C)
    middle = np.eye(k) if C is None else np.asarray(C, dtype=np.float64)
    middle = np.diag(middle) if middle.ndim == 1 else middle
    if middle.shape != (k, k) or not np.isfinite(middle).all():
        raise InvalidInputError(f"C must be a finite array of shape ({k}, {k}) or ({k},), got {C!r}.")
    return middle


def _products(operator: LinearOperator, left: Array, right: Array) -> Floats:
    backend = operator.backend
    return backend.row_products([backend.transpose(left)], [backend.transpose(right)])
