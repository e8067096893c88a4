"""The loss along the direction that a critical point leaves by."""

from __future__ import annotations

import numpy as np

from specop.plotting.axes import GREY, ORANGE, Axes, Place
from specop.statistics.numbers import Floats

__all__ = ["plot_descent"]


def plot_descent(
    coordinates: Floats,
    losses: Floats,
    slope: float,
    curvature: float,
    drop: float,
    distance: float,
    title: str,
    place: Place,
) -> Axes:
    """Draw the loss along a line through a point, its quadratic model, and the lowest place.

    Parameters
    ----------
    coordinates, losses : ndarray
        Signed distances and losses there; those that are not finite are left out.
    slope, curvature : float
        First and second derivative at the point.
    drop, distance : float
        How far the loss falls, and where.
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
    start = float(losses[coordinates == 0.0][0])
    reach = 2.0 * abs(distance) if distance else float(np.abs(coordinates).max()) or 1.0
    shown = np.isfinite(losses) & (np.abs(coordinates) <= reach)
    line = np.linspace(-reach, reach, 201)
    model = start + slope * line + 0.5 * curvature * line**2
    name = pen.name("loss")
    pen.mark(ax.plot(coordinates[shown], losses[shown], "o-", color=pen.color, markersize=3, label=name)[0])
    ax.plot(line, model, "--", color=pen.accent(ORANGE), linewidth=1.0, label=pen.part("quadratic model"))
    ax.axhline(start, color=pen.accent(GREY), linewidth=0.6)
    low, high = float(losses[shown].min()), float(losses[shown].max())
    margin = 0.1 * (high - low) or 1.0
    pen.limit((-reach, reach), (low - margin, high + margin))
    pen.texts("distance", "loss", title)
    if drop:
        lowest = pen.own(f"lowest before it rises: {start - drop:.4g}")
        ax.plot([distance], [start - drop], "v", color=pen.accent(GREY), label=lowest)
    pen.legend()
    return ax
