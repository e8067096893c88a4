"""render: the curvature report as a page of text for a terminal."""

from __future__ import annotations

import math
import textwrap
from itertools import zip_longest
from typing import Any

import click
import numpy as np

from specop.report.contents import Report
from specop.report.numbers import gradient_remarks, overview
from specop.results.eigen import EigenResult
from specop.results.result import Result
from specop.results.tables import text_table

__all__ = ["render"]

_INDENT: dict[str, Any] = {"initial_indent": "    ", "subsequent_indent": "    "}
# Their tables repeat what the page has elsewhere.
_WITHOUT_TABLE = ("stability",)
# For terminals and pipes that cannot show them.
_SPELLED = {"±": "+-", "≤": "<=", "λ₁": "lambda_1", "·": "-"}


def render(report: Report, encoding: str = "utf-8") -> str:
    """Return the report as text, at most 80 columns wide but for long names.

    Parameters
    ----------
    report : Report
    encoding : str
        What the reader can show; signs that it lacks are spelled out.

    Returns
    -------
    str
        With the escape codes of bold type, which `click.echo` leaves out where they are not wanted.
    """
    sections = [
        [click.style(f"Curvature of the loss · {report.source}", bold=True)],
        _overview(report),
        _eigenvalues(report),
        [f"  {line}" for line in [*gradient_remarks(report), *_lower_end(report)]],
        *_landscape(report),
        _costs(report),
        [f"  files in {report.folder}", *textwrap.wrap("  ".join(report.files), 76, **_INDENT)],
    ]
    text = "\n\n".join("\n".join(section) for section in sections)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        for sign, words in _SPELLED.items():
            text = text.replace(sign, words)
    return text


def _lower_end(report: Report) -> list[str]:
    return [] if report.smallest is None else ["errors of the smallest are relative to the largest eigenvalue"]


def _overview(report: Report) -> list[str]:
    return [f"  {name:<16} {value:<19}  {note}".rstrip() for name, value, note in overview(report)]


def _eigenvalues(report: Report) -> list[str]:
    tables = [_table("largest", report.largest, slice(None, None, -1))]
    if report.smallest is not None:
        tables.append(_table("smallest", report.smallest, slice(None)))
    lines = ["    ".join(line).rstrip() for line in zip_longest(*tables, fillvalue=" " * len(tables[0][0]))]
    return [click.style(f"  {lines[0]}", bold=True), *(f"  {line}" for line in lines[1:])]


def _table(end: str, result: EigenResult, order: slice) -> list[str]:
    values, bounds = result.eigenvalues[order], result.bounds[order]
    size = float(np.abs(values).max())
    decimals = 6 - math.floor(math.log10(size)) if size > 0 else 6
    form = f".{max(0, decimals)}f" if decimals <= 12 and size < 1e8 else ".6e"
    rows = [f"{value:>20{form}}  {bound:>9.1e}" for value, bound in zip(values, bounds, strict=True)]
    return [f"{end + ' eigenvalues':>20}  {'error ≤':>9}", *rows]


def _landscape(report: Report) -> list[list[str]]:
    """Return a section for each result about the landscape: its first lines, and the table of a few."""
    found = []
    for name, result in report.sections.items():
        lines = _text(result) + ([] if name in _WITHOUT_TABLE else _rows(result))
        found.append([click.style(f"  {name}", bold=True), *lines])
    for name, why in report.refused.items():
        found.append([click.style(f"  {name}", bold=True), *textwrap.wrap(f"not computed: {why}", 74, **_INDENT)])
    return found


def _text(result: Result) -> list[str]:
    lines = str(result).splitlines()
    table = text_table(result._shown())
    return [part for line in lines[: len(lines) - len(table)] for part in textwrap.wrap(line, 76, **_INDENT)]


def _rows(result: Result) -> list[str]:
    """Return the result's table, its first columns if it is too wide for all."""
    columns = dict(result._shown())
    while len(columns) > 1 and max(map(len, text_table(columns))) > 74:
        columns.popitem()
    return [f"    {line}" for line in text_table(columns)]


def _costs(report: Report) -> list[str]:
    lines = [click.style(f"  {'':<22} {'products':>9} {'seconds':>9}", bold=True)]
    products, seconds = 0, 0.0
    for name, result in report.results.items():
        products, seconds = products + result.matvecs, seconds + result.seconds
        what = f"{name} eigenvalues" if name in ("largest", "smallest") else name.replace("_", " ")
        state = "" if result.converged else "  not converged"
        lines.append(f"  {what:<22} {result.matvecs:>9,} {result.seconds:>9.2f}{state}")
    return [*lines, f"  {'all':<22} {products:>9,} {seconds:>9.2f}"]
