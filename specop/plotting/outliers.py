"""plot_outliers: the largest eigenvalues by rank, and where the bulk begins."""

from __future__ import annotations

import numpy as np

from specop.plotting.axes import BLUE, GREY, ORANGE, Axes, new_axes
from specop.statistics.numbers import Floats

__all__ = ["plot_outliers"]


def plot_outliers(
    values: Floats, count: int, edge: float, expected: dict[str, int], title: str, ax: Axes | None = None
) -> Axes:
    """Draw eigenvalues by rank, those that stand out in another colour, and ranks at which a gap is expected.

    Parameters
    ----------
    values : ndarray (k,)
        Descending.
    count : int
        How many stand out.
    edge : float
        The bulk's upper edge.
    expected : dict
        Ranks below which a gap is expected, by what they are called.
    title : str
        What to write above.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
    """
    ax = new_axes() if ax is None else ax
    ranks = np.arange(1, len(values) + 1)
    ax.plot(ranks[count:], values[count:], "o", color=BLUE, markersize=4, label="bulk")
    if count:
        ax.plot(ranks[:count], values[:count], "o", color=ORANGE, markersize=5, label=f"{count} that stand out")
        ax.axhline(edge, color=GREY, linewidth=0.8, linestyle="--", label="edge of the bulk")
    if values[-1] > 0 and values[0] > 30 * values[-1]:
        ax.set_yscale("log")
    for name, place in expected.items():
        ax.axvline(place + 0.5, color=GREY, linewidth=0.6)
        ax.annotate(f" {name}", (place + 0.5, 0.97), xycoords=("data", "axes fraction"), va="top", color=GREY)
    ax.set(xlabel="rank", ylabel="eigenvalue", title=title)
    ax.legend(frameon=False)
    return ax
