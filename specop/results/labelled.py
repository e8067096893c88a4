"""data_set: a result's arrays with names for their axes, for xarray."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from specop.errors import InvalidInputError
from specop.results.plain import plain

__all__ = ["data_set"]


def data_set(arrays: dict[str, Any], items: int | None, shapes: dict[str, tuple[int, ...]], numbers: Any) -> Any:
    """Return an xarray data set.

    Parameters
    ----------
    arrays : dict
        NumPy arrays by name, which become variables.
    items : int or None
        How many things the result is about; arrays with an entry for each have the dimension "item" first.
    shapes : dict
        Shape of each parameter by name; arrays with an entry for each of their numbers have the dimension "parameter".
    numbers : dict
        Values that are no arrays, which become attributes.
    """
    try:
        import xarray
    except ImportError as error:
        raise InvalidInputError("data sets need xarray: pip install xarray.") from error
    entries = sum(math.prod(shape) for shape in shapes.values())

    def dimension(name: str, axis: int, length: int) -> str:
        if shapes and length == entries:
            return "parameter"
        return "item" if axis == 0 and length == items else f"{name}_{axis}"

    variables = {
        name: (tuple(dimension(name, axis, length) for axis, length in enumerate(array.shape)), array)
        for name, array in arrays.items()
    }
    labels = {}
    if any("parameter" in dimensions for dimensions, _ in variables.values()):
        # Which parameter each entry belongs to.
        labels["parameter_name"] = ("parameter", np.repeat([*shapes], [math.prod(one) for one in shapes.values()]))
    return xarray.Dataset(variables, coords=labels, attrs=plain(numbers))
