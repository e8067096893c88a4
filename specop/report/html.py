"""render_html: the curvature report as one page that needs no other file."""

from __future__ import annotations

import base64
from html import escape

import numpy as np

from specop.report.contents import Report
from specop.report.numbers import gradient_remarks, overview
from specop.results.result import Result, versions
from specop.results.tables import Column, html_table

__all__ = ["render_html"]

_STYLE = """
:root { color-scheme: light dark; }
:root { --back: #ffffff; --text: #1d2733; --soft: #5a6675; --line: #d5dbe2; --accent: #2563a8; }
@media (prefers-color-scheme: dark) {
  :root { --back: #14181d; --text: #e3e8ee; --soft: #9aa7b5; --line: #333c47; --accent: #7fb2ea; }
}
body { background: var(--back); color: var(--text); font: 16px/1.5 system-ui, sans-serif; margin: 0; }
main { max-width: 54rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 0.2rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 0.6rem; padding-bottom: 0.2rem; border-bottom: 1px solid var(--line); }
p { margin: 0.5rem 0; }
.soft, footer { color: var(--soft); }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.92rem; }
th, td { padding: 0.2rem 0.7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
figure { margin: 1rem 0; padding: 0.5rem; background: #ffffff; border: 1px solid var(--line); border-radius: 6px; }
figure img { display: block; width: 100%; height: auto; }
nav a { color: var(--accent); margin-right: 1rem; }
"""
_TITLES = {
    "critical point": "Is this a critical point?",
    "stability": "Which learning rates are stable?",
    "flatness": "How flat is it?",
    "blocks": "Where is the curvature?",
}
_PICTURES = {
    "density": "Density of all eigenvalues of the Hessian, and the share that is not above each",
    "largest": "Largest eigenvalues by rank",
    "critical point": "Loss along the direction of the smallest eigenvalue beside its quadratic model",
    "flatness": "Measures of flatness with their errors",
    "blocks": "Range of eigenvalues of each layer's block, and its share of the trace",
}


def render_html(report: Report, figures: dict[str, bytes]) -> str:
    """Return a report as a page in HTML, with its figures inside.

    Parameters
    ----------
    report : Report
    figures : dict
        SVG files by the name of the section that they belong to, and "density" and "largest".
    """
    sections = ["eigenvalues", *report.sections, *report.refused, "costs"]
    links = "".join(f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name in sections)
    parts = [
        f"<h1>Curvature of the loss</h1><p class='soft'>{escape(report.source)}</p><nav>{links}</nav>",
        _table({"what": ("", [row[0] for row in overview(report)]), **_columns(overview(report))}),
        _section("eigenvalues", "Eigenvalues of the Hessian", _eigenvalues(report, figures)),
        *(_section(name, _TITLES[name], _result(name, result, figures)) for name, result in report.sections.items()),
        *(_section(name, _TITLES[name], f"<p>Not computed: {escape(why)}</p>") for name, why in report.refused.items()),
        _section("costs", "What it took", _costs(report)),
        f"<footer><p>specop {escape(versions('numpy')['specop'])}</p></footer>",
    ]
    head = (
        '<meta charset="utf-8"/><meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>Curvature of the loss: {escape(report.source)}</title><style>{_STYLE}</style>"
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body><main>\n{"".join(parts)}\n</main></body></html>\n'
    )


def _columns(rows: list[tuple[str, str, str]]) -> dict[str, tuple[str, list[str]]]:
    return {"value": ("", [row[1] for row in rows]), "note": ("", [row[2] for row in rows])}


def _eigenvalues(report: Report, figures: dict[str, bytes]) -> str:
    order = slice(None, None, -1)
    lines = [f"{line[0].upper()}{line[1:]}.<br/>" for line in map(escape, gradient_remarks(report))]
    parts = [f"<p>{''.join(lines)}</p>"]
    parts += [_figure("density", figures), _figure("largest", figures)]
    largest = report.largest
    parts.append(_pairs("largest eigenvalue", largest.eigenvalues[order], largest.bounds[order]))
    if report.smallest is not None:
        low = report.smallest
        parts.append(_pairs("at the lower end", low.eigenvalues, low.bounds))
        parts.append(
            "<p class='soft'>At the lower end errors are relative to the largest eigenvalue: an eigenvalue lies within "
            "the error of each value, and need not be the smallest.</p>"
        )
    return "".join(parts)


def _pairs(heading: str, values: np.ndarray, bounds: np.ndarray) -> str:
    columns = {
        "value": Column(values, heading, ".8g"),
        "bound": Column(bounds, "error \N{LESS-THAN OR EQUAL TO}", ".1e"),
    }
    return f"<div class='wide'>{html_table(columns)}</div>"


def _result(name: str, result: Result, figures: dict[str, bytes]) -> str:
    # An element that closes itself is right in HTML, and lets the page be read as XML.
    content = result._repr_html_().replace("<br>", "<br/>")
    return f"<div class='wide'>{content}</div>{_figure(name, figures)}"


def _figure(name: str, figures: dict[str, bytes]) -> str:
    if name not in figures:
        return ""
    data = base64.b64encode(figures[name]).decode("ascii")
    return f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{escape(_PICTURES[name])}"/></figure>'


def _costs(report: Report) -> str:
    results = report.results
    names = [*(name.replace("_", " ") for name in results), "all"]
    products = [result.matvecs for result in results.values()]
    seconds = [result.seconds for result in results.values()]
    columns = {
        "what": Column(names, "what"),
        "products": Column([*products, sum(products)], "products", ","),
        "seconds": Column([*seconds, sum(seconds)], "seconds", ".2f"),
    }
    note = (
        "The smallest eigenvalues come from the Krylov space of the largest, and density and trace share their probes."
    )
    return f"<div class='wide'>{html_table(columns)}</div><p class='soft'>{note}</p>"


def _section(name: str, title: str, content: str) -> str:
    return f'<section id="{_anchor(name)}"><h2>{escape(title)}</h2>{content}</section>\n'


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


def _table(columns: dict[str, tuple[str, list[str]]]) -> str:
    """Return a table without headings."""
    rows = zip(*(values for _, values in columns.values()), strict=True)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class='wide'><table>{lines}</table></div>"
