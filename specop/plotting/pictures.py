"""Small pictures: eigenvalues, estimates by random probes, ranks, influences, and pruned models."""

from __future__ import annotations

import numpy as np

from specop.plotting.axes import GREY, ORANGE, Axes, Pen, Place
from specop.statistics.estimate import Estimate, estimate_from_samples
from specop.statistics.numbers import Floats

__all__ = [
    "draw_eigenvalues",
    "plot_eigenvalues",
    "plot_estimates",
    "plot_influence_check",
    "plot_pruning",
    "plot_rank",
]


def plot_eigenvalues(values: Floats, bounds: Floats, title: str, place: Place) -> Axes:
    """Draw eigenvalues from the largest to the smallest, with their error bounds.

    Parameters
    ----------
    values : ndarray (k,)
        Eigenvalues, ascending.
    bounds : ndarray (k,)
        Bound of each eigenvalue's error.
    title : str
        What to write above.
    place : Place
        Where to draw, under which name and in which colour.

    Returns
    -------
    Axes
    """
    pen = place.pen()
    draw_eigenvalues(pen, values, bounds, title)
    return pen.ax


def draw_eigenvalues(pen: Pen, values: Floats, bounds: Floats, title: str) -> None:
    """Draw eigenvalues as `plot_eigenvalues` does, on axes that a pen has."""
    ax, color = pen.ax, pen.accent(ORANGE)
    values, bounds = values[::-1], bounds[::-1]
    ranks = np.arange(1, len(values) + 1)
    points = ax.errorbar(
        ranks, values, yerr=bounds, fmt="o", color=pen.color, ecolor=color, capsize=3, markersize=5, label=pen.label
    )
    pen.mark(points[0])
    pen.scale()
    most = max(len(np.asarray(line.get_xdata())) for line in pen.results())
    ax.set_xticks(np.arange(1, most + 1, max(1, most // 10)))
    pen.texts("rank", "eigenvalue", title)
    if not pen.is_alone:
        pen.legend()


def plot_estimates(
    estimates: Floats, mean: Estimate, *, independent: bool, quantity: str, title: str, place: Place
) -> Axes:
    """Draw how an estimate settles with the number of probes, with its interval.

    Of probes that depend on each other only the end is drawn.

    Parameters
    ----------
    estimates : ndarray
        What each probe gave; empty for an exact value.
    mean : Estimate
        Estimate that all of them give together.
    independent : bool
        Whether the mean of the first few is an estimate, too.
    quantity : str
        What is estimated, for the axis.
    title : str
        What to write above.
    place : Place
        Where to draw, under which name and in which colour.

    Returns
    -------
    Axes
    """
    pen = place.pen()
    ax, color, interval = pen.ax, pen.color, pen.part(f"{100 * mean.confidence:g} % interval")
    if len(estimates):
        grey, dots, places = pen.accent(GREY), pen.part("single probes"), np.arange(1, len(estimates) + 1)
        ax.plot(places, estimates, ".", color=grey, alpha=0.5, label=dots)
    if not len(estimates):
        pen.mark(ax.axhline(mean.estimate, color=color, label=pen.name("exact")))
    elif not independent:
        # How the mean of estimates that depend on each other settles says nothing.
        ax.axhspan(*mean.interval, color=color, alpha=0.2, label=interval)
        pen.mark(ax.axhline(mean.estimate, color=color, label=pen.name("mean")))
    else:
        counts = np.arange(2, len(estimates) + 1)
        running = [estimate_from_samples(estimates[:count], mean.confidence) for count in counts]
        low, high = np.array([value.interval for value in running]).reshape(-1, 2).T
        ax.fill_between(counts, low, high, color=color, alpha=0.2, linewidth=0, label=interval)
        means, name = [value.estimate for value in running], pen.name("mean of all so far")
        pen.mark(ax.plot(counts, means, color=color, label=name)[0])
        # With two or three probes the interval is so wide that nothing else could be seen.
        seen = np.concatenate([estimates, low[counts >= 8], high[counts >= 8]])
        margin = 0.05 * float(np.ptp(seen)) or 1.0
        pen.limit(y=(float(seen.min()) - margin, float(seen.max()) + margin))
    pen.texts("probes", quantity, title)
    pen.legend()
    return ax


def plot_rank(
    sizes: Floats,
    weights: Floats,
    n: int,
    rank: float,
    *,
    interval: tuple[float, float],
    gap: tuple[float, float],
    threshold: float,
    title: str,
    place: Place,
) -> Axes:
    """Draw how many eigenvalues are larger in size than each threshold, and the gap in which the rank is read off.

    Parameters
    ----------
    sizes, weights : ndarray (m,)
        Sizes of eigenvalues, and the share of all that each stands for.
    n : int
        Number of all eigenvalues.
    rank : float
        How many eigenvalues are not zero.
    interval : (float, float)
        Limits of the rank.
    gap : (float, float)
        Sizes between which there is none.
    threshold : float
        Size up to which eigenvalues count as zero.
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
    order = np.argsort(sizes)
    sizes = sizes[order]
    above = n * (1.0 - np.cumsum(weights[order]))
    left = 0.1 * min([size for size in (*sizes, *gap) if size > 0], default=1.0)
    right = 3.0 * max(float(sizes[-1]), gap[1]) or 1.0
    edges, heights, color = [left, *np.maximum(sizes, left), right], [n, *above, 0.0], pen.accent(ORANGE)
    pen.mark(ax.step(edges, heights, where="post", color=pen.color, label=pen.label)[0])
    ax.set_xscale("log")
    if gap[0] < gap[1]:
        grey = pen.accent(GREY)
        ax.axvspan(max(gap[0], left), gap[1], color=grey, alpha=0.12, linewidth=0, label=pen.part("gap"))
    if threshold > 0:
        # A dashed line has the rank, and a dotted one the threshold, where colours tell results apart.
        style = "-" if pen.is_alone else ":"
        ax.axvline(threshold, color=color, lw=1.0, linestyle=style, label=pen.part("below: counted as zero"))
    low, high = interval
    ax.axhspan(low, high, color=color, alpha=0.2, linewidth=0)
    ax.axhline(rank, color=color, linewidth=1.0, linestyle="--", label=pen.own(f"rank {rank:g}"))
    pen.limit((left, right), (0.0, 1.03 * n))
    pen.texts("size", "eigenvalues of a larger size", title)
    pen.legend()
    return ax


def plot_pruning(
    sparsities: Floats,
    losses: Floats,
    expected: Floats,
    title: str,
    place: Place,
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
    place : Place
        Where to draw, under which name and in which colour.

    Returns
    -------
    Axes
    """
    pen = place.pen()
    ax, percent = pen.ax, 100 * sparsities
    pen.mark(ax.plot(percent, losses[1:], "o-", color=pen.color, markersize=4, label=pen.name("measured"))[0])
    if np.isfinite(expected).any():
        before = pen.part("expected before the step")
        ax.plot(percent, losses[:-1] + expected, "x", color=pen.accent(ORANGE), markersize=6, label=before)
    grey, start = pen.accent(GREY), pen.part("at the start")
    ax.axhline(losses[0], color=grey, linewidth=0.8, linestyle="--", label=start)
    pen.texts("weights that are zero, %", "mean loss", title)
    pen.legend()
    return ax


def plot_influence_check(predicted: Floats, actual: Floats, title: str, place: Place) -> Axes:
    """Draw predicted against actual changes, with the line on which both agree.

    Parameters
    ----------
    predicted, actual : ndarray (k,)
        Changes by prediction and by retraining.
    title : str
        What to write above.
    place : Place
        Where to draw, under which name and in which colour.

    Returns
    -------
    Axes
    """
    pen = place.pen(5.2, 5.0)
    ax = pen.ax
    both = np.concatenate([predicted, actual])
    margin = 0.05 * float(np.ptp(both)) or 1.0
    ends = (float(both.min()) - margin, float(both.max()) + margin)
    if pen.number == 0:
        ax.axline((0.0, 0.0), slope=1.0, color=GREY, linewidth=0.8, label="predicted = actual")
    name = pen.name("removed samples")
    pen.mark(ax.plot(actual, predicted, "o", color=pen.color, markersize=4, alpha=0.7, label=name)[0])
    pen.limit(ends, ends)
    ax.set_aspect("equal")
    pen.texts("change after retraining", "predicted change", title)
    ax.ticklabel_format(style="sci", axis="both", scilimits=(-2, 3))
    pen.legend()
    return ax
