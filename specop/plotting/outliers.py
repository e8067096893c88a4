"""plot_outliers: the largest eigenvalues by rank, and where the bulk begins."""

from __future__ import annotations

import numpy as np

from specop.plotting.axes import GREY, ORANGE, Axes, Place
from specop.statistics.numbers import Floats

__all__ = ["plot_outliers"]


def plot_outliers(values: Floats, count: int, edge: float, expected: dict[str, int], title: str, place: Place) -> Axes:
    """Draw eigenvalues by rank, those that stand out in another colour, and ranks at which a gap is expected.

    Parameters
    ----------
    values : ndarray (k,)
        Eigenvalues, descending.
    count : int
        How many stand out.
    edge : float
        The bulk's upper edge.
    expected : dict
        Ranks below which a gap is expected, by what they are called.
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
    ranks = np.arange(1, len(values) + 1)
    name = pen.name("bulk")
    pen.mark(ax.plot(ranks[count:], values[count:], "o", color=pen.color, markersize=4, label=name)[0])
    if count:
        # Where colours tell results apart, those that stand out are squares.
        form, out = "o" if pen.is_alone else "s", pen.own(f"{count} that stand out")
        pen.show(ax.plot(ranks[:count], values[:count], form, color=pen.accent(ORANGE), markersize=5, label=out)[0])
        edges = pen.part("edge of the bulk")
        ax.axhline(edge, color=pen.accent(GREY), linewidth=0.8, linestyle="--", label=edges)
    pen.scale()
    texts = {text.get_text() for text in ax.texts}
    for name, rank in expected.items():
        if f" {name}" not in texts:
            ax.axvline(rank + 0.5, color=GREY, linewidth=0.6)
            ax.annotate(f" {name}", (rank + 0.5, 0.97), xycoords=("data", "axes fraction"), va="top", color=GREY)
    pen.texts("rank", "eigenvalue", title)
    pen.legend()
    return ax
