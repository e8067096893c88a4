"""Ratios of measures between two points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from specop.plotting.axes import BLUE, GREY, ORANGE, Axes, Place
from specop.statistics.numbers import Booleans, Floats

__all__ = ["plot_ratios"]


def plot_ratios(
    labels: Sequence[str],
    first: Floats,
    second: Floats,
    invariant: Booleans,
    names: tuple[str, str],
    place: Place,
) -> Axes:
    """Draw how many times as large each positive measure is at the second point, on a logarithmic scale.

    Measures of a further comparison share the rows of those of the same name.

    Parameters
    ----------
    labels : sequence of str (k,)
        Names of the measures.
    first, second : ndarray (k, 3)
        Estimate and limits of each measure at both points.
    invariant : ndarray of bool (k,)
        Whether a rescaling of layers keeps the measure.
    names : (str, str)
        What the points are called.
    place : Place
        Where to draw, under which name and in which colour.

    Returns
    -------
    Axes
    """
    pen = place.pen(7.0, 0.8 + 0.32 * max(len(labels), 3))
    ax = pen.ax
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (np.log(np.maximum(one, 0.0)) for one in (first, second))
        middle = b[:, 0] - a[:, 0]
        below = np.hypot(b[:, 0] - b[:, 1], a[:, 2] - a[:, 0])
        above = np.hypot(b[:, 2] - b[:, 0], a[:, 0] - a[:, 1])
    # Lower bounds have no error to be drawn.
    errors = np.where(np.isfinite([below, above]).all(axis=0), [below, above], 0.0)
    present = [text.get_text() for text in ax.get_yticklabels()] if pen.number else []
    shown = [*present, *(label for label in labels if label not in present)]
    rows = -np.array([shown.index(label) for label in labels], dtype=float) - 0.2 * pen.number
    ratio = np.exp(middle)
    widths = np.stack([ratio - np.exp(middle - errors[0]), np.exp(middle + errors[1]) - ratio])
    (line,) = ax.plot([], [], color=pen.color, linewidth=6.0, label=pen.label)
    pen.mark(line)
    # Colours tell results apart where there are several, and filled marks are measures that a rescaling keeps.
    for chosen, color, fill, text in (
        (invariant, ORANGE, "full", "rescaling keeps it"),
        (~invariant, BLUE, "none", "rescaling changes it"),
    ):
        if chosen.any():
            ax.errorbar(
                ratio[chosen],
                rows[chosen],
                xerr=widths[:, chosen],
                fmt="o",
                fillstyle=fill,
                color=pen.accent(color),
                capsize=3,
                label=pen.part(text),
            )
    ax.axvline(1.0, color=GREY, linewidth=0.8)
    ax.set_xscale("log")
    ax.set_yticks(-np.arange(len(shown)), shown)
    pen.texts(f"{names[1]} / {names[0]}", "")
    pen.legend()
    return ax
