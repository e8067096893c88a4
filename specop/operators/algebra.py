"""Operators made of operators: one small class for each node of the algebra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from specop.backend import Array, Layout
from specop.errors import InvalidInputError
from specop.operators.base import LinearOperator

__all__ = [
    "Composite",
    "IdentityOperator",
    "ProductOperator",
    "RestrictedOperator",
    "ScaledOperator",
    "SumOperator",
    "TransposedOperator",
    "identity_like",
    "restrict",
]


def identity_like(A: LinearOperator) -> LinearOperator:
    """Return the identity with the shape, dtype, backend and device of a square operator.

    Parameters
    ----------
    A : LinearOperator
        Square.

    Examples
    --------
    >>> import numpy as np, specop
    >>> A = specop.DiagonalOperator(np.array([1.0, 2.0]))
    >>> (A + 0.5 * specop.identity_like(A)).to_dense()
    array([[1.5, 0. ],
           [0. , 2.5]])
    """
    if A.domain != A.codomain:
        raise InvalidInputError(f"identity_like needs a square operator, got shape {A.shape}.")
    return IdentityOperator(A)


def restrict(A: LinearOperator, indices: ArrayLike) -> LinearOperator:
    """Return the principal block ``A[indices][:, indices]`` of a square operator.

    Parameters
    ----------
    A : LinearOperator
        Square, n x n.
    indices : array_like of int
        Distinct coordinates from 0 to n - 1.

    Raises
    ------
    InvalidInputError
        If the operator is not square or an index is missing, repeated or out of range.

    Examples
    --------
    >>> import numpy as np, specop
    >>> specop.restrict(specop.aslinearoperator(np.arange(9.0).reshape(3, 3)), [0, 2]).to_dense()
    array([[0., 2.],
           [6., 8.]])
    """
    return RestrictedOperator(A, indices)


class Composite(LinearOperator):
    """Base of nodes: they watch what their parts watch."""

    def __init__(self, parts: tuple[LinearOperator, ...], domain: Layout, codomain: Layout, **facts: Any) -> None:
        backend = parts[0].backend
        for part in parts[1:]:
            if part.backend is not backend or part.device != parts[0].device or part.dtype != parts[0].dtype:
                raise InvalidInputError(
                    f"operators must share framework, device and dtype: {parts[0]!r} and {part!r} do not."
                )
        super().__init__(backend, domain, codomain, **facts)
        self.parts = parts

    @contextmanager
    def session(self) -> Iterator[None]:
        with ExitStack() as stack:
            for part in self.parts:
                stack.enter_context(part.session())
            yield

    @property
    def precision(self) -> float:
        return max(part.precision for part in self.parts)

    @property
    def samples(self) -> int | None:
        counts = [part.samples for part in self.parts if part.samples is not None]
        return max(counts) if counts else None

    def flatten(self, tree: Any) -> Array | None:
        return self.parts[-1].flatten(tree)

    def unflatten(self, vector: Array) -> Any:
        return self.parts[0].unflatten(vector)


class SumOperator(Composite):
    """``A + B``."""

    def __init__(self, left: LinearOperator, right: LinearOperator) -> None:
        if left.shape != right.shape:
            raise InvalidInputError(f"cannot add operators of shapes {left.shape} and {right.shape}.")
        super().__init__(
            (left, right),
            left.domain,
            left.codomain,
            is_symmetric=_both(left.is_symmetric, right.is_symmetric),
            is_psd=_both(left.is_psd, right.is_psd),
        )

    def _matvec(self, x: Array) -> Array:
        left, right = self.parts
        return self.backend.axpy_(left._matvec(x), 1.0, right._matvec(x))

    def _rmatvec(self, y: Array) -> Array:
        left, right = self.parts
        return self.backend.axpy_(left._rmatvec(y), 1.0, right._rmatvec(y))


class ScaledOperator(Composite):
    """``factor * A``."""

    def __init__(self, operator: LinearOperator, factor: float) -> None:
        if not np.isfinite(factor):
            raise InvalidInputError(f"cannot scale an operator by {factor}.")
        super().__init__(
            (operator,),
            operator.domain,
            operator.codomain,
            is_symmetric=operator.is_symmetric,
            is_psd=True if operator.is_psd and factor >= 0 else None,
        )
        self.factor = factor

    def _matvec(self, x: Array) -> Array:
        return self.backend.scale_(self.parts[0]._matvec(x), self.factor)

    def _rmatvec(self, y: Array) -> Array:
        return self.backend.scale_(self.parts[0]._rmatvec(y), self.factor)


class ProductOperator(Composite):
    """``A @ B``."""

    def __init__(self, left: LinearOperator, right: LinearOperator) -> None:
        if left.shape[1] != right.shape[0]:
            raise InvalidInputError(f"cannot multiply operators of shapes {left.shape} and {right.shape}.")
        # B.T @ B and B @ B.T are the products known to be symmetric without a look inside.
        gram = _transposes(left, right)
        super().__init__((left, right), right.domain, left.codomain, is_symmetric=gram or None, is_psd=gram or None)

    def _matvec(self, x: Array) -> Array:
        left, right = self.parts
        return left._matvec(right._matvec(x))

    def _rmatvec(self, y: Array) -> Array:
        left, right = self.parts
        return right._rmatvec(left._rmatvec(y))


class TransposedOperator(Composite):
    """``A.T``."""

    def __init__(self, operator: LinearOperator) -> None:
        super().__init__(
            (operator,),
            operator.codomain,
            operator.domain,
            is_symmetric=operator.is_symmetric,
            is_psd=operator.is_psd,
        )

    @property
    def T(self) -> LinearOperator:
        return self.parts[0]

    def _matvec(self, x: Array) -> Array:
        return self.parts[0]._rmatvec(x)

    def _rmatvec(self, y: Array) -> Array:
        return self.parts[0]._matvec(y)


class IdentityOperator(Composite):
    """The identity on the space of another operator."""

    def __init__(self, operator: LinearOperator) -> None:
        super().__init__((operator,), operator.domain, operator.domain, is_symmetric=True, is_psd=True)

    @contextmanager
    def session(self) -> Iterator[None]:
        # The identity does not depend on the operator whose space it borrowed.
        yield

    def _matvec(self, x: Array) -> Array:
        return self.backend.copy(x)


class RestrictedOperator(Composite):
    """``A[indices][:, indices]``."""

    def __init__(self, operator: LinearOperator, indices: ArrayLike) -> None:
        n = operator.shape[0]
        chosen = np.asarray(indices)
        if operator.domain != operator.codomain:
            raise InvalidInputError(f"only a square operator has principal blocks, got shape {operator.shape}.")
        if chosen.ndim != 1 or chosen.size == 0 or not np.issubdtype(chosen.dtype, np.integer):
            raise InvalidInputError(f"indices must be a non-empty one-dimensional array of integers, got {indices!r}.")
        if chosen.min() < 0 or chosen.max() >= n or len(np.unique(chosen)) != len(chosen):
            raise InvalidInputError(f"indices must be distinct and lie in 0..{n - 1}.")
        block = Layout.whole(len(chosen), operator.dtype, operator.device)
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


def _both(left: bool | None, right: bool | None) -> bool | None:
    """True if both are; the sum of two that are not may still be."""
    return True if left and right else None


def _transposes(left: LinearOperator, right: LinearOperator) -> bool:
    if left is right:
        return bool(left.is_symmetric)
    return (isinstance(left, TransposedOperator) and left.parts[0] is right) or (
        isinstance(right, TransposedOperator) and right.parts[0] is left
    )
