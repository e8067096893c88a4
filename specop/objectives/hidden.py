"""hidden_state: what layers keep in plain attributes, beside all that a framework knows of."""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from specop.objectives.refusals import are_equal

__all__ = ["Access", "HiddenState", "hidden_state"]

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
        Objects by name.
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


def _access(value: Any) -> Access | None:
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator
        return lambda: bits.state, lambda state: setattr(bits, "state", state)
    if isinstance(value, random.Random):
        return value.getstate, value.setstate
    if isinstance(value, np.random.RandomState):
        return value.get_state, value.set_state
    if isinstance(value, (list, deque)):
        return lambda: copy.copy(value), lambda content: (value.clear(), value.extend(content))
    if isinstance(value, (dict, set)):
        return lambda: copy.copy(value), lambda content: (value.clear(), value.update(content))
    return None
