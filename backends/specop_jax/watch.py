"""Watch: an end, with the reason, for processes of which one does not come to where the others wait for it.

Collectives of JAX wait without a limit. What is measured is not how long something takes but how long others wait for
a process that is not at work with them: while all are in one program, however long that runs, nobody is late.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax

from specop.errors import InvalidInputError

__all__ = ["State", "Watch", "late_for", "limit_of_user", "missing"]

_VARIABLE = "SPECOP_JAX_TIMEOUT"
_DEFAULT = 1800.0
# Seconds between two looks at the others, as a share of the limit and at most.
_SHARE, _LONGEST = 0.1, 15.0
# Looks that a late process has, after the limit, to end itself: only it knows where it is.
_GRACE = 4


@dataclass(frozen=True)
class State:
    """Where a process is.

    Attributes
    ----------
    met : int
        How often it has come to where all exchange something.
    entered : int
        Programs of all devices that it has entered since then.
    is_waiting : bool
        Whether it is there, or in the last of these programs.
    seconds : float
        Time at which this state began.
    """

    met: int
    entered: int
    is_waiting: bool
    seconds: float

    @property
    def place(self) -> tuple[int, int]:
        """What grows from one meeting of the processes to the next."""
        return self.met, self.entered


def late_for(own: State, others: Mapping[int, State], limit: float) -> int | None:
    """Return a process that has waited longer than the limit for this one, which does not come, or None."""
    if own.is_waiting or own.seconds < limit:
        return None
    waits = (number for number, other in others.items() if other.is_waiting and other.seconds >= limit)
    return next((number for number in waits if others[number].place > own.place), None)


def missing(own: State, others: Mapping[int, State], limit: float) -> int | None:
    """Return a process that has not come to where this one waits, and has not moved for longer than the limit, or None.

    Parameters
    ----------
    own : State
    others : dict of State
        With the seconds since which this process has known each of them there.
    limit : float
    """
    if not own.is_waiting or own.seconds < limit:
        return None
    behind = (number for number, other in others.items() if not other.is_waiting and other.place < own.place)
    return next((number for number in behind if others[number].seconds >= limit), None)


def limit_of_user() -> float:
    """Return the seconds that one process may let others wait; infinity for no limit.

    Raises
    ------
    InvalidInputError
        If the environment says something that is no positive number.
    """
    said = os.environ.get(_VARIABLE, str(_DEFAULT))
    try:
        limit = float(said)
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise InvalidInputError(
            f"{_VARIABLE} is {said!r}; it must be a positive number: the seconds for which one process may let others "
            f"wait before it is ended, or inf for no limit."
        )
    return limit


class Watch:
    """Looks, in a thread of its own, at where the processes of a mesh are, and ends this one where one is missing.

    Parameters
    ----------
    name : str
        Name of the mesh, the same in all processes and of no other mesh.
    index, count : int
        Number of this process, from 0, and how many there are.
    limit : float
        Seconds that one may let others wait.
    """

    def __init__(self, name: str, index: int, count: int, limit: float) -> None:
        self._folder = f"specop/{name}"
        self._index = index
        self._count = count
        self._limit = limit
        self._period = min(_SHARE * limit, _LONGEST)
        # Place, whether it waits there, since when, and in which thread: one tuple, so that no look finds a half of it.
        self._now = ((0, 0), False, time.monotonic(), threading.get_ident())
        self._known: dict[int, tuple[State, float]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="specop-watch", daemon=True)
        if limit < float("inf"):
            self._tell()
            self._thread.start()
            # Before JAX takes the connection down.
            atexit.register(self._end)

    @contextmanager
    def waiting(self, *, is_meeting: bool) -> Iterator[None]:
        """Be at a meeting of the processes, or in a program of all their devices."""
        (met, entered), is_inside, *_ = self._now
        if is_inside:
            yield
            return
        place = (met + 1, 0) if is_meeting else (met, entered + 1)
        self._now = (place, True, time.monotonic(), threading.get_ident())
        try:
            yield
        finally:
            self._now = (place, False, time.monotonic(), threading.get_ident())

    def _look(self) -> None:
        while not self._ended.wait(self._period):
            try:
                self._tell()
                others = self._others()
            except jax.errors.JaxRuntimeError:
                # The process that all of them are connected to has ended, at which JAX ends the others.
                return
            own = self._state()
            if (number := late_for(own, {one: told for one, (told, _) in others.items()}, self._limit)) is not None:
                self._stop(
                    f"process {self._index} of {self._count} has let process {number} wait for more than "
                    f"{self._limit:g} s, and is at\n{self._stack()}"
                )
            patience = self._limit + _GRACE * self._period
            seen = {one: State(*told.place, told.is_waiting, since) for one, (told, since) in others.items()}
            if (number := missing(own, seen, patience)) is not None:
                self._stop(
                    f"process {self._index} of {self._count} has waited {own.seconds:.0f} s for process {number}, "
                    f"which has said nothing for as long: it hangs, or was stopped.\n"
                )

    def _state(self) -> State:
        place, is_waiting, since, _ = self._now
        return State(*place, is_waiting, time.monotonic() - since)

    def _tell(self) -> None:
        own = self._state()
        text = f"{own.met} {own.entered} {int(own.is_waiting)} {own.seconds}"
        _client().key_value_set(f"{self._folder}/{self._index}", text, allow_overwrite=True)

    def _others(self) -> dict[int, tuple[State, float]]:
        """Return what the others said last, and for how many seconds they have been known to be there."""
        now = time.monotonic()
        for key, text in _client().key_value_dir_get(self._folder):
            number = int(key.rpartition("/")[2])
            met, entered, is_waiting, seconds = text.split()
            told = State(int(met), int(entered), is_waiting == "1", float(seconds))
            before, since = self._known.get(number, (None, now))
            is_same = before is not None and (before.place, before.is_waiting) == (told.place, told.is_waiting)
            self._known[number] = told, since if is_same else now
        return {one: (told, now - since) for one, (told, since) in self._known.items() if one != self._index}

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._now[3])
        return "".join(traceback.format_stack(frame)) if frame is not None else "no thread of Python's\n"

    def _stop(self, reason: str) -> None:
        sys.stdout.flush()
        print(
            f"{reason}The limit is {_VARIABLE}, in seconds; each call of specop's is one of all processes. This one "
            f"ends now, so that the others do.",
            file=sys.stderr,
            flush=True,
        )
        # No exception comes out of a program that waits, and none would go from this thread to another.
        os._exit(1)

    def _end(self) -> None:
        self._ended.set()
        self._thread.join(self._period)


def _client() -> Any:
    # JAX has no public channel beside its programs, in which the processes wait.
    from jax._src import distributed

    return distributed.global_state.client
