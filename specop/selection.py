"""A part of the parameters, chosen by name."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

from specop.backend import Array
from specop.errors import InvalidInputError

__all__ = ["choose"]


def choose(named: Mapping[str, Array], select: Any) -> tuple[str, ...]:
    """Return the names of the parameters that a pattern, a list of patterns or arrays, or a predicate picks.

    Parameters
    ----------
    named : mapping from names to arrays
    select : str, array, callable or list
        A pattern with wildcards; the name of a parameter or of a module, whose parameters it then stands for; a
        predicate of (name, array); or a list of names, patterns and arrays.
    """
    if isinstance(select, type):
        raise InvalidInputError(f"select takes names, a list or a predicate of (name, array), got the class {select}.")
    if callable(select):
        chosen = [name for name, array in named.items() if select(name, array)]
    else:
        wanted = [select] if isinstance(select, str) or hasattr(select, "shape") else list(select)
        chosen = [name for name, array in named.items() if any(_matches(name, array, one) for one in wanted)]
    if not chosen:
        raise InvalidInputError(f"select={select!r} matches no parameter. There are: {', '.join(named)}.")
    return tuple(chosen)


def _matches(name: str, array: Array, wanted: Any) -> bool:
    if isinstance(wanted, str):
        return fnmatch.fnmatchcase(name, wanted) or name.startswith((f"{wanted}.", f"{wanted}/"))
    if not hasattr(wanted, "shape"):
        raise InvalidInputError(
            f"select takes a pattern, a module, a predicate of (name, array), or a list of patterns or parameters; "
            f"got an item of type {type(wanted).__name__}."
        )
    return array is wanted
