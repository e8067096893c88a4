"""aslinearoperator: what counts as a matrix, SciPy's operators among it."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from specop.arrays.backend import Array, backend_of, shape_of
from specop.arrays.layout import Layout
from specop.errors import InvalidInputError, MissingTransposeError, check_unmasked
from specop.operators.explicit import DenseOperator
from specop.operators.operator import LinearOperator
from specop.operators.scipy_view import ScipyView
from specop.statistics.numbers import Floats

__all__ = ["ScipyOperator", "aslinearoperator"]


def aslinearoperator(A: Any) -> LinearOperator:
    """Return ``A`` as a `LinearOperator`.

    Parameters
    ----------
    A : LinearOperator, native (m, n) array, SciPy sparse matrix or SciPy LinearOperator
        An operator is returned as it is. SciPy objects become operators on NumPy vectors.

    Raises
    ------
    InvalidInputError
        If ``A`` is none of these, or complex.

    Examples
    --------
    >>> import scipy.sparse, specop
    >>> specop.aslinearoperator(scipy.sparse.eye(3, format="csr"))
    <ScipyOperator 3 x 3, float64, numpy:cpu>
    """
    if isinstance(A, LinearOperator):
        return A
    if isinstance(A, ScipyView):
        return A.operator
    if scipy.sparse.issparse(A) or isinstance(A, scipy.sparse.linalg.LinearOperator):
        return ScipyOperator(A)
    if isinstance(A, (list, tuple)):
        A = _array_of(A)
    check_unmasked("the matrix", A)
    if isinstance(A, np.ndarray):
        # A numpy.matrix would return a matrix from every product.
        A = np.asarray(A, dtype=float if A.dtype.kind in "iub" else None)
    if len(shape_of(A)) == 2:
        return DenseOperator(A)
    raise InvalidInputError(
        f"cannot make an operator of {type(A).__name__}: pass a LinearOperator, an (m, n) array, a SciPy sparse "
        f"matrix or a SciPy LinearOperator; wrap a function in specop.FunctionOperator."
    )


def _array_of(rows: Any) -> Floats:
    try:
        return np.asarray(rows, dtype=float)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"a list is a matrix if it holds rows of real numbers of one length: {error}."
        ) from error


class ScipyOperator(LinearOperator):
    """A SciPy sparse matrix or LinearOperator as an operator on NumPy vectors."""

    def __init__(self, wrapped: Any) -> None:
        operator = scipy.sparse.linalg.aslinearoperator(wrapped)
        kind = np.dtype(operator.dtype)
        if kind.kind == "c":
            raise InvalidInputError(
                f"specop works on real operators, this one is of {kind}. The eigenvalues of a Hermitian H are, each "
                f"twice, those of the real symmetric [[H.real, -H.imag], [H.imag, H.real]]."
            )
        dtype = kind if kind in (np.dtype(np.float32), np.dtype(np.float64)) else np.dtype(np.float64)
        rows, columns = operator.shape
        super().__init__(backend_of(np.empty(0)), Layout(columns, dtype, "cpu"), Layout(rows, dtype, "cpu"))
        self._wrapped = operator
        self.entries: int | None = getattr(wrapped, "nnz", None)
        self._sparse: Any = wrapped if scipy.sparse.issparse(wrapped) else None

    def _matvec(self, x: Array) -> Array:
        if self._sparse is not None:
            # What a sparse matrix returns is nobody else's: it need not be copied.
            return np.asarray(self._sparse @ x, dtype=self.dtype)
        return self._copied(self._wrapped.matvec(x))

    def read_diagonal(self) -> Floats | None:
        """Return the diagonal on the host."""
        return None if self._sparse is None else np.asarray(self._sparse.diagonal(), dtype=np.float64)

    def read_square(self) -> float | None:
        """Return the sum of all squared entries."""
        return (
            None
            if self._sparse is None
            else float(scipy.sparse.linalg.norm(self._sparse.tocsr().astype(np.float64))) ** 2
        )

    def _rmatvec(self, y: Array) -> Array:
        if self.is_symmetric:
            return self._matvec(y)
        try:
            return self._copied(self._wrapped.rmatvec(y))
        except NotImplementedError as error:
            raise MissingTransposeError(
                f"this SciPy operator has no transposed product: {error}. Pass rmatvec= when you make it."
            ) from error

    def _copied(self, product: Array) -> Array:
        if np.iscomplexobj(product):
            raise InvalidInputError(
                f"{self!r} returns complex products, while its dtype is real: specop works on real operators, "
                f"and would drop their imaginary parts."
            )
        return np.array(product, dtype=self.dtype)
