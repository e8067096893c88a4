"""The laws of single primitives: what each returns, in whose storage, and that it leaves its arguments alone."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specop.arrays.backend import Backend
from specop.statistics.numbers import Floats
from specop.testing._laws import require, require_close, require_same
from specop.testing._native import Native

__all__ = ["check_primitives"]

_Call = Callable[[Backend, Any], Any]
_Law = tuple[str, str, _Call, Callable[[Any], Any]]
_ALL, _SOME, _HALF = np.arange(6), np.array([4, 0]), np.dtype(np.float16)

# Primitive, law, a call with native arrays, and what it should give, by NumPy on the same arrays in float64. In this
# order: what later ones rely on comes first. Factors are such as float32 does not hold, which must not turn
# a vector into float64.
_LAWS: tuple[_Law, ...] = (
    ("to_host", "keeps the numbers", lambda b, a: b.to_host(a.x)[0], lambda a: a.x),
    ("from_host", "keeps the numbers", lambda b, a: b.from_host(b.to_numpy(a.x), b.layout(a.x)), lambda a: a.x),
    ("copy", "keeps the numbers", lambda b, a: b.copy(a.x), lambda a: a.x),
    ("copy", "takes a matrix", lambda b, a: b.copy(a.lower), lambda a: a.lower),
    ("scale_", "is alpha x", lambda b, a: b.scale_(b.copy(a.x), 1.7), lambda a: 1.7 * a.x),
    ("scale_", "takes a matrix", lambda b, a: b.scale_(b.copy(a.lower), 1.7), lambda a: 1.7 * a.lower),
    ("axpy_", "is y + alpha x", lambda b, a: b.axpy_(b.copy(a.y), -0.3, a.x), lambda a: a.y - 0.3 * a.x),
    ("dot", "is the sum of the products", lambda b, a: b.dot(a.x, a.y), lambda a: a.x @ a.y),
    ("norm", "is Euclidean", lambda b, a: b.norm(a.x), lambda a: np.linalg.norm(a.x)),
    (
        "axpy_",
        "takes scalars too",
        lambda b, a: b.axpy_(b.scale_(b.dot(a.x, a.y), 3.0), 0.7, b.dot(a.y, a.y)),
        lambda a: 3 * (a.x @ a.y) + 0.7 * (a.y @ a.y),
    ),
    ("multiply", "is entrywise", lambda b, a: b.multiply(a.x, a.y), lambda a: a.x * a.y),
    ("multiply", "by ones keeps the numbers", lambda b, a: b.multiply(a.x, a.ones), lambda a: a.x),
    ("gather", "is x[indices]", lambda b, a: b.gather(a.x, _SOME), lambda a: a.x[_SOME]),
    ("gather", "of all entries keeps them", lambda b, a: b.gather(a.x, _ALL), lambda a: a.x),
    ("gather", "takes columns", lambda b, a: b.gather(a.lower, _SOME), lambda a: a.lower[:, _SOME]),
    (
        "scatter",
        "is x at the indices and zero elsewhere",
        lambda b, a: b.scatter(a.pair, _SOME, b.layout(a.x)),
        lambda a: np.array([a.pair[1], 0, 0, 0, a.pair[0], 0]),
    ),
    ("scatter", "of all entries keeps them", lambda b, a: b.scatter(a.x, _ALL, b.layout(a.x)), lambda a: a.x),
    ("section", "is x[start:stop]", lambda b, a: b.section(a.x, 1, 4), lambda a: a.x[1:4]),
    ("section", "takes columns", lambda b, a: b.section(a.lower, 1, 4), lambda a: a.lower[:, 1:4]),
    ("index", "is matrix[i]", lambda b, a: b.index(a.lower, 1), lambda a: a.lower[1]),
    ("index", "takes a (k, m, n) array", lambda b, a: b.index(a.cubes, 1), lambda a: a.cubes[1]),
    ("stack", "has the vectors as rows", lambda b, a: b.stack([a.x, a.y]), lambda a: np.stack([a.x, a.y])),
    ("stack", "takes a single vector", lambda b, a: b.stack([a.x]), lambda a: a.x[None]),
    ("transpose", "is matrix.T", lambda b, a: b.transpose(a.lower), lambda a: a.lower.T),
    ("columns", "gives the columns in order", lambda b, a: b.columns(a.lower), lambda a: list(a.lower.T)),
    (
        "stack_columns",
        "has the vectors as columns",
        lambda b, a: b.stack_columns([a.x, a.y]),
        lambda a: np.stack([a.x, a.y], axis=1),
    ),
    ("columns", "gives the only column", lambda b, a: b.columns(b.stack_columns([a.x])), lambda a: [a.x]),
    ("apply_rows", "is matrix @ x", lambda b, a: b.apply_rows(a.lower, a.x), lambda a: a.lower @ a.x),
    ("apply_rows", "of the identity is x", lambda b, a: b.apply_rows(a.eye, a.x), lambda a: a.eye @ a.x),
    ("combine_rows", "is matrix.T @ y", lambda b, a: b.combine_rows(a.upper, a.pair), lambda a: a.upper.T @ a.pair),
    ("combine_rows", "of the identity is y", lambda b, a: b.combine_rows(a.eye, a.x), lambda a: a.eye @ a.x),
    (
        "combine_rows",
        "is matrix.T @ y for several y too",
        lambda b, a: b.combine_rows(a.upper, a.upper),
        lambda a: a.upper.T @ a.upper,
    ),
    (
        "row_products",
        "is X @ Y.T for rows in blocks",
        lambda b, a: _twice(b.row_products, [a.upper, a.lower]),
        lambda a: _twice(np.matmul, np.concatenate([a.upper, a.lower])),
    ),
    (
        "row_products",
        "is X @ Y.T for different rows in blocks",
        lambda b, a: b.row_products([a.lower], [a.upper, a.lower]),
        lambda a: a.lower @ np.concatenate([a.upper, a.lower]).T,
    ),
    (
        "row_products",
        "is X @ Y.T for more blocks on the left",
        lambda b, a: b.row_products([a.upper, a.lower], [a.upper]),
        lambda a: np.concatenate([a.upper, a.lower]) @ a.upper.T,
    ),
    (
        "block_products",
        "is the diagonal blocks of rows.T @ rows",
        lambda b, a: b.block_products(a.lower, 3),
        lambda a: [part.T @ part for part in np.split(a.lower, 2, axis=1)],
    ),
    (
        "apply_blocks",
        "multiplies block by block",
        lambda b, a: b.apply_blocks(a.cubes, a.x),
        lambda a: np.concatenate([a.cubes[0] @ a.x[:3], a.cubes[1] @ a.x[3:]]),
    ),
    ("apply_blocks", "of one identity is x", lambda b, a: b.apply_blocks(a.eyes, a.x), lambda a: a.eye @ a.x),
    (
        "cast",
        "rounds to float16, and back exactly",
        lambda b, a: b.cast(b.cast(a.lower, _HALF), b.layout(a.lower).dtype),
        lambda a: a.lower.astype(_HALF),
    ),
    ("cast", "to the same dtype keeps the numbers", lambda b, a: b.cast(a.x, b.layout(a.x).dtype), lambda a: a.x),
)
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
    for law in _LAWS:
        _check(native, law, arrays)
    for bad in (np.nan, np.inf):
        spoiled = arrays | {"x": np.where(_ALL == 1, bad, arrays["x"])}
        for primitive, _, call, expected in _LAWS:
            _check(native, (primitive, f"passes {bad} on", call, expected), spoiled)


def _check(native: Native, law: _Law, arrays: dict[str, Floats]) -> None:
    primitive, text, call, expected = law
    given = {name: native.array(values) for name, values in arrays.items()}
    result = call(native.backend, SimpleNamespace(**given))
    with np.errstate(invalid="ignore"):
        wanted = np.asarray(expected(SimpleNamespace(**arrays)))
    found = _hosted(native, primitive, result, wanted.ndim)
    finite = np.isfinite(wanted)
    if primitive not in _ROUNDING:
        require_same(found, wanted, primitive, text)
    elif finite.all():
        allowed = 100 * native.epsilon * max(1.0, float(np.abs(wanted).max()))
        require_close(found, wanted, allowed, primitive, text)
    else:
        require_same(np.isfinite(found), finite, primitive, text)

    alone = "consumes its first argument only" if primitive.endswith("_") else "leaves its inputs alone"
    for name, values in arrays.items():
        require_same(native.numpy(given[name]), values, primitive, alone)
    require(_SOME.tolist() == [4, 0], primitive, "leaves its indices alone", str(_SOME))
    if primitive in _VIEWS | _ON_HOST or not finite.all():
        return
    # Algorithms write into what a primitive returns.
    for part in result if isinstance(result, list) else [result]:
        native.backend.scale_(part, 0.0)
    for name, values in arrays.items():
        fresh = "returns storage of its own, not that of its input"
        require(native.holds(given[name], values), primitive, fresh)


def _hosted(native: Native, primitive: str, result: Any, dimensions: int) -> NDArray[Any]:
    if primitive in _ON_HOST:
        kind = f"{type(result).__name__} of {getattr(result, 'dtype', 'no dtype')}"
        right = isinstance(result, np.ndarray) and result.dtype == np.float64
        require(right, primitive, "returns a float64 NumPy array", kind)
        return result
    if dimensions == 0:
        return native.backend.to_host(result)[0]
    return np.stack([native.numpy(part) for part in result]) if isinstance(result, list) else native.numpy(result)


def _twice(product: Callable[[Any, Any], Any], rows: Any) -> Any:
    return product(rows, rows.T if isinstance(rows, np.ndarray) else rows)
