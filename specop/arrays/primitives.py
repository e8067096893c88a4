"""Primitives: all that an array framework must offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specop.arrays.layout import Layout
from specop.statistics.numbers import Floats

__all__ = ["Array", "Basis", "Primitives"]

Array = Any
"""A native vector, matrix or scalar of some framework. Only that framework's backend looks inside."""

Basis = Any
"""Rows of equal length, stored as the framework likes best. Only its backend looks inside."""


class Primitives(ABC):
    """The array primitives that algorithms are made of, as far as a framework must offer them.

    A primitive whose name ends in ``_`` may consume its first argument; callers use only what it returns.
    Scalars stay on the device until `to_host`, which moves any number of them in one transfer. A vector is
    one-dimensional, and its `Layout` can be read off it, also where its entries are spread over several devices or
    processes; a matrix is a native (m, n) array, as users hold it, with rows that are spread as vectors are.

    Attributes
    ----------
    name : str
        Name of the framework's distribution, whose version results tell.
    array_type : type
        Type of the arrays that the primitives take.
    """

    name: str
    array_type: type[Any]

    # Vectors; `axpy_` and `scale_` take scalars too
    @abstractmethod
    def layout(self, array: Array) -> Layout:
        """Describe a native vector; of a matrix, its rows."""

    @abstractmethod
    def shape(self, x: Any) -> tuple[int, ...]:
        """Return the shape of an array of whatever framework, and () of what has none."""

    @abstractmethod
    def dot(self, x: Array, y: Array) -> Array:
        """Return ``sum_i x_i y_i`` as a device scalar."""

    @abstractmethod
    def norm(self, x: Array) -> Array:
        """Return the Euclidean norm as a device scalar, also where squares of entries leave the range of the dtype."""

    @abstractmethod
    def axpy_(self, y: Array, alpha: float, x: Array) -> Array:
        """Return ``y + alpha x``."""

    @abstractmethod
    def scale_(self, x: Array, alpha: float) -> Array:
        """Return ``alpha x``."""

    @abstractmethod
    def copy(self, x: Array) -> Array:
        """Return the same numbers in storage of their own."""

    @abstractmethod
    def multiply(self, x: Array, y: Array) -> Array:
        """Return the entrywise product."""

    # A basis: up to `capacity` rows, of which the first `lead` can be kept without the rest
    @abstractmethod
    def allocate(self, layout: Layout, capacity: int, lead: int) -> Basis:
        """Return an empty basis; memory is taken as rows are set."""

    @abstractmethod
    def set_row_(self, basis: Basis, i: int, x: Array, alpha: float) -> Basis:
        """Return the basis with row ``i`` set to ``alpha x``."""

    @abstractmethod
    def orthogonalize_(self, x: Array, basis: Basis, k: int, near: Sequence[int]) -> tuple[Array, Array, Array, Array]:
        """Return ``(w, c, h, beta)``: ``x`` without what it has along the first ``k`` rows, the rows ``near`` first.

        One row of ``near`` after the other, ``c_i = dot(q_i, x)``, ``x <- x - c_i q_i``; then one classical
        Gram-Schmidt pass, ``h = Q x``, ``w = x - Q.T h``, ``beta = norm(w)``.
        """

    @abstractmethod
    def combine_(self, basis: Basis, coefficients: Floats, start: int) -> Basis:
        """Return the basis with its rows from ``start`` on replaced by ``coefficients.T @ rows``.

        ``coefficients`` is (m, p), p <= m: the m rows from ``start`` give p new ones. No second basis is held.
        """

    # Matrices
    @abstractmethod
    def stack(self, rows: Sequence[Array]) -> Array:
        """Return the matrix with these vectors as rows."""

    @abstractmethod
    def index(self, matrix: Array, i: int) -> Array:
        """Return ``matrix[i]``, a contiguous vector; of a (k, m, n) array a matrix. To be read only."""

    @abstractmethod
    def transpose(self, matrix: Array) -> Array:
        """Return ``matrix.T``, possibly as a view."""

    @abstractmethod
    def apply_rows(self, matrix: Array, x: Array) -> Array:
        """Return ``matrix @ x``, added up as exactly as `dot`."""

    @abstractmethod
    def combine_rows(self, matrix: Array, y: Array) -> Array:
        """Return ``matrix.T @ y`` for a vector or an (m, k) array."""

    @abstractmethod
    def cast(self, x: Array, dtype: np.dtype[Any]) -> Array:
        """Return an array in float16, float32 or float64, in storage of its own."""

    # Exchange with the host
    @abstractmethod
    def to_host(self, *arrays: Array) -> list[Floats]:
        """Return the arrays as float64 NumPy arrays, by one transfer for all of them."""

    @abstractmethod
    def from_host(self, array: NDArray[Any], layout: Layout) -> Array:
        """Return a native array with the entries of ``array``, in the layout's dtype and on its device.

        ``array`` has all entries, in every process, and this one keeps its own.
        """

    @abstractmethod
    def to_numpy(self, x: Array) -> NDArray[Any]:
        """Return a writable NumPy copy that shares nothing with ``x``."""
