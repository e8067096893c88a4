"""The loss along the direction that a critical point leaves by."""

from __future__ import annotations

import numpy as np

from specop.plotting.axes import BLUE, GREY, ORANGE, Axes, new_axes
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
    ax: Axes | None = None,
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
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
    """
    ax = new_axes() if ax is None else ax
    start = float(losses[coordinates == 0.0][0])
    reach = 2.0 * abs(distance) if distance else float(np.abs(coordinates).max()) or 1.0
    shown = np.isfinite(losses) & (np.abs(coordinates) <= reach)
    line = np.linspace(-reach, reach, 201)
    model = start + slope * line + 0.5 * curvature * line**2
    ax.plot(coordinates[shown], losses[shown], "o-", color=BLUE, markersize=3, label="loss")
    ax.plot(line, model, "--", color=ORANGE, linewidth=1.0, label="quadratic model")
    ax.axhline(start, color=GREY, linewidth=0.6)
    low, high = float(losses[shown].min()), float(losses[shown].max())
    margin = 0.1 * (high - low) or 1.0
    ax.set(xlim=(-reach, reach), ylim=(low - margin, high + margin), xlabel="distance", ylabel="loss", title=title)
    if drop:
        ax.plot([distance], [start - drop], "v", color=GREY, label=f"lowest before it rises: {start - drop:.4g}")
    ax.legend(frameon=False)
    return ax
