"""The laws of a Backend: vectors, blocks, exchange with the host, probes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specop.arrays import probes
from specop.arrays.backend import Array, Backend, backend_of
from specop.arrays.layout import Layout
from specop.errors import InvalidInputError
from specop.testing._bases import check_basis
from specop.testing._laws import require, require_close, require_same
from specop.testing._matrices import check_matrices
from specop.testing._native import Native

__all__ = ["check_backend"]


def check_backend(
    backend: Backend, array: Callable[[NDArray[Any]], Array], *, dtypes: Sequence[str] = ("float32", "float64")
) -> None:
    """Check every primitive of a backend against NumPy in float64.

    What only the framework can see stays unchecked: that `to_host` makes one transfer for all its arrays, that scalars
    stay on the device, how much memory a basis takes.

    Parameters
    ----------
    backend : Backend
    array : callable
        ``array(numpy_array)`` returns a native array with the same numbers, shape and dtype. It is also called with
        float16 and bool, to see that vectors of those dtypes are refused.
    dtypes : sequence of str, optional
        Those that vectors may have; leave one out that the framework does not offer.

    Raises
    ------
    AssertionError
        At the first broken law; the text names primitive, law and numbers. What a primitive raises by itself is let
        through.

    Examples
    --------
    >>> import numpy as np, specop
    >>> from specop.arrays import backend_of
    >>> from specop.testing import check_backend
    >>> check_backend(backend_of(np.zeros(1)), np.array)
    """
    require(isinstance(backend.name, str) and backend.name, "name", "is a non-empty string", repr(backend.name))
    require(dtypes, "dtypes", "name at least one of float32 and float64")
    for name in dtypes:
        native = Native(backend, array, np.dtype(name))
        # In this order: what later checks rely on is checked before.
        _check_exchange(native)
        _check_layout(native)
        _check_vector_check(native, [np.dtype(other) for other in dtypes])
        _check_purity(native)
        _check_fresh(native)
        _check_reductions(native)
        _check_entrywise(native)
        check_matrices(native)
        _check_not_finite(native)
        check_basis(native)
        _check_probes(native)


def _check_exchange(native: Native) -> None:
    backend, rng = native.backend, np.random.default_rng(1)
    values, matrix = rng.standard_normal(7).astype(native.dtype), rng.standard_normal((2, 3)).astype(native.dtype)
    x, block = native.array(values), native.array(matrix)

    found = backend.to_numpy(x)
    require(isinstance(found, np.ndarray), "to_numpy", "returns a NumPy array", type(found).__name__)
    require(found.dtype == native.dtype, "to_numpy", "keeps the dtype", f"{found.dtype}, expected {native.dtype}")
    require_same(found, values, "to_numpy", "keeps the numbers")
    require_same(backend.to_numpy(block), matrix, "to_numpy", "keeps the numbers of a matrix")
    require(found.flags.writeable, "to_numpy", "returns a writable array")
    found[:] = -1
    require_same(backend.to_numpy(x), values, "to_numpy", "shares no memory with the vector")

    hosted = backend.to_host(x, block, backend.dot(x, x), native.array(np.empty(0)))
    require(len(hosted) == 4, "to_host", "returns an array for each of several", f"{len(hosted)} for 4")
    for one, what in zip(hosted, ("a vector", "a matrix", "a scalar", "no entries"), strict=True):
        kind = f"{type(one).__name__} of {getattr(one, 'dtype', 'no dtype')}"
        law = f"returns float64 NumPy arrays, also for {what}"
        require(isinstance(one, np.ndarray) and one.dtype == np.float64, "to_host", law, kind)
    require_same(hosted[0], values, "to_host", "keeps the numbers of a vector")
    require_same(hosted[1], matrix, "to_host", "keeps the numbers and the order of a matrix")
    require(hosted[2].shape == (), "to_host", "keeps the shape () of a scalar", f"{hosted[2].shape}")
    require(hosted[3].shape == (0,), "to_host", "keeps the shape of no entries", f"{hosted[3].shape}")
    _check_host_copies(native, values)

    layout = native.layout(7)
    for source in (values.astype(np.float64), values.copy()):
        kept = source.copy()
        placed = backend.from_host(source, layout)
        require_same(native.numpy(placed), values, "from_host", f"keeps the numbers of a {source.dtype} array")
        source[:] = -1
        require_same(native.numpy(placed), values, "from_host", "shares no memory with the host array")
        source[:] = kept
        backend.scale_(placed, 0.0)
        require_same(source, kept, "from_host", "shares no memory with the host array")
    require_same(native.numpy(backend.from_host(matrix, native.layout(2))), matrix, "from_host", "takes a matrix")
    strided = np.repeat(values, 2)[::2]
    require_same(native.numpy(backend.from_host(strided, layout)), values, "from_host", "takes a strided array")


def _check_host_copies(native: Native, values: NDArray[Any]) -> None:
    """A result keeps host arrays while the algorithm goes on in the device's memory."""
    backend = native.backend
    x = native.array(values)
    (hosted,) = backend.to_host(x)
    backend.scale_(x, 0.0)
    require_same(hosted, values, "to_host", "shares no memory with the vector")


def _check_layout(native: Native) -> None:
    backend, dtype = native.backend, native.dtype
    layout = backend.layout(native.normal(5))
    for what, found, expected in (
        ("length", layout.n, 5),
        ("dtype", layout.dtype, dtype),
    ):
        require(found == expected, "layout", f"tells the {what}", f"{found!r}, expected {expected!r}")
    require(isinstance(layout.dtype, np.dtype), "layout", "tells a NumPy dtype", type(layout.dtype).__name__)
    of_matrix = backend.layout(native.normal(2, 5))
    require(of_matrix == layout, "layout", "of a matrix is that of its rows", f"{of_matrix} and {layout}")
    again = backend.layout(native.normal(5))
    require(again == layout, "layout", "is equal for equal arrays", f"{again} and {layout}")

    for thing, shape in ((native.normal(5), (5,)), (native.normal(2, 3), (2, 3)), (native.array(1.0), ()), ({}, ())):
        told = backend.shape(thing)
        law = "is a tuple of integers, empty for a scalar and for what is no array"
        require(isinstance(told, tuple) and told == shape, "shape", law, f"{told!r}, expected {shape}")
    require_same(native.numpy(backend.zeros(native.layout(4))), np.zeros(4), "zeros", "is zero")
    for refused in (np.float16, np.bool_):
        thing = native.make(np.ones(3, dtype=refused))
        message = _refusal(backend.layout, thing)
        require(message is not None, "layout", f"refuses {np.dtype(refused)} with InvalidInputError")


def _check_vector_check(native: Native, offered: Sequence[np.dtype[Any]]) -> None:
    backend, layout = native.backend, native.layout(3)
    message = _refusal(backend.check_vector, native.normal(3), layout, "x")
    require(message is None, "check_vector", "accepts a vector of the layout", str(message))
    wrong: dict[str, tuple[Any, tuple[str, ...]]] = {
        "a vector of another length": (native.normal(4), ("3", "4")),
        "a column": (native.normal(3, 1), ("(3, 1)",)),
        "float16": (native.make(np.ones(3, dtype=np.float16)), (native.dtype.name, "float16")),
        "an object that only looks like an array": (_Foreign((3,), native.dtype), ("_Foreign",)),
        "a list": ([1.0, 2.0, 3.0], ("list",)),
    }
    if not isinstance(native.array(np.ones(3)), np.ndarray):
        wrong["a NumPy array"] = (np.ones(3, dtype=native.dtype), ("ndarray",))
    for other in offered:
        if other != native.dtype:
            wrong[f"{other}"] = (native.make(np.ones(3, dtype=other)), (native.dtype.name, other.name))
    for what, (thing, told) in wrong.items():
        message = _refusal(backend.check_vector, thing, layout, "the operand of A")
        require(message is not None, "check_vector", f"refuses {what} with InvalidInputError")
        for words in ("the operand of A", *told):
            law = f"names {words!r} where it refuses {what}"
            require(words in str(message), "check_vector", law, f"its text: {message}")


def _check_purity(native: Native) -> None:
    """Only the first argument, and only of a primitive whose name ends in an underscore, may be consumed."""
    backend, indices = native.backend, np.array([4, 0])
    x, y, matrix, pair = native.normal(6), native.normal(6), native.normal(6, 6), native.normal(2)
    cubes = native.normal(2, 3, 3)
    inputs = {"x": x, "y": y, "matrix": matrix, "pair": pair, "cubes": cubes}
    before = {name: native.numpy(value) for name, value in inputs.items()}
    calls: dict[str, Callable[[], Any]] = {
        "layout": lambda: backend.layout(x),
        "dot": lambda: backend.dot(x, y),
        "norm": lambda: backend.norm(x),
        "copy": lambda: backend.copy(x),
        "multiply": lambda: backend.multiply(x, y),
        "gather": lambda: backend.gather(x, indices),
        "scatter": lambda: backend.scatter(pair, indices, native.layout(6)),
        "apply_rows": lambda: backend.apply_rows(matrix, x),
        "combine_rows": lambda: backend.combine_rows(matrix, x),
        "row_products": lambda: backend.row_products([matrix], [matrix]),
        "block_products": lambda: backend.block_products(matrix, 3),
        "apply_blocks": lambda: backend.apply_blocks(cubes, x),
        "cast": lambda: backend.cast(x, np.dtype(np.float16)),
        "section": lambda: backend.section(matrix, 1, 3),
        "stack": lambda: backend.stack([x, y]),
        "index": lambda: backend.index(matrix, 1),
        "transpose": lambda: backend.transpose(matrix),
        "stack_columns": lambda: backend.stack_columns([x, y]),
        "columns": lambda: backend.columns(matrix),
        "to_host": lambda: backend.to_host(x, matrix),
        "to_numpy": lambda: backend.to_numpy(x),
        "check_vector": lambda: backend.check_vector(x, native.layout(6), "x"),
        "axpy_": lambda: backend.axpy_(native.normal(6), 2.0, x),
    }
    for primitive, call in calls.items():
        call()
        for name, value in inputs.items():
            law = "leaves its inputs alone" if primitive != "axpy_" else "consumes its first argument only"
            require_same(native.numpy(value), before[name], primitive, law)
        require(indices.tolist() == [4, 0], primitive, "leaves its indices alone", str(indices))


def _check_fresh(native: Native) -> None:
    """Algorithms write into what a primitive returns."""
    backend = native.backend
    everything, nothing = np.arange(6), np.ones(6)
    calls: dict[str, Callable[[Array], Array]] = {
        "copy": backend.copy,
        "multiply": lambda x: backend.multiply(x, native.array(nothing)),
        "gather": lambda x: backend.gather(x, everything),
        "scatter": lambda x: backend.scatter(x, everything, native.layout(6)),
        "apply_rows": lambda x: backend.apply_rows(native.array(np.eye(6)), x),
        "combine_rows": lambda x: backend.combine_rows(native.array(np.eye(6)), x),
        "apply_blocks": lambda x: backend.apply_blocks(native.array(np.eye(6)[None]), x),
        "cast": lambda x: backend.cast(x, native.dtype),
        "stack": lambda x: backend.stack([x]),
        "stack_columns": lambda x: backend.columns(backend.stack_columns([x]))[0],
    }
    for primitive, call in calls.items():
        x = native.normal(6)
        before = native.numpy(x)
        backend.scale_(call(x), 0.0)
        require(native.holds(x, before), primitive, "returns storage of its own, not that of its input")
    matrix = native.normal(6, 2)
    before = native.numpy(matrix)
    backend.scale_(backend.columns(matrix)[0], 0.0)
    require(native.holds(matrix, before), "columns", "returns storage of its own, not that of its input")


def _check_reductions(native: Native) -> None:
    backend, rng = native.backend, np.random.default_rng(2)
    u, v = rng.standard_normal((2, 1000)).astype(native.dtype).astype(np.float64)
    x, y = native.array(u), native.array(v)
    dot, norm = backend.to_host(backend.dot(x, y), backend.norm(x))
    bound = 20 * native.epsilon * float(np.linalg.norm(u) * np.linalg.norm(v))
    require_close(dot, u @ v, bound, "dot", "is the sum of the products")
    require_close(norm, np.linalg.norm(u), 20 * native.epsilon * float(np.linalg.norm(u)), "norm", "is Euclidean")

    # Of one sign, so that rounding errors add up instead of cancelling: here BLAS in float32 loses three digits.
    u, v = (0.5 + rng.random((2, 1_000_000))).astype(native.dtype).astype(np.float64)
    x, y = native.array(u), native.array(v)
    dot, norm = backend.to_host(backend.dot(x, y), backend.norm(x))
    law = "is exact to 1e-6 over a million entries of one sign"
    allowed = native.summation
    require_close(dot / (u @ v), 1.0, allowed, "dot", law)
    require_close(norm / np.linalg.norm(u), 1.0, allowed, "norm", law)

    for size in (1e-25, 1e25):
        (norm,) = backend.to_host(backend.norm(native.array(size * u)))
        law = f"is as exact for vectors of size {size:.0e}, whose squares leave the range of float32"
        require_close(norm / size / np.linalg.norm(u), 1.0, allowed, "norm", law)


def _check_entrywise(native: Native) -> None:
    backend, rng = native.backend, np.random.default_rng(3)
    u, v = rng.standard_normal((2, 50)).astype(native.dtype).astype(np.float64)
    tolerance = 10 * native.epsilon
    x, y = native.array(u), native.array(v)
    indices = np.array([49, 0, 7])
    require_same(native.numpy(backend.copy(x)), u, "copy", "keeps the numbers")
    require_close(native.numpy(backend.multiply(x, y)), u * v, tolerance, "multiply", "is entrywise")
    require_same(native.numpy(backend.gather(x, indices)), u[indices], "gather", "is x[indices]")
    rows = native.array(np.stack([u, v]))
    require_same(native.numpy(backend.gather(rows, indices)), np.stack([u, v])[:, indices], "gather", "takes columns")
    require_same(native.numpy(backend.section(x, 3, 8)), u[3:8], "section", "is x[start:stop]")
    require_same(native.numpy(backend.section(rows, 3, 8)), np.stack([u, v])[:, 3:8], "section", "takes columns")
    spread = np.zeros(60)
    spread[indices] = u[:3]
    found = backend.scatter(native.array(u[:3]), indices, native.layout(60))
    require_same(native.numpy(found), spread, "scatter", "is x at the indices and zero elsewhere")
    # Factors that float32 does not hold: Python floats must not turn the vector into float64.
    require_close(native.numpy(backend.axpy_(y, -0.3, x)), v - 0.3 * u, tolerance, "axpy_", "is y + alpha x")
    require_close(native.numpy(backend.scale_(x, 1.7)), 1.7 * u, tolerance, "scale_", "is alpha x")
    square = u.astype(native.dtype) @ u.astype(native.dtype)
    once, again = (backend.dot(native.array(u), native.array(u)) for _ in range(2))
    (found,) = backend.to_host(backend.axpy_(backend.scale_(once, 3.0), 0.5, again))
    require_close(found, 3.5 * square, 100 * tolerance * square, "axpy_", "takes scalars too")


def _check_not_finite(native: Native) -> None:
    """Whoever asked looks at the scalars: a primitive neither raises nor repairs."""
    backend = native.backend
    for bad in (np.nan, np.inf):
        values = np.array([1.0, bad, -2.0])
        x, ones = native.array(values), native.array(np.ones(3))
        law = f"passes {bad} on"
        require_same(backend.to_host(x)[0], values, "to_host", law)
        require_same(native.numpy(x), values, "to_numpy", law)
        require_same(native.numpy(backend.from_host(values, native.layout(3))), values, "from_host", law)
        dot, norm = backend.to_host(backend.dot(x, ones), backend.norm(x))
        require_same(dot, bad, "dot", law)
        require_same(norm, bad, "norm", law)
        require_same(native.numpy(backend.multiply(x, ones)), values, "multiply", law)
        require_same(native.numpy(backend.axpy_(backend.copy(ones), 1.0, x)), values + 1, "axpy_", law)
        # Zero times infinity is NaN, so of both not a finite number is left.
        matrix = native.array(np.eye(3))
        for primitive, product in (("apply_rows", backend.apply_rows), ("combine_rows", backend.combine_rows)):
            found = native.numpy(product(matrix, x))
            require(not np.isfinite(found[1]), primitive, law, f"{found}")


def _check_probes(native: Native) -> None:
    reference = backend_of(np.empty(0))
    host = Layout(1, native.dtype, "cpu")
    # 70,000 crosses the border of a block of random numbers, odd lengths that of a pair.
    for n in (1, 70_001):
        layout, expected = native.layout(n), Layout(n, host.dtype, host.device)
        for draw in (probes.rademacher, probes.normal):
            found = native.numpy(draw(native.backend, layout, 5, 2))
            law = f"{draw.__name__} probes are NumPy's bit for bit"
            require_same(found, reference.to_numpy(draw(reference, expected, 5, 2)), "from_host", law)
    found = native.numpy(probes.sphere(native.backend, native.layout(1000), 5, 2))
    law = "probes on the sphere are NumPy's and have length sqrt(n)"
    sphere = reference.to_numpy(probes.sphere(reference, Layout(1000, native.dtype, "cpu"), 5, 2))
    require_close(found, sphere, 10 * native.epsilon, "scale_", law)


def _refusal(function: Callable[..., Any], *arguments: Any) -> str | None:
    try:
        function(*arguments)
    except InvalidInputError as error:
        return str(error)
    return None


@dataclass(frozen=True)
class _Foreign:
    """Has what one might look at, and is no array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
