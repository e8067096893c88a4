"""restrict: a principal block of an operator."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from specop.arrays.backend import Array
from specop.errors import InvalidInputError, check_unmasked
from specop.operators.operator import Composite, LinearOperator
from specop.operators.scipy import aslinearoperator

__all__ = ["RestrictedOperator", "restrict"]


def restrict(A: Any, indices: ArrayLike) -> LinearOperator:
    """Return the principal block ``A[indices][:, indices]`` of a square operator.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Square operator, n x n.
    indices : array_like of int
        Distinct coordinates from 0 to n - 1.

    Raises
    ------
    InvalidInputError
        If the operator is not square or an index is missing, repeated or out of range.

    Examples
    --------
    >>> import numpy as np, specop
    >>> specop.restrict(np.arange(9.0).reshape(3, 3), [0, 2]).to_dense()
    array([[0., 2.],
           [6., 8.]])
    """
    return RestrictedOperator(aslinearoperator(A), indices)


class RestrictedOperator(Composite):
    """``A[indices][:, indices]``."""

    def __init__(self, operator: LinearOperator, indices: ArrayLike) -> None:
        n = operator.shape[0]
        check_unmasked("indices", indices)
        chosen = np.asarray(indices)
        if operator.domain != operator.codomain:
            raise InvalidInputError(f"only a square operator has principal blocks, got shape {operator.shape}.")
        if chosen.ndim != 1 or chosen.size == 0 or not np.issubdtype(chosen.dtype, np.integer):
            raise InvalidInputError(f"indices must be a non-empty one-dimensional array of integers, got {indices!r}.")
        if chosen.min() < 0 or chosen.max() >= n or len(np.unique(chosen)) != len(chosen):
            raise InvalidInputError(f"indices must be distinct and lie in 0..{n - 1}.")
        block = operator.domain.of_length(len(chosen))
        super().__init__((operator,), block, block, is_symmetric=operator.is_symmetric, is_psd=operator.is_psd)
        self.indices = chosen.astype(np.intp)

    def _matvec(self, x: Array) -> Array:
        return self._inside(self.parts[0]._matvec, x)

    def _rmatvec(self, y: Array) -> Array:
        return self._inside(self.parts[0]._rmatvec, y)

    def flatten(self, tree: Any) -> None:
        return None

    def _inside(self, product: Any, x: Array) -> Array:
        whole = self.parts[0].domain
        return self.backend.gather(product(self.backend.scatter(x, self.indices, whole)), self.indices)
