"""LinearOperator: a matrix known by its products, and one small class for each node of the algebra."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np

from specop.arrays.backend import Array, Backend, backend_of, checked_columns
from specop.arrays.layout import Layout
from specop.arrays.processes import Processes
from specop.errors import InvalidInputError, MissingTransposeError
from specop.operators.sample_mean import MappedMean, SampleMean
from specop.operators.scipy_view import ScipyView
from specop.statistics.numbers import Floats

__all__ = [
    "Composite",
    "LinearOperator",
    "ProductOperator",
    "ScaledOperator",
    "SumOperator",
    "TransposedOperator",
]


class LinearOperator(abc.ABC):
    """A real m x n matrix that is only ever multiplied.

    A subclass gives the two layouts and `_matvec`; for a rectangular or non-symmetric one also `_rmatvec`. Both
    receive a native vector that they must not change, and return one in storage that nobody else holds: the
    algorithms write into it.

    Parameters
    ----------
    backend : Backend
        Array primitives of the framework whose vectors the operator takes and returns.
    domain : Layout
        Describes ``x`` in ``A @ x``: length n.
    codomain : Layout, optional
        Describes ``A @ x``: length m. Without it the operator is square and both are the same.
    is_symmetric : bool, optional
        Whether ``A == A.T``; None for unknown.
    is_psd : bool, optional
        Whether ``x.T @ A @ x >= 0`` for every x; None for unknown. True implies symmetric.

    Examples
    --------
    >>> import numpy as np, specop
    >>> A = specop.aslinearoperator(np.diag([1.0, 2.0, 3.0]))
    >>> (2 * A + specop.identity_like(A)) @ np.ones(3)
    array([3., 5., 7.])
    """

    # NumPy would otherwise take `ndarray @ operator` apart entry by entry.
    __array_ufunc__ = None

    def __init__(
        self,
        backend: Backend,
        domain: Layout,
        codomain: Layout | None = None,
        *,
        is_symmetric: bool | None = None,
        is_psd: bool | None = None,
    ) -> None:
        self.backend = backend
        self.domain = domain
        self.codomain = domain if codomain is None else codomain
        square = self.domain == self.codomain
        if is_psd and is_symmetric is None:
            is_symmetric = True
        if not square and (is_symmetric or is_psd):
            raise InvalidInputError(f"a {self.codomain.n} x {self.domain.n} operator cannot be symmetric.")
        self.is_symmetric = is_symmetric if square else False
        self.is_psd = is_psd if square else False

    @abc.abstractmethod
    def _matvec(self, x: Array) -> Array:
        """Return A x in fresh storage; `x` has the domain's layout and must not be changed."""

    def _matmat(self, columns: list[Array]) -> list[Array]:
        """Return A x for several x, each in fresh storage; one after the other unless a subclass knows better."""
        return [self._matvec(column) for column in columns]

    def _rmatvec(self, y: Array) -> Array:
        """Return A.T y in fresh storage; `y` has the codomain's layout and must not be changed."""
        if self.is_symmetric:
            return self._matvec(y)
        raise MissingTransposeError(
            f"{type(self).__name__} has no transposed product. Pass rmatvec=, or is_symmetric=True if it is."
        )

    @contextmanager
    def session(self) -> Iterator[None]:
        """Keep whatever defines the matrix under watch while an algorithm multiplies by it.

        An operator whose matrix can change under it, as a Hessian when a model is trained, checks here, at entry
        and exit, that it did not. Inside, single products skip that check.

        Examples
        --------
        >>> import numpy as np, specop
        >>> A, x = specop.DiagonalOperator(np.array([1.0, 2.0])), np.ones(2)
        >>> with A.session():
        ...     for _ in range(3):
        ...         x = A @ x
        >>> x
        array([1., 8.])
        """
        yield

    def _brief_session(self) -> AbstractContextManager[None]:
        """Return a session for a single product, in which an operator may look less often."""
        return self.session()

    @property
    def sample_mean(self) -> SampleMean | None:
        """The same matrix as a mean over data samples that can be looked at in part; None where it is none."""
        return None

    def read_diagonal(self) -> Floats | None:
        """Return the diagonal on the host where the matrix is there to be read, without a product; else None."""
        return None

    def read_square(self) -> float | None:
        """Return the sum of all squared entries where the matrix is there to be read, without a product; else None."""
        return None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, (m, n)."""
        return self.codomain.n, self.domain.n

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy dtype of the vectors."""
        return self.domain.dtype

    @property
    def device(self) -> Any:
        """Device of the vectors, as their framework names it."""
        return self.domain.device

    @property
    def precision(self) -> float:
        """Relative rounding error of a product: that of the dtype, or more where it runs in TF32 or 16 bit."""
        return self.domain.epsilon

    @property
    def working_bytes(self) -> int:
        """Bytes that a product may take, beyond its operand and what the operator holds already: the result's or more.

        Algorithms leave them free on the device when they choose how many vectors to hold.
        """
        backend = self.backend
        return backend.row_bytes(self.domain) + backend.row_bytes(self.codomain)

    @property
    def processes(self) -> Processes:
        """The processes that make each product together."""
        return self.backend.processes(self.domain)

    @property
    def samples(self) -> int | None:
        """Number of data samples behind the matrix, where it has any."""
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """What every result says of the matrix: which one it is where a name leaves that open, and what is unsure."""
        return ()

    @property
    def T(self) -> LinearOperator:
        """The transposed operator; a symmetric one is its own."""
        return self if self.is_symmetric else TransposedOperator(self)

    def matvec(self, x: Array) -> Array:
        """Return ``A @ x`` for one native vector of length n, as a native vector of length m.

        Raises
        ------
        InvalidInputError
            If ``x`` has another framework, shape, dtype or device than the operator's vectors.
        """
        self.processes.agree()
        self.backend.check_vector(x, self.domain, f"the operand of a {self.shape[0]} x {self.shape[1]} operator")
        with self._brief_session():
            return self._matvec(x)

    def rmatvec(self, y: Array) -> Array:
        """Return ``A.T @ y`` for one native vector of length m."""
        self.processes.agree()
        self.backend.check_vector(y, self.codomain, f"the operand of a {self.shape[1]} x {self.shape[0]} operator")
        with self._brief_session():
            return self._rmatvec(y)

    def flatten(self, tree: Any) -> Array | None:
        """Return a parameter structure as a vector of the domain, or None if the operator knows no structure."""
        return None

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter by name, where vectors of the codomain are made of parameters."""
        return {}

    def unflatten(self, vector: Array) -> Any:
        """Return a vector of the codomain as a parameter structure."""
        raise InvalidInputError(f"{type(self).__name__} has no parameter structure.")

    def to_dense(self) -> Array:
        """Return the matrix as a native (m, n) array, by n products.

        Meant for small n: the array has m n entries.
        """
        eye = np.eye(self.shape[1], dtype=self.dtype)
        with self.session():
            columns = [self._matvec(self.backend.from_host(row, self.domain)) for row in eye]
        return self.backend.stack_columns(columns)

    def to_scipy(self) -> ScipyView:
        """Return a `scipy.sparse.linalg.LinearOperator` that takes and returns NumPy arrays.

        Each product copies its operand to the operator's device and the result back.
        """
        return ScipyView(self)

    def __matmul__(self, x: Any) -> Any:
        """Multiply by a vector (n,), a block (n, k), a parameter structure or another operator."""
        if isinstance(x, LinearOperator):
            return ProductOperator(self, x)
        dimensions = len(self.backend.shape(x))
        if dimensions == 2:
            columns = checked_columns(self.backend, x, self.domain, "the operand")
            with self.session():
                return self.backend.stack_columns(self._matmat(columns))
        if dimensions:
            return self.matvec(x)
        vector = self.flatten(x)
        if vector is None:
            raise InvalidInputError(
                f"cannot multiply {type(self).__name__} by {type(x).__name__}: pass a native array of shape "
                f"({self.shape[1]},) or ({self.shape[1]}, k)."
            )
        return self.unflatten(self.matvec(vector))

    def __rmatmul__(self, x: Any) -> Any:
        """Return ``x @ A`` for a native vector (m,) or a block of rows (k, m)."""
        if len(self.backend.shape(x)) != 2:
            return self.T @ x
        return self.backend.transpose(self.T @ backend_of(x).transpose(x))

    def __add__(self, other: Any) -> LinearOperator:
        """Return the sum; both operators must have the same shape, backend and device."""
        return SumOperator(self, other) if isinstance(other, LinearOperator) else NotImplemented

    def __sub__(self, other: Any) -> LinearOperator:
        """Return the difference."""
        return self + (-1.0) * other if isinstance(other, LinearOperator) else NotImplemented

    def __neg__(self) -> LinearOperator:
        """Return the negated operator."""
        return -1.0 * self

    def __mul__(self, factor: Any) -> LinearOperator:
        """Return the operator times a real number."""
        return ScaledOperator(self, float(factor)) if isinstance(factor, Real) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> LinearOperator:
        """Return the operator divided by a real number."""
        return self * (1.0 / float(divisor)) if isinstance(divisor, Real) else NotImplemented

    def __repr__(self) -> str:
        facts = [f"{self.shape[0]} x {self.shape[1]}", str(self.dtype), f"{self.backend.name}:{self.device}"]
        facts += ["symmetric"] * bool(self.is_symmetric) + ["positive semidefinite"] * bool(self.is_psd)
        facts += self.notes
        return f"<{type(self).__name__} {', '.join(facts)}>"


class Composite(LinearOperator):
    """Base of nodes: they watch what their parts watch."""

    def __init__(self, parts: tuple[LinearOperator, ...], domain: Layout, codomain: Layout, **facts: Any) -> None:
        backend = parts[0].backend
        place = replace(parts[0].domain, n=0)
        for part in parts[1:]:
            if part.backend is not backend or replace(part.domain, n=0) != place:
                raise InvalidInputError(
                    f"operators must share framework, device, sharding and dtype: {parts[0]!r} and {part!r} do not."
                )
        super().__init__(backend, domain, codomain, **facts)
        self.parts = parts

    @contextmanager
    def session(self) -> Iterator[None]:
        with ExitStack() as stack:
            for part in self.parts:
                stack.enter_context(part.session())
            yield

    @contextmanager
    def _brief_session(self) -> Iterator[None]:
        with ExitStack() as stack:
            for part in self.parts:
                stack.enter_context(part._brief_session())
            yield

    @property
    def precision(self) -> float:
        return max(part.precision for part in self.parts)

    @property
    def working_bytes(self) -> int:
        return super().working_bytes + sum(part.working_bytes for part in self.parts)

    @property
    def samples(self) -> int | None:
        counts = [part.samples for part in self.parts if part.samples is not None]
        return max(counts) if counts else None

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(note for part in self.parts for note in part.notes))

    def flatten(self, tree: Any) -> Array | None:
        return self.parts[-1].flatten(tree)

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return self.parts[0].parameter_shapes if self.parts[0].codomain.n == self.codomain.n else {}

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

    @property
    def sample_mean(self) -> SampleMean | None:
        mean = self.parts[0].sample_mean
        return mean and MappedMean(mean, lambda multiply, x: self.backend.scale_(multiply(x), self.factor))

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

    @property
    def sample_mean(self) -> SampleMean | None:
        left, right = self.parts
        # Of two matrices that both come from data, each product with a group would read all of the other's.
        if left.sample_mean is not None and right.samples is None:
            return MappedMean(left.sample_mean, lambda multiply, x: multiply(right._matvec(x)))
        if right.sample_mean is not None and left.samples is None:
            return MappedMean(right.sample_mean, lambda multiply, x: left._matvec(multiply(x)))
        return None

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


def _both(left: bool | None, right: bool | None) -> bool | None:
    """True if both are; the sum of two that are not may still be."""
    return True if left and right else None


def _transposes(left: LinearOperator, right: LinearOperator) -> bool:
    if left is right:
        return bool(left.is_symmetric)
    return (isinstance(left, TransposedOperator) and left.parts[0] is right) or (
        isinstance(right, TransposedOperator) and right.parts[0] is left
    )
