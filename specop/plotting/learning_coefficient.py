"""plot_chains: what chains around a minimum saw."""

from __future__ import annotations

import numpy as np

from specop.plotting.axes import BLUE, GREY, Axes, new_axes
from specop.statistics.numbers import Floats

__all__ = ["plot_chains"]


def plot_chains(
    rises: Floats, estimate: float, interval: tuple[float, float], title: str, ax: Axes | None = None
) -> Axes:
    """Draw the draws of each chain and their running means.

    Parameters
    ----------
    rises : ndarray (chains, steps)
        What each step of each chain saw.
    estimate : float
        Their mean.
    interval : (float, float)
        Its limits.
    title : str
        What to write above.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
    """
    ax = new_axes() if ax is None else ax
    steps = np.arange(1, rises.shape[1] + 1)
    for number, chain in enumerate(rises):
        ax.plot(steps, chain, ".", color=GREY, alpha=0.15, markersize=2, label="draws" if number == 0 else None)
        mean = np.cumsum(chain) / steps
        ax.plot(steps, mean, color=BLUE, linewidth=1.0, label="running means of chains" if number == 0 else None)
    ax.axhspan(*interval, color=BLUE, alpha=0.15, linewidth=0)
    ax.axhline(estimate, color=BLUE, linestyle=(0, (4, 1.5)), label="mean and interval")
    ax.set(xlabel="step", ylabel="m beta (L - L(w0))", title=title)
    ax.set_ylim(0.0, 3.0 * max(estimate, interval[1] if np.isfinite(interval[1]) else estimate) or 1.0)
    ax.legend(edgecolor="none", loc="upper right")
    return ax
