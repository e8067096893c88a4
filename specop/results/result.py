"""Result: what every result holds, how it reads, and how it is kept; `load` reads one from a file."""

from __future__ import annotations

import copy
import functools
import os
import secrets
from dataclasses import fields, replace
from html import escape
from importlib import metadata
from typing import Any, ClassVar, Self

import numpy as np

from specop.arrays.backend import backend_of, shape_of
from specop.arrays.processes import ALONE
from specop.results.fields import record
from specop.results.files import npz_path, read_npz, write_npz
from specop.results.labelled import data_set
from specop.results.plain import plain
from specop.results.structure import Structure
from specop.results.tables import Column, data_frame, html_table, text_table
from specop.statistics.estimate import Estimate

__all__ = ["Result", "load", "versions"]


@record
class Result:
    """What every result says of its making.

    A class of results is decorated with `record`, and `load` knows it from its definition on. Fields are numbers,
    texts and short arrays; those that are something else say so with `vector`, `column`, `error_of`, `converted`,
    `estimated`, `structured` or `unsaved`.

    Attributes
    ----------
    matvecs : int
        Number of products with the operator, checks included.
    seconds : float
        Wall time of the call.
    samples : int or None
        Number of data samples behind the matrix, where it has any.
    seed : int
        Seed of all random vectors.
    converged : bool
        Whether the requested accuracy was reached.
    message : str
        Why the method stopped.
    versions : dict
        Versions of specop, NumPy and the framework.
    notes : str
        Which matrix it is of where a name leaves that open, and "not verified" and why where nothing but the framework
        says that its products are right.
    """

    matvecs: int
    seconds: float
    samples: int | None
    seed: int
    converged: bool
    message: str
    versions: dict[str, str]
    notes: str = ""

    _kinds: ClassVar[dict[str, type[Result]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        Result._kinds[cls.__name__] = cls

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result to an npz file that `specop.load` reads; nothing is pickled.

        The file appears whole or not at all: it is written under another name in the same folder and then renamed.
        A result whose vectors several processes hold together is saved by all of them: each makes the call, and the
        first one writes the file, which is the same for any number of them.

        Parameters
        ----------
        path : path
            File to write; must end in ``.npz``.
        """
        target = npz_path(path)
        # No field can have that name.
        header: dict[str, Any] = {"class": type(self).__name__}
        arrays: dict[str, Any] = {}
        plain = {item.name: item.metadata["plain"] for item in fields(self) if "plain" in item.metadata}
        processes = ALONE
        for name, value in self._saved().items():
            value = plain[name](value) if name in plain else value
            value = value.item() if isinstance(value, np.generic) else value
            if isinstance(value, (bool, int, float, str, tuple, dict, type(None))):
                header[name] = value
            else:
                backend = backend_of(value)
                arrays[name] = backend.to_numpy(value)
                held_by = backend.processes(value)
                processes = held_by if held_by.count > 1 else processes
        with processes.together():
            if processes.index == 0:
                write_npz(
                    target, header, arrays.items(), target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
                )

    def summary(self) -> dict[str, Any]:
        """Return the numbers as plain Python values, ready for JSON; vectors are left out."""
        plain: dict[str, Any] = {}
        # What it is comes before how it was made.
        for item in (*fields(self)[len(fields(Result)) :], *fields(Result)):
            if not item.metadata.get("long"):
                value = item.metadata.get("plain", lambda kept: kept)(getattr(self, item.name))
                value = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
                plain[item.name] = list(value) if isinstance(value, tuple) else value
        return plain

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as strict JSON holds them: ``json.dumps(result.to_dict(), allow_nan=False)`` takes it.

        Returns
        -------
        dict
            With ``"class"``, the name of the class, as no field is called. Arrays are lists, a number with an error is
            a dict of ``"estimate"``, ``"standard_error"``, ``"interval"`` and ``"confidence"``, and what is not finite
            is None.
            Vectors as long as the parameters or the data are left out, as in `summary`, whose values are Python's;
            ``"parameters"`` are names and shapes of what they are made of, where that is known.
        """
        shapes = self._shapes()
        named = {"parameters": shapes} if shapes else {}
        found: dict[str, Any] = plain({"class": type(self).__name__, **self.summary(), **named})
        return found

    def to_xarray(self) -> Any:
        """Return an xarray data set of all arrays, vectors included, copied to the host; needs xarray.

        Returns
        -------
        xarray.Dataset
            Arrays with an entry for each item that the result is about have the dimension "item" first; those with one
            for each number of the parameters have the dimension "parameter", with the coordinate "parameter_name".
            Everything else is in ``attrs``, as `to_dict` gives it.
        """
        columns = self._columns()
        arrays = {name: np.asarray(column.values) for name, column in columns.items()}
        for name, value in self._saved().items():
            if name not in arrays and (isinstance(value, np.ndarray) or shape_of(value)):
                arrays[name] = backend_of(value).to_numpy(value)
        numbers = {name: value for name, value in self.to_dict().items() if name not in arrays}
        items = len(next(iter(columns.values())).values) if columns else None  # type: ignore[arg-type]
        return data_set(arrays, items, self._shapes(), numbers)

    def to_frame(self) -> Any:
        """Return a pandas data frame; needs pandas.

        Returns
        -------
        pandas.DataFrame
            With a row for each eigenvalue, shift, sample, or whatever else the result is about several of, and all
            other numbers in ``attrs``; otherwise with one row of all numbers. Vectors are left out.
        """
        columns = self._columns()
        plain = {name: value for name, value in self.summary().items() if name not in columns}
        if columns:
            return data_frame(columns, plain)
        row: dict[str, Any] = {}
        for name, value in plain.items():
            if isinstance(getattr(self, name), tuple):
                row |= dict(zip((f"{name}_low", f"{name}_high"), value, strict=True))
            elif isinstance(getattr(self, name), Estimate):
                row |= {name: value["estimate"], f"{name}_standard_error": value["standard_error"]}
                row |= dict(zip((f"{name}_low", f"{name}_high"), value["interval"], strict=True))
            elif not isinstance(value, (list, dict)):
                row[name] = value
        return data_frame({}, row)

    def __str__(self) -> str:
        return "\n".join([*self._lines(), *text_table(self._shown())])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<p>{'<br>'.join(map(escape, self._lines()))}</p>{html_table(self._shown())}"

    def _lines(self) -> list[str]:
        """Return what is said of the result above its table."""
        seen = "" if self.samples is None else f", {self.samples} samples"
        lines = [f"{self._headline()}, {self.matvecs} products, {self.seconds:.2f} s{seen}"]
        lines += [self.notes] * bool(self.notes)
        return lines if self.converged else [*lines, f"not converged: {self.message}"]

    def _remark(self) -> list[str]:
        """Return what the method had to say beyond that it converged, as a line."""
        return [self.message] if self.converged and self.message != "converged" else []

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter by name, where vectors are made of parameters."""
        structure = getattr(self, "structure", None)
        return structure.shapes if isinstance(structure, Structure) else {}

    def _headline(self) -> str:
        """Return what the result is, in words and numbers."""
        return type(self).__name__

    def _columns(self) -> dict[str, Column]:
        """Return what there is for each item that the result is about."""
        meanings = {item.name: item.metadata["column"] for item in fields(self) if "column" in item.metadata}
        return {name: Column(getattr(self, name), *meaning) for name, meaning in meanings.items()}

    def _shown(self) -> dict[str, Column]:
        """Return the columns of the table that is printed, those that have a heading."""
        return self._columns()

    def __getstate__(self) -> dict[str, Any]:
        # Functions of the model hold the model, and what cannot be pickled.
        return {item.name: item.default for item in fields(self) if _is_unsaved(item)} | self._saved()

    def __copy__(self) -> Self:
        return replace(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return replace(self, **copy.deepcopy(self._saved(), memo))

    def _saved(self) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in fields(self) if not _is_unsaved(item)}


def load(path: str | os.PathLike[str]) -> Any:
    """Read a result that was written by its ``save``.

    Parameters
    ----------
    path : path
        An npz file.

    Returns
    -------
    Result
        A result of the kind that was saved. Vectors come back as NumPy arrays.

    Raises
    ------
    InvalidInputError
        If the file is damaged or holds no result of specop.

    Examples
    --------
    >>> import numpy as np, os, specop, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "eigen.npz")
    >>> specop.eigsh(np.diag([1.0, 2.0, 3.0]), k=1).save(path)
    >>> specop.load(path).eigenvalues
    array([3.])
    """
    with read_npz(path, "result") as (header, arrays):
        kind = Result._kinds[header.pop("class")]
        converts = {item.name: item.metadata["convert"] for item in fields(kind) if "convert" in item.metadata}
        header.update({name: convert(header[name]) for name, convert in converts.items()})
        fields_of: dict[str, Any] = header | dict(arrays)
        return kind(**fields_of)


def versions(framework: str) -> dict[str, str]:
    """Return the versions of specop, NumPy and the framework."""
    return {name: _version(name) for name in dict.fromkeys(("specop", "numpy", framework))}


# A look-up reads files: up to 5 ms, as much as many a product.
@functools.cache
def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"


def _is_unsaved(item: Any) -> bool:
    return bool(item.metadata.get("unsaved"))
