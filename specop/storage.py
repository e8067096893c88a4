"""Results as npz files: arrays as arrays, everything else as one JSON text. Nothing is pickled."""

from __future__ import annotations

import json
import os
import secrets
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from specop.backend import backend_of
from specop.errors import InvalidInputError
from specop.results import DiagonalResult, EigenResult, NormResult, Result, SpectralDensity, TraceResult

__all__ = ["load", "save"]

_KINDS: dict[str, type[Result]] = {
    kind.__name__: kind for kind in (EigenResult, TraceResult, NormResult, DiagonalResult, SpectralDensity)
}
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
    target = Path(path)
    if target.suffix != ".npz":
        raise InvalidInputError(f"results are saved as .npz, got {target.name!r}. Use {target.stem}.npz.")
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
    # Not from tempfile, whose files only their owner may read.
    temporary = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "xb") as file:
            arrays[_HEADER] = np.array(json.dumps(header))
            np.savez(file, **arrays)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(path: str | os.PathLike[str]) -> Any:
    """Read a result that was written by its ``save``.

    Parameters
    ----------
    path : path
        An npz file.

    Returns
    -------
    EigenResult, TraceResult, NormResult, DiagonalResult or SpectralDensity
        Vectors come back as NumPy arrays.

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
    try:
        # Opened here, because np.load leaves a broken archive open.
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
            header = json.loads(str(arrays.pop(_HEADER)))
            kind = _KINDS[header.pop("kind")]
        if "interval" in header:
            header["interval"] = tuple(header["interval"])
        return kind(**header, **arrays)
    except _FOREIGN as error:
        raise InvalidInputError(f"{os.fspath(path)!r} holds no result that specop can read: {error}.") from error
