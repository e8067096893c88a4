"""npz files of a header and arrays: the header is one JSON text, arrays are arrays. Nothing is pickled."""

from __future__ import annotations

import itertools
import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specop.errors import InvalidInputError

__all__ = ["check_folder", "npz_path", "read_npz", "write_npz"]

_HEADER = "specop"


def npz_path(path: str | os.PathLike[str]) -> Path:
    """Return the path, or raise InvalidInputError unless it ends in ``.npz``."""
    target = Path(path)
    if target.suffix != ".npz":
        raise InvalidInputError(f"specop writes .npz files, got {target.name!r}. Use {target.stem}.npz.")
    return target


def check_folder(target: Path) -> None:
    """Raise FileNotFoundError, naming it, if the folder of a file that is to be written is not there."""
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"there is no folder {str(target.parent)!r} to write {target.name} in. Make it first, such as by "
            f"pathlib.Path({str(target.parent)!r}).mkdir(parents=True)."
        )


def write_npz(
    target: Path, header: dict[str, Any], arrays: Iterable[tuple[str, NDArray[Any]]], temporary: Path
) -> None:
    """Write a header and arrays, one after the other, so that the file appears whole or not at all.

    Parameters
    ----------
    target : Path
        The file to write.
    header : dict
        Values that JSON can hold.
    arrays : iterable of (str, ndarray)
        Only one is held at a time.
    temporary : Path
        Where to write before the file is renamed; in the same folder.
    """
    check_folder(target)
    try:
        # Not from tempfile, whose files only their owner may read.
        with open(temporary, "wb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                for name, array in itertools.chain([(_HEADER, np.array(json.dumps(header)))], arrays):
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                        np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def read_npz(path: str | os.PathLike[str], what: str) -> Iterator[tuple[dict[str, Any], Mapping[str, NDArray[Any]]]]:
    """Yield a file's header and arrays, each of which is read when it is looked up.

    Parameters
    ----------
    path : path
        The file to read.
    what : str
        What the file should hold, for the error.

    Raises
    ------
    InvalidInputError
        If the file is damaged or holds something else. Errors from the `with` block that a header without a name or
        with other values leads to become this one, too.
    """
    with open(path, "rb") as file, _refusing(path, what, LookupError, TypeError, ValueError, AttributeError):
        # A damaged archive raises whatever zipfile, its decompressors and the parser of array headers do: errors of
        # zlib, lzma and the system, NotImplementedError, RuntimeError, MemoryError, SyntaxError.
        with _refusing(path, what, Exception):
            arrays = _Arrays(zipfile.ZipFile(file), path, what)
            header = json.loads(str(arrays.pop(_HEADER)))
        yield header, arrays


@contextmanager
def _refusing(path: str | os.PathLike[str], what: str, *kinds: type[Exception]) -> Iterator[None]:
    try:
        yield
    except InvalidInputError:
        raise
    except kinds as error:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise InvalidInputError(f"{os.fspath(path)!r} holds no {what} that specop can read ({text}).") from error


class _Arrays(Mapping[str, NDArray[Any]]):
    """The arrays of an open archive, by name."""

    def __init__(self, archive: zipfile.ZipFile, path: str | os.PathLike[str], what: str) -> None:
        self._archive, self._path, self._what = archive, path, what
        self._names = [name.removesuffix(".npy") for name in archive.namelist()]

    def pop(self, name: str) -> NDArray[Any]:
        """Return an array and forget its name."""
        array = self[name]
        self._names.remove(name)
        return array

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        with _refusing(self._path, self._what, Exception), self._archive.open(f"{name}.npy") as entry:
            array: NDArray[Any] = np.lib.format.read_array(entry, allow_pickle=False)
            # The checksum is compared at the end, which an array with a damaged shape might not reach.
            if entry.read(1):
                raise ValueError(f"array {name!r} is shorter than its entry")
            return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
