"""Pictures of stability: eigenvalues against the limit, and losses of the next steps."""

from __future__ import annotations

import numpy as np

from specop.plotting.axes import GREY, ORANGE, Axes, Place
from specop.plotting.pictures import draw_eigenvalues
from specop.statistics.numbers import Floats

__all__ = ["plot_limit", "plot_next_losses"]


def plot_limit(values: Floats, bounds: Floats, limit: float, quantity: str, optimizer: str, place: Place) -> Axes:
    """Draw eigenvalues, with their error bounds, and the limit of stable steps.

    Parameters
    ----------
    values : ndarray (k,)
        Eigenvalues, ascending.
    bounds : ndarray (k,)
        Bound of each eigenvalue's error.
    limit : float
        Sharpness from which on steps are unstable; NaN or infinity for none.
    quantity : str
        What the largest one is called.
    optimizer : str
        Name of the optimizer that the limit belongs to.
    place : Place
        Where to draw, under which name and in which colour.

    Returns
    -------
    Axes
    """
    pen = place.pen()
    draw_eigenvalues(pen, values, bounds, f"{quantity} and the limit of {optimizer}")
    if np.isfinite(limit):
        text = pen.own(f"limit {limit:.4g}")
        pen.ax.axhline(limit, color=pen.accent(ORANGE), linestyle="--", linewidth=1.2, label=text)
        pen.legend()
    return pen.ax


def plot_next_losses(predicted: Floats, actual: Floats, title: str, place: Place) -> Axes:
    """Draw the losses of the next steps as the quadratic model predicts them and as they are.

    Parameters
    ----------
    predicted, actual : ndarray (steps + 1,)
        Losses, the present one first; infinite where there is none.
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
    steps, true = np.arange(len(predicted)), np.where(np.isfinite(actual), actual, np.nan)
    pen.mark(ax.plot(steps, true, "o-", color=pen.color, markersize=4, label=pen.name("true"))[0])
    model = pen.part("predicted by the quadratic model")
    ax.plot(steps, predicted, "x--", color=pen.accent(ORANGE), markersize=6, label=model)
    ax.axhline(predicted[0], color=pen.accent(GREY), linewidth=0.8)
    pen.texts("step", "loss", title)
    pen.legend()
    return ax
