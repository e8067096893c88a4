"""Where a vector lives: its length, its dtype, its device and how it is spread over several."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from specop.errors import InvalidInputError

__all__ = ["Layout"]

_DTYPES = {np.dtype(np.float32), np.dtype(np.float64)}


@dataclass(frozen=True)
class Layout:
    """Length, dtype, device and sharding of a vector.

    Parameters
    ----------
    n : int
        Number of entries, of all devices and processes together.
    dtype : numpy.dtype
        float32 or float64, as NumPy or the framework calls it.
    device : object
        The framework's own device handle; of a vector that is spread over several, that of this process's first part.
    sharding : object, optional
        How the entries are spread over devices or processes, as the framework describes it: equal where two vectors are
        spread alike. None for a vector on one device.
    """

    n: int
    dtype: np.dtype[Any]
    device: Any
    sharding: Any = None

    def __post_init__(self) -> None:
        # A look-up, because a layout is made for each vector that is checked.
        if self.dtype in _DTYPES:
            return
        # Frameworks have types that NumPy does not know, such as bfloat16.
        with suppress(TypeError):
            object.__setattr__(self, "dtype", np.dtype(self.dtype))
        if self.dtype not in _DTYPES:
            raise InvalidInputError(f"vectors must be float32 or float64, got {self.dtype}.")

    @property
    def epsilon(self) -> float:
        """Machine epsilon of the dtype."""
        return float(np.finfo(self.dtype).eps)

    def of_length(self, n: int) -> Layout:
        """Return the layout of a vector of another length in the same place."""
        return replace(self, n=n)
