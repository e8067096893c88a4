"""What a field of a result is: a vector, a column, the error of another one; and `record`, which makes the class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar, dataclass_transform

from specop.results.structure import Structure
from specop.statistics.estimate import Estimate

__all__ = ["column", "converted", "error_of", "estimated", "record", "structured", "unsaved", "vector"]

_Kind = TypeVar("_Kind")


def vector() -> Any:
    """Return a field for an array as long as the parameters or the data: it is saved, but no part of a summary."""
    return field(metadata={"long": True})


def column(heading: str = "", form: str = "") -> Any:
    """Return a field for an array with one entry for each item that the result is about, such as each eigenvalue.

    Parameters
    ----------
    heading : str
        What stands above the column in the table that is printed; without one it is in data frames only.
    form : str
        How an entry is printed, as in `format`.
    """
    return field(metadata={"column": (heading, form)})


def error_of(name: str, heading: str = "", form: str = "") -> Any:
    """Return a field for the errors of the numbers in another field, by which results are compared.

    Parameters
    ----------
    name : str
        Name of the field whose error this one is.
    heading, form : str
        Heading and format of a column of the errors, as `column` takes them.
    """
    return field(metadata={"error_of": name} | ({"column": (heading, form)} if heading else {}))


def converted(convert: Callable[[Any], Any], plain: Callable[[Any], Any] = lambda value: value) -> Any:
    """Return a field whose value JSON gives back in another form, such as a tuple as a list.

    Parameters
    ----------
    convert : callable
        Makes the value from what JSON gives.
    plain : callable
        Makes of the value what JSON can hold.
    """
    return field(metadata={"convert": convert, "plain": plain})


def estimated() -> Any:
    """Return a field for an `Estimate`."""
    return converted(lambda kept: Estimate(**{**kept, "interval": tuple(kept["interval"])}), asdict)


def structured(**default: Any) -> Any:
    """Return a field for a `Structure`, or None where that is the default: its names and shapes are saved."""
    meaning = converted(lambda shapes: None if shapes is None else Structure(shapes), lambda kept: kept and kept.shapes)
    return field(**default, metadata={**meaning.metadata, "long": True})


def unsaved(*, default: Any) -> Any:
    """Return a field for a function of the model: no part of a summary, a file or a pickle.

    Parameters
    ----------
    default : object
        The value of the field in a result that was read from a file.
    """
    return field(default=default, metadata={"long": True, "unsaved": True})


@dataclass_transform(
    frozen_default=True,
    kw_only_default=True,
    eq_default=False,
    field_specifiers=(vector, column, error_of, converted, estimated, structured, unsaved),
)
def record(kind: type[_Kind]) -> type[_Kind]:
    """Make a class of results a dataclass: frozen, with keywords only, and compared by identity."""
    return dataclass(frozen=True, kw_only=True, eq=False, repr=False)(kind)
