"""check_same_call: whether all processes call the same function of this package with the same arguments."""

from __future__ import annotations

import inspect
import sys
import zlib
from types import FrameType
from typing import Any

import numpy as np

from specop.arrays.processes import Processes
from specop.errors import InvalidInputError

__all__ = ["check_same_call"]

# The first process's bar is that of all, so that the others need none.
_OWN = {"progress"}
# Of a file each process may see another path.
_PATHS = {"checkpoint"}


def check_same_call(processes: Processes) -> None:
    """Raise unless all processes are in the same call of the user's; all of them make this call.

    Those that are not would wait for each other in different places, or take what is sent for something else. With
    another seed they would take different vectors for the same one.

    Parameters
    ----------
    processes : Processes

    Raises
    ------
    InvalidInputError
        In all of them, with the two calls.
    """
    function, own = _call_of_user()
    told = processes.exchange(zlib.crc32(repr((function, own)).encode()))
    other = next((number for number, one in enumerate(told) if one != told[0]), None)
    if other is None:
        return
    calls = processes.exchange((function, own))
    (first, ours), (second, theirs) = calls[0], calls[other]
    if first == second:
        differing = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
        first, second = (
            f"{first}({', '.join(f'{name}={given.get(name)}' for name in differing)})" for given in (ours, theirs)
        )
    raise InvalidInputError(
        f"processes 0 and {other} of {processes.count} make different calls, {first} and {second}. They compute "
        f"together: make the same calls in each, with the same arguments and seed, in the same order."
    )


def _call_of_user() -> tuple[str, dict[str, str]]:
    """Return the function of this package that was called from outside of it, and what its arguments read."""
    frame = sys._getframe(1)
    while frame.f_back is not None and _is_own(frame.f_back):
        frame = frame.f_back
    names, _, _, values = inspect.getargvalues(frame)
    given = {name: values.get(name) for name in names if name not in _OWN}
    shown = {
        name: repr(value) if _is_plain(value) and name not in _PATHS else "..."
        for name, value in given.items()
        if value is not None
    }
    return frame.f_code.co_name, shown


def _is_own(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] == "specop"


def _is_plain(value: Any) -> bool:
    """Whether a value reads the same in all processes if it is the same."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (bool, int, float, complex, str, np.number))
