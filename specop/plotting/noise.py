"""plot_noise, plot_spread: what a batch size costs, and how far Hessians of batches are from that of all data."""

from __future__ import annotations

import numpy as np

from specop.plotting.axes import BLUE, GREY, ORANGE, Axes, new_axes
from specop.statistics.numbers import Floats

__all__ = ["plot_noise", "plot_spread"]


def plot_noise(interval: tuple[float, float], scale: float | None, title: str, ax: Axes | None = None) -> Axes:
    """Draw steps and samples to the same loss against the batch size, as multiples of the least.

    Parameters
    ----------
    interval : (float, float)
        Limits of the noise scale; without an end there are only lower limits to draw.
    scale : float, optional
        The noise scale.
    title : str
        What to write above.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
    """
    ax = new_axes() if ax is None else ax
    low, high = (max(end, 1e-3) for end in interval)
    middle = max(low if scale is None else scale, 1e-3)
    sizes = np.geomspace(max(middle / 100, 0.1), 100 * middle, 200)
    costs = (
        (BLUE, f"{'at least ' if scale is None else ''}steps", [1.0 + one / sizes for one in (low, middle, high)]),
        (ORANGE, "samples", [1.0 + sizes / one for one in (low, middle, high)]),
    )
    for color, name, (one_end, curve, other_end) in costs:
        ax.plot(sizes, curve, color=color, label=name)
        if scale is not None:
            ax.fill_between(sizes, one_end, other_end, color=color, alpha=0.15, linewidth=0)
    if scale is not None:
        ax.axvline(middle, color=GREY, linewidth=1.0, linestyle=(0, (4, 1.5)), label=f"batch size {middle:,.0f}")
    ax.set(xscale="log", yscale="log", xlabel="batch size", ylabel="multiple of the least number", title=title)
    ax.legend(edgecolor="none")
    return ax


def plot_spread(whole: Floats, eigenvalues: Floats, along: Floats, title: str, ax: Axes | None = None) -> Axes:
    """Draw the largest eigenvalues of batches beside those of all data, with the curvature along their eigenvectors.

    Parameters
    ----------
    whole : ndarray (k,)
        Eigenvalues of all data, descending.
    eigenvalues, along : ndarray (batches, k)
        Those of batches, and their curvature along the eigenvectors of all data.
    title : str
        What to write above.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
    """
    ax = new_axes() if ax is None else ax
    ranks = np.arange(1, len(whole) + 1)
    ax.hlines(whole, ranks - 0.4, ranks + 0.4, color=GREY, label="all data")
    for shift, color, values, label in (
        (-0.15, BLUE, eigenvalues, "eigenvalues of batches"),
        (0.15, ORANGE, along, "batches along eigenvectors of all data"),
    ):
        places = np.broadcast_to(ranks + shift, values.shape)
        ax.plot(places.reshape(-1), values.reshape(-1), ".", color=color, alpha=0.7, label=label)
    ax.set_xticks(ranks)
    ax.set(xlabel="rank", ylabel="eigenvalue", title=title)
    ax.legend(edgecolor="none")
    return ax
