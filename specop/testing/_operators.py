"""The laws of a linear operator, and whether what it claims of itself is true."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specop.arrays import probes
from specop.arrays.backend import Array
from specop.arrays.layout import Layout
from specop.errors import InvalidInputError, MissingTransposeError, NoiseWarning
from specop.operators.operator import LinearOperator
from specop.operators.scipy import aslinearoperator
from specop.statistics.numbers import Floats
from specop.testing._laws import require, require_near

__all__ = ["check_operator"]


def check_operator(A: LinearOperator, *, seed: int = 0, rtol: float | None = None) -> None:
    """Check that an operator is linear, that its products agree with each other, and that what it claims is true.

    Random vectors stand for all: a law that fails only on special ones is not seen.

    Parameters
    ----------
    A : LinearOperator
        Small enough for some fifty products and a few vectors of it on the host.
    seed : int, optional
        Seed of the random vectors.
    rtol : float, optional
        Error to allow, relative to the norms involved. Default: 100 times ``A.precision``, at most 0.05.

    Raises
    ------
    AssertionError
        At the first broken law; the text names product, law and numbers.

    Warns
    -----
    NoiseWarning
        If two products with the same vector differ, though by no more than `rtol`.

    Examples
    --------
    >>> import numpy as np, specop
    >>> from specop.testing import check_operator
    >>> A = specop.FunctionOperator(lambda x: 2 * x, (5, 5), like=np.zeros(5), is_psd=True)
    >>> check_operator(A)
    >>> check_operator(specop.FunctionOperator(lambda x: x - 1, (5, 5), like=np.zeros(5)))
    Traceback (most recent call last):
    AssertionError: ...matvec: is linear...
    """
    bench = _Bench(A, seed, min(100.0 * A.precision, 0.05) if rtol is None else rtol)
    _check_facts(bench)
    matvec = _Product(bench, "matvec", A.matvec, A.domain, A.codomain)
    rmatvec = _Product(bench, "rmatvec", A.rmatvec, A.codomain, A.domain)
    products = [matvec, rmatvec] if _has_transpose(bench) else [matvec]
    for product in products:
        for check in (_check_result, _check_operand, _check_storage, _check_determinism, _check_linearity):
            check(product)
    if A.is_symmetric:
        _check_adjoint(matvec, matvec, "is symmetric, as claimed: u'(Av) = v'(Au)")
    if len(products) == 2:
        _check_adjoint(matvec, rmatvec, "is the transpose of matvec: u'(Av) = v'(A'u)")
    if A.is_psd:
        _check_definiteness(matvec)
    _check_block(bench)
    _check_scipy(bench, products)


@dataclass
class _Bench:
    """An operator, what errors to allow it, and random vectors."""

    A: LinearOperator
    seed: int
    rtol: float
    drawn: int = 0

    def draw(self, layout: Layout) -> Array:
        self.drawn += 1
        return probes.normal(self.A.backend, layout, self.seed, self.drawn)

    def numpy(self, x: Array) -> Floats:
        return np.array(self.A.backend.to_numpy(x), dtype=np.float64)

    def require(self, holds: Any, name: str, law: str, numbers: str = "") -> None:
        require(holds, f"{self.A!r}.{name}", law, numbers)

    def require_near(
        self, found: NDArray[Any], expected: NDArray[Any], name: str, law: str, scale: float | None = None
    ) -> None:
        """Require that the norm of the difference is within the tolerance, relative to a scale."""
        scale = float(np.linalg.norm(expected)) if scale is None else scale
        require_near(found, expected, self.rtol * scale, f"{self.A!r}.{name}", law)


@dataclass(frozen=True)
class _Product:
    """One of the two products of an operator; called with a native vector it gives a native vector."""

    bench: _Bench
    name: str
    multiply: Callable[[Array], Array]
    source: Layout
    target: Layout

    def draw(self) -> Array:
        return self.bench.draw(self.source)

    def hosted(self, x: Array) -> Floats:
        """Return the product in host memory."""
        return self.bench.numpy(self.multiply(x))

    def require(self, holds: Any, law: str, numbers: str = "") -> None:
        self.bench.require(holds, self.name, law, numbers)


def _check_facts(bench: _Bench) -> None:
    A = bench.A
    for name, layout, length in (("domain", A.domain, A.shape[1]), ("codomain", A.codomain, A.shape[0])):
        bench.require(layout.n == length, "shape", f"fits its {name}", f"{A.shape} and {layout}")
        bench.require(layout.dtype == A.dtype, "dtype", f"is that of its {name}", f"{A.dtype} and {layout}")
        bench.require(layout.device == A.device, "device", f"is that of its {name}", f"{A.device} and {layout}")
    bench.require(not A.is_psd or A.is_symmetric, "is_psd", "is claimed for symmetric operators only")
    square = A.shape[0] == A.shape[1]
    bench.require(square or not A.is_symmetric, "is_symmetric", "is claimed for square operators only")
    bench.require(0 < A.precision < 1, "precision", "lies between 0 and 1", f"{A.precision}")


def _has_transpose(bench: _Bench) -> bool:
    A = bench.A
    try:
        A.rmatvec(bench.draw(A.codomain))
    except MissingTransposeError:
        bench.require(not A.is_symmetric, "rmatvec", "exists, because the operator claims symmetry")
        return False
    except InvalidInputError as error:
        raise AssertionError(f"{A!r}.rmatvec: takes a vector of the codomain ({error}).") from error
    return True


def _check_result(product: _Product) -> None:
    bench, law = product.bench, "returns a vector of the operator's framework, length, dtype and device"
    try:
        result = product.multiply(product.draw())
        bench.A.backend.check_vector(result, product.target, "the product")
    except InvalidInputError as error:
        raise AssertionError(f"{bench.A!r}.{product.name}: {law} ({error}).") from error
    values = bench.numpy(result)
    product.require(np.isfinite(values).all(), "of a finite vector is finite", f"{values}")


def _check_operand(product: _Product) -> None:
    x = product.draw()
    before = product.bench.numpy(x)
    product.multiply(x)
    product.require(np.array_equal(product.bench.numpy(x), before), "leaves its operand alone")


def _check_storage(product: _Product) -> None:
    """Algorithms write into products."""
    bench, fresh = product.bench, "returns fresh storage:"
    x, y = product.draw(), product.draw()
    before = bench.numpy(x)
    written = product.multiply(x)
    values = bench.numpy(written)
    bench.A.backend.scale_(written, 0.0)
    product.require(_still(bench, x, before), f"{fresh} writing into a product leaves the operand alone")
    again = product.multiply(x)
    law = f"{fresh} writing into a product leaves the next ones alone"
    bench.require_near(bench.numpy(again), values, product.name, law)
    values = bench.numpy(again)
    product.multiply(y)
    product.require(_still(bench, again, values), f"{fresh} a later product leaves an earlier one alone")


def _still(bench: _Bench, x: Array, values: Floats) -> bool:
    try:
        return bool(np.array_equal(bench.numpy(x), values))
    except Exception as error:
        # Where storage is handed over, the other holder's array becomes unreadable; each framework says so differently.
        raise AssertionError(f"{bench.A!r}: returns fresh storage, but an array became unreadable: {error}.") from error


def _check_determinism(product: _Product) -> None:
    bench, x = product.bench, product.draw()
    first, second = product.hosted(x), product.hosted(x)
    if np.array_equal(first, second):
        return
    bench.require_near(second, first, product.name, "is deterministic: the same vector twice")
    difference = float(np.linalg.norm(first - second) / np.linalg.norm(first))
    warnings.warn(
        f"two products of {bench.A!r} with the same vector differ by {difference:.1e} relative: within its precision, "
        f"but not bit for bit.",
        NoiseWarning,
        stacklevel=3,
    )


def _check_linearity(product: _Product) -> None:
    bench, backend = product.bench, product.bench.A.backend
    x, y = product.draw(), product.draw()
    # Exact in binary, one of them negative, and their sum not 1: that would hide a constant term.
    a, b = 0.75, -2.5
    of_x, of_y = product.hosted(x), product.hosted(y)
    found = product.hosted(backend.axpy_(backend.scale_(backend.copy(x), a), b, y))
    scale = float(np.linalg.norm(a * of_x) + np.linalg.norm(b * of_y))
    bench.require_near(found, a * of_x + b * of_y, product.name, "is linear: A(ax + by) = aAx + bAy", scale)


def _check_adjoint(forward: _Product, backward: _Product, law: str) -> None:
    bench = forward.bench
    for _ in range(2):
        x, y = forward.draw(), backward.draw()
        v, u, of_v, of_u = bench.numpy(x), bench.numpy(y), forward.hosted(x), backward.hosted(y)
        left, right = float(v @ of_u), float(u @ of_v)
        # A dot product of random vectors is smaller than the product of their norms by sqrt(n), and so is its error.
        scale = np.linalg.norm(u) * np.linalg.norm(of_v) + np.linalg.norm(v) * np.linalg.norm(of_u)
        scale /= min(len(u), len(v)) ** 0.5
        numbers = f"{left:.9g} and {right:.9g} where the norms are {scale:.1e}, allowed {bench.rtol:.1e} of that"
        backward.require(abs(left - right) <= bench.rtol * scale, law, numbers)


def _check_definiteness(product: _Product) -> None:
    """Look at the smallest Ritz value of a short Krylov space: a negative eigenvalue seldom shows in a random x'Ax.

    In float64 on the host and against all earlier vectors, so that only the products are under test.
    """
    bench, A = product.bench, product.bench.A
    rows: list[Floats] = []
    products: list[Floats] = []
    rest = bench.numpy(product.draw())
    for _ in range(min(12, A.shape[0])):
        for _ in range(2):
            for row in rows:
                rest = rest - (row @ rest) * row
        length = float(np.linalg.norm(rest))
        if products and length <= bench.rtol * float(np.linalg.norm(products[-1])):
            break
        rows.append(rest / length)
        rest = product.hosted(A.backend.from_host(rows[-1], A.domain))
        products.append(rest)
    projected = np.array(rows) @ np.array(products).T
    values = np.linalg.eigvalsh((projected + projected.T) / 2)
    numbers = f"x'Ax = {values[0]:.3e} for a unit vector x where the largest found is {values[-1]:.3e}"
    law = "is positive semidefinite, as claimed"
    product.require(values[0] >= -bench.rtol * float(np.abs(values).max()), law, numbers)


def _check_block(bench: _Bench) -> None:
    A = bench.A
    for k in (1, 3):
        vectors = [bench.draw(A.domain) for _ in range(k)]
        block = A.backend.stack_columns(vectors)
        before, found = bench.numpy(block), bench.numpy(A @ block)
        expected = np.stack([bench.numpy(A.matvec(vector)) for vector in vectors], axis=1)
        law = f"of a block ({A.shape[1]}, {k}) has the products with its columns as columns"
        bench.require_near(found, expected, "__matmul__", law)
        bench.require(np.array_equal(bench.numpy(block), before), "__matmul__", "leaves a block alone")


def _check_scipy(bench: _Bench, products: list[_Product]) -> None:
    A = bench.A
    view = A.to_scipy()
    bench.require(view.shape == A.shape, "to_scipy", "keeps the shape", f"{view.shape}, not {A.shape}")
    bench.require(view.dtype == A.dtype, "to_scipy", "keeps the dtype", f"{view.dtype}, not {A.dtype}")
    bench.require(aslinearoperator(view) is A, "to_scipy", "and aslinearoperator are inverse to each other")
    for product in products:
        x, name = product.draw(), f"to_scipy().{product.name}"
        operand = bench.numpy(x)
        found = getattr(view, product.name)(operand)
        right = isinstance(found, np.ndarray) and found.dtype == A.dtype and found.flags.writeable
        law = "returns a writable NumPy array of the operator's dtype"
        bench.require(right, name, law, f"{type(found).__name__}")
        bench.require_near(found, product.hosted(x), name, "is the operator's own product")
        bench.require(np.array_equal(operand, bench.numpy(x)), name, "leaves its operand alone")
