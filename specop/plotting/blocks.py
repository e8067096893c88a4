"""plot_blocks: the spectra of a matrix's blocks below each other."""

from __future__ import annotations

import numpy as np

from specop.plotting.axes import BLUE, GREY, ORANGE, Axes, new_axes
from specop.statistics.numbers import Floats

__all__ = ["plot_blocks"]


def plot_blocks(
    names: tuple[str, ...], spectra: list[tuple[Floats, Floats]], shares: Floats, ax: Axes | None = None
) -> Axes:
    """Draw a row for each block: all eigenvalues, the middle nine tenths, the median, and the share of the trace.

    The eigenvalue axis is linear around zero and logarithmic beyond.

    Parameters
    ----------
    names : tuple of str
    spectra : list of (nodes, weights)
        Ascending eigenvalues of each block, with weights that add up to one.
    shares : ndarray
        Share of each block in the trace.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
    """
    ax = new_axes(8.0, 1.4 + 0.32 * len(names)) if ax is None else ax
    largest = max(float(np.abs(nodes).max()) for nodes, _ in spectra) or 1.0
    medians = [abs(_quantile(nodes, weights, 0.5)) for nodes, weights in spectra]
    linear = max(float(np.median(medians)), 1e-5 * largest)
    ax.set_xscale("symlog", linthresh=linear, linscale=0.5)
    decades = 10.0 ** np.arange(np.ceil(np.log10(2.0 * linear)), np.log10(largest) + 1e-9)
    for row, (nodes, weights) in enumerate(spectra):
        low, middle, high = (_quantile(nodes, weights, q) for q in (0.05, 0.5, 0.95))
        labels = ("all eigenvalues", "middle nine tenths", "median") if row == 0 else (None, None, None)
        ax.plot(nodes[[0, -1]], [row, row], "|-", color=BLUE, linewidth=0.9, markersize=7, label=labels[0])
        ax.plot([low, high], [row, row], color=BLUE, alpha=0.35, linewidth=8, solid_capstyle="butt", label=labels[1])
        ax.plot(middle, row, "o", color=ORANGE, markersize=4.5, label=labels[2])
    low, high = ax.get_xlim()
    ax.set_xticks([tick for tick in (*-decades[::-1], 0.0, *decades) if low <= tick <= high])
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    right = ax.twinx()
    right.set_ylim(ax.get_ylim())
    texts = [f"{100 * share:.3g} %" if np.isfinite(share) else "-" for share in shares]
    right.set_yticks(range(len(names)), texts)
    right.set_ylabel("share of the trace", color=GREY)
    right.tick_params(axis="y", colors=GREY, length=0)
    ax.axvline(0.0, color=GREY, linewidth=0.6)
    ax.set(xlabel="eigenvalue")
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return ax


def _quantile(nodes: Floats, weights: Floats, share: float) -> float:
    place = int(np.searchsorted(np.cumsum(weights), share * float(weights.sum()) - 1e-12))
    return float(nodes[min(place, len(nodes) - 1)])
