"""Pictures of curvature over the steps of training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from specop.plotting.axes import GREY, ORANGE, Axes, Place
from specop.statistics.numbers import Floats, Integers

__all__ = ["plot_history"]

_STYLES = ((ORANGE, "--"), (GREY, ":"))


def plot_history(
    steps: Integers,
    values: Floats,
    errors: Floats,
    level: Floats | None,
    limits: Mapping[str, Floats],
    quantity: str,
    title: str,
    place: Place,
) -> Axes:
    """Draw a quantity over the steps of training with its errors, and the limits that it is held against.

    Parameters
    ----------
    steps : ndarray (records,)
        Steps of training.
    values, errors : ndarray (records,)
        The quantity and its errors; NaN where a record has none.
    level : ndarray (records,) or None
        What the quantity does not exceed, with the probability that was asked for.
    limits : mapping
        Other columns by the text that stands for them.
    quantity : str
        What is drawn, for the axis.
    title : str
        What to write above.
    place : Place
        Where to draw, under which name and in which colour.

    Returns
    -------
    Axes
    """
    pen = place.pen()
    ax = pen.ax
    errors, name = np.nan_to_num(errors), pen.name(quantity)
    points = ax.errorbar(steps, values, yerr=errors, fmt="o-", color=pen.color, capsize=2, markersize=4, label=name)
    pen.mark(points[0])
    if level is not None:
        bound = pen.part("nothing above, to 99 %")
        ax.fill_between(steps, values, level, color=pen.color, alpha=0.12, linewidth=0, label=bound)
    for (text, limit), (color, style) in zip(limits.items(), _STYLES, strict=False):
        pen.show(ax.plot(steps, limit, color=pen.accent(color), linestyle=style, label=pen.part(text))[0])
    pen.scale()
    pen.texts("steps of training", quantity, title)
    ax.title.set_fontsize("medium")
    pen.legend()
    return ax
