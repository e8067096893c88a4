"""plot_noise, plot_spread: what a batch size costs, and how far Hessians of batches are from that of all data."""

from __future__ import annotations

import numpy as np

from specop.plotting.axes import GREY, ORANGE, Axes, Place
from specop.statistics.numbers import Floats

__all__ = ["plot_noise", "plot_spread"]

_ALONG = "batches along eigenvectors of all data"


def plot_noise(interval: tuple[float, float], scale: float | None, title: str, place: Place) -> Axes:
    """Draw steps and samples to the same loss against the batch size, as multiples of the least.

    Parameters
    ----------
    interval : (float, float)
        Limits of the noise scale; without an end there are only lower limits to draw.
    scale : float, optional
        The noise scale.
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
    low, high = (max(end, 1e-3) for end in interval)
    middle = max(low if scale is None else scale, 1e-3)
    sizes = np.geomspace(max(middle / 100, 0.1), 100 * middle, 200)
    dashed = (0, (4, 1.5))
    steps = [1.0 + one / sizes for one in (low, middle, high)]
    samples = [1.0 + sizes / one for one in (low, middle, high)]
    name = pen.name(f"{'at least ' if scale is None else ''}steps")
    pen.mark(ax.plot(sizes, steps[1], color=pen.color, label=name)[0])
    # Where colours tell results apart, samples are dotted.
    style = "-" if pen.is_alone else ":"
    ax.plot(sizes, samples[1], color=pen.accent(ORANGE), linestyle=style, label=pen.part("samples"))
    if scale is not None:
        for color, (one_end, _, other_end) in ((pen.color, steps), (pen.accent(ORANGE), samples)):
            ax.fill_between(sizes, one_end, other_end, color=color, alpha=0.15, linewidth=0)
        size = pen.own(f"batch size {middle:,.0f}")
        ax.axvline(middle, color=pen.accent(GREY), linewidth=1.0, linestyle=dashed, label=size)
    ax.set(xscale="log", yscale="log")
    pen.texts("batch size", "multiple of the least number", title)
    pen.legend(frameon=True, edgecolor="none")
    return ax


def plot_spread(whole: Floats, eigenvalues: Floats, along: Floats, title: str, place: Place) -> Axes:
    """Draw the largest eigenvalues of batches beside those of all data, with the curvature along their eigenvectors.

    Parameters
    ----------
    whole : ndarray (k,)
        Eigenvalues of all data, descending.
    eigenvalues, along : ndarray (batches, k)
        Eigenvalues of each batch, and its curvature along the eigenvectors of all data.
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
    ranks = np.arange(1, len(whole) + 1)
    ax.hlines(whole, ranks - 0.4, ranks + 0.4, color=pen.accent(GREY), label=pen.part("all data"))
    for shift, color, form, values, text in (
        (-0.15, pen.color, ".", eigenvalues, pen.name("eigenvalues of batches")),
        # Where colours tell results apart, these are crosses.
        (0.15, pen.accent(ORANGE), "." if pen.is_alone else "x", along, pen.part(_ALONG)),
    ):
        places = np.broadcast_to(ranks + shift, values.shape)
        (line,) = ax.plot(places.reshape(-1), values.reshape(-1), form, color=color, alpha=0.7, label=text)
        if shift < 0:
            pen.mark(line)
    ax.set_xticks(np.arange(1, round(max(ranks[-1], ax.get_xlim()[1] - 0.5)) + 1))
    pen.texts("rank", "eigenvalue", title)
    pen.legend(frameon=True, edgecolor="none")
    return ax
