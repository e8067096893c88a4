"""The laws of single primitives: what each returns, in whose storage, and that it leaves its arguments alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specop.arrays.backend import Backend
from specop.statistics.numbers import Floats
from specop.testing._laws import require, require_close, require_same
from specop.testing._native import Native

__all__ = ["check_primitives"]

_ALL, _SOME, _HALF = np.arange(6), np.array([4, 0]), np.dtype(np.float16)
_ON_HOST = {"to_host", "row_products", "block_products"}
_VIEWS = {"index", "section", "transpose"}
# All others move numbers, and keep them.
_ROUNDING = {"scale_", "axpy_", "dot", "norm", "multiply", "apply_rows", "combine_rows", "apply_blocks"}
_ROUNDING |= {"row_products", "block_products"}


def check_primitives(native: Native) -> None:
    """Check every primitive that is no business of a basis against NumPy in float64, also with NaN and infinity.

    Whoever asked looks at the scalars: a primitive neither raises nor repairs.
    """
    rng = np.random.default_rng(3)
    shapes: dict[str, Any] = {"x": 6, "y": 6, "pair": 2, "upper": (2, 6), "lower": (4, 6), "cubes": (2, 3, 3)}
    drawn = {name: rng.standard_normal(shape).astype(native.dtype) for name, shape in shapes.items()}
    arrays = drawn | {"ones": np.ones(6), "eye": np.eye(6), "eyes": np.eye(6)[None]}
    arrays = {name: values.astype(np.float64) for name, values in arrays.items()}
    _check(native, arrays)
    for bad in (np.nan, np.inf):
        _check(native, arrays | {"x": np.where(_ALL == 1, bad, arrays["x"])}, f"passes {bad} on")


def _laws(b: Backend, a: Any, e: Any) -> Iterator[tuple[str, str, Any, Callable[[], Any]]]:
    """Yield primitive, law, what it gives for native arrays, and what it should give for the same arrays e in float64.

    In this order: what later ones rely on comes first. Factors are such as float32 does not hold, which must not turn a
    vector into float64.
    """
    blocks, rows = [a.upper, a.lower], np.concatenate([e.upper, e.lower])
    yield "to_host", "keeps the numbers", b.to_host(a.x)[0], lambda: e.x
    yield "from_host", "keeps the numbers", b.from_host(b.to_numpy(a.x), b.layout(a.x)), lambda: e.x
    yield "copy", "keeps the numbers", b.copy(a.x), lambda: e.x
    yield "copy", "takes a matrix", b.copy(a.lower), lambda: e.lower
    yield "scale_", "is alpha x", b.scale_(b.copy(a.x), 1.7), lambda: 1.7 * e.x
    yield "scale_", "takes a matrix", b.scale_(b.copy(a.lower), 1.7), lambda: 1.7 * e.lower
    yield "axpy_", "is y + alpha x", b.axpy_(b.copy(a.y), -0.3, a.x), lambda: e.y - 0.3 * e.x
    yield "dot", "is the sum of the products", b.dot(a.x, a.y), lambda: e.x @ e.y
    yield "norm", "is Euclidean", b.norm(a.x), lambda: np.linalg.norm(e.x)
    yield (
        "axpy_",
        "takes scalars too",
        b.axpy_(b.scale_(b.dot(a.x, a.y), 3.0), 0.7, b.dot(a.y, a.y)),
        lambda: 3 * (e.x @ e.y) + 0.7 * (e.y @ e.y),
    )
    yield "multiply", "is entrywise", b.multiply(a.x, a.y), lambda: e.x * e.y
    yield "multiply", "by ones keeps the numbers", b.multiply(a.x, a.ones), lambda: e.x
    yield "clip", "keeps entries between its limits", b.clip(a.x, -0.25, 0.5), lambda: np.clip(e.x, -0.25, 0.5)
    yield "clip", "keeps entries that lie between", b.clip(a.x, -9.0, np.inf), lambda: np.clip(e.x, -9.0, np.inf)
    yield "gather", "is x[indices]", b.gather(a.x, _SOME), lambda: e.x[_SOME]
    yield "gather", "of all entries keeps them", b.gather(a.x, _ALL), lambda: e.x
    yield "gather", "takes columns", b.gather(a.lower, _SOME), lambda: e.lower[:, _SOME]
    yield (
        "scatter",
        "is x at the indices and zero elsewhere",
        b.scatter(a.pair, _SOME, b.layout(a.x)),
        lambda: np.array([e.pair[1], 0, 0, 0, e.pair[0], 0]),
    )
    yield "scatter", "of all entries keeps them", b.scatter(a.x, _ALL, b.layout(a.x)), lambda: e.x
    yield "section", "is x[start:stop]", b.section(a.x, 1, 4), lambda: e.x[1:4]
    yield "section", "takes columns", b.section(a.lower, 1, 4), lambda: e.lower[:, 1:4]
    yield "index", "is matrix[i]", b.index(a.lower, 1), lambda: e.lower[1]
    yield "index", "takes a (k, m, n) array", b.index(a.cubes, 1), lambda: e.cubes[1]
    yield "stack", "has the vectors as rows", b.stack([a.x, a.y]), lambda: np.stack([e.x, e.y])
    yield "stack", "takes a single vector", b.stack([a.x]), lambda: e.x[None]
    yield "transpose", "is matrix.T", b.transpose(a.lower), lambda: e.lower.T
    yield "columns", "gives the columns in order", b.columns(a.lower), lambda: list(e.lower.T)
    yield (
        "stack_columns",
        "has the vectors as columns",
        b.stack_columns([a.x, a.y]),
        lambda: np.stack([e.x, e.y], axis=1),
    )
    yield "columns", "gives the only column", b.columns(b.stack_columns([a.x])), lambda: [e.x]
    yield "apply_rows", "is matrix @ x", b.apply_rows(a.lower, a.x), lambda: e.lower @ e.x
    yield "apply_rows", "of the identity is x", b.apply_rows(a.eye, a.x), lambda: e.eye @ e.x
    yield "combine_rows", "is matrix.T @ y", b.combine_rows(a.upper, a.pair), lambda: e.upper.T @ e.pair
    yield "combine_rows", "of the identity is y", b.combine_rows(a.eye, a.x), lambda: e.eye @ e.x
    yield (
        "combine_rows",
        "is matrix.T @ y for several y too",
        b.combine_rows(a.upper, a.upper),
        lambda: e.upper.T @ e.upper,
    )
    yield "row_products", "is X @ Y.T for rows in blocks", b.row_products(blocks, blocks), lambda: rows @ rows.T
    yield (
        "row_products",
        "is X @ Y.T for different rows in blocks",
        b.row_products([a.lower], blocks),
        lambda: e.lower @ rows.T,
    )
    yield (
        "row_products",
        "is X @ Y.T for more blocks on the left",
        b.row_products(blocks, [a.upper]),
        lambda: rows @ e.upper.T,
    )
    yield (
        "block_products",
        "is the diagonal blocks of rows.T @ rows",
        b.block_products(a.lower, 3),
        lambda: [part.T @ part for part in np.split(e.lower, 2, axis=1)],
    )
    yield (
        "apply_blocks",
        "multiplies block by block",
        b.apply_blocks(a.cubes, a.x),
        lambda: np.concatenate([e.cubes[0] @ e.x[:3], e.cubes[1] @ e.x[3:]]),
    )
    yield "apply_blocks", "of one identity is x", b.apply_blocks(a.eyes, a.x), lambda: e.eye @ e.x
    yield (
        "cast",
        "rounds to float16, and back exactly",
        b.cast(b.cast(a.lower, _HALF), b.layout(a.lower).dtype),
        lambda: e.lower.astype(_HALF),
    )
    yield "cast", "to the same dtype keeps the numbers", b.cast(a.x, b.layout(a.x).dtype), lambda: e.x


def _check(native: Native, arrays: dict[str, Floats], instead: str = "") -> None:
    given = {name: native.array(values) for name, values in arrays.items()}
    for primitive, law, result, expected in _laws(native.backend, SimpleNamespace(**given), SimpleNamespace(**arrays)):
        with np.errstate(invalid="ignore"):
            wanted = np.asarray(expected())
        text = instead or law
        found, finite = _hosted(native, primitive, result, wanted.ndim), np.isfinite(wanted)
        if primitive not in _ROUNDING:
            require_same(found, wanted, primitive, text)
        elif finite.all():
            allowed = 100 * native.epsilon * max(1.0, float(np.abs(wanted).max()))
            require_close(found, wanted, allowed, primitive, text)
        else:
            require_same(np.isfinite(found), finite, primitive, text)

        if instead:
            # What a primitive does to its arguments does not depend on their numbers, and was looked at before.
            continue
        alone = "consumes its first argument only" if primitive.endswith("_") else "leaves its inputs alone"
        for name, values in arrays.items():
            require_same(native.numpy(given[name]), values, primitive, alone)
        require(_SOME.tolist() == [4, 0], primitive, "leaves its indices alone", str(_SOME))
        if primitive in _VIEWS | _ON_HOST:
            continue
        # Algorithms write into what a primitive returns.
        for part in result if isinstance(result, list) else [result]:
            native.backend.scale_(part, 0.0)
        for name, values in arrays.items():
            require(native.holds(given[name], values), primitive, "returns storage of its own, not that of its input")


def _hosted(native: Native, primitive: str, result: Any, dimensions: int) -> NDArray[Any]:
    if primitive in _ON_HOST:
        kind = f"{type(result).__name__} of {getattr(result, 'dtype', 'no dtype')}"
        right = isinstance(result, np.ndarray) and result.dtype == np.float64
        require(right, primitive, "returns a float64 NumPy array", kind)
        return result
    if dimensions == 0:
        return native.backend.to_host(result)[0]
    return np.stack([native.numpy(part) for part in result]) if isinstance(result, list) else native.numpy(result)
