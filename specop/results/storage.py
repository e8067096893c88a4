"""Results as npz files: arrays as arrays, everything else as one JSON text. Nothing is pickled."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specop import results
from specop.arrays.backend import backend_of
from specop.errors import InvalidInputError
from specop.results.result import Result

__all__ = ["load", "npz_path", "read_npz", "save", "write_npz"]

_KINDS: dict[str, type[Result]] = {
    name: kind for name, kind in vars(results).items() if isinstance(kind, type) and issubclass(kind, Result)
}
_TUPLES = ("interval", "gap", "labels")
_HEADER = "specop"
# What other files do here: other archives, plain .npy arrays, text, empty files, missing or unknown fields.
_FOREIGN = (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile)


def save(result: Result, path: str | os.PathLike[str]) -> None:
    """Write a result to an npz file.

    The file appears whole or not at all: it is written under another name in the same folder and then renamed.

    Parameters
    ----------
    result : Result
    path : path
        Should end in ``.npz``.
    """
    target = npz_path(path)
    header: dict[str, Any] = {"kind": type(result).__name__}
    arrays: dict[str, Any] = {}
    for item in fields(result):
        value = getattr(result, item.name)
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, (bool, int, float, str, tuple, dict, type(None))):
            header[item.name] = value
        elif not callable(value):
            arrays[item.name] = backend_of(value).to_numpy(value)
    write_npz(target, header, arrays.items(), target.with_name(f"{target.name}.{secrets.token_hex(4)}.part"))


def load(path: str | os.PathLike[str]) -> Any:
    """Read a result that was written by its ``save``.

    Parameters
    ----------
    path : path
        An npz file.

    Returns
    -------
    Result
        Of the kind that was saved. Vectors come back as NumPy arrays.

    Raises
    ------
    InvalidInputError
        If the file holds no result of specop.

    Examples
    --------
    >>> import numpy as np, os, specop, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "eigen.npz")
    >>> specop.eigsh(np.diag([1.0, 2.0, 3.0]), k=1).save(path)
    >>> specop.load(path).eigenvalues
    array([3.])
    """
    with read_npz(path, "result") as (header, arrays):
        kind = _KINDS[header.pop("kind")]
        header.update({name: tuple(header[name]) for name in _TUPLES if name in header})
        header |= {name: array for name, array in arrays.items() if name != _HEADER}
        return kind(**header)


def npz_path(path: str | os.PathLike[str]) -> Path:
    """Return the path, or raise InvalidInputError unless it ends in ``.npz``."""
    target = Path(path)
    if target.suffix != ".npz":
        raise InvalidInputError(f"specop writes .npz files, got {target.name!r}. Use {target.stem}.npz.")
    return target


def write_npz(
    target: Path, header: dict[str, Any], arrays: Iterable[tuple[str, NDArray[Any]]], temporary: Path
) -> None:
    """Write a header and arrays, one after the other, so that the file appears whole or not at all.

    Parameters
    ----------
    target : Path
    header : dict
        What JSON can hold.
    arrays : iterable of (str, ndarray)
        Only one is held at a time.
    temporary : Path
        Where to write before the file is renamed; in the same folder.
    """
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
    """Yield a file's header and arrays, read when they are looked up, or raise InvalidInputError.

    Parameters
    ----------
    path : path
    what : str
        What the file should hold, for the error.
    """
    try:
        # Opened here, because np.load leaves a broken archive open.
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            yield json.loads(str(file[_HEADER])), file
    except InvalidInputError:
        raise
    except _FOREIGN as error:
        raise InvalidInputError(f"{os.fspath(path)!r} holds no {what} that specop can read: {error}.") from error
