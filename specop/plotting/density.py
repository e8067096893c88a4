"""plot_density: the picture of a whole spectrum."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from specop.plotting.axes import GREY, ORANGE, Axes, Pen, Place
from specop.statistics.numbers import Booleans, Floats

__all__ = ["plot_density"]


# Half the support of the smoothing kernel, in standard deviations.
_REACH = 3.0
_BAND_POINTS = 300
# Multiples of the end of an axis, and of its lowest density, at which nothing is seen.
_FAR, _BELOW = 1e9, 1e-30


def plot_density(
    nodes: Floats,
    weights: Floats,
    probe: NDArray[np.int64],
    limits: Callable[[Floats], tuple[Floats, Floats]],
    *,
    confidence: float,
    title: str,
    pdf: Callable[[Floats], Floats] | None = None,
    sigma: float = 0.0,
    place: Place,
) -> Axes:
    """Draw the whole spectrum: bulk, outliers and what piles up at zero, with nothing cut off.

    The eigenvalue axis is linear around zero and logarithmic beyond, the density axis logarithmic. Ticks along the
    bottom are the quadrature nodes, marks on top of lines are eigenvalues that were given as known, and the grey
    curve is the share of the spectrum that is not above x, which needs no smoothing; the band around it has its
    confidence limits. Several densities share the axes of the first, nodes of each in a row of their own; where they
    have labels, shares have their colours.

    Parameters
    ----------
    nodes, weights : ndarray (m,)
        Eigenvalues, ascending, and the share of the spectrum that each stands for.
    probe : ndarray (m,) of int
        Number of the quadrature rule that each node belongs to; -1 for known eigenvalues.
    limits : callable
        Returns lower and upper confidence limits of the share of the spectrum up to each of some points.
    confidence : float
        Probability with which these limits hold, for the legend.
    title : str
        What to write above.
    pdf : callable, optional
        The smoothed density at some points. By default it is as wide everywhere as a Lanczos step is on this axis, so
        that outliers and the peak at zero are equally sharp.
    sigma : float
        Standard deviation of the smoothing in `pdf`, in the units of x.
    place : Place
        Where to draw, under which name and in which colour. The cumulative share gets a second axis on its right.

    Returns
    -------
    Axes
        The axes of the density.
    """
    pen = place.pen()
    ax = pen.ax
    scale = _Scale(nodes, weights, probe)
    smoothed = scale.smoothed if pdf is None else pdf
    x = scale.grid(nodes, sigma)
    curve, at_nodes = smoothed(x), smoothed(nodes)
    floor = 0.2 * float(at_nodes.min())
    seen = np.flatnonzero(curve > floor)
    # With a point on either side at which the curve leaves the picture.
    shown = slice(max(seen[0] - 1, 0), seen[-1] + 2)
    x, curve = x[shown], curve[shown]

    # symlog with this linscale has no kink at the threshold.
    threshold = pen.linear_until(scale.threshold)
    ends = scale.padded(x[0], x[-1])
    ax.set_xscale("symlog", linthresh=threshold, linscale=0.9 / np.log(10))
    ax.set_yscale("log")
    # Another density may reach lower, and the axis with it.
    bottom = _BELOW * floor
    drawn = np.where(curve > floor, curve, bottom)
    ax.fill_between(x, bottom, drawn, color=pen.color, alpha=0.25, linewidth=0)
    pen.mark(ax.plot(x, drawn, color=pen.color, linewidth=1.5, label=pen.name("density"))[0])
    pen.limit(ends, (floor, 3 * float(curve.max())))
    _draw_nodes(pen, nodes, probe < 0, at_nodes, bottom)
    share, grey = pen.beside("specop share"), pen.accent(GREY)
    # Shares go on to the ends of axes that another density may make wider.
    far = tuple(_FAR * np.array([-1.0, 1.0]) * max(map(abs, ends)))
    share.step(*_staircase(nodes, weights, far), where="post", color=grey, linewidth=1.2, linestyle=(0, (4, 1.5)))
    points = np.array([far[0], *scale.points(ends, _BAND_POINTS), far[1]])
    label = f"{100 * confidence:g} % limits of the share"
    known = share.get_legend_handles_labels()[1]
    band = None if label in known else label
    share.fill_between(points, *limits(points), color=grey, alpha=0.12, linewidth=0, label=band)
    share.set_ylim(0.0, 1.03)
    share.set_ylabel("share of eigenvalues ≤ x (dashed)", color=GREY)
    share.tick_params(axis="y", colors=GREY)

    pen.texts("eigenvalue", "density", title)
    _label_ticks(ax, threshold)
    # On the upper axes, and below the line that the cumulative share ends in.
    pen.legend(share, loc="upper right", bbox_to_anchor=(1.0, 0.95), frameon=True, edgecolor="none", framealpha=0.9)
    return ax


class _Scale:
    """The eigenvalue axis, asinh(x / threshold), linear near zero and logarithmic far from it, and peaks on it."""

    def __init__(self, nodes: Floats, weights: Floats, probe: NDArray[np.int64]) -> None:
        self.weights = weights
        size = np.abs(nodes)
        largest = float(size.max()) or 1.0
        resolution = _resolution(nodes, probe)
        # Half of the eigenvalues lie within the median. Where nothing stands out, a linear axis shows all.
        order = np.argsort(size)
        median = float(size[order][np.searchsorted(np.cumsum(weights[order]), 0.5 - 1e-9)])
        near_zero = max(median, float(resolution[order[0]]), 1e-5 * largest)
        self.threshold = largest if near_zero > 0.05 * largest else near_zero
        self.nodes = np.arcsinh(nodes / self.threshold)
        # On the page no peak is sharper than this share of the axis.
        sharpest = 0.007 * float(np.ptp(self.nodes)) or 0.05
        self.widths = np.clip(resolution / np.hypot(nodes, self.threshold), sharpest, 20 * sharpest)

    def grid(self, nodes: Floats, sigma: float) -> Floats:
        """Return points from end to end, the nodes among them so that no peak is missed."""
        margin = np.array([-8.0, 8.0]) * sigma
        low, high = np.arcsinh((nodes[[0, -1]] + margin) / self.threshold)
        low, high = (
            min(low, np.min(self.nodes - _REACH * self.widths)),
            max(high, np.max(self.nodes + _REACH * self.widths)),
        )
        return np.unique(self.threshold * np.sinh(np.concatenate([np.linspace(low, high, 2000), self.nodes])))

    def padded(self, low: float, high: float) -> tuple[float, float]:
        """Return the ends of an axis with a little room beyond these points."""
        left, right = np.arcsinh(np.array([low, high]) / self.threshold)
        room = 0.02 * (right - left)
        return float(self.threshold * np.sinh(left - room)), float(self.threshold * np.sinh(right + room))

    def points(self, ends: tuple[float, float], count: int) -> Floats:
        """Return points at equal distances on this axis."""
        left, right = np.arcsinh(np.array(ends) / self.threshold)
        return self.threshold * np.sinh(np.linspace(left, right, count))

    def smoothed(self, x: Floats) -> Floats:
        """Return the density with each node spread on this axis; its integral over x is 1.

        The kernel, (1 - t^2)^3, ends at three standard deviations: on a logarithmic scale the tails of a Gaussian would
        look like eigenvalues beyond the smallest one.
        """
        distance = (np.arcsinh(x / self.threshold)[:, None] - self.nodes) / (_REACH * self.widths)
        kernel = 35 / 32 * np.maximum(0.0, 1.0 - distance**2) ** 3
        on_axis: Floats = kernel @ (self.weights / (_REACH * self.widths))
        on_axis /= np.hypot(x, self.threshold)
        return on_axis


def _resolution(nodes: Floats, probe: NDArray[np.int64]) -> Floats:
    """Return for each node how far the eigenvalues that it stands for may lie from it; 0 for known ones.

    Half the distance to the nearer neighbour in the same rule; or half the spacing of m Chebyshev nodes on the same
    interval where that is less, so that a pile of equal eigenvalues far from all others stays a sharp peak.
    """
    widths = np.zeros(len(nodes))
    for index in range(int(probe.max()) + 1):
        mine = probe == index
        own = nodes[mine]
        if len(own) > 1:
            gaps = np.concatenate([[np.inf], np.diff(own), [np.inf]])
            inside = (own - own[0]) * (own[-1] - own)
            chebyshev = np.sqrt(inside) * np.pi / len(own) + np.ptp(own) / len(own) ** 2
            widths[mine] = 0.5 * np.minimum(chebyshev, np.minimum(gaps[1:], gaps[:-1]))
    return widths


def _draw_nodes(pen: Pen, nodes: Floats, known: Booleans, at_nodes: Floats, bottom: float) -> None:
    ax, color = pen.ax, pen.accent(ORANGE)
    low, high = 0.04 * pen.number, 0.04 * (pen.number + 1)
    edge, ticks = ax.get_xaxis_transform(), pen.part("quadrature nodes")
    ax.vlines(nodes[~known], low, high, transform=edge, color=pen.color, linewidth=0.8, label=ticks)
    if known.any():
        where = nodes[known]
        ax.vlines(where, bottom, at_nodes[known], color=color, linewidth=1.0)
        ax.plot(where, at_nodes[known], "o", color=color, markersize=4, label=pen.part("known eigenvalues"))


def _staircase(nodes: Floats, weights: Floats, ends: tuple[float, float]) -> tuple[Floats, Floats]:
    steps = np.unique(np.concatenate([nodes, ends]))
    return steps, np.concatenate([[0.0], np.cumsum(weights)])[np.searchsorted(nodes, steps, side="right")]


def _label_ticks(ax: Axes, threshold: float) -> None:
    """Label zero and whole decades; on a linear axis matplotlib's own ticks do."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    low, high = ax.get_xlim()
    largest = max(abs(low), abs(high))
    if threshold >= 0.3 * largest:
        ax.xaxis.set_major_locator(MaxNLocator(7))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        return
    decades = 10.0 ** np.arange(np.ceil(np.log10(threshold)), np.log10(largest))
    ax.set_xticks([tick for tick in (*-decades[::-1], 0.0, *decades) if low <= tick <= high])
    ax.xaxis.set_minor_locator(NullLocator())
