"""inverse: an operator that solves, or the closed form where there is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg

from specop.arrays.backend import Array
from specop.errors import DomainError, InvalidInputError, NonFiniteError
from specop.operators.explicit import DenseOperator, DiagonalOperator, LowRankOperator
from specop.operators.identity import IdentityOperator
from specop.operators.operator import (
    Composite,
    LinearOperator,
    ProductOperator,
    ScaledOperator,
    SumOperator,
    TransposedOperator,
)
from specop.operators.scipy import aslinearoperator
from specop.solvers.decompositions import decomposed, dense_on_host
from specop.solvers.operands import checked_accuracy
from specop.solvers.solve import checked_preconditioner, solve
from specop.solvers.woodbury.low_rank_update import low_rank_update
from specop.statistics.numbers import Floats

__all__ = ["SolvingOperator", "inverse"]

# Up to this size the eigenvalues of a dense matrix take less than a second on the host.
_DENSE = 1000


def inverse(
    A: Any,
    *,
    method: str = "auto",
    rtol: float = 1e-5,
    atol: float = 0.0,
    max_matvecs: int | None = None,
    preconditioner: Any = None,
    seed: int = 0,
) -> LinearOperator:
    """Return the inverse of a square operator as an operator.

    It is computed where that is cheap: of diagonal operators and multiples of the identity, of these plus one of low
    rank, and of matrices that are held as numbers up to n = 1000, on the host in float64. Otherwise each product solves
    a system, and raises rather than return what is not a solution. The options are for those products.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Square; symmetric where there is no closed form.
    method : {"auto", "lanczos", "cg", "minres", "neumann"}
        Method of `solve`.
    rtol : float
        Goal for the residual of each product, relative to the norm of the vector that is multiplied; below 1.
    atol : float
        Goal for the residual of each product, in units of that vector. The larger of the two goals counts.
    max_matvecs : int, optional
        Limit on products with A in each product with the inverse; default: that of `solve`.
    preconditioner : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator, optional
        An approximation of the inverse of A, symmetric positive definite.
    seed : int
        Seed of the few random vectors that `solve` draws.

    Returns
    -------
    LinearOperator
        The inverse. Where its products are solves, they are as exact as rtol says: its `precision` is that.

    Raises
    ------
    DomainError
        If a closed form shows that A is singular; the text has the eigenvalue.
    NotConvergedError
        From a product, if its solve does not converge.

    Examples
    --------
    >>> import numpy as np, specop
    >>> specop.inverse(np.diag([1.0, 2.0])) @ np.ones(2)
    array([1. , 0.5])
    >>> H = specop.FunctionOperator(lambda x: 4 * x, (3, 3), like=np.zeros(3), is_symmetric=True)
    >>> specop.inverse(H) @ np.ones(3)
    array([0.25, 0.25, 0.25])
    """
    operator = aslinearoperator(A)
    operator.processes.agree()
    if operator.domain != operator.codomain:
        raise InvalidInputError(f"inverse needs a square operator, got shape {operator.shape}.")
    checked_preconditioner(operator, preconditioner, method)
    checked_accuracy(rtol, atol)
    settings = {"method": method, "rtol": rtol, "atol": atol, "max_matvecs": max_matvecs, "seed": seed}
    return _inverted(operator, settings | {"preconditioner": preconditioner})


class SolvingOperator(Composite):
    """The inverse of an operator, by a solve in each product.

    Parameters
    ----------
    operator : LinearOperator
        Symmetric operator whose inverse this is.
    settings : dict
        Further arguments of `solve`.

    Attributes
    ----------
    matvecs : int
        Number of products with `operator` so far.
    """

    def __init__(self, operator: LinearOperator, settings: dict[str, Any]) -> None:
        super().__init__((operator,), operator.domain, operator.domain, is_symmetric=True, is_psd=operator.is_psd)
        if operator.is_symmetric is False:
            raise InvalidInputError(f"inverse needs a symmetric operator where it has to solve, got {operator!r}.")
        self.matvecs = 0
        self._settings = settings

    @property
    def precision(self) -> float:
        """Relative error of a product: that of its solve."""
        return max(super().precision, float(self._settings["rtol"]))

    def _matvec(self, x: Array) -> Array:
        result = solve(self.parts[0], x, **self._settings, raise_on_failure=True)
        self.matvecs += result.matvecs
        return result.solution


def _inverted(operator: LinearOperator, settings: dict[str, Any]) -> LinearOperator:
    if isinstance(operator, ScaledOperator) and operator.factor:
        return (1.0 / operator.factor) * _inverted(operator.parts[0], settings)
    if isinstance(operator, SolvingOperator):
        return operator.parts[0]
    if isinstance(operator, IdentityOperator):
        return operator
    diagonal = _diagonal(operator)
    if diagonal is not None:
        return _inverted_diagonal(operator, diagonal)
    if _is_held(operator) and operator.shape[0] <= _DENSE:
        return _inverted_dense(operator)
    return _updated_diagonal(operator) or SolvingOperator(operator, settings)


def _diagonal(operator: LinearOperator) -> Floats | None:
    """Return the entries of an operator that is known to be diagonal."""
    if isinstance(operator, DiagonalOperator):
        (entries,) = operator.backend.to_host(operator.entries)
        return entries
    if isinstance(operator, IdentityOperator):
        return np.ones(operator.domain.n)
    if isinstance(operator, ScaledOperator):
        inner = _diagonal(operator.parts[0])
        return None if inner is None else operator.factor * inner
    if isinstance(operator, SumOperator):
        left, right = (_diagonal(part) for part in operator.parts)
        return None if left is None or right is None else left + right
    return None


def _inverted_diagonal(operator: LinearOperator, entries: Floats) -> LinearOperator:
    smallest = int(np.argmin(np.abs(entries)))
    if not np.abs(entries[smallest]) > 0 or not np.isfinite(entries).all():
        raise DomainError(
            f"{operator!r} has no inverse: its diagonal holds {entries[smallest]:g} at {smallest}. Add damping, "
            f"such as A + d * identity_like(A)."
        )
    return DiagonalOperator(operator.backend.from_host(1.0 / entries, operator.domain))


def _updated_diagonal(operator: LinearOperator) -> LinearOperator | None:
    """Return the inverse of a diagonal operator plus a multiple of one of low rank, by the identity of Woodbury."""
    if not isinstance(operator, SumOperator):
        return None
    for rest, update in (operator.parts, operator.parts[::-1]):
        entries, factor = _diagonal(rest), 1.0
        while isinstance(update, ScaledOperator):
            factor, update = factor * update.factor, update.parts[0]
        if entries is not None and isinstance(update, LowRankOperator):
            backend, middle = operator.backend, np.full(len(update.rows), factor)
            if update.weights is not None:
                middle *= backend.to_host(update.weights)[0]
            return low_rank_update(_inverted_diagonal(rest, entries), backend.transpose(update.rows), middle)
    return None


def _is_held(operator: LinearOperator) -> bool:
    """Whether an operator is made of arrays only, so that its products cost next to nothing."""
    if isinstance(operator, (ProductOperator, ScaledOperator, SumOperator, TransposedOperator)):
        return all(_is_held(part) for part in operator.parts)
    return isinstance(operator, (DenseOperator, DiagonalOperator, IdentityOperator, LowRankOperator))


def _inverted_dense(operator: LinearOperator) -> LinearOperator:
    try:
        matrix, backend = dense_on_host(operator), operator.backend
    except NonFiniteError as error:
        raise InvalidInputError(f"{operator!r} holds NaN or infinity.") from error
    rounding = len(matrix) * operator.precision
    if np.abs(matrix - matrix.T).max() <= rounding * np.abs(matrix).max():
        return decomposed(operator, matrix).inverse()[0]
    left, sizes, right = scipy.linalg.svd(matrix)
    if sizes[-1] <= rounding * sizes[0]:
        raise DomainError(
            f"{operator!r} is singular to rounding: it has the singular value {sizes[-1]:.3g} beside one of "
            f"{sizes[0]:.3g}. Add damping, such as A + d * identity_like(A)."
        )
    inverted = (right.T / sizes) @ left.T
    return DenseOperator(backend.from_host(inverted, operator.domain), is_symmetric=False)
