"""Checkpoints of a run: what a later process needs to go on as if nothing had happened."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from specop.arrays import probes
from specop.arrays.processes import Processes
from specop.errors import InvalidInputError
from specop.krylov.locks import locked
from specop.krylov.run import Run
from specop.results.files import check_folder, npz_path, read_npz, write_npz

__all__ = ["Checkpoint", "Part"]

INTERVAL = 30.0
"""Seconds between two checkpoints, if writing one takes less than a twentieth of that."""

_LARGEST_SHARE = 1 / 20


class Part(Protocol):
    """What a checkpoint saves: anything whose state can be taken out and put back."""

    def state(self) -> dict[str, Any]:
        """Return plain values, which JSON can hold, NumPy arrays, and functions that return an array."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state, in which each function has become its array, read when it is looked up."""


class Checkpoint(contextlib.AbstractContextManager["Checkpoint"]):
    """A file that holds a run's state, written whole or not at all; other runs are kept from it while it is entered.

    Of several processes that make the call together the first one has the file and the clock; the state is the same for
    any number of them.

    Making one takes a product with a fixed vector: its length and its overlap with that vector tell whether a file
    belongs to this matrix. It also comes before all others in a run that goes on, as in one that begins, so that an
    operator which records its first product and replays it from then on gives both the same bits.

    Parameters
    ----------
    path : path
        Should end in ``.npz``.
    run : Run
        Run whose number of products is written into the file.
    call : dict
        The arguments that the run depends on; a file of another call is refused.
    parts : dict
        What else is saved and restored, by name.
    """

    def __init__(self, path: str | os.PathLike[str], run: Run, call: dict[str, Any], parts: dict[str, Part]) -> None:
        self._path = npz_path(path)
        self._run = run
        self._processes = run.processes
        self._kind = f"{run.name} checkpoint"
        self._call = {**call, "n": run.n, "dtype": run.A.dtype.name}
        self._parts: dict[str, Part] = {"run": run, **parts}
        self._probe = _probe(run)
        self._next = time.monotonic() + INTERVAL
        self._lock = locked(self._path)

    def __enter__(self) -> Self:
        with self._processes.together():
            if self._has_file:
                check_folder(self._path)
                self._lock.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._has_file:
            self._lock.__exit__(*error)

    def resume(self) -> bool:
        """Restore the run from the file; return whether there is one.

        Raises
        ------
        InvalidInputError
            If the file holds something else, or the state of another call or matrix.
        """
        processes = self._processes
        if not processes.of_first(self._path.exists()):
            return False
        with contextlib.ExitStack() as stack:
            header: dict[str, Any] = {}
            arrays: Mapping[str, NDArray[Any]] = {}
            with processes.together():
                if self._has_file:
                    header, arrays = stack.enter_context(read_npz(self._path, f"checkpoint of {self._run.name}"))
            header = processes.of_first(header)
            self._refuse_foreign(header)
            for name, part in self._parts.items():
                part.restore(_State(header["parts"][name], arrays, f"{name}.", processes))
        return True

    def save_if_due(self) -> None:
        """Save if the last time was long enough ago, compared with what saving takes."""
        if self._processes.of_first(time.monotonic() >= self._next):
            self.save()

    def save(self) -> None:
        """Write the state next to the file, then put it in the file's place."""
        started = time.monotonic()
        states = {name: part.state() for name, part in self._parts.items()}
        plain = {name: {k: v for k, v in state.items() if not _is_array(v)} for name, state in states.items()}
        header = {"kind": self._kind, "call": self._call, "probe": self._probe, "parts": plain}
        arrays = _arrays(states)
        with self._processes.together():
            try:
                if self._has_file:
                    # One name for all attempts: what a killed process left is written over.
                    write_npz(self._path, header, arrays, self._path.with_name(f"{self._path.name}.part"))
            finally:
                # Rows come from all processes, also where one does not write, or can write no more.
                if self._processes.count > 1:
                    for _ in arrays:
                        pass
        now = time.monotonic()
        self._next = now + max(INTERVAL, (now - started) / _LARGEST_SHARE)

    def remove(self) -> None:
        """Delete the file; there need not be one."""
        with self._processes.together():
            if self._has_file:
                self._path.unlink(missing_ok=True)

    @property
    def _has_file(self) -> bool:
        return self._processes.index == 0

    def _refuse_foreign(self, header: dict[str, Any]) -> None:
        found = header.get("call", {}) if header.get("kind") == self._kind else {}
        if found.keys() != self._call.keys():
            raise InvalidInputError(
                f"{str(self._path)!r} holds no checkpoint that this version of {self._run.name} can read."
            )
        other = [f"{name}={found[name]!r}, not {value!r}" for name, value in self._call.items() if found[name] != value]
        if not other:
            # Rounding differs between machines and numbers of threads; another matrix differs by far more.
            slack = 1e3 * self._run.A.precision * self._probe[1]
            if np.abs(np.subtract(header["probe"], self._probe)).max() > slack:
                other = ["another matrix: its product with a fixed vector differs"]
        if other:
            raise InvalidInputError(
                f"checkpoint {str(self._path)!r} belongs to another run: {'; '.join(other)}. Pass another path, or "
                f"delete the file to begin anew."
            )


class _State(dict[str, Any]):
    """Plain values of one part, and its arrays, which are read from the file when they are looked up."""

    def __init__(
        self, plain: dict[str, Any], arrays: Mapping[str, NDArray[Any]], prefix: str, processes: Processes
    ) -> None:
        super().__init__(plain)
        self._arrays = arrays
        self._prefix = prefix
        self._processes = processes

    def __missing__(self, name: str) -> NDArray[Any]:
        found: NDArray[Any] | None = None
        with self._processes.together():
            if self._processes.index == 0:
                found = self._arrays[self._prefix + name]
        return self._processes.of_first(found)


def _is_array(value: Any) -> bool:
    return callable(value) or isinstance(value, np.ndarray)


def _arrays(states: dict[str, dict[str, Any]]) -> Iterator[tuple[str, NDArray[Any]]]:
    for part, state in states.items():
        for name, value in state.items():
            if _is_array(value):
                yield f"{part}.{name}", value() if callable(value) else value


def _probe(run: Run) -> list[float]:
    backend, domain = run.backend, run.A.domain
    vector = backend.scale_(probes.rademacher(backend, domain, 0, 0), domain.n**-0.5)
    image = run.multiply(vector)
    overlap, length = run.to_host(backend.dot(vector, image), backend.norm(image))
    return [float(overlap), float(length)]
