"""Arrays inside containers that no framework's own trees know; an adapter says what an array is."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, MutableMapping
from typing import Any

__all__ = ["among_samples", "collected", "map_items"]


def map_items(function: Callable[[Any], Any], container: Any) -> Any:
    """Return a dataclass or a mutable mapping with its items replaced; anything else as it is."""
    if dataclasses.is_dataclass(container) and not isinstance(container, type):
        items = {item.name: function(getattr(container, item.name)) for item in dataclasses.fields(container)}
        return dataclasses.replace(container, **items)
    if isinstance(container, MutableMapping):
        clone = copy.copy(container)
        for key, value in container.items():
            clone[key] = function(value)
        return clone
    return container


def collected(map_arrays: Callable[[Callable[[Any], Any], Any], Any], structure: Any) -> list[Any]:
    """Return the arrays that ``map_arrays(function, structure)`` would replace, in its order."""
    found: list[Any] = []

    def collect(array: Any) -> Any:
        found.append(array)
        return array

    map_arrays(collect, structure)
    return found


def among_samples(function: Callable[[Any], Any], count: int) -> Callable[[Any], Any]:
    """Return a function of arrays that replaces those with an entry for each sample, and passes others on."""
    return lambda array: function(array) if len(array.shape) and array.shape[0] == count else array
