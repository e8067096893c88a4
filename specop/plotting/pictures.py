"""Small pictures: eigenvalues, estimates by random probes, ranks, influences, and pruned models."""

from __future__ import annotations

import numpy as np

from specop.plotting.axes import BLUE, GREY, ORANGE, Axes, new_axes
from specop.statistics.estimate import Estimate, estimate_from_samples
from specop.statistics.numbers import Floats

__all__ = ["plot_eigenvalues", "plot_estimates", "plot_influence_check", "plot_pruning", "plot_rank"]


def plot_eigenvalues(values: Floats, bounds: Floats, title: str, ax: Axes | None = None) -> Axes:
    """Draw eigenvalues from the largest to the smallest, with their error bounds.

    Parameters
    ----------
    values : ndarray (k,)
        Eigenvalues, ascending.
    bounds : ndarray (k,)
        Bounds of their errors.
    title : str
        What to write above.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
    """
    ax = new_axes() if ax is None else ax
    values, bounds = values[::-1], bounds[::-1]
    ranks = np.arange(1, len(values) + 1)
    ax.errorbar(ranks, values, yerr=bounds, fmt="o", color=BLUE, ecolor=ORANGE, capsize=3, markersize=5)
    if values[-1] > 0 and values[0] > 30 * values[-1]:
        ax.set_yscale("log")
    elif values[-1] < 0 < values[0]:
        ax.axhline(0.0, color=GREY, linewidth=0.8)
    ax.set_xticks(ranks[:: max(1, len(ranks) // 10)])
    ax.set(xlabel="rank", ylabel="eigenvalue", title=title)
    return ax


def plot_estimates(
    estimates: Floats, mean: Estimate, *, independent: bool, quantity: str, title: str, ax: Axes | None = None
) -> Axes:
    """Draw how an estimate settles with the number of probes, with its interval.

    Of probes that depend on each other only the end is drawn.

    Parameters
    ----------
    estimates : ndarray
        What each probe gave; empty for an exact value.
    mean : Estimate
        What they give together.
    independent : bool
        Whether the mean of the first few is an estimate, too.
    quantity : str
        What is estimated, for the axis.
    title : str
        What to write above.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
    """
    ax = new_axes() if ax is None else ax
    interval = f"{100 * mean.confidence:g} % interval"
    if len(estimates):
        ax.plot(np.arange(1, len(estimates) + 1), estimates, ".", color=GREY, alpha=0.5, label="single probes")
    if not len(estimates):
        ax.axhline(mean.estimate, color=BLUE, label="exact")
    elif not independent:
        # How the mean of estimates that depend on each other settles says nothing.
        ax.axhspan(*mean.interval, color=BLUE, alpha=0.2, label=interval)
        ax.axhline(mean.estimate, color=BLUE, label="mean")
    else:
        counts = np.arange(2, len(estimates) + 1)
        running = [estimate_from_samples(estimates[:count], mean.confidence) for count in counts]
        low, high = np.array([value.interval for value in running]).reshape(-1, 2).T
        ax.fill_between(counts, low, high, color=BLUE, alpha=0.2, linewidth=0, label=interval)
        ax.plot(counts, [value.estimate for value in running], color=BLUE, label="mean of all so far")
        # With two or three probes the interval is so wide that nothing else could be seen.
        seen = np.concatenate([estimates, low[counts >= 8], high[counts >= 8]])
        margin = 0.05 * float(np.ptp(seen)) or 1.0
        ax.set_ylim(float(seen.min()) - margin, float(seen.max()) + margin)
    ax.set(xlabel="probes", ylabel=quantity, title=title)
    ax.legend(frameon=False)
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
    ax: Axes | None = None,
) -> Axes:
    """Draw how many eigenvalues are larger in size than each threshold, and the gap in which the rank is read off.

    Parameters
    ----------
    sizes, weights : ndarray (m,)
        Sizes of eigenvalues, and the share of all that each stands for.
    n : int
        Number of all eigenvalues.
    rank : float
        How many are not zero.
    interval : (float, float)
        Limits of the rank.
    gap : (float, float)
        Sizes between which there is none.
    threshold : float
        Size up to which eigenvalues count as zero.
    title : str
        What to write above.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
    """
    ax = new_axes() if ax is None else ax
    order = np.argsort(sizes)
    sizes = sizes[order]
    above = n * (1.0 - np.cumsum(weights[order]))
    left = 0.1 * min([size for size in (*sizes, *gap) if size > 0], default=1.0)
    right = 3.0 * max(float(sizes[-1]), gap[1]) or 1.0
    ax.step([left, *np.maximum(sizes, left), right], [n, *above, 0.0], where="post", color=BLUE)
    ax.set_xscale("log")
    if gap[0] < gap[1]:
        ax.axvspan(max(gap[0], left), gap[1], color=GREY, alpha=0.12, linewidth=0, label="gap")
    if threshold > 0:
        ax.axvline(threshold, color=ORANGE, linewidth=1.0, label="below: counted as zero")
    low, high = interval
    ax.axhspan(low, high, color=ORANGE, alpha=0.2, linewidth=0)
    ax.axhline(rank, color=ORANGE, linewidth=1.0, linestyle="--", label=f"rank {rank:g}")
    ax.set(xlabel="size", ylabel="eigenvalues of a larger size", xlim=(left, right), ylim=(0.0, 1.03 * n))
    ax.set_title(title)
    ax.legend(frameon=False)
    return ax


def plot_pruning(
    sparsities: Floats,
    losses: Floats,
    expected: Floats,
    title: str,
    ax: Axes | None = None,
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
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
    """
    ax = new_axes() if ax is None else ax
    percent = 100 * sparsities
    ax.plot(percent, losses[1:], "o-", color=BLUE, markersize=4, label="measured")
    if np.isfinite(expected).any():
        ax.plot(percent, losses[:-1] + expected, "x", color=ORANGE, markersize=6, label="expected before the step")
    ax.axhline(losses[0], color=GREY, linewidth=0.8, linestyle="--", label="at the start")
    ax.set(xlabel="weights that are zero, %", ylabel="mean loss")
    ax.set_title(title)
    ax.legend(frameon=False)
    return ax


def plot_influence_check(predicted: Floats, actual: Floats, title: str, ax: Axes | None = None) -> Axes:
    """Draw predicted against actual changes, with the line on which both agree.

    Parameters
    ----------
    predicted, actual : ndarray (k,)
        Changes by prediction and by retraining.
    title : str
        What to write above.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
    """
    ax = new_axes(5.2, 5.0) if ax is None else ax
    both = np.concatenate([predicted, actual])
    margin = 0.05 * float(np.ptp(both)) or 1.0
    ends = (float(both.min()) - margin, float(both.max()) + margin)
    ax.plot(ends, ends, color=GREY, linewidth=0.8, label="predicted = actual")
    ax.plot(actual, predicted, "o", color=BLUE, markersize=4, alpha=0.7, label="removed samples")
    ax.set(xlim=ends, ylim=ends, aspect="equal", xlabel="change after retraining", ylabel="predicted change")
    ax.set_title(title)
    ax.ticklabel_format(style="sci", axis="both", scilimits=(-2, 3))
    ax.legend(frameon=False)
    return ax
