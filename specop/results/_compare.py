"""compare: two results of one kind, number by number."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from html import escape
from typing import Any

import numpy as np

from specop.errors import InvalidInputError
from specop.results.plain import plain
from specop.results.result import Result, load
from specop.results.tables import Column, data_frame, html_table, text_table
from specop.statistics.estimate import Estimate
from specop.statistics.numbers import Booleans, Floats

__all__ = ["Comparison", "compare"]

# Two standard errors of a difference: what one in twenty exceeds by chance.
_FACTOR = 1.959964
# What names the entries of an array, where a result has it.
_NAMES = ("names", "labels")
_COSTS = ("matvecs", "seconds", "check_matvecs", "eigen_products", "eigen_seconds", "loss_seconds", "evaluations")


@dataclass(frozen=True)
class Comparison:
    """Two results of one kind side by side.

    Attributes
    ----------
    kind : str
        Class of both results.
    names : (str, str)
        What the two are called: files, or "a" and "b".
    quantities : tuple of str
        What is compared: numbers that carry an error.
    a, b : ndarray
        Values of these quantities in the first and in the second result.
    differences : ndarray
        Values of the second result less those of the first.
    errors : ndarray
        Joint errors of the differences: the root of the sum of the squares of both standard errors; of bounds their
        sum. Two runs with the same seed share their random vectors, and their differences are smaller than that says.
    differ : ndarray of bool
        Whether a difference exceeds 1.96 joint standard errors, or the joint bound.
    others : dict
        What else differs, by name, as a pair of values: settings, seeds, versions ("versions.numpy"), numbers without
        an error, notes; of arrays without errors a text that says by how much.
    costs : dict
        Products and seconds of both, as pairs.
    """

    kind: str
    names: tuple[str, str]
    quantities: tuple[str, ...]
    a: Floats
    b: Floats
    differences: Floats
    errors: Floats
    differ: Booleans
    others: dict[str, Any]
    costs: dict[str, tuple[Any, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as strict JSON holds it; what is not finite is None."""
        found: dict[str, Any] = plain({item.name: getattr(self, item.name) for item in fields(self)})
        return found

    def to_frame(self) -> Any:
        """Return a pandas data frame with a row for each quantity, and the rest in ``attrs``; needs pandas."""
        return data_frame(self._columns(), {"others": self.others, "costs": self.costs, "names": self.names})

    def __str__(self) -> str:
        return "\n".join([*self._lines(), *(text_table(self._columns()) if self.quantities else [])])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<p>{'<br>'.join(map(escape, self._lines()))}</p>{html_table(self._columns())}"

    def _lines(self) -> list[str]:
        count = int(self.differ.sum())
        told = f"{count} of {len(self.quantities)} numbers differ by more than their joint errors"
        if not self.quantities:
            told = "no number of both has an error to compare by; what else differs:"
            told = told if self.others else "no number of both has an error to compare by, and nothing else differs"
        lines = [f"{self.kind} {self.names[0]} and {self.names[1]}: {told}"]
        for name, value in self.others.items():
            lines.append(f"{name}: {value if isinstance(value, str) else ' and '.join(map(_shown, value))}")
        return [*lines, f"products: {' and '.join(map(str, self.costs['matvecs']))}"]

    def _columns(self) -> dict[str, Column]:
        return {
            "quantity": Column(self.quantities, "quantity"),
            "a": Column(self.a, self.names[0], ".8g"),
            "b": Column(self.b, self.names[1], ".8g"),
            "difference": Column(self.differences, "difference", ".3g"),
            "error": Column(self.errors, "joint error", ".1g"),
            "differs": Column(np.where(self.differ, "yes", "-"), "differs"),
        }


def compare(a: Result | str | os.PathLike[str], b: Result | str | os.PathLike[str]) -> Comparison:
    """Compare two results of one kind, such as two saved runs: numbers with their joint errors, and what else differs.

    Parameters
    ----------
    a, b : Result or path
        Results, or files that their ``save`` wrote.

    Returns
    -------
    Comparison
        Both results side by side; prints as a table.

    Raises
    ------
    InvalidInputError
        If the two are of different kinds, or a file holds no result.

    Examples
    --------
    >>> import numpy as np, specop
    >>> one, other = (specop.trace(np.diag([1.0, 2.0, top])) for top in (3.0, 3.5))
    >>> print(specop.results.compare(one, other))
    TraceResult a and b: 1 of 1 numbers differ by more than their joint errors
    products: 0 and 0
    quantity  a    b  difference  joint error  differs
       trace  6  6.5         0.5            0      yes
    """
    names = (_name(a, "a"), _name(b, "b"))
    first, second = (one if isinstance(one, Result) else load(one) for one in (a, b))
    if type(first) is not type(second):
        raise InvalidInputError(
            f"{names[0]} is a {type(first).__name__} and {names[1]} a {type(second).__name__}: only results of one "
            f"kind can be compared."
        )
    rows: list[tuple[str, float, float, float, bool]] = []
    others: dict[str, Any] = {}
    # These say again what errors say.
    errors_of = {item.metadata["error_of"]: item.name for item in fields(first) if "error_of" in item.metadata}
    known = {"interval", "residuals", "goals", *errors_of, *errors_of.values()}
    for name, error in errors_of.items():
        _add_arrays(rows, others, first, second, name, error)
    for item in fields(first):
        one, other = getattr(first, item.name), getattr(second, item.name)
        if item.name in known or item.name in _COSTS or item.metadata.get("long"):
            continue
        if isinstance(one, Estimate):
            rows.append(_row(item.name, one, other))
        elif isinstance(one, dict) and all(isinstance(value, Estimate) for value in one.values()):
            rows += [_row(f"{item.name}.{key}", one[key], other[key]) for key in one if key in other]
            if one.keys() != other.keys():
                others[item.name] = (sorted(one), sorted(other))
        else:
            _add_other(others, item.name, one, other)
    costs = {name: (getattr(first, name), getattr(second, name)) for name in _COSTS if hasattr(first, name)}
    labels, left, right, errors, are_bounds = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    found = [np.array(column, dtype=np.float64) for column in (left, right, errors)]
    # Of numbers without an error rounding in the last digits is none.
    limits = np.where(np.array(are_bounds, dtype=bool), 1.0, _FACTOR) * found[2]
    differences = found[1] - found[0]
    differ = np.abs(differences) > limits + 4 * np.finfo(np.float64).eps * np.abs(found[0])
    return Comparison(
        type(first).__name__, names, labels, found[0], found[1], differences, found[2], differ, others, costs
    )


def _name(one: Any, otherwise: str) -> str:
    return otherwise if isinstance(one, Result) else os.path.basename(os.fspath(one))


def _row(name: str, one: Estimate, other: Estimate) -> tuple[str, float, float, float, bool]:
    return name, one.estimate, other.estimate, float(np.hypot(_error(one), _error(other))), False


def _error(one: Estimate) -> float:
    """Return a standard error; without one, that of a normal distribution with the same interval."""
    if one.standard_error > 0:
        return one.standard_error
    low, high = one.interval
    return max(one.estimate - low, high - one.estimate, 0.0) / _FACTOR


def _add_arrays(rows: list[Any], others: dict[str, Any], first: Result, second: Result, name: str, error: str) -> None:
    """Add what two results have of numbers whose errors stand in another field."""
    pairs = [(np.atleast_1d(getattr(one, name)), np.atleast_1d(getattr(one, error))) for one in (first, second)]
    labels = [_labels(one, name, len(values)) for one, (values, _) in zip((first, second), pairs, strict=True)]
    shared = _aligned(first, second, pairs)
    if labels[0] != labels[1] and not shared:
        others[name] = (labels[0], labels[1])
        return
    if shared:
        pairs = [(values[part], errors[part]) for (values, errors), part in zip(pairs, shared, strict=True)]
        others[name] = f"{len(labels[0])} and {len(labels[1])}, of which {len(pairs[0][0])} are compared"
        labels = [[f"{name}[{i}]" for i in range(len(pairs[0][0]))]] * 2
    is_bound = "bound" in error
    for label, one, other, left, right in zip(
        labels[0], pairs[0][0], pairs[1][0], pairs[0][1], pairs[1][1], strict=True
    ):
        joint = left + right if is_bound else np.hypot(left, right)
        rows.append((label, float(one), float(other), float(joint), is_bound))


def _labels(one: Result, name: str, count: int) -> list[str]:
    if count == 1:
        return [getattr(one, "quantity", name) if name == "estimate" else name]
    for attribute in _NAMES:
        names = getattr(one, attribute, None)
        if isinstance(names, tuple) and len(names) == count:
            return [f"{name}.{label}" for label in names]
    return [f"{name}[{i}]" for i in range(count)]


def _aligned(first: Any, second: Any, pairs: list[Any]) -> list[slice] | None:
    """Return which eigenvalues two results share of which one has more, where both hold those of one end."""
    counts = [len(values) for values, _ in pairs]
    end = getattr(first, "which", None)
    if counts[0] == counts[1] or end != getattr(second, "which", None) or end not in ("LA", "SA", "LM"):
        return None
    if end == "LM" and min(values.min(initial=0.0) for values, _ in pairs) < 0:
        # The largest in size of both signs: one more changes the places of all others.
        return None
    fewer = min(counts)
    return [slice(0, fewer) if end == "SA" else slice(count - fewer, count) for count in counts]


def _add_other(others: dict[str, Any], name: str, one: Any, other: Any) -> None:
    """Add values without an error where they differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*one, *other]):
            _add_other(others, f"{name}.{key}", one.get(key), other.get(key))
        return
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        if one.shape != other.shape:
            others[name] = (one.shape, other.shape)
        elif one.dtype.kind in "fiub" and not np.array_equal(one, other, equal_nan=one.dtype.kind == "f"):
            others[name] = (
                f"arrays of shape {one.shape} that differ by up to {np.nanmax(np.abs(1.0 * other - one)):.3g}"
            )
        return
    if plain(one) != plain(other):
        others[name] = (one, other)


def _shown(value: Any) -> str:
    text = f"{value:.8g}" if isinstance(value, float) else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) < 80 else f"{text[:76]} ..."
