"""FunctionOperator, DenseOperator, DiagonalOperator, LowRankOperator: the user holds the product, or the matrix."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from specop.arrays.backend import Array, Backend, backend_of, shape_of
from specop.arrays.layout import Layout
from specop.errors import InvalidInputError
from specop.operators.operator import LinearOperator
from specop.statistics.numbers import Floats

__all__ = ["DenseOperator", "DiagonalOperator", "FunctionOperator", "LowRankOperator"]


class FunctionOperator(LinearOperator):
    """Operator of a function that multiplies.

    Parameters
    ----------
    matvec : callable
        ``matvec(x) -> A x`` on native vectors. What it returns is copied, so it may return a buffer of its own.
    shape : (int, int)
        Numbers of rows and columns.
    like : native array
        Any array of the framework, floating dtype and device that the vectors have.
    rmatvec : callable, optional
        ``rmatvec(y) -> A.T y``; needed by ``.T`` unless the operator is symmetric.
    is_symmetric, is_psd : bool, optional
        What is known of the matrix.

    Examples
    --------
    >>> import numpy as np, specop
    >>> A = specop.FunctionOperator(lambda x: x[::-1], (4, 4), like=np.zeros(4), is_symmetric=True)
    >>> A @ np.arange(4.0)
    array([3., 2., 1., 0.])
    """

    def __init__(
        self,
        matvec: Callable[[Array], Array],
        shape: tuple[int, int],
        *,
        like: Array,
        rmatvec: Callable[[Array], Array] | None = None,
        is_symmetric: bool | None = None,
        is_psd: bool | None = None,
    ) -> None:
        if not callable(matvec):
            raise InvalidInputError(f"matvec must be callable, got {type(matvec).__name__}.")
        rows, columns = shape
        if rows < 1 or columns < 1:
            raise InvalidInputError(f"shape must be two positive integers, got {shape}.")
        backend = backend_of(like)
        domain, codomain = (backend.layout(like).of_length(n) for n in (columns, rows))
        super().__init__(backend, domain, codomain, is_symmetric=is_symmetric, is_psd=is_psd)
        self._forward = matvec
        self._transposed = rmatvec

    def _matvec(self, x: Array) -> Array:
        return self._checked_copy(self._forward(x), self.codomain, "matvec")

    def _rmatvec(self, y: Array) -> Array:
        if self._transposed is None:
            return super()._rmatvec(y)
        return self._checked_copy(self._transposed(y), self.domain, "rmatvec")

    def _checked_copy(self, result: Array, layout: Layout, name: str) -> Array:
        self.backend.check_vector(result, layout, f"what {name} returns")
        return self.backend.copy(result)


class DenseOperator(LinearOperator):
    """Operator of a native (m, n) array.

    Parameters
    ----------
    matrix : native array, (m, n)
        The matrix; it is kept by reference, not copied.
    is_symmetric, is_psd : bool, optional
        What is known of the matrix; it is not examined.

    Examples
    --------
    >>> import numpy as np, specop
    >>> specop.DenseOperator(np.ones((2, 3))).T @ np.ones(2)
    array([2., 2., 2.])
    """

    def __init__(self, matrix: Array, *, is_symmetric: bool | None = None, is_psd: bool | None = None) -> None:
        backend, domain, codomain = _spaces(matrix, "a dense operator needs a non-empty (m, n) array")
        super().__init__(backend, domain, codomain, is_symmetric=is_symmetric, is_psd=is_psd)
        self.matrix = matrix

    def _matvec(self, x: Array) -> Array:
        return self.backend.apply_rows(self.matrix, x)

    def _rmatvec(self, y: Array) -> Array:
        return self.backend.combine_rows(self.matrix, y)

    def read_diagonal(self) -> Floats | None:
        """Return the diagonal on the host."""
        if self.domain != self.codomain or self.domain.sharding is not None:
            return None
        rows = (self.backend.index(self.matrix, i) for i in range(self.shape[0]))
        entries = [self.backend.gather(row, np.array([i])) for i, row in enumerate(rows)]
        return np.concatenate(self.backend.to_host(*entries)).astype(np.float64)

    def read_square(self) -> float | None:
        """Return the sum of all squared entries."""
        if self.domain.sharding is not None:
            return None
        rows = (self.backend.index(self.matrix, i) for i in range(self.shape[0]))
        lengths = np.array(self.backend.to_host(*map(self.backend.norm, rows)), dtype=np.float64)
        return float(np.sum(lengths**2))


class DiagonalOperator(LinearOperator):
    """``diag(entries)``.

    Parameters
    ----------
    entries : native array, (n,)
        The diagonal, kept by reference.

    Examples
    --------
    >>> import numpy as np, specop
    >>> specop.DiagonalOperator(np.array([1.0, 2.0])) @ np.ones(2)
    array([1., 2.])
    """

    def __init__(self, entries: Array) -> None:
        backend, shape = backend_of(entries), shape_of(entries)
        if len(shape) != 1 or shape[0] == 0:
            raise InvalidInputError(f"a diagonal operator needs a non-empty one-dimensional array, got shape {shape}.")
        super().__init__(backend, backend.layout(entries), is_symmetric=True)
        self.entries = entries

    def _matvec(self, x: Array) -> Array:
        return self.backend.multiply(self.entries, x)

    def read_diagonal(self) -> Floats | None:
        """Return the diagonal on the host."""
        (entries,) = self.backend.to_host(self.entries)
        return np.asarray(entries, dtype=np.float64)

    def read_square(self) -> float | None:
        """Return the sum of all squared entries."""
        (length,) = self.backend.to_host(self.backend.norm(self.entries))
        return float(length) ** 2


class LowRankOperator(LinearOperator):
    """``rows.T @ diag(weights) @ rows``, symmetric of rank at most r.

    Parameters
    ----------
    rows : native array, (r, n)
        Contiguous rows, such as the eigenvectors of an EigenResult or per-sample gradients; kept by reference.
    weights : native array, (r,), optional
        Weight of each row; ones by default, which makes the operator positive semidefinite.

    Examples
    --------
    >>> import numpy as np, specop
    >>> specop.LowRankOperator(np.array([[1.0, 1.0, 0.0]]), np.array([2.0])) @ np.ones(3)
    array([4., 4., 0.])
    """

    def __init__(self, rows: Array, weights: Array | None = None) -> None:
        backend, domain, inner = _spaces(rows, "a low-rank operator needs a non-empty (r, n) array")
        if weights is not None:
            backend.check_vector(weights, inner, "weights")
        super().__init__(backend, domain, is_symmetric=True, is_psd=True if weights is None else None)
        self.rows = rows
        self.weights = weights

    def _matvec(self, x: Array) -> Array:
        inner = self.backend.apply_rows(self.rows, x)
        if self.weights is not None:
            inner = self.backend.multiply(self.weights, inner)
        return self.backend.combine_rows(self.rows, inner)


def _spaces(matrix: Array, needs: str) -> tuple[Backend, Layout, Layout]:
    """Return the backend of a native (m, n) array, and the layouts of vectors of lengths n and m."""
    shape = shape_of(matrix)
    if len(shape) != 2 or 0 in shape:
        raise InvalidInputError(f"{needs}, got shape {shape}.")
    backend = backend_of(matrix)
    rows = backend.layout(matrix)
    return backend, rows, rows.of_length(shape[0])
