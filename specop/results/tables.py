"""Tables of results: as text, as HTML, and as pandas data frames."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from specop.errors import InvalidInputError

__all__ = ["Column", "data_frame", "html_table", "text_table"]

# Longer tables are cut in the middle.
_ROWS = 24


@dataclass(frozen=True)
class Column:
    """One value for each item that a result is about.

    Attributes
    ----------
    values : array_like (k,) or (k, m)
        The values; of more than one for each item, each makes a column of a data frame.
    heading : str
        What stands above the column where the result is printed; without one it is not printed.
    form : str
        How a value is printed, as in `format`.
    """

    values: ArrayLike
    heading: str = ""
    form: str = ""


def text_table(columns: dict[str, Column]) -> list[str]:
    """Return the lines of the table of those columns that have a heading."""
    rows = _rows(columns)
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def html_table(columns: dict[str, Column]) -> str:
    """Return the same table in HTML; nothing without columns."""
    rows = _rows(columns)
    tags = ["th" if i == 0 else "td" for i in range(len(rows))]
    lines = ["".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) for tag, row in zip(tags, rows, strict=True)]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>" if rows else ""


def data_frame(columns: dict[str, Column], numbers: dict[str, Any]) -> Any:
    """Return a pandas data frame with a row for each item, or with one row of numbers where there are no columns.

    Parameters
    ----------
    columns : dict
        Columns by name.
    numbers : dict
        Plain values by name. Beside columns they are the frame's ``attrs``.
    """
    try:
        import pandas
    except ImportError as error:
        raise InvalidInputError("data frames need pandas: pip install pandas.") from error
    if not columns:
        return pandas.DataFrame([numbers])
    flat: dict[str, Any] = {}
    for name, column in columns.items():
        values = np.asarray(column.values)
        parts = {name: values} if values.ndim == 1 else {f"{name}[{j}]": part for j, part in enumerate(values.T)}
        flat |= parts
    frame = pandas.DataFrame(flat)
    frame.attrs = numbers
    return frame


def _rows(columns: dict[str, Column]) -> list[tuple[str, ...]]:
    shown = [column for column in columns.values() if column.heading]
    rows = list(zip(*([format(value, one.form) for value in np.asarray(one.values)] for one in shown), strict=True))
    if len(rows) > _ROWS:
        rows[_ROWS // 2 : -_ROWS // 2] = [("...",) * len(shown)]
    return [tuple(one.heading for one in shown), *rows] if shown else []
