"""hidden_state, attributes_set: what layers keep in plain attributes, beside all that a framework knows of."""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from specop.objectives.refusals import are_equal

__all__ = ["Access", "HiddenState", "attributes_set", "generator_access", "hidden_state"]

Access = tuple[Callable[[], Any], Callable[[Any], Any]]
"""What returns a copy of an object's content, and what puts one back."""

HiddenState = AbstractContextManager[Callable[[], list[str]]]
"""Puts back what changes inside, and gives what names it."""


@contextmanager
def hidden_state(
    layers: Mapping[str, Any],
    is_known: Callable[[str], bool] = lambda key: False,
    access: Callable[[Any], Access | None] = lambda value: None,
) -> Iterator[Callable[[], list[str]]]:
    """Put back what changes inside, and give what names it: counters, memories, private generators.

    Parameters
    ----------
    layers : mapping
        Layers and other objects by name.
    is_known : callable
        Whether an attribute of this name is the framework's own.
    access : callable
        ``access(value)``: how the content of the framework's arrays is copied and put back; None for other objects.
    """

    def attributes() -> dict[tuple[str, str], Any]:
        found = ((name, key, value) for name, layer in layers.items() for key, value in vars(layer).items())
        return {(name, key): value for name, key, value in found if not is_known(key)}

    before = attributes()
    contents = {place: found for place, value in before.items() if (found := access(value) or _access(value))}
    copies = {place: read() for place, (read, _) in contents.items()}

    def changed() -> list[str]:
        now = attributes()
        moved = [place for place in before | now if before.get(place, now) is not now.get(place, before)]
        moved += [place for place, (read, _) in contents.items() if not are_equal(read(), copies[place])]
        return [".".join(filter(None, place)) for place in dict.fromkeys(moved)]

    try:
        yield changed
    finally:
        for name, key in attributes().keys() - before.keys():
            del vars(layers[name])[key]
        for (name, key), value in before.items():
            vars(layers[name])[key] = value
        for place, (read, write) in contents.items():
            if not are_equal(read(), copies[place]):
                write(copies[place])


@contextmanager
def attributes_set(layers: Iterable[Any], **values: Any) -> Iterator[None]:
    """Set attributes of those objects that have them, and put them back on leaving, whatever they were.

    Modes of layers are switched in this way, not by a layer's own ``eval()`` or ``train()``, which may do more than
    that, such as adding adapters to weights and, not to the same bits, taking them out again.
    """
    before = [(layer, key, getattr(layer, key)) for layer in layers for key in values if hasattr(layer, key)]
    try:
        for layer, key, _ in before:
            setattr(layer, key, values[key])
        yield
    finally:
        for layer, key, value in before:
            setattr(layer, key, value)


def generator_access(value: Any) -> Access | None:
    """Return how the state of a random generator of Python, NumPy or torch is read and put back; None for the rest."""
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator
        return lambda: bits.state, lambda state: setattr(bits, "state", state)
    if isinstance(value, random.Random):
        return value.getstate, value.setstate
    is_of_torch = type(value).__name__ == "Generator" and hasattr(value, "set_state")
    if isinstance(value, np.random.RandomState) or is_of_torch:
        return value.get_state, value.set_state
    return None


def _access(value: Any) -> Access | None:
    found = generator_access(value)
    if found is not None:
        return found
    if isinstance(value, (list, deque)):
        return lambda: copy.copy(value), lambda content: (value.clear(), value.extend(content))
    if isinstance(value, (dict, set)):
        return lambda: copy.copy(value), lambda content: (value.clear(), value.update(content))
    return None
