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
from specop.testing._laws import require, require_close, require_same

__all__ = ["check_operator"]

_Product = Callable[[Array], Array]


def check_operator(A: LinearOperator, *, seed: int = 0, rtol: float | None = None) -> None:
    """Check that an operator is linear, that its products agree with each other, and that what it claims is true.

    Random vectors stand for all: a law that fails only on special ones is not seen.

    Parameters
    ----------
    A : LinearOperator
        Small enough for some fifty products and a few vectors of it on the host.
    seed : int, optional
        Of the random vectors.
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
    products: list[tuple[str, _Product, Layout, Layout]] = [("matvec", A.matvec, A.domain, A.codomain)]
    if _has_transpose(bench):
        products.append(("rmatvec", A.rmatvec, A.codomain, A.domain))
    for name, product, source, target in products:
        _check_result(bench, name, product, source, target)
        _check_operand(bench, name, product, source)
        _check_storage(bench, name, product, source)
        _check_determinism(bench, name, product, source)
        _check_linearity(bench, name, product, source)
    if A.is_symmetric:
        _check_symmetry(bench)
    if len(products) == 2:
        _check_adjoint(bench)
    if A.is_psd:
        _check_definiteness(bench)
    _check_block(bench)
    _check_scipy(bench, transposed=len(products) == 2)


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

    def numpy(self, x: Array) -> NDArray[np.float64]:
        return np.array(self.A.backend.to_numpy(x), dtype=np.float64)

    def who(self, product: str) -> str:
        return f"{self.A!r}.{product}"

    def require_near(self, found: NDArray[Any], expected: NDArray[Any], scale: float, name: str, law: str) -> None:
        """Require that the norm of the difference is within the tolerance, relative to a scale."""
        require(found.shape == expected.shape, self.who(name), law, f"shape {found.shape}, not {expected.shape}")
        error = float(np.linalg.norm(found - expected))
        numbers = f"off by {error:.1e} where the norms are {scale:.1e}, allowed {self.rtol:.1e} of that"
        require(error <= self.rtol * scale, self.who(name), law, numbers)


def _check_facts(bench: _Bench) -> None:
    A = bench.A
    for name, layout, length in (("domain", A.domain, A.shape[1]), ("codomain", A.codomain, A.shape[0])):
        told = f"{layout}"
        require(layout.n == length, bench.who("shape"), f"fits its {name}", f"{A.shape} and {told}")
        require(layout.dtype == A.dtype, bench.who("dtype"), f"is that of its {name}", f"{A.dtype} and {told}")
        require(layout.device == A.device, bench.who("device"), f"is that of its {name}", f"{A.device} and {told}")
    require(not A.is_psd or A.is_symmetric, bench.who("is_psd"), "is claimed for symmetric operators only")
    square = A.shape[0] == A.shape[1]
    require(square or not A.is_symmetric, bench.who("is_symmetric"), "is claimed for square operators only")
    require(0 < A.precision < 1, bench.who("precision"), "lies between 0 and 1", f"{A.precision}")


def _has_transpose(bench: _Bench) -> bool:
    try:
        bench.A.rmatvec(bench.draw(bench.A.codomain))
    except MissingTransposeError:
        require(not bench.A.is_symmetric, bench.who("rmatvec"), "exists, because the operator claims symmetry")
        return False
    except InvalidInputError as error:
        raise AssertionError(f"{bench.who('rmatvec')}: takes a vector of the codomain ({error}).") from error
    return True


def _check_result(bench: _Bench, name: str, product: _Product, source: Layout, target: Layout) -> None:
    backend = bench.A.backend
    law = "returns a vector of the operator's framework, length, dtype and device"
    try:
        result = product(bench.draw(source))
        backend.check_vector(result, target, "the product")
    except InvalidInputError as error:
        raise AssertionError(f"{bench.who(name)}: {law} ({error}).") from error
    found = backend.layout(result)
    require((found.dtype, found.device) == (target.dtype, target.device), bench.who(name), law, f"{found}")
    values = bench.numpy(result)
    require(np.isfinite(values).all(), bench.who(name), "of a finite vector is finite", f"{values}")


def _check_operand(bench: _Bench, name: str, product: _Product, source: Layout) -> None:
    x = bench.draw(source)
    before = bench.numpy(x)
    product(x)
    require_same(bench.numpy(x), before, bench.who(name), "leaves its operand alone")


def _check_storage(bench: _Bench, name: str, product: _Product, source: Layout) -> None:
    """Algorithms write into products."""
    backend = bench.A.backend
    x, y = bench.draw(source), bench.draw(source)
    before = bench.numpy(x)
    written = product(x)
    values = bench.numpy(written)
    backend.scale_(written, 0.0)
    law = "returns fresh storage: writing into a product leaves the operand alone"
    require(_still(bench, x, before), bench.who(name), law)
    again = product(x)
    law = "returns fresh storage: writing into a product leaves the next ones alone"
    bench.require_near(bench.numpy(again), values, float(np.linalg.norm(values)), name, law)
    values = bench.numpy(again)
    product(y)
    law = "returns fresh storage: a later product leaves an earlier one alone"
    require(_still(bench, again, values), bench.who(name), law)


def _still(bench: _Bench, x: Array, values: NDArray[np.float64]) -> bool:
    try:
        return bool(np.array_equal(bench.numpy(x), values))
    except Exception as error:
        # Where storage is handed over, the other holder's array becomes unreadable; each framework says so differently.
        raise AssertionError(f"{bench.A!r}: returns fresh storage, but an array became unreadable: {error}.") from error


def _check_determinism(bench: _Bench, name: str, product: _Product, source: Layout) -> None:
    x = bench.draw(source)
    first, second = bench.numpy(product(x)), bench.numpy(product(x))
    if np.array_equal(first, second):
        return
    bench.require_near(first, second, float(np.linalg.norm(first)), name, "is deterministic: the same vector twice")
    difference = float(np.linalg.norm(first - second) / np.linalg.norm(first))
    warnings.warn(
        f"two products of {bench.A!r} with the same vector differ by {difference:.1e} relative: within its precision, "
        f"but not bit for bit.",
        NoiseWarning,
        stacklevel=3,
    )


def _check_linearity(bench: _Bench, name: str, product: _Product, source: Layout) -> None:
    backend = bench.A.backend
    x, y = bench.draw(source), bench.draw(source)
    # Exact in binary, one of them negative, and their sum not 1: that would hide a constant term.
    a, b = 0.75, -2.5
    combined = backend.axpy_(backend.scale_(backend.copy(x), a), b, y)
    of_x, of_y = bench.numpy(product(x)), bench.numpy(product(y))
    scale = float(np.linalg.norm(a * of_x) + np.linalg.norm(b * of_y))
    law = "is linear: A(ax + by) = aAx + bAy"
    bench.require_near(bench.numpy(product(combined)), a * of_x + b * of_y, scale, name, law)


def _check_symmetry(bench: _Bench) -> None:
    A = bench.A
    for _ in range(2):
        x, y = bench.draw(A.domain), bench.draw(A.domain)
        u, v, of_u, of_v = (bench.numpy(z) for z in (x, y, A.matvec(x), A.matvec(y)))
        law = "is symmetric, as claimed: u'(Av) = v'(Au)"
        _require_same_form(bench, float(v @ of_u), float(u @ of_v), (u, of_v, v, of_u), "matvec", law)


def _check_adjoint(bench: _Bench) -> None:
    A = bench.A
    for _ in range(2):
        x, y = bench.draw(A.domain), bench.draw(A.codomain)
        v, u, of_v, of_u = (bench.numpy(z) for z in (x, y, A.matvec(x), A.rmatvec(y)))
        law = "is the transpose of matvec: u'(Av) = v'(A'u)"
        _require_same_form(bench, float(v @ of_u), float(u @ of_v), (u, of_v, v, of_u), "rmatvec", law)


def _require_same_form(
    bench: _Bench, left: float, right: float, vectors: tuple[NDArray[np.float64], ...], name: str, law: str
) -> None:
    u, of_v, v, of_u = (float(np.linalg.norm(vector)) for vector in vectors)
    # A dot product of random vectors is smaller than the product of their norms by sqrt(n), and so is its error.
    scale = (u * of_v + v * of_u) / max(min(len(vectors[0]), len(vectors[2])), 1) ** 0.5
    numbers = f"{left:.9g} and {right:.9g} where the norms are {scale:.1e}, allowed {bench.rtol:.1e} of that"
    require(abs(left - right) <= bench.rtol * scale, bench.who(name), law, numbers)


def _check_definiteness(bench: _Bench) -> None:
    """Look at the smallest Ritz value of a short Krylov space: a negative eigenvalue seldom shows in a random x'Ax.

    In float64 on the host and against all earlier vectors, so that only the products are under test.
    """
    A = bench.A
    rows: list[NDArray[np.float64]] = []
    products: list[NDArray[np.float64]] = []
    rest = bench.numpy(bench.draw(A.domain))
    for _ in range(min(12, A.shape[0])):
        for _ in range(2):
            for row in rows:
                rest = rest - (row @ rest) * row
        length = float(np.linalg.norm(rest))
        if products and length <= bench.rtol * float(np.linalg.norm(products[-1])):
            break
        rows.append(rest / length)
        product = bench.numpy(A.matvec(A.backend.from_host(rows[-1], A.domain)))
        products.append(product)
        rest = product
    projected = np.array(rows) @ np.array(products).T
    values = np.linalg.eigvalsh((projected + projected.T) / 2)
    numbers = f"x'Ax = {values[0]:.3e} for a unit vector x where the largest found is {values[-1]:.3e}"
    scale = float(np.abs(values).max())
    require(values[0] >= -bench.rtol * scale, bench.who("matvec"), "is positive semidefinite, as claimed", numbers)


def _check_block(bench: _Bench) -> None:
    A = bench.A
    for k in (1, 3):
        vectors = [bench.draw(A.domain) for _ in range(k)]
        block = A.backend.stack_columns(vectors)
        before = bench.numpy(block)
        found = bench.numpy(A @ block)
        who = "__matmul__"
        law = f"of a block ({A.shape[1]}, {k}) has the products with its columns as columns"
        expected = np.stack([bench.numpy(A.matvec(vector)) for vector in vectors], axis=1)
        bench.require_near(found, expected, float(np.linalg.norm(expected)), who, law)
        require_same(bench.numpy(block), before, bench.who(who), "leaves a block alone")


def _check_scipy(bench: _Bench, *, transposed: bool) -> None:
    A = bench.A
    view = A.to_scipy()
    require(view.shape == A.shape, bench.who("to_scipy"), "keeps the shape", f"{view.shape}, not {A.shape}")
    require(view.dtype == A.dtype, bench.who("to_scipy"), "keeps the dtype", f"{view.dtype}, not {A.dtype}")
    require(aslinearoperator(view) is A, bench.who("to_scipy"), "and aslinearoperator are inverse to each other")
    directions: list[tuple[str, _Product, _Product, Layout]] = [("matvec", view.matvec, A.matvec, A.domain)]
    if transposed:
        directions.append(("rmatvec", view.rmatvec, A.rmatvec, A.codomain))
    for name, through_scipy, product, source in directions:
        x = bench.draw(source)
        expected = bench.numpy(product(x))
        operand = bench.numpy(x)
        found = through_scipy(operand)
        right = isinstance(found, np.ndarray) and found.dtype == A.dtype and found.flags.writeable
        law = "returns a writable NumPy array of the operator's dtype"
        require(right, bench.who(f"to_scipy().{name}"), law, f"{type(found).__name__}")
        law = "is the operator's own product"
        bench.require_near(found, expected, float(np.linalg.norm(expected)), f"to_scipy().{name}", law)
        require_close(operand, bench.numpy(x), 0.0, bench.who(f"to_scipy().{name}"), "leaves its operand alone")
