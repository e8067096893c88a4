"""Pictures of eigenvalues, traces, densities and ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specop.plotting.axes import BLUE, GREY, ORANGE, new_axes
from specop.results.eigen import EigenResult
from specop.results.rank import RankResult
from specop.results.spectral_density import SpectralDensity
from specop.results.trace import TraceResult
from specop.statistics.estimate import estimate_from_samples

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_density", "plot_eigenvalues", "plot_rank", "plot_trace"]

# Half the support of the smoothing kernel, in standard deviations.
_REACH = 3.0
_BAND_POINTS = 300


def plot_eigenvalues(result: EigenResult, ax: Axes | None = None) -> Axes:
    """Draw eigenvalues from the largest to the smallest, with their error bounds.

    Parameters
    ----------
    result : EigenResult
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
    """
    ax = new_axes() if ax is None else ax
    values, bounds = result.eigenvalues[::-1], result.bounds[::-1]
    ranks = np.arange(1, len(values) + 1)
    ax.errorbar(ranks, values, yerr=bounds, fmt="o", color=BLUE, ecolor=ORANGE, capsize=3, markersize=5)
    if values[-1] > 0 and values[0] > 30 * values[-1]:
        ax.set_yscale("log")
    elif values[-1] < 0 < values[0]:
        ax.axhline(0.0, color=GREY, linewidth=0.8)
    ax.set_xticks(ranks[:: max(1, len(ranks) // 10)])
    ax.set(xlabel="rank", ylabel="eigenvalue", title=f"{len(values)} eigenvalues ({result.which}), with error bounds")
    return ax


def plot_trace(result: TraceResult, ax: Axes | None = None) -> Axes:
    """Draw how the estimate settles with the number of probes, with its interval.

    Of methods whose probes depend on each other only the end is drawn.

    Parameters
    ----------
    result : TraceResult
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
    """
    ax = new_axes() if ax is None else ax
    if result.method == "exact":
        ax.axhline(result.estimate, color=BLUE, label="exact")
    elif result.method not in ("hutchinson", "hutch++"):
        # Estimates of a sketch depend on each other: how their mean settles says nothing.
        ax.plot(np.arange(1, len(result.probes) + 1), result.probes, ".", color=GREY, alpha=0.5, label="single probes")
        ax.axhspan(*result.interval, color=BLUE, alpha=0.2, label=f"{100 * result.confidence:g} % interval")
        ax.axhline(result.estimate, color=BLUE, label="mean")
    else:
        counts = np.arange(2, len(result.probes) + 1)
        running = [estimate_from_samples(result.probes[:count], result.confidence) for count in counts]
        low, high = np.array([value.interval for value in running]).reshape(-1, 2).T
        interval = f"{100 * result.confidence:g} % interval"
        ax.plot(np.arange(1, len(result.probes) + 1), result.probes, ".", color=GREY, alpha=0.5, label="single probes")
        ax.fill_between(counts, low, high, color=BLUE, alpha=0.2, linewidth=0, label=interval)
        ax.plot(counts, [value.estimate for value in running], color=BLUE, label="mean of all so far")
        # With two or three probes the interval is so wide that nothing else could be seen.
        seen = np.concatenate([result.probes, low[counts >= 8], high[counts >= 8]])
        margin = 0.05 * float(np.ptp(seen)) or 1.0
        ax.set_ylim(float(seen.min()) - margin, float(seen.max()) + margin)
    ax.set(xlabel="probes", ylabel="trace", title=f"trace {result.estimate:.6g}, {result.matvecs} products")
    ax.legend(frameon=False)
    return ax


def plot_density(density: SpectralDensity, ax: Axes | None = None, sigma: float | None = None) -> Axes:
    """Draw the whole spectrum: bulk, outliers and what piles up at zero, with nothing cut off.

    The eigenvalue axis is linear around zero and logarithmic beyond, the density axis logarithmic. Ticks along the
    bottom are the quadrature nodes, marks on top of lines are eigenvalues that were given as known, and the grey
    curve is the share of the spectrum that is not above x, which needs no smoothing; the band around it has its
    confidence limits.

    Parameters
    ----------
    density : SpectralDensity
    ax : Axes, optional
        Where to draw; default: a new figure. The cumulative share gets a second axis on its right.
    sigma : float, optional
        Standard deviation of the smoothing, in the units of x. By default it is as wide everywhere as a Lanczos
        step is on this axis, so that outliers and the peak at zero are equally sharp.

    Returns
    -------
    Axes
        The axes of the density.
    """
    ax = new_axes() if ax is None else ax
    scale = _Scale(density)
    x = scale.grid(density, sigma)
    curve = scale.smoothed(x) if sigma is None else density.pdf(x, sigma)
    at_nodes = scale.smoothed(density.nodes) if sigma is None else density.pdf(density.nodes, sigma)
    floor = 0.2 * float(at_nodes.min())
    seen = np.flatnonzero(curve > floor)
    x, curve = x[seen[0] : seen[-1] + 1], curve[seen[0] : seen[-1] + 1]

    # symlog with this linscale has no kink at the threshold.
    ax.set_xscale("symlog", linthresh=scale.threshold, linscale=0.9 / np.log(10))
    ax.set_yscale("log")
    ax.fill_between(x, floor, np.maximum(curve, floor), color=BLUE, alpha=0.25, linewidth=0)
    ax.plot(x, np.maximum(curve, floor), color=BLUE, linewidth=1.5, label="density")
    ends = scale.padded(x[0], x[-1])
    ax.set_xlim(ends)
    ax.set_ylim(floor, 3 * float(curve.max()))
    _draw_nodes(ax, density, at_nodes)
    share = ax.twinx()
    share.step(*_staircase(density, ends), where="post", color=GREY, linewidth=1.2, linestyle=(0, (4, 1.5)))
    points = scale.points(ends, _BAND_POINTS)
    limits = f"{100 * density.confidence:g} % limits of the share"
    share.fill_between(points, *density.cdf_interval(points), color=GREY, alpha=0.12, linewidth=0, label=limits)
    share.set_ylim(0.0, 1.03)
    share.set_ylabel("share of eigenvalues ≤ x (dashed)", color=GREY)
    share.tick_params(axis="y", colors=GREY)

    title = f"{density.n:,} eigenvalues, {density.probes} probe(s) of {density.steps} steps"
    ax.set(xlabel="eigenvalue", ylabel="density", title=title)
    _label_ticks(ax, scale)
    # On the upper axes, and below the line that the cumulative share ends in.
    handles, labels = ax.get_legend_handles_labels()
    band, limits_label = share.get_legend_handles_labels()
    share.legend(
        handles + band,
        labels + limits_label,
        loc="upper right",
        bbox_to_anchor=(1.0, 0.95),
        edgecolor="none",
        framealpha=0.9,
    )
    return ax


def plot_rank(result: RankResult, ax: Axes | None = None) -> Axes:
    """Draw how many eigenvalues are larger in size than each threshold, and the gap in which the rank is read off.

    Parameters
    ----------
    result : RankResult
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
    """
    ax = new_axes() if ax is None else ax
    order = np.argsort(result.sizes)
    sizes = result.sizes[order]
    above = result.n * (1.0 - np.cumsum(result.weights[order]))
    left = 0.1 * min([size for size in (*sizes, *result.gap) if size > 0], default=1.0)
    right = 3.0 * max(float(sizes[-1]), result.gap[1]) or 1.0
    ax.step([left, *np.maximum(sizes, left), right], [result.n, *above, 0.0], where="post", color=BLUE)
    ax.set_xscale("log")
    if result.gap[0] < result.gap[1]:
        ax.axvspan(max(result.gap[0], left), result.gap[1], color=GREY, alpha=0.12, linewidth=0, label="gap")
    if result.tol > 0:
        ax.axvline(result.tol, color=ORANGE, linewidth=1.0, label="below: counted as zero")
    low, high = result.interval
    ax.axhspan(low, high, color=ORANGE, alpha=0.2, linewidth=0)
    ax.axhline(result.rank, color=ORANGE, linewidth=1.0, linestyle="--", label=f"rank {result.rank:g}")
    ax.set(xlabel="size", ylabel="eigenvalues of a larger size", xlim=(left, right), ylim=(0.0, 1.03 * result.n))
    ax.set_title(f"rank {result.rank:g} of {result.n:,} ({low:g} to {high:g}), {result.method}")
    ax.legend(frameon=False)
    return ax


class _Scale:
    """The eigenvalue axis, asinh(x / threshold), linear near zero and logarithmic far from it, and peaks on it."""

    def __init__(self, density: SpectralDensity) -> None:
        self.weights = density.weights
        size = np.abs(density.nodes)
        largest = float(size.max()) or 1.0
        resolution = _resolution(density)
        # Half of the eigenvalues lie within the median. Where nothing stands out, a linear axis shows all.
        order = np.argsort(size)
        median = float(size[order][np.searchsorted(np.cumsum(density.weights[order]), 0.5 - 1e-9)])
        near_zero = max(median, float(resolution[order[0]]), 1e-5 * largest)
        self.threshold = largest if near_zero > 0.05 * largest else near_zero
        self.nodes = np.arcsinh(density.nodes / self.threshold)
        # On the page no peak is sharper than this share of the axis.
        sharpest = 0.007 * float(np.ptp(self.nodes)) or 0.05
        self.widths = np.clip(resolution / np.hypot(density.nodes, self.threshold), sharpest, 20 * sharpest)

    def grid(self, density: SpectralDensity, sigma: float | None) -> NDArray[np.float64]:
        """Return points from end to end, the nodes among them so that no peak is missed."""
        margin = np.array([-8.0, 8.0]) * (sigma or 0.0)
        low, high = np.arcsinh((density.nodes[[0, -1]] + margin) / self.threshold)
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

    def points(self, ends: tuple[float, float], count: int) -> NDArray[np.float64]:
        """Return points at equal distances on this axis."""
        left, right = np.arcsinh(np.array(ends) / self.threshold)
        return self.threshold * np.sinh(np.linspace(left, right, count))

    def smoothed(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the density with each node spread on this axis; its integral over x is 1.

        The kernel, (1 - t^2)^3, ends at three standard deviations: on a logarithmic scale the tails of a Gaussian would
        look like eigenvalues beyond the smallest one.
        """
        distance = (np.arcsinh(x / self.threshold)[:, None] - self.nodes) / (_REACH * self.widths)
        kernel = 35 / 32 * np.maximum(0.0, 1.0 - distance**2) ** 3
        on_axis: NDArray[np.float64] = kernel @ (self.weights / (_REACH * self.widths))
        on_axis /= np.hypot(x, self.threshold)
        return on_axis


def _resolution(density: SpectralDensity) -> NDArray[np.float64]:
    """Return for each node how far the eigenvalues that it stands for may lie from it; 0 for known ones.

    Half the distance to the nearer neighbour in the same rule; or half the spacing of m Chebyshev nodes on the same
    interval where that is less, so that a pile of equal eigenvalues far from all others stays a sharp peak.
    """
    widths = np.zeros(len(density.nodes))
    for index in range(density.probes):
        mine = density.probe == index
        nodes = density.nodes[mine]
        if len(nodes) > 1:
            gaps = np.concatenate([[np.inf], np.diff(nodes), [np.inf]])
            inside = (nodes - nodes[0]) * (nodes[-1] - nodes)
            chebyshev = np.sqrt(inside) * np.pi / len(nodes) + np.ptp(nodes) / len(nodes) ** 2
            widths[mine] = 0.5 * np.minimum(chebyshev, np.minimum(gaps[1:], gaps[:-1]))
    return widths


def _draw_nodes(ax: Axes, density: SpectralDensity, at_nodes: NDArray[np.float64]) -> None:
    known = density.probe < 0
    bottom = ax.get_xaxis_transform()
    ax.vlines(density.nodes[~known], 0.0, 0.04, transform=bottom, color=BLUE, linewidth=0.8, label="quadrature nodes")
    if known.any():
        where = density.nodes[known]
        ax.vlines(where, ax.get_ylim()[0], at_nodes[known], color=ORANGE, linewidth=1.0)
        ax.plot(where, at_nodes[known], "o", color=ORANGE, markersize=4, label="known eigenvalues")


def _staircase(density: SpectralDensity, ends: tuple[float, float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    steps = np.unique(np.concatenate([density.nodes, ends]))
    return steps, density.cdf(steps)


def _label_ticks(ax: Axes, scale: _Scale) -> None:
    """Label zero and whole decades; on a linear axis matplotlib's own ticks do."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    low, high = ax.get_xlim()
    largest = max(abs(low), abs(high))
    if scale.threshold >= 0.3 * largest:
        ax.xaxis.set_major_locator(MaxNLocator(7))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        return
    decades = 10.0 ** np.arange(np.ceil(np.log10(scale.threshold)), np.log10(largest))
    ax.set_xticks([tick for tick in (*-decades[::-1], 0.0, *decades) if low <= tick <= high])
    ax.xaxis.set_minor_locator(NullLocator())
