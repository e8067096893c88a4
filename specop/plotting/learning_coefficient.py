"""plot_chains: what chains around a minimum saw."""

from __future__ import annotations

import numpy as np

from specop.plotting.axes import GREY, Axes, Place
from specop.statistics.numbers import Floats

__all__ = ["plot_chains"]


def plot_chains(rises: Floats, estimate: float, interval: tuple[float, float], title: str, place: Place) -> Axes:
    """Draw the draws of each chain and their running means.

    Parameters
    ----------
    rises : ndarray (chains, steps)
        Loss above that at the start, for each step of each chain.
    estimate : float
        The learning coefficient that the chains give.
    interval : (float, float)
        Limits of the interval that covers it.
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
    dots, means = pen.part("draws"), pen.part("running means of chains")
    steps = np.arange(1, rises.shape[1] + 1)
    for number, chain in enumerate(rises):
        color, mean = pen.accent(GREY), np.cumsum(chain) / steps
        ax.plot(steps, chain, ".", color=color, alpha=0.15, markersize=2, label=dots if number == 0 else None)
        ax.plot(steps, mean, color=pen.color, linewidth=1.0, label=means if number == 0 else None)
    ax.axhspan(*interval, color=pen.color, alpha=0.15, linewidth=0)
    dashed, name = (0, (4, 1.5)), pen.name("mean and interval")
    pen.mark(ax.axhline(estimate, color=pen.color, linestyle=dashed, label=name))
    pen.texts("step", "m beta (L - L(w0))", title)
    top = 3.0 * max(estimate, interval[1] if np.isfinite(interval[1]) else estimate) or 1.0
    pen.limit(y=(0.0, top))
    pen.legend(frameon=True, edgecolor="none", loc="upper right")
    return ax
