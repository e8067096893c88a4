"""What an array framework must offer, where a vector lives, and how an array's framework is found.

Algorithms are written once against `Backend`. Vectors are opaque to them: they ask the backend, never the array.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib import metadata
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from specop.arrays.layout import Layout
from specop.errors import InvalidInputError

__all__ = ["Array", "Backend", "Basis", "backend_of", "framework_adapter"]

Array = Any
"""A native vector or scalar of some framework. Only that framework's backend looks inside."""

Basis = Any
"""Rows of equal length, stored as the framework likes best. Only its backend looks inside."""


class Backend(Protocol):
    """The array primitives that algorithms are made of.

    A primitive whose name ends in ``_`` may consume its first argument; callers use only what it returns.
    Scalars stay on the device until `to_host`, which moves any number of them in one transfer. A vector is
    one-dimensional and holds the entries named by its `Layout`.
    """

    name: str

    # Vectors
    def layout(self, vector: Array) -> Layout:
        """Describe a native vector; of a matrix, its leading length, dtype and device."""

    def dot(self, x: Array, y: Array) -> Array:
        """Return ``sum_i x_i y_i`` as a device scalar."""

    def norm(self, x: Array) -> Array:
        """Return the Euclidean norm as a device scalar, also where squares of entries leave the range of the dtype."""

    def axpy_(self, y: Array, alpha: float, x: Array) -> Array:
        """Return ``y + alpha x``."""

    def scale_(self, x: Array, alpha: float) -> Array:
        """Return ``alpha x``."""

    def copy(self, x: Array) -> Array:
        """Return the same numbers in storage of their own."""

    def multiply(self, x: Array, y: Array) -> Array:
        """Return the entrywise product."""

    def zeros(self, layout: Layout) -> Array:
        """Return a vector of zeros."""

    def gather(self, x: Array, indices: NDArray[np.intp]) -> Array:
        """Return ``x[..., indices]``: entries of a vector, or columns of a native (m, n) array."""

    def scatter(self, x: Array, indices: NDArray[np.intp], layout: Layout) -> Array:
        """Return a vector of the given layout, zero but for ``x`` at ``indices``."""

    # A basis: up to `capacity` rows, of which the first `lead` can be kept without the rest
    def allocate(self, layout: Layout, capacity: int, lead: int) -> Basis:
        """Return an empty basis; memory is taken as rows are set."""

    def set_row_(self, basis: Basis, i: int, x: Array, alpha: float) -> Basis:
        """Return the basis with row ``i`` set to ``alpha x``."""

    def row(self, basis: Basis, i: int) -> Array:
        """Return row ``i``, to be read only."""

    def orthogonalize_(self, x: Array, basis: Basis, k: int, near: Sequence[int]) -> tuple[Array, Array, Array, Array]:
        """Return ``(w, c, h, beta)``: ``x`` without what it has along the first ``k`` rows, the rows ``near`` first.

        One row of ``near`` after the other, ``c_i = dot(q_i, x)``, ``x <- x - c_i q_i``; then one classical
        Gram-Schmidt pass, ``h = Q x``, ``w = x - Q.T h``, ``beta = norm(w)``.
        """

    def combine_(self, basis: Basis, coefficients: NDArray[np.float64], start: int) -> Basis:
        """Return the basis with its rows from ``start`` on replaced by ``coefficients.T @ rows``.

        ``coefficients`` is (m, p), p <= m: the m rows from ``start`` give p new ones. No second basis is held.
        """

    def take(self, basis: Basis, k: int) -> Array:
        """Return the first ``k`` rows as one (k, n) array and give up the basis."""

    # Matrices and blocks of vectors as their users hold them
    def apply_rows(self, matrix: Array, x: Array) -> Array:
        """Return ``matrix @ x`` for a native (m, n) array, added up as exactly as `dot`."""

    def combine_rows(self, matrix: Array, y: Array) -> Array:
        """Return ``matrix.T @ y`` for a native (m, n) array, with a vector or an (m, k) array."""

    def row_products(self, x: Sequence[Array], y: Sequence[Array]) -> NDArray[np.float64]:
        """Return ``X @ Y.T`` on the host for blocks of rows, native (m_i, n) arrays, one below the other.

        Products are added up in float64 where the device has it: inverses of Gram matrices show each lost digit.
        ``y`` may be the same list as ``x``.
        """

    def block_products(self, rows: Array, size: int) -> NDArray[np.float64]:
        """Return the diagonal blocks of ``rows.T @ rows`` on the host, a (n / size, size, size) array.

        Added up as in `row_products`.
        """

    def apply_blocks(self, blocks: Array, x: Array) -> Array:
        """Return the product of a block-diagonal matrix, given by its native (k, size, size) blocks, with ``x``."""

    def cast(self, x: Array, dtype: np.dtype[Any]) -> Array:
        """Return an array in float16, float32 or float64, in storage of its own."""

    def transpose(self, matrix: Array) -> Array:
        """Return ``matrix.T`` of a native (m, n) array, possibly as a view."""

    def stack_columns(self, vectors: Sequence[Array]) -> Array:
        """Return the (n, k) array whose columns are the vectors."""

    def columns(self, block: Array) -> list[Array]:
        """Return the columns of an (n, k) array, each contiguous."""

    # Exchange with the host
    def to_host(self, *arrays: Array) -> list[NDArray[np.float64]]:
        """Return the arrays as float64 NumPy arrays, by one transfer for all of them."""

    def from_host(self, array: NDArray[Any], layout: Layout) -> Array:
        """Return a native array with the entries of ``array``, in the layout's dtype and on its device.

        A vector has the entries that the layout holds here, in order.
        """

    def to_numpy(self, x: Array) -> NDArray[Any]:
        """Return a writable NumPy copy that shares nothing with ``x``."""

    # Structures of parameters and numbers
    def check_vector(self, x: Array, layout: Layout, what: str) -> None:
        """Raise InvalidInputError, naming ``what``, unless ``x`` is a vector of this layout."""


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
    backend: Backend = framework_adapter(array).backend
    return backend


def framework_adapter(thing: object) -> Any:
    """Return the adapter package for an array, a module or a structure's leaf, by the type's origin.

    The type decides, not what happens to be imported: importing one framework may import another.
    """
    origins = [base.__module__.partition(".")[0] for base in type(thing).__mro__]
    for origin in origins:
        if origin in _BUILT_IN:
            return importlib.import_module(_BUILT_IN[origin])
    for point in metadata.entry_points(group=_ENTRY_POINT_GROUP):
        if point.name in origins:
            return point.load()
    kind = type(thing)
    raise InvalidInputError(
        f"no adapter for {kind.__module__}.{kind.__qualname__}: specop knows arrays and models of "
        f"{', '.join(_BUILT_IN)}. Convert it, or register an adapter under the entry point group "
        f"'{_ENTRY_POINT_GROUP}'."
    )
