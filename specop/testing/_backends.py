"""The laws of a Backend: vectors, blocks, exchange with the host, probes."""

from __future__ import annotations

import itertools
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
from specop.testing._native import Native
from specop.testing._primitives import check_primitives

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
        Dtypes that vectors may have; leave one out that the framework does not offer.

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
        check_primitives(native)
        _check_long_sums(native)
        check_basis(native)
        _check_probes(native)


def _check_exchange(native: Native) -> None:
    backend, rng = native.backend, np.random.default_rng(1)
    values, matrix = rng.standard_normal(7).astype(native.dtype), rng.standard_normal((2, 3)).astype(native.dtype)
    for entries in (values, matrix):
        x = native.array(entries)
        found = backend.to_numpy(x)
        right = isinstance(found, np.ndarray) and found.dtype == native.dtype and found.flags.writeable
        kind = f"{type(found).__name__} of {getattr(found, 'dtype', 'no dtype')}"
        require(right, "to_numpy", "returns a writable NumPy array of the same dtype", kind)
        require_same(found, entries, "to_numpy", "keeps the numbers")
        found[:] = -1
        require(native.holds(x, entries), "to_numpy", "shares no memory with the vector")

    x = native.array(values)
    hosted = backend.to_host(x, native.array(matrix), backend.dot(x, x), native.array(np.empty(0)))
    expected: dict[str, Any] = {
        "a vector": values,
        "a matrix": matrix,
        "a scalar": np.sum(hosted[2]),
        "no entries": np.empty(0),
    }
    require(len(hosted) == 4, "to_host", "returns an array for each of several", f"{len(hosted)} for 4")
    for one, (what, entries) in zip(hosted, expected.items(), strict=True):
        kind = f"{type(one).__name__} of {getattr(one, 'dtype', 'no dtype')}"
        law = f"returns float64 NumPy arrays, also for {what}"
        require(isinstance(one, np.ndarray) and one.dtype == np.float64, "to_host", law, kind)
        require_same(one, entries, "to_host", f"keeps shape and order of {what} among several")
    # A result keeps host arrays while the algorithm goes on in the device's memory.
    (alone,) = backend.to_host(x)
    backend.scale_(x, 0.0)
    require_same(alone, values, "to_host", "shares no memory with the vector")

    layout = native.layout(7)
    for source in (values.astype(np.float64), values.copy(), np.repeat(values, 2)[::2], matrix.copy()):
        placed = backend.from_host(source, layout)
        kept = source.copy()
        law = f"keeps the numbers of a {source.dtype} array of shape {source.shape}"
        require_same(native.numpy(placed), kept, "from_host", law)
        source[...] = -1
        require_same(native.numpy(placed), kept, "from_host", "shares no memory with the host array")
        backend.scale_(placed, 0.0)
        require((source == -1).all(), "from_host", "shares no memory with the host array")


def _check_layout(native: Native) -> None:
    backend = native.backend
    expected = native.layout(5)
    law = "tells the length of the last axis, the dtype and the device"
    for what, array in (("a vector", native.normal(5)), ("a matrix", native.normal(2, 5))):
        found = backend.layout(array)
        require(found == expected, "layout", f"of {what} {law}", f"{found}, expected {expected}")
        require(isinstance(array, backend.array_type), "array_type", "is that of the arrays", type(array).__name__)
    for thing, shape in ((native.normal(5), (5,)), (native.normal(2, 3), (2, 3)), (native.array(1.0), ()), ({}, ())):
        told = backend.shape(thing)
        law = "is a tuple of integers, empty for a scalar and for what is no array"
        require(isinstance(told, tuple) and told == shape, "shape", law, f"{told!r}, expected {shape}")
    require_same(native.numpy(backend.zeros(native.layout(4))), np.zeros(4), "zeros", "is zero")
    for refused in (np.float16, np.bool_):
        message = _refusal(backend.layout, native.make(np.ones(3, dtype=refused)))
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


def _check_long_sums(native: Native) -> None:
    """Of terms of one sign, so that rounding errors add up instead of cancelling: here BLAS in float32 loses digits."""
    backend, allowed = native.backend, native.summation
    u, v = (0.5 + np.random.default_rng(2).random((2, 1_000_000))).astype(native.dtype).astype(np.float64)
    x, y, rows = native.array(u), native.array(v), native.array(np.stack([u, v]))
    law, exact = "is exact to 1e-6 over a million entries of one sign", np.array([[u @ u, u @ v], [v @ u, v @ v]])
    dot, norm, applied = backend.to_host(backend.dot(x, y), backend.norm(x), backend.apply_rows(rows, y))
    for found, expected, primitive in (
        (dot, exact[0, 1], "dot"),
        (norm, np.sqrt(exact[0, 0]), "norm"),
        (applied, exact[1], "apply_rows"),
        (backend.row_products([rows], [rows]), exact, "row_products"),
    ):
        require_close(found / expected, np.ones_like(found), allowed, primitive, law)
    for size in (1e-25, 1e25):
        (norm,) = backend.to_host(backend.norm(native.array(size * u)))
        law = f"is as exact for vectors of size {size:.0e}, whose squares leave the range of float32"
        require_close(norm / size / np.sqrt(exact[0, 0]), 1.0, allowed, "norm", law)


def _check_probes(native: Native) -> None:
    reference = backend_of(np.empty(0))
    # 70,000 crosses the border of a block of random numbers, odd lengths that of a pair.
    for draw, n in itertools.product((probes.rademacher, probes.normal, probes.sphere), (1, 70_001)):
        found = native.numpy(draw(native.backend, native.layout(n), 5, 2))
        expected = draw(reference, Layout(n, native.dtype, "cpu"), 5, 2)
        # Only those on the sphere are computed with.
        primitive, allowed = ("scale_", 100 * native.epsilon) if draw is probes.sphere else ("from_host", 0.0)
        require_close(found, expected, allowed, primitive, f"{draw.__name__} probes are those of NumPy")


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
