"""Native arrays by way of NumPy: what all checks of a backend speak."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specop.arrays.backend import Array, Backend
from specop.arrays.layout import Layout
from specop.testing._laws import require

__all__ = ["Native"]


@dataclass(frozen=True)
class Native:
    """A backend with one dtype.

    `make` is the user's way from a NumPy array to a native one.
    """

    backend: Backend
    make: Callable[[NDArray[Any]], Array]
    dtype: np.dtype[Any]
    _rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    @property
    def epsilon(self) -> float:
        """Machine epsilon of the dtype."""
        return float(np.finfo(self.dtype).eps)

    @property
    def summation(self) -> float:
        """Relative error allowed to a sum of a million terms of one sign: 1e-6 in float32."""
        return 1e-6 if self.dtype == np.float32 else 1e-13

    def array(self, values: ArrayLike) -> Array:
        """Native array with these numbers, in storage of its own."""
        return self.make(np.array(values, dtype=self.dtype))

    def normal(self, *shape: int) -> Array:
        """Native array of standard normal numbers."""
        return self.array(self._rng.standard_normal(shape))

    def numpy(self, x: Array) -> NDArray[Any]:
        """NumPy copy of a native array of this dtype."""
        found = self.backend.to_numpy(x)
        require(
            found.dtype == self.dtype, "dtype", f"of a result is that of the operands, {self.dtype}", str(found.dtype)
        )
        return found.copy()

    def holds(self, x: Array, values: NDArray[Any]) -> bool:
        """Whether an array that nobody should have written into still holds its numbers."""
        try:
            return bool(np.array_equal(self.backend.to_numpy(x), values, equal_nan=True))
        except Exception as error:
            # Frameworks that hand storage over make the old array unreadable, each with an error of its own.
            raise AssertionError(f"an array became unreadable through the result of a primitive: {error}.") from error

    def layout(self, n: int) -> Layout:
        """Layout of vectors of this dtype, on the device of new arrays."""
        return self.backend.layout(self.array(np.zeros(1))).of_length(n)
