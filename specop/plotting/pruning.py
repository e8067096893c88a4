"""Pictures of pruned models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specop.plotting.axes import BLUE, GREY, ORANGE, new_axes
from specop.results.prune import PruneResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_pruning"]


def plot_pruning(result: PruneResult, ax: Axes | None = None) -> Axes:
    """Draw the loss after each step over the sparsity, and where its quadratic model expected it.

    Parameters
    ----------
    result : PruneResult
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
    """
    ax = new_axes() if ax is None else ax
    percent = 100 * result.sparsities
    ax.plot(percent, result.losses[1:], "o-", color=BLUE, markersize=4, label="measured")
    if np.isfinite(result.expected).any():
        expected = result.losses[:-1] + result.expected
        ax.plot(percent, expected, "x", color=ORANGE, markersize=6, label="expected before the step")
    ax.axhline(result.losses[0], color=GREY, linewidth=0.8, linestyle="--", label="at the start")
    ax.set(xlabel="weights that are zero, %", ylabel="mean loss")
    ax.set_title(f"{100 * result.sparsity:.1f} % sparsity by {result.method}, {len(result.sparsities)} steps")
    ax.legend(frameon=False)
    return ax
