"""Pictures of pruned models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specop.plotting.axes import BLUE, GREY, ORANGE, new_axes
from specop.statistics.numbers import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_pruning"]


def plot_pruning(
    sparsities: Floats,
    losses: Floats,
    expected: Floats,
    title: str,
    ax: Axes | None = None,
) -> Axes:
    """Draw the loss after each step over the sparsity, and where its quadratic model expected it.

    Parameters
    ----------
    sparsities : ndarray (steps,)
        Share of zeros after each step.
    losses : ndarray (steps + 1,)
        Loss before the first step and after each.
    expected : ndarray (steps,)
        Change of the loss that each step's model expected; NaN where there is no model.
    title : str
        What to write above.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
    """
    ax = new_axes() if ax is None else ax
    percent = 100 * sparsities
    ax.plot(percent, losses[1:], "o-", color=BLUE, markersize=4, label="measured")
    if np.isfinite(expected).any():
        ax.plot(percent, losses[:-1] + expected, "x", color=ORANGE, markersize=6, label="expected before the step")
    ax.axhline(losses[0], color=GREY, linewidth=0.8, linestyle="--", label="at the start")
    ax.set(xlabel="weights that are zero, %", ylabel="mean loss")
    ax.set_title(title)
    ax.legend(frameon=False)
    return ax
