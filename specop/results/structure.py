"""Structure: how a vector of parameters is cut into named arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np

from specop.arrays.backend import Array, backend_of
from specop.errors import InvalidInputError

__all__ = ["Structure"]


class Structure:
    """Names and shapes of parameters, and what puts a vector into their structure as long as their model is there.

    Files and pickles keep the names and shapes; vectors become a dict of NumPy arrays then.

    Parameters
    ----------
    shapes : dict
        Shape of each parameter by name, in the order of the vector; empty where a vector has no such parts.
    unflatten : callable, optional
        Returns a native vector in the structure of the model's parameters.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], unflatten: Callable[[Array], Any] | None = None) -> None:
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._unflatten = unflatten

    def __call__(self, vector: Array) -> Any:
        """Return a vector in the structure of the parameters."""
        if self._unflatten is not None:
            return self._unflatten(vector)
        if not self.shapes:
            raise InvalidInputError("this result was loaded from a file, and its vectors have no parts with names.")
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes.values()])
        parts = np.split(backend_of(vector).to_numpy(vector), ends[:-1])
        return {name: part.reshape(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def __getstate__(self) -> dict[str, Any]:
        return {"shapes": self.shapes, "_unflatten": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # A copy of a result belongs to the same model.
        return self
