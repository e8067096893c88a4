"""Plain tables on standard output."""

from collections.abc import Sequence

Row = dict[str, str | int | float | bool | None]


def print_table(title: str, rows: Sequence[Row]) -> None:
    """Print rows under a title, one column for each key of the first row.

    Parameters
    ----------
    title : str
    rows : sequence of dict
        All with the same keys.
    """
    names = list(rows[0])
    cells = [names] + [[_text(row[name]) for name in names] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    print(f"\n{title}")
    for line in cells:
        print("  " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    print(flush=True)


def ratio(value: float, baseline: float | None) -> float | None:
    """Return value / baseline, or None without a baseline."""
    return None if baseline is None else value / baseline


def _text(value: str | int | float | bool | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)
