"""A part of the parameters, chosen by name, and a part of the samples, by number."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from specop.arrays.backend import Array
from specop.errors import InvalidInputError, check_unmasked
from specop.objectives.calling import check_takes_two
from specop.statistics.numbers import Integers

__all__ = ["checked_samples", "choose"]


_ALONE: Mapping[str, Collection[str]] = {}


def choose(
    named: Mapping[str, Array], select: Any, argument: str = "select", *, tied: Mapping[str, Collection[str]] = _ALONE
) -> tuple[str, ...]:
    """Return the names of the parameters that a pattern, a list of patterns or arrays, or a predicate picks.

    Parameters
    ----------
    named : mapping from names to arrays
    select : str, array, callable or list
        A pattern with wildcards; the name of a parameter or of a module, whose parameters it then stands for; a
        predicate of (name, array); or a list of names, patterns and arrays.
    argument : str
        What the public function calls it, for errors.
    tied : mapping from names to collections of str
        Further names of parameters that several modules hold: patterns may pick them by each.
    """
    if isinstance(select, type):
        raise InvalidInputError(
            f"{argument} takes names, a list or a predicate of (name, array), got the class {select}."
        )
    missed: list[Any] = []
    if callable(select):
        check_takes_two(select, argument, "(name, array)")
        chosen = [name for name, array in named.items() if select(name, array)]
    else:
        is_one = isinstance(select, str) or hasattr(select, "shape") or not isinstance(select, Iterable)
        wanted = [select] if is_one else list(select)
        found = [
            {name for name, array in named.items() if _matches((name, *tied.get(name, ())), array, one, argument)}
            for one in wanted
        ]
        # A misspelled name, or another model's parameter, would leave a part out without a word.
        missed = [one for one, names in zip(wanted, found, strict=True) if not names]
        together = set().union(*found)
        chosen = [name for name in named if name in together]
    if missed or not chosen:
        what = _described(missed[0] if missed else select)
        raise InvalidInputError(f"{argument}={what} matches no parameter. There are: {', '.join(named)}.")
    return tuple(chosen)


def checked_samples(indices: ArrayLike, count: int) -> Integers:
    """Return numbers of samples as an array, or raise InvalidInputError unless they are distinct and in range.

    Parameters
    ----------
    indices : array_like of int
    count : int
        Number of samples that there are.
    """
    check_unmasked("indices", indices)
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


def _matches(names: Collection[str], array: Array, wanted: Any, argument: str) -> bool:
    if isinstance(wanted, str):
        return any(_named(name, wanted) for name in names)
    if not hasattr(wanted, "shape"):
        raise InvalidInputError(
            f"{argument} takes a pattern, a module, a predicate of (name, array), or a list of patterns or parameters; "
            f"got an item of type {type(wanted).__name__}."
        )
    return array is wanted


def _named(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or name.startswith((f"{pattern}.", f"{pattern}/"))


def _described(wanted: Any) -> str:
    return f"an array of shape {tuple(wanted.shape)}" if hasattr(wanted, "shape") else repr(wanted)
