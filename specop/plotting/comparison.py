"""Ratios of measures between two points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from specop.plotting.axes import BLUE, GREY, ORANGE, Axes, new_axes
from specop.statistics.numbers import Booleans, Floats

__all__ = ["plot_ratios"]


def plot_ratios(
    labels: Sequence[str],
    first: Floats,
    second: Floats,
    invariant: Booleans,
    names: tuple[str, str],
    ax: Axes | None = None,
) -> Axes:
    """Draw how many times as large each positive measure is at the second point, on a logarithmic scale.

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
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
    """
    ax = new_axes(7.0, 0.8 + 0.32 * max(len(labels), 3)) if ax is None else ax
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (np.log(np.maximum(one, 0.0)) for one in (first, second))
        middle = b[:, 0] - a[:, 0]
        below = np.hypot(b[:, 0] - b[:, 1], a[:, 2] - a[:, 0])
        above = np.hypot(b[:, 2] - b[:, 0], a[:, 0] - a[:, 1])
    # Lower bounds have no error to be drawn.
    errors = np.where(np.isfinite([below, above]).all(axis=0), [below, above], 0.0)
    rows = np.arange(len(labels))[::-1]
    ratio = np.exp(middle)
    widths = np.stack([ratio - np.exp(middle - errors[0]), np.exp(middle + errors[1]) - ratio])
    for chosen, colour, text in ((invariant, ORANGE, "rescaling keeps it"), (~invariant, BLUE, "rescaling changes it")):
        if chosen.any():
            ax.errorbar(
                ratio[chosen], rows[chosen], xerr=widths[:, chosen], fmt="o", color=colour, capsize=3, label=text
            )
    ax.axvline(1.0, color=GREY, linewidth=0.8)
    ax.set_xscale("log")
    ax.set_yticks(rows, labels)
    ax.set(xlabel=f"{names[1]} / {names[0]}")
    ax.legend(frameon=False)
    return ax
