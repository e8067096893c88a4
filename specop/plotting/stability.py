"""Pictures of stability: eigenvalues against the limit, and losses of the next steps."""

from __future__ import annotations

import numpy as np

from specop.plotting.axes import BLUE, GREY, ORANGE, Axes, new_axes
from specop.plotting.pictures import plot_eigenvalues
from specop.statistics.numbers import Floats

__all__ = ["plot_limit", "plot_next_losses"]


def plot_limit(
    values: Floats, bounds: Floats, limit: float, quantity: str, optimizer: str, ax: Axes | None = None
) -> Axes:
    """Draw eigenvalues, with their error bounds, and the limit of stable steps.

    Parameters
    ----------
    values : ndarray (k,)
        Eigenvalues, ascending.
    bounds : ndarray (k,)
        Bounds of their errors.
    limit : float
        Where steps turn unstable; NaN or infinity for none.
    quantity : str
        What the largest one is called.
    optimizer : str
        Whose limit it is.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
    """
    ax = plot_eigenvalues(values, bounds, f"{quantity} and the limit of {optimizer}", ax)
    if np.isfinite(limit):
        ax.axhline(limit, color=ORANGE, linestyle="--", linewidth=1.2, label=f"limit {limit:.4g}")
        ax.legend(frameon=False)
    return ax


def plot_next_losses(predicted: Floats, actual: Floats, title: str, ax: Axes | None = None) -> Axes:
    """Draw the losses of the next steps as the quadratic model predicts them and as they are.

    Parameters
    ----------
    predicted, actual : ndarray (steps + 1,)
        Losses, the present one first; infinite where there is none.
    title : str
        What to write above.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
    """
    ax = new_axes() if ax is None else ax
    steps = np.arange(len(predicted))
    ax.plot(steps, np.where(np.isfinite(actual), actual, np.nan), "o-", color=BLUE, markersize=4, label="true")
    ax.plot(steps, predicted, "x--", color=ORANGE, markersize=6, label="predicted by the quadratic model")
    ax.axhline(predicted[0], color=GREY, linewidth=0.8)
    ax.set(xlabel="step", ylabel="loss")
    ax.set_title(title)
    ax.legend(frameon=False)
    return ax
