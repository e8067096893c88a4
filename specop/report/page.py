"""render: the curvature report as a page of text for a terminal."""

from __future__ import annotations

import math
from itertools import zip_longest

import click
import numpy as np

from specop.report.report import Report
from specop.results.eigen import EigenResult
from specop.statistics.estimate import Estimate

__all__ = ["render"]

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
        _meaning(report),
        _costs(report),
        [f"  files in {report.folder}", *(f"    {name}" for name in _wrapped(report.files))],
    ]
    text = "\n\n".join("\n".join(section) for section in sections)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        for sign, words in _SPELLED.items():
            text = text.replace(sign, words)
    return text


def _overview(report: Report) -> list[str]:
    trace = report.trace
    low, high = trace.interval
    form = _form(trace.standard_error)
    interval = f"{100 * trace.confidence:g} % interval {low:{form}} to {high:{form}}"
    rows = [
        ("parameters", f"{report.n:,}", f"{report.dtype} on {report.device}"),
        ("samples", "unknown" if report.samples is None else f"{report.samples:,}", ""),
        ("loss", f"{report.loss:.6g}", ""),
        ("gradient norm", f"{report.gradient_norm:.6g}", ""),
        ("Hessian trace", _with_error(trace.estimate, trace.standard_error), interval),
    ]
    return [f"  {name:<16} {value:<19}  {note}".rstrip() for name, value, note in rows]


def _with_error(value: float, error: float) -> str:
    """Return the value with as many digits as its error leaves: 10.86 ± 0.15."""
    form = _form(error)
    return f"{value:{form}} ± {error:{form}}" if error > 0 and math.isfinite(error) else f"{value:{form}}"


def _form(error: float) -> str:
    """Return the number format that shows two digits of the error."""
    if not math.isfinite(error) or not 1e-8 < error < 1e8:
        return ".6g"
    return f",.{max(0, 1 - math.floor(math.log10(error)))}f"


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


def _meaning(report: Report) -> list[str]:
    largest, k = float(report.largest.eigenvalues[-1]), len(report.largest.eigenvalues)
    lines = []
    if largest > 0:
        lines.append(f"  plain gradient descent is stable for learning rates below 2/λ₁ = {2 / largest:.4g}")
        near = report.density.integrate(lambda x: np.abs(x) <= 0.01 * largest)
        lines.append(f"  {_percent(near)} of all eigenvalues are at most λ₁/100 in magnitude")
    if report.largest.eigenvalues[0] > 0 and report.trace.estimate > 0:
        share = float(report.largest.eigenvalues.sum()) / report.trace.estimate
        lines.append(f"  the {k} largest sum to {100 * share:.0f} % of the trace")
    return lines or ["  no eigenvalue is positive: this point is a maximum, or the loss is flat"]


def _percent(share: Estimate) -> str:
    if not share.standard_error > 0:
        return f"{100 * share.estimate:.1f} %"
    return f"{_with_error(100 * share.estimate, 100 * share.standard_error)} %"


def _costs(report: Report) -> list[str]:
    lines = [click.style(f"  {'':<22} {'products':>9} {'seconds':>9}", bold=True)]
    products, seconds = 0, 0.0
    for name, result in report.results.items():
        products, seconds = products + result.matvecs, seconds + result.seconds
        what = f"{name} eigenvalues" if isinstance(result, EigenResult) else name
        state = "" if result.converged else "  not converged"
        lines.append(f"  {what:<22} {result.matvecs:>9,} {result.seconds:>9.2f}{state}")
    return [*lines, f"  {'all':<22} {products:>9,} {seconds:>9.2f}"]


def _wrapped(names: list[str]) -> list[str]:
    return ["  ".join(names[:2]), "  ".join(names[2:])]
