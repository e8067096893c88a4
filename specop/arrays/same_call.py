"""Which call of the user's a process is in, and an error for processes that are in different ones."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import numpy as np

from specop.errors import InvalidInputError

__all__ = ["check_same_call", "number_of_call"]

# What may differ: the first process's bar is that of all, of a file each may see another path, and memory is its own.
_OWN = {"progress", "checkpoint", "path", "history", "memory_budget"}


def number_of_call(*, with_lists: bool = False) -> int:
    """Return a number of the call of this package that the user has made, the same for the same arguments.

    Parameters
    ----------
    with_lists : bool
        Whether to read lists of numbers, which may be long, as well.
    """
    return zlib.crc32(repr(_call_of_user(with_lists)).encode())


def check_same_call(numbers: Sequence[int], tell: Callable[[Any], Sequence[Any]]) -> None:
    """Raise unless all processes are in the same call; all of them make this one.

    Those that are not would wait for each other in different places, or take what is sent for something else. With
    another seed they would take different vectors for the same one.

    Parameters
    ----------
    numbers : sequence of int
        Number that each process tells.
    tell : callable
        From what this process gives to what all give.

    Raises
    ------
    InvalidInputError
        In all of them, with the two calls.
    """
    other = next((process for process, number in enumerate(numbers) if number != numbers[0]), None)
    if other is None:
        return
    calls = tell(_call_of_user(with_lists=True))
    (first, ours), (second, theirs) = calls[0], calls[other]
    if first == second:
        differing = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
        first, second = (
            f"{first}({', '.join(f'{name}={given.get(name)}' for name in differing)})" for given in (ours, theirs)
        )
    raise InvalidInputError(
        f"processes 0 and {other} of {len(numbers)} make different calls, {first} and {second}. They compute "
        f"together: make the same calls in each, with the same arguments and seed, in the same order."
    )


def _call_of_user(with_lists: bool) -> tuple[str, dict[str, str]]:
    """Return the function of this package that was called from outside of it, and what its arguments read."""
    found: FrameType | None = None
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if _is_own(frame):
            found = frame
        frame = frame.f_back
    if found is None:
        # A vector's own arithmetic, of a framework's adapter.
        return "an operation with vectors", {}
    code, values = found.f_code, found.f_locals
    name = "a product with @" if code.co_name in ("__matmul__", "__rmatmul__") else code.co_name
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    given = {one: values[one] for one in names if one not in _OWN and values.get(one) is not None}
    return name, {one: _read(value, with_lists) for one, value in given.items()}


def _is_own(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    # Not this one's, nor what processes tell each other, which an adapter may call by itself.
    return module.partition(".")[0] == "specop" and not module.startswith("specop.arrays.")


def _read(value: Any, with_lists: bool) -> str:
    if isinstance(value, (list, tuple)) and not with_lists:
        return "..."
    return repr(value) if _is_plain(value) else "..."


def _is_plain(value: Any) -> bool:
    """Whether a value reads the same in all processes if it is the same."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (bool, int, float, complex, str, np.number))
