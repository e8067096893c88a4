"""check_backend: each law of a backend has something that breaks it, and that must be caught by name."""

import numpy as np
import pytest

import specop
from specop.arrays.backend import backend_of
from specop.arrays.layout import Layout
from specop.arrays.rows import RowBlocks
from specop.errors import InvalidInputError
from specop.testing import check_backend

NUMPY = backend_of(np.empty(0))
BackendClass = type(NUMPY)


# Each function replaces one primitive of the NumPy backend; `self` is that backend.


def no_copy(self, x, *rest):
    return x


def half_dot(self, x, y):
    return np.float64(np.sum((x * y).astype(np.float16), dtype=np.float16))


def single_dot(self, x, y):
    # As BLAS would, if it added up one after the other.
    return np.cumsum(x * y, dtype=x.dtype)[-1] if len(x) else np.float64(0)


def repairing(self, *arrays):
    return [np.asarray(np.nan_to_num(array, posinf=np.inf)) for array in BackendClass.to_host(self, *arrays)]


def raising_norm(self, x):
    if not np.isfinite(x).all():
        raise AssertionError("norm: refused")
    return BackendClass.norm(self, x)


def combine_one_by_one(self, basis, coefficients, start):
    rows = [basis.row(start + i) for i in range(len(coefficients))]
    for j in range(coefficients.shape[1]):
        rows[j][:] = sum(c * row for c, row in zip(coefficients[:, j], rows, strict=True))
    return basis


def combine_transposed(self, basis, coefficients, start):
    m, p = coefficients.shape
    turned = np.zeros((m, p))
    turned[:p] = coefficients[:p].T
    return BackendClass.combine_(self, basis, turned, start)


def combine_from_zero(self, basis, coefficients, start):
    return BackendClass.combine_(self, basis, coefficients, 0)


def combine_scaling_coefficients(self, basis, coefficients, start):
    basis = BackendClass.combine_(self, basis, coefficients, start)
    coefficients *= 0
    return basis


def set_row_by_reference(self, basis, i, x, alpha):
    basis = BackendClass.set_row_(self, basis, i, x, alpha)
    if alpha == 1.0 and i == 0:
        basis.blocks[0] = x[None] if basis.lead == 1 else basis.blocks[0]
        basis.row = lambda number: x if number == 0 else type(basis).row(basis, number)
    return basis


def set_row_in_place(self, basis, i, x, alpha):
    basis = BackendClass.set_row_(self, basis, i, x, alpha)
    x *= 0
    return basis


def set_row_without_alpha(self, basis, i, x, alpha):
    return BackendClass.set_row_(self, basis, i, x, 1.0)


def set_row_wrapping(self, basis, i, x, alpha):
    basis.grow(i + 1)
    return BackendClass.set_row_(self, basis, i % 16, x, alpha)


def one_pass_only(self, x, basis, k, near):
    w, _, h, beta = BackendClass.orthogonalize_(self, x, basis, k, ())
    return w, h[list(near)], h, beta


def near_pass_only(self, x, basis, k, near):
    w, c, _, beta = BackendClass.orthogonalize_(self, x, basis, 0, near)
    return w, c, np.zeros(k, x.dtype), beta


def all_rows(self, x, basis, k, near):
    count = sum(map(len, basis.blocks))
    w, c, h, beta = BackendClass.orthogonalize_(self, x, basis, count, near)
    return w, c, h[:k], beta


def sorted_near(self, x, basis, k, near):
    return BackendClass.orthogonalize_(self, x, basis, k, sorted(near))


def stale_beta(self, x, basis, k, near):
    before = self.norm(x)
    w, c, h, _ = BackendClass.orthogonalize_(self, x, basis, k, near)
    return w, c, h, before


def rows_changed(self, x, basis, k, near):
    out = BackendClass.orthogonalize_(self, x, basis, k, near)
    if k:
        basis.row(0)[:] *= 2
    return out


def half_projections(self, x, basis, k, near):
    w, c, h, beta = BackendClass.orthogonalize_(self, x, basis, k, near)
    if len(x) > 1000:
        c, h = (np.round(part, 3) for part in (c, h))
    return w, c, h, beta


def quiet_projections(self, x, basis, k, near):
    return BackendClass.orthogonalize_(self, np.nan_to_num(x, posinf=1.0), basis, k, near)


SHARED = {}


def one_buffer(self, layout, capacity, lead):
    def empty(*shape):
        return SHARED.setdefault((len(basis.blocks), shape, layout.dtype), np.empty(shape, layout.dtype))

    basis = RowBlocks(layout, capacity, lead, empty)
    return basis


def unordered_take(self, basis, k):
    return BackendClass.take(self, basis, k)[::-1]


def layout_of_size(self, vector):
    found = BackendClass.layout(self, vector)
    return Layout(vector.size, found.dtype, found.device)


def layout_of_any(self, vector):
    return Layout(vector.shape[-1], vector.dtype if vector.dtype.kind == "f" and vector.itemsize > 2 else "f4", "cpu")


def shape_only(self, x, layout, what):
    if np.shape(x) != (layout.n,):
        raise InvalidInputError(f"{what} must have shape ({layout.n},), got {np.shape(x)}.")


def type_error(self, x, layout, what):
    if not isinstance(x, np.ndarray):
        raise TypeError(f"{what}: {type(x).__name__}")
    BackendClass.check_vector(self, x, layout, what)


def speechless(self, x, layout, what):
    try:
        BackendClass.check_vector(self, x, layout, what)
    except InvalidInputError:
        raise InvalidInputError("bad vector") from None


def read_only(self, x):
    copied = np.array(x)
    copied.flags.writeable = False
    return copied


def noisy_from_host(self, array, layout):
    return (np.array(array, dtype=np.float64) * (1 + 1e-15)).astype(layout.dtype)


def single_from_host(self, array, layout):
    return np.array(array, dtype=np.float32).astype(layout.dtype)


def vectors_only(self, array, layout):
    return BackendClass.from_host(self, array.reshape(-1), layout)


def plain_rows(self, matrix, x):
    if len(x) < 100_000:
        return BackendClass.apply_rows(self, matrix, x)
    return np.array([np.cumsum(row * x, dtype=x.dtype)[-1] for row in matrix])


def combined_first(self, matrix, y):
    found = BackendClass.combine_rows(self, matrix, y)
    return found if y.ndim == 1 else np.repeat(found[:, :1], y.shape[1], axis=1)


def first_block_only(self, x, y):
    return BackendClass.row_products(self, x, [y[0]] * len(y)) if len(x) == len(y) else np.zeros((1, 1))


def single_row_products(self, x, y):
    left, right = np.concatenate(x), np.concatenate(y)
    if left.shape[1] < 100_000:
        return BackendClass.row_products(self, x, y)
    return np.array([[np.cumsum(a * b, dtype=a.dtype)[-1] for b in right] for a in left], dtype=float)


def rows_scaled(self, x, y):
    found = BackendClass.row_products(self, x, y)
    x[0][:] *= 2
    return found


BROKEN_BACKENDS = {
    "from_host of vectors only": ("from_host", vectors_only, r"from_host: keeps the numbers .* shape .2, 3."),
    "apply_rows adds in a row": ("apply_rows", plain_rows, "apply_rows: is exact to 1e-6 over a million"),
    "combine_rows of one column": ("combine_rows", combined_first, "combine_rows: .* for several y too"),
    "row_products of one block": ("row_products", first_block_only, "row_products: is X @ Y.T for rows in blocks"),
    "row_products adds in a row": ("row_products", single_row_products, "row_products: is exact to 1e-6"),
    "row_products keeps float32": (
        "row_products",
        lambda self, x, y: BackendClass.row_products(self, x, y).astype(x[0].dtype),
        "row_products: returns a float64 NumPy array",
    ),
    "row_products writes": ("row_products", rows_scaled, "row_products: leaves its inputs alone"),
    "block_products of all": (
        "block_products",
        lambda self, rows, size: np.repeat((rows.T @ rows)[None, :size, :size].astype(float), rows.shape[1] // size, 0),
        "block_products: is the diagonal blocks",
    ),
    "apply_blocks transposes": (
        "apply_blocks",
        lambda self, blocks, x: BackendClass.apply_blocks(self, blocks.transpose(0, 2, 1), x),
        "apply_blocks: multiplies block by block",
    ),
    "cast shares": ("cast", lambda self, x, dtype: x.astype(dtype, copy=False), "cast: returns storage of its own"),
    "cast does nothing": ("cast", lambda self, x, dtype: x.copy(), "cast: rounds to float16"),
    "to_numpy shares": ("to_numpy", no_copy, "to_numpy: shares no memory with the vector"),
    "to_numpy is read-only": ("to_numpy", read_only, "to_numpy: returns a writable NumPy array"),
    "to_numpy turns float64": (
        "to_numpy",
        lambda self, x: np.array(x, float),
        "to_numpy: .* of the same dtype",
    ),
    "to_host shares": (
        "to_host",
        lambda self, *arrays: [np.asarray(a, np.float64) for a in arrays],
        "to_host: shares no memory with the vector",
    ),
    "to_host keeps float32": (
        "to_host",
        lambda self, *arrays: [np.array(a) for a in arrays],
        "to_host: returns float64",
    ),
    "to_host flattens": (
        "to_host",
        lambda self, *arrays: [np.array(a, float).reshape(-1) for a in arrays],
        "to_host: keeps shape and order of a matrix",
    ),
    "to_host repairs NaN": ("to_host", repairing, "to_host: passes nan on"),
    "from_host shares": (
        "from_host",
        lambda self, array, layout: np.asarray(array, layout.dtype),
        "from_host: shares no memory with the host",
    ),
    "from_host rounds": ("from_host", noisy_from_host, "from_host: keeps the numbers"),
    "from_host goes through float32": ("from_host", single_from_host, "from_host: keeps the numbers"),
    "layout of a matrix": ("layout", layout_of_size, "layout: of a matrix"),
    "layout of float16": ("layout", layout_of_any, "layout: refuses float16"),
    "zeros are not": ("zeros", lambda self, layout: np.ones(layout.n, layout.dtype), "zeros: is zero"),
    "dot adds in float16": ("dot", half_dot, "dot: is the sum"),
    "dot adds in a row": ("dot", single_dot, "dot: is exact to 1e-6 over a million"),
    "norm is squared": ("norm", lambda self, x: self.dot(x, x), "norm: is Euclidean"),
    "norm squares what it is given": ("norm", lambda self, x: np.sqrt(self.dot(x, x)), "norm: is as exact for vectors"),
    "norm refuses infinity": ("norm", raising_norm, "norm: refused"),
    "copy aliases": ("copy", no_copy, "copy: returns storage of its own"),
    "multiply in place": ("multiply", lambda self, x, y: np.multiply(x, y, out=x), "multiply: leaves its inputs alone"),
    "multiply repairs NaN": (
        "multiply",
        lambda self, x, y: np.nan_to_num(x * y, posinf=np.inf),
        "multiply: passes nan on",
    ),
    "clip on one side": ("clip", lambda self, x, low, high: np.maximum(x, low), "clip: keeps entries between"),
    "clip for good": (
        "clip",
        lambda self, x, low, high: np.clip(x, max(low, -1), min(high, 1)),
        "clip: keeps entries that lie between",
    ),
    "gather of a slice": (
        "gather",
        lambda self, x, i: x if len(i) == len(x) else x[i],
        "gather: returns storage",
    ),
    "gather in order": ("gather", lambda self, x, i: x[np.sort(i)], r"gather: is x\[indices\]"),
    "section of rows": ("section", lambda self, x, start, stop: x[start:stop], "section: takes columns"),
    "section with its end": ("section", lambda self, x, start, stop: x[..., start : stop + 1], "section: is x"),
    "stack views": ("stack", lambda self, rows: rows[0][None] if len(rows) == 1 else np.stack(rows), "stack: returns"),
    "stack in reverse": ("stack", lambda self, rows: np.stack(rows[::-1]), "stack: has the vectors as rows"),
    "index from the end": ("index", lambda self, matrix, i: matrix[-i], r"index: is matrix\[i\]"),
    "index flattens": ("index", lambda self, matrix, i: matrix[i].reshape(-1), "index: takes a .k, m, n. array"),
    "shape is a list": ("shape", lambda self, x: list(np.shape(x)), "shape: is a tuple"),
    "shape of anything": ("shape", lambda self, x: x.shape, None),
    "axpy of vectors": ("axpy_", lambda self, y, a, x: y + x.dtype.type(a) * x * (x.ndim > 0), "axpy_: takes scalars"),
    "scatter over ones": (
        "scatter",
        lambda self, x, i, layout: BackendClass.scatter(self, x, i, layout) + 1,
        "scatter: is x at the indices and zero elsewhere",
    ),
    "axpy consumes both": (
        "axpy_",
        lambda self, y, a, x: np.add(y, np.multiply(x, x.dtype.type(a), out=x)),
        "axpy_: consumes its first argument only",
    ),
    "axpy promotes": ("axpy_", lambda self, y, a, x: y + np.float64(a) * x, "dtype: of a result"),
    "scale drops a digit": ("scale_", lambda self, x, a: x * np.float16(a), "scale_: is alpha x"),
    "apply_rows is transposed": (
        "apply_rows",
        lambda self, m, x: np.resize(np.resize(x, len(m)) @ m, len(m)),
        "apply_rows: is matrix @ x",
    ),
    "combine_rows forgets": (
        "combine_rows",
        lambda self, m, y: y[:-1] @ m[:-1],
        r"combine_rows: is matrix\.T @ y",
    ),
    "transpose keeps the shape": ("transpose", lambda self, m: m.T.reshape(m.shape), r"transpose: is matrix\.T"),
    "columns are rows": (
        "columns",
        lambda self, block: list(np.array(block)),
        "columns: gives the columns",
    ),
    "columns are views": ("columns", lambda self, block: list(block.T), "columns: returns storage of its own"),
    "columns in reverse": ("columns", lambda self, b: list(np.array(b.T))[::-1], "columns: gives the columns in order"),
    "stack_columns stacks rows": (
        "stack_columns",
        lambda self, vectors: np.stack(vectors),
        "stack_columns: has the vectors as columns",
    ),
    "allocate uses memory again": ("allocate", one_buffer, "allocate: gives a basis storage of its own"),
    "basis without growth": ("set_row_", set_row_wrapping, "set_row_: keeps every row, beyond `lead` too"),
    "set_row_ drops alpha": ("set_row_", set_row_without_alpha, "set_row_: sets a row again, times alpha"),
    "set_row_ keeps the vector": ("set_row_", set_row_by_reference, "set_row_: copies the vector"),
    "set_row_ consumes the vector": ("set_row_", set_row_in_place, "set_row_: consumes its first argument only"),
    "orthogonalize_ ignores near": ("orthogonalize_", one_pass_only, "orthogonalize_: has h = "),
    "orthogonalize_ ignores the rest": ("orthogonalize_", near_pass_only, "orthogonalize_: has h = "),
    "orthogonalize_ takes all rows": ("orthogonalize_", all_rows, r"orthogonalize_: has w = .* for k="),
    "orthogonalize_ sorts near": ("orthogonalize_", sorted_near, r"orthogonalize_: has c = .*near=\(12, 11\)"),
    "orthogonalize_ measures before": ("orthogonalize_", stale_beta, r"orthogonalize_: has beta = norm\(w\)"),
    "orthogonalize_ changes the basis": ("orthogonalize_", rows_changed, "orthogonalize_: consumes its first"),
    "orthogonalize_ adds in half": ("orthogonalize_", half_projections, "orthogonalize_: projects to 1e-6 over"),
    "orthogonalize_ repairs NaN": ("orthogonalize_", quiet_projections, "orthogonalize_: passes nan on to beta"),
    "combine_ overwrites a row": ("combine_", combine_one_by_one, "combine_: gives rows coefficients.T @ rows, none"),
    "combine_ with the transpose": ("combine_", combine_transposed, "combine_: gives rows coefficients.T @ rows"),
    "combine_ ignores start": ("combine_", combine_from_zero, "combine_: gives rows|combine_: leaves the rows before"),
    "combine_ eats coefficients": ("combine_", combine_scaling_coefficients, "combine_: leaves its coefficients alone"),
    "take in reverse": ("take", unordered_take, "take: gives the first 2 rows"),
    "check_vector ignores the dtype": ("check_vector", shape_only, "check_vector: refuses float16"),
    "check_vector raises TypeError": ("check_vector", type_error, None),
    "check_vector says nothing": ("check_vector", speechless, "check_vector: names 'the operand of A'"),
    "check_vector refuses all": (
        "check_vector",
        lambda self, x, layout, what: (_ for _ in ()).throw(InvalidInputError("no")),
        "check_vector: accepts a vector of the layout",
    ),
    "no name": ("name", "", "name: is a non-empty string"),
}


@pytest.mark.parametrize("name", BROKEN_BACKENDS)
def test_broken_backends_are_caught(name):
    primitive, replacement, message = BROKEN_BACKENDS[name]
    backend = type("Broken", (BackendClass,), {primitive: replacement})()
    if message is None:
        # An exception of another kind than the protocol's is let through as it is, with its own traceback.
        with pytest.raises((TypeError, AttributeError)):
            check_backend(backend, np.array)
        return
    with pytest.raises(AssertionError, match=message):
        check_backend(backend, np.array)


def test_every_primitive_has_something_that_breaks_it():
    others = {"row", "conversion", "processes", "free_memory", "row_bytes"}
    primitives = {name for name in dir(specop.arrays.Backend) if not name.startswith("_")} - others
    assert primitives <= {primitive for primitive, _, _ in BROKEN_BACKENDS.values()} | {"name"}


def test_a_backend_may_offer_one_dtype_only():
    class Single(BackendClass):
        def layout(self, vector):
            if vector.dtype != np.float32:
                raise InvalidInputError(f"vectors must be float32, got {vector.dtype}.")
            return super().layout(vector)

    check_backend(Single(), np.array, dtypes=["float32"])
    with pytest.raises(InvalidInputError, match="float32, got float64"):
        check_backend(Single(), np.array)
