"""plot_blocks: the spectra of a matrix's blocks below each other."""

from __future__ import annotations

import numpy as np

from specop.errors import InvalidInputError
from specop.plotting.axes import GREY, ORANGE, UNNAMED, Axes, Place
from specop.statistics.numbers import Floats

__all__ = ["plot_blocks"]

# Between the rows of two results, in those of one.
_APART = 0.24


def plot_blocks(names: tuple[str, ...], spectra: list[tuple[Floats, Floats]], shares: Floats, place: Place) -> Axes:
    """Draw a row for each block: all eigenvalues, the middle nine tenths, the median, and the share of the trace.

    The eigenvalue axis is linear around zero and logarithmic beyond. Blocks of a further result are drawn just below
    those of the same names.

    Parameters
    ----------
    names : tuple of str
    spectra : list of (nodes, weights)
        Ascending eigenvalues of each block, with weights that add up to one.
    shares : ndarray
        Share of each block in the trace.
    place : Place
        Where to draw, under which name and in which colour.

    Returns
    -------
    Axes
    """
    pen = place.pen(8.0, 1.4 + 0.32 * len(names))
    ax = pen.ax
    present = tuple(text.get_text() for text in ax.get_yticklabels())
    if pen.number and present != names:
        raise InvalidInputError(
            f"the blocks of this result are {', '.join(names)}, and those on these axes {', '.join(present)}: only "
            f"blocks of the same names lie over each other. Draw them on axes of their own."
        )
    largest = max(float(np.abs(nodes).max()) for nodes, _ in spectra) or 1.0
    medians = [abs(_quantile(nodes, weights, 0.5)) for nodes, weights in spectra]
    linear = max(float(np.median(medians)), 1e-5 * largest)
    linear = pen.linear_until(linear)
    if pen.number:
        largest = max(largest, *map(abs, ax.get_xlim()))
    ax.set_xscale("symlog", linthresh=linear, linscale=0.5)
    decades = 10.0 ** np.arange(np.ceil(np.log10(2.0 * linear)), np.log10(largest) + 1e-9)
    parts = [pen.name("all eigenvalues"), pen.part("middle nine tenths"), pen.part("median")]
    for row, (nodes, weights) in enumerate(spectra):
        low, middle, high = (_quantile(nodes, weights, q) for q in (0.05, 0.5, 0.95))
        at = row + _APART * pen.number
        (line,) = ax.plot(nodes[[0, -1]], [at, at], "|-", color=pen.color, linewidth=0.9, markersize=7, label=parts[0])
        ax.plot([low, high], [at, at], color=pen.color, alpha=0.35, lw=8, solid_capstyle="butt", label=parts[1])
        ax.plot(middle, at, "o", color=pen.accent(ORANGE), markersize=4.5, label=parts[2])
        if row == 0:
            pen.mark(line)
        parts = [UNNAMED] * 3
    low, high = ax.get_xlim()
    ax.set_xticks([tick for tick in (*-decades[::-1], 0.0, *decades) if low <= tick <= high])
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4 + _APART * pen.number, -0.6)
    right = pen.beside("specop shares")
    right.set_ylim(ax.get_ylim())
    texts = [f"{100 * share:.3g} %" if np.isfinite(share) else "-" for share in shares]
    if pen.number:
        texts = [f"{old.get_text()}, {new}" for old, new in zip(right.get_yticklabels(), texts, strict=True)]
    right.set_yticks(range(len(names)), texts)
    right.set_ylabel("share of the trace", color=GREY)
    right.tick_params(axis="y", colors=GREY, length=0)
    ax.axvline(0.0, color=GREY, linewidth=0.6)
    pen.texts("eigenvalue", "")
    pen.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return ax


def _quantile(nodes: Floats, weights: Floats, share: float) -> float:
    place = int(np.searchsorted(np.cumsum(weights), share * float(weights.sum()) - 1e-12))
    return float(nodes[min(place, len(nodes) - 1)])
