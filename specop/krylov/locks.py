"""locked: a file that one run at a time writes, held by a lock of the system's that ends with its process."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from specop.errors import InvalidInputError

__all__ = ["locked"]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file until the end of the block, or raise InvalidInputError if another run holds it.

    Where the system has no such locks, as Windows, nothing is held.
    """
    if importlib.util.find_spec("fcntl") is None:
        yield
        return
    import fcntl

    beside = path.with_name(f"{path.name}.lock")
    with open(beside, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidInputError(
                f"{str(path)!r} belongs to a run that is under way, here or in another process. Give each run a path "
                f"of its own, such as one with the rank of the process in it."
            ) from error
        # Between the two calls its last owner may have removed it, and another run made a new one.
        if not beside.exists() or os.stat(beside).st_ino != os.fstat(file.fileno()).st_ino:
            file.close()
            with locked(path):
                yield
            return
        try:
            yield
        finally:
            beside.unlink()
