"""Distances between spectra, as distributions of weight over eigenvalues."""

from __future__ import annotations

import numpy as np

from specop.statistics.numbers import Floats

__all__ = ["common_grid", "jensen_shannon", "smoothed", "wasserstein"]

# Points of a grid within a standard deviation of the smoothing, and how many of these it goes beyond all eigenvalues.
_FINE, _MARGIN = 4, 5.0


def common_grid(low: float, high: float, sigma: float) -> Floats:
    """Return equidistant points, four in each sigma, that reach five sigma beyond both ends."""
    ends = low - _MARGIN * sigma, high + _MARGIN * sigma
    return np.linspace(*ends, int(np.ceil(_FINE * (ends[1] - ends[0]) / sigma)) + 1)


def smoothed(nodes: Floats, weights: Floats, grid: Floats, sigma: float) -> Floats:
    """Return the distribution after Gaussian smoothing, as probabilities of the points of a grid."""
    kernel = np.exp(-0.5 * ((grid[:, None] - nodes) / sigma) ** 2)
    found = kernel @ weights
    return np.asarray(found / found.sum())


def jensen_shannon(p: Floats, q: Floats) -> float:
    r"""Return the square root of the Jensen-Shannon divergence of two distributions on a grid, a metric.

    With the natural logarithm it is at most :math:`\sqrt{\ln 2}`, for disjoint ones.
    """
    middle = 0.5 * (p + q)
    return float(np.sqrt(max(0.0, 0.5 * (_divergence(p, middle) + _divergence(q, middle)))))


def wasserstein(x: Floats, p: Floats, y: Floats, q: Floats) -> float:
    """Return the Wasserstein-1 distance of two discrete distributions, in units of their points.

    Parameters
    ----------
    x, y : ndarray
        Points of the two measures.
    p, q : ndarray
        Their weights, which add up to one.
    """
    points = np.concatenate([x, y])
    order = np.argsort(points, kind="stable")
    excess = np.cumsum(np.concatenate([p, -q])[order])
    return float(np.abs(excess[:-1]) @ np.diff(points[order]))


def _divergence(p: Floats, q: Floats) -> float:
    # Half of the smallest number is zero.
    there = (p > 0) & (q > 0)
    return float(p[there] @ np.log(p[there] / q[there]))
