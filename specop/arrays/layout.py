"""Where a vector lives: its length, its dtype and its device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Layout"]


@dataclass(frozen=True)
class Layout:
    """Length, dtype and device of a vector.

    Parameters
    ----------
    n : int
        Number of entries.
    dtype : numpy.dtype
        Floating-point type of the entries, at least float32.
    device : object
        The framework's own device handle.
    """

    n: int
    dtype: np.dtype[Any]
    device: Any

    def __post_init__(self) -> None:
        # Frameworks name their types in several ways.
        object.__setattr__(self, "dtype", np.dtype(self.dtype))

    @property
    def epsilon(self) -> float:
        """Machine epsilon of the dtype."""
        return float(np.finfo(self.dtype).eps)
