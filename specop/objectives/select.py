"""A part of the parameters, chosen by name, and a part of the samples, by number."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from specop.arrays.backend import Array
from specop.errors import InvalidInputError
from specop.statistics.numbers import Integers

__all__ = ["checked_samples", "choose"]


def choose(named: Mapping[str, Array], select: Any, argument: str = "select") -> tuple[str, ...]:
    """Return the names of the parameters that a pattern, a list of patterns or arrays, or a predicate picks.

    Parameters
    ----------
    named : mapping from names to arrays
    select : str, array, callable or list
        A pattern with wildcards; the name of a parameter or of a module, whose parameters it then stands for; a
        predicate of (name, array); or a list of names, patterns and arrays.
    argument : str
        What the public function calls it, for errors.
    """
    if isinstance(select, type):
        raise InvalidInputError(f"select takes names, a list or a predicate of (name, array), got the class {select}.")
    if callable(select):
        chosen = [name for name, array in named.items() if select(name, array)]
    else:
        wanted = [select] if isinstance(select, str) or hasattr(select, "shape") else list(select)
        chosen = [name for name, array in named.items() if any(_matches(name, array, one) for one in wanted)]
    if not chosen:
        raise InvalidInputError(f"{argument}={select!r} matches no parameter. There are: {', '.join(named)}.")
    return tuple(chosen)


def checked_samples(indices: ArrayLike, count: int) -> Integers:
    """Return numbers of samples as an array, or raise InvalidInputError unless they are distinct and in range.

    Parameters
    ----------
    indices : array_like of int
    count : int
        Number of samples that there are.
    """
    found = np.asarray(indices)
    if found.ndim != 1 or found.size == 0 or found.dtype.kind not in "iu":
        raise InvalidInputError(
            f"samples are chosen by a non-empty list of their numbers, integers from 0 to {count - 1}; got an array "
            f"of shape {found.shape} and type {found.dtype}."
        )
    outside = found[(found < 0) | (found >= count)]
    if outside.size:
        raise InvalidInputError(f"there is no sample {outside[0]}: the data have the numbers 0 to {count - 1}.")
    values, times = np.unique(found, return_counts=True)
    if times.max() > 1:
        raise InvalidInputError(f"sample {values[times > 1][0]} is chosen twice; each may occur once.")
    return found.astype(np.intp)


def _matches(name: str, array: Array, wanted: Any) -> bool:
    if isinstance(wanted, str):
        return fnmatch.fnmatchcase(name, wanted) or name.startswith((f"{wanted}.", f"{wanted}/"))
    if not hasattr(wanted, "shape"):
        raise InvalidInputError(
            f"select takes a pattern, a module, a predicate of (name, array), or a list of patterns or parameters; "
            f"got an item of type {type(wanted).__name__}."
        )
    return array is wanted
