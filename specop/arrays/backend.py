"""Backend: the primitives of an array framework and what is written on them; and how that of an array is found.

Algorithms are written once against `Backend`. Vectors are opaque to them: they ask the backend, never the array.
"""

from __future__ import annotations

import importlib
import itertools
import math
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specop.arrays.layout import Layout
from specop.arrays.memory import free_host_memory
from specop.arrays.primitives import Array, Basis, Primitives
from specop.arrays.processes import ALONE, Processes
from specop.errors import InvalidInputError, check_unmasked
from specop.statistics.numbers import Floats, Integers

__all__ = [
    "Array",
    "Backend",
    "Basis",
    "add_",
    "backend_of",
    "checked_columns",
    "framework_adapter",
    "lengths_of",
    "numbers_of",
    "shape_of",
    "unpacked",
]

# Of matrices that are held in float64 at a time: so many entries, and more where that were fewer columns.
_ENTRIES, _COLUMNS = 2**18, 4_096


class Backend(Primitives):
    """The primitives of a framework, and what only some algorithms need: written on those, most by way of host memory.

    That is right first; a framework that can do better overrides it.

    Attributes
    ----------
    conversion : str
        Code that makes an array of the framework of another one, as errors suggest it; ``{dtype}`` and ``{device}`` are
        filled in.
    """

    conversion: str = "the framework's own functions"

    def processes(self, held: Layout | Array) -> Processes:
        """Return the processes that hold an array, or vectors of a layout, together; they make each call together."""
        return ALONE

    # Vectors and their entries
    def check_vector(self, x: Any, layout: Layout, what: str) -> None:
        """Raise InvalidInputError, naming ``what``, unless ``x`` is a vector of this layout."""
        check_unmasked(what, x)
        kind = self.array_type
        if not isinstance(x, kind):
            expected = f"be a {kind.__module__.partition('.')[0]}.{kind.__name__} on {layout.device}"
            raise self._refusal(what, expected, type(x).__name__, layout)
        if self.shape(x) != (layout.n,):
            raise InvalidInputError(f"{what} must have shape ({layout.n},), got {self.shape(x)}.")
        try:
            found = self.layout(x)
        except InvalidInputError as error:
            raise InvalidInputError(f"{what} must have dtype {layout.dtype}: {error}") from None
        if found.dtype != layout.dtype:
            raise self._refusal(what, f"have dtype {layout.dtype}", str(found.dtype), layout)
        if found.device != layout.device:
            raise self._refusal(what, f"be on {layout.device}", f"one on {found.device}", layout)
        if found.sharding != layout.sharding:
            raise InvalidInputError(
                f"{what} must be {_spread(layout.sharding)}, got one that is {_spread(found.sharding)}. Make it as the "
                f"operator's own vectors are made."
            )

    def zeros(self, layout: Layout) -> Array:
        """Return a vector of zeros."""
        return self.from_host(np.zeros(layout.n, layout.dtype), layout)

    def clip(self, x: Array, low: float, high: float) -> Array:
        """Return a vector with entries below ``low`` or above ``high`` replaced by these; NaN stays."""
        return self.from_host(np.clip(self.to_numpy(x), low, high), self.layout(x))

    def gather(self, x: Array, indices: Integers) -> Array:
        """Return ``x[..., indices]``: entries of a vector, or columns of a matrix."""
        return self.from_host(self.to_numpy(x)[..., indices], self.layout(x))

    def scatter(self, x: Array, indices: Integers, layout: Layout) -> Array:
        """Return a vector of the given layout, zero but for ``x`` at ``indices``."""
        entries = np.zeros(layout.n, layout.dtype)
        entries[indices] = self.to_numpy(x)
        return self.from_host(entries, layout)

    def section(self, x: Array, start: int, stop: int) -> Array:
        """Return ``x[..., start:stop]``, possibly as a view."""
        return self.gather(x, np.arange(start, stop, dtype=np.intp))

    # Memory
    def free_memory(self, layout: Layout) -> int:
        """Return the bytes that may still be taken where vectors of this layout are, on the fullest of their devices.

        By default that is host memory.
        """
        return free_host_memory()

    def row_bytes(self, layout: Layout) -> int:
        """Return the bytes that a vector of this layout takes there."""
        return layout.n * layout.dtype.itemsize

    # A basis, matrices and blocks of vectors
    def row(self, basis: Basis, i: int) -> Array:
        """Return row ``i``, to be read only; by default what the basis's own method ``row`` returns."""
        return basis.row(i)

    def take(self, basis: Basis, k: int) -> Array:
        """Return the first ``k`` rows as a matrix and give up the basis."""
        return self.stack([self.row(basis, i) for i in range(k)])

    def stack_columns(self, vectors: Sequence[Array]) -> Array:
        """Return the (n, k) array whose columns are the vectors."""
        return self.transpose(self.stack(vectors))

    def columns(self, block: Array) -> list[Array]:
        """Return the columns of an (n, k) array, each contiguous and in storage of its own."""
        rows = self.transpose(block)
        return [self.copy(self.index(rows, i)) for i in range(self.shape(rows)[0])]

    # Not finite in, not finite out: whoever asked looks, and NumPy need not warn as well.
    @np.errstate(invalid="ignore")
    def row_products(self, x: Sequence[Array], y: Sequence[Array]) -> Floats:
        """Return ``X @ Y.T`` on the host for blocks of rows, matrices of shape (m_i, n), one below the other.

        Products are added up in float64 where the device has it: inverses of Gram matrices show each lost digit.
        ``y`` may be the same list as ``x``.
        """
        counts = [sum(self.shape(rows)[0] for rows in blocks) for blocks in (x, y)]
        total, width = np.zeros(counts), max(_COLUMNS, _ENTRIES // max(counts))
        for start in range(0, self.shape(x[0])[1], width):
            left = self._hosted_columns(x, start, width)
            # With its own transpose NumPy computes one half of the product.
            total += left @ (left if y is x else self._hosted_columns(y, start, width)).T
        return total

    @np.errstate(invalid="ignore")
    def block_products(self, rows: Array, size: int) -> Floats:
        """Return the diagonal blocks of ``rows.T @ rows`` on the host, a (n / size, size, size) array.

        Added up as in `row_products`.
        """
        count, n = self.shape(rows)
        products, step = np.empty((n // size, size, size)), max(1, max(_COLUMNS, _ENTRIES // count) // size)
        for first in range(0, n // size, step):
            columns = self._hosted_columns([rows], first * size, step * size)
            cut = columns.reshape(count, -1, size).transpose(1, 2, 0)
            np.matmul(cut, cut.transpose(0, 2, 1), out=products[first : first + step])
        return products

    @np.errstate(invalid="ignore")
    def apply_blocks(self, blocks: Array, x: Array) -> Array:
        """Return the product of a block-diagonal matrix, given by its native (k, size, size) blocks, with ``x``."""
        matrices, vector = self.to_host(blocks, x)
        return self.from_host((matrices @ vector.reshape(len(matrices), -1, 1)).reshape(-1), self.layout(x))

    def _hosted_columns(self, blocks: Sequence[Array], start: int, width: int) -> Floats:
        stop = min(start + width, self.shape(blocks[0])[1])
        hosted = [self.to_host(self.section(rows, start, stop))[0] for rows in blocks]
        return hosted[0] if len(hosted) == 1 else np.concatenate(hosted)

    def _refusal(self, what: str, expected: str, got: str, layout: Layout) -> InvalidInputError:
        conversion = self.conversion.format(dtype=layout.dtype, device=layout.device)
        return InvalidInputError(
            f"{what} must {expected}, got {got}. Convert it with {conversion}; specop never moves a vector between "
            f"frameworks or devices by itself."
        )


def _spread(sharding: Any) -> str:
    return "on one device" if sharding is None else f"spread over devices as {sharding}"


# By the top-level package of the array's type, or of a base class of the model's.
_BUILT_IN = {
    "numpy": "specop_numpy",
    "torch": "specop_torch",
    "jax": "specop_jax",
    "jaxlib": "specop_jax",
    "flax": "specop_jax",
    "equinox": "specop_jax",
    "tensorflow": "specop_tensorflow",
    "keras": "specop_tensorflow",
}
_ENTRY_POINT_GROUP = "specop.backends"


def backend_of(array: Array) -> Backend:
    """Return the backend of the framework that the array's type comes from.

    Parameters
    ----------
    array : native array
        For example a NumPy array or a torch tensor.

    Raises
    ------
    InvalidInputError
        If no installed adapter knows the type.

    Examples
    --------
    >>> import numpy as np
    >>> backend_of(np.zeros(3)).name
    'numpy'
    """
    adapter = framework_adapter(array)
    backend: Backend = adapter.backend_for(array) if hasattr(adapter, "backend_for") else adapter.backend
    return backend


def shape_of(x: Any) -> tuple[int, ...]:
    """Return the shape of an array of any framework, and () of anything else."""
    try:
        return backend_of(x).shape(x)
    except InvalidInputError:
        return ()


def numbers_of(backend: Backend, *scalars: Array) -> list[float]:
    """Return device scalars as floats, by one transfer."""
    return [float(value) for value in backend.to_host(*scalars)]


def lengths_of(backend: Backend, *vectors: Array) -> list[float]:
    """Return Euclidean norms as floats, by one transfer."""
    return numbers_of(backend, *map(backend.norm, vectors))


def add_(backend: Backend, total: Array, coefficients: Iterable[float], vectors: Iterable[Array]) -> Array:
    """Return ``total + sum_i c_i v_i``; the total is consumed."""
    for coefficient, vector in zip(coefficients, vectors, strict=True):
        total = backend.axpy_(total, float(coefficient), vector)
    return total


def checked_columns(backend: Backend, block: Any, layout: Layout, what: str) -> list[Array]:
    """Return the columns of an (n, k) array; raise InvalidInputError unless they are vectors of this layout."""
    shape = backend.shape(block)
    if shape[1] == 0:
        raise InvalidInputError(f"{what} has no columns: shape {shape}.")
    columns = backend.columns(block) if isinstance(block, backend.array_type) else [block]
    backend.check_vector(columns[0], layout, f"each column of {what}")
    return columns


def unpacked(flat: NDArray[Any], shapes: Sequence[Sequence[int]]) -> list[NDArray[Any]]:
    """Return arrays of these shapes, whose entries lie one after the other in a flat one: for `Backend.to_host`."""
    bounds = itertools.pairwise(itertools.accumulate(map(math.prod, shapes), initial=0))
    return [flat[start:stop].reshape(shape) for (start, stop), shape in zip(bounds, shapes, strict=True)]


def framework_adapter(thing: object) -> Any:
    """Return the adapter package for an array, a module or a structure's leaf, by the type's origin.

    The type decides, not what happens to be imported: importing one framework may import another.
    """
    origins = [base.__module__.partition(".")[0] for base in type(thing).__mro__]
    for origin in origins:
        if origin == "keras":
            return importlib.import_module(_keras_adapter())
        if origin in _BUILT_IN or origin in _BUILT_IN.values():
            return importlib.import_module(_BUILT_IN.get(origin, origin))
    for point in metadata.entry_points(group=_ENTRY_POINT_GROUP):
        if point.name in origins:
            return point.load()
    kind = type(thing)
    raise InvalidInputError(
        f"no adapter for {kind.__module__}.{kind.__qualname__}: specop knows arrays and models of "
        f"{', '.join(_BUILT_IN)}. Convert it, or register an adapter under the entry point group "
        f"'{_ENTRY_POINT_GROUP}'."
    )


def _keras_adapter() -> str:
    """Return the adapter of the framework that Keras runs on; an object of Keras has imported it."""
    framework = sys.modules["keras"].config.backend()
    if framework not in ("tensorflow", "jax", "torch"):
        raise InvalidInputError(
            f"this model of Keras runs on the {framework} backend, which has no derivatives. Set KERAS_BACKEND to "
            f"tensorflow, jax or torch before Keras is imported, and load its weights there."
        )
    return _BUILT_IN[framework]
