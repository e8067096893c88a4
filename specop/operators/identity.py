"""identity_like: the identity on the space of another operator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from specop.arrays.backend import Array
from specop.errors import InvalidInputError
from specop.operators.operator import Composite, LinearOperator
from specop.operators.scipy import aslinearoperator

__all__ = ["IdentityOperator", "identity_like"]


def identity_like(A: Any) -> LinearOperator:
    """Return the identity with the shape, dtype, backend and device of a square operator.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Square operator, n x n.

    Examples
    --------
    >>> import numpy as np, specop
    >>> A = specop.DiagonalOperator(np.array([1.0, 2.0]))
    >>> (A + 0.5 * specop.identity_like(A)).to_dense()
    array([[1.5, 0. ],
           [0. , 2.5]])
    """
    operator = aslinearoperator(A)
    if operator.domain != operator.codomain:
        raise InvalidInputError(f"identity_like needs a square operator, got shape {operator.shape}.")
    return IdentityOperator(operator)


class IdentityOperator(Composite):
    """The identity on the space of another operator."""

    def __init__(self, operator: LinearOperator) -> None:
        super().__init__((operator,), operator.domain, operator.domain, is_symmetric=True, is_psd=True)

    @contextmanager
    def session(self) -> Iterator[None]:
        # The identity does not depend on the operator whose space it borrowed.
        yield

    _brief_session = session

    def _matvec(self, x: Array) -> Array:
        return self.backend.copy(x)
