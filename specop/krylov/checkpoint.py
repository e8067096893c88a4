"""Checkpoints of an eigsh run: what a later process needs to go on as if nothing had happened."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from specop.arrays import probes
from specop.errors import InvalidInputError
from specop.krylov.space import KrylovSpace
from specop.operators.operator import LinearOperator
from specop.results.files import npz_path, read_npz, write_npz
from specop.spectral.search import Search

__all__ = ["Checkpoint"]

INTERVAL = 30.0
"""Seconds between two checkpoints, if writing one takes less than a twentieth of that."""

_KIND = "eigsh checkpoint"
_LARGEST_SHARE = 1 / 20


class Checkpoint:
    """A file that holds a run's state, written whole or not at all.

    Making one takes a product with a fixed vector: its length and its overlap with that vector tell whether a file
    belongs to this matrix. It also comes before all others in a run that goes on, as in one that begins, so that an
    operator which records its first product and replays it from then on gives both the same bits.

    Parameters
    ----------
    path : path
        Should end in ``.npz``.
    call : dict
        The arguments that a run depends on; a file of another call is refused.
    space, search : KrylovSpace, Search
        Saved and restored.
    """

    def __init__(self, path: str | os.PathLike[str], call: dict[str, Any], space: KrylovSpace, search: Search) -> None:
        self._path = npz_path(path)
        self._space = space
        self._search = search
        self._call = {**call, "n": space.n, "dtype": space.A.dtype.name}
        self._probe = _probe(space.A)
        search.spent += 1
        self._next = time.monotonic() + INTERVAL

    def resume(self) -> bool:
        """Restore the run from the file; return whether there is one.

        Raises
        ------
        InvalidInputError
            If the file holds something else, or the state of another call or matrix.
        """
        if not self._path.exists():
            return False
        with read_npz(self._path, "checkpoint of eigsh") as (header, arrays):
            self._refuse_foreign(header)
            self._search.restore(header["search"])
            self._space.restore(header["space"], arrays)
        return True

    def save_if_due(self) -> None:
        """Save if the last time was long enough ago, compared with what saving takes."""
        if time.monotonic() >= self._next:
            self.save()

    def save(self) -> None:
        """Write the state next to the file, then put it in the file's place."""
        started = time.monotonic()
        state, arrays = self._space.state()
        header = {
            "kind": _KIND,
            "call": self._call,
            "probe": self._probe,
            "search": self._search.state(),
            "space": state,
        }
        # One name for all attempts: what a killed process left is written over.
        write_npz(self._path, header, arrays, self._path.with_name(f"{self._path.name}.part"))
        now = time.monotonic()
        self._next = now + max(INTERVAL, (now - started) / _LARGEST_SHARE)

    def remove(self) -> None:
        """Delete the file; there need not be one."""
        self._path.unlink(missing_ok=True)

    def _refuse_foreign(self, header: dict[str, Any]) -> None:
        found = header.get("call", {}) if header.get("kind") == _KIND else {}
        if found.keys() != self._call.keys():
            raise InvalidInputError(f"{str(self._path)!r} holds no checkpoint that this version of eigsh can read.")
        other = [f"{name}={found[name]!r}, not {value!r}" for name, value in self._call.items() if found[name] != value]
        if not other:
            # Rounding differs between machines and numbers of threads; another matrix differs by far more.
            slack = 1e3 * self._space.A.precision * self._probe[1]
            if np.abs(np.subtract(header["probe"], self._probe)).max() > slack:
                other = ["another matrix: its product with a fixed vector differs"]
        if other:
            raise InvalidInputError(
                f"checkpoint {str(self._path)!r} belongs to another run: {'; '.join(other)}. Pass another path, or "
                f"delete the file to begin anew."
            )


def _probe(A: LinearOperator) -> list[float]:
    vector = A.backend.scale_(probes.rademacher(A.backend, A.domain, 0, 0), A.domain.n**-0.5)
    image = A._matvec(vector)
    overlap, length = A.backend.to_host(A.backend.dot(vector, image), A.backend.norm(image))
    return [float(overlap), float(length)]
