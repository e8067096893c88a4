"""What one Lanczos run proves about the measure that its start vector puts on the spectrum, and chance about the rest.

A unit vector v gives each eigenvalue the weight of its eigenspace in v. m Lanczos steps from v yield the Gauss rule of
that measure, and bounds on how much of it lies below any point, whatever the spectrum. For a random v the weight in a
given set of eigenvalues follows a beta distribution, which turns weights into counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.special
from numpy.typing import ArrayLike

from specop.statistics.numbers import Booleans, Floats

__all__ = ["GaussRule", "christoffel", "cumulative_bounds", "is_ruled_out", "least_weight", "share_interval"]


# Arrow matrices that are decomposed at once.
_CHUNK = 128
# Points closer to a node than this share of what its coupling moves it by are moved away: see _apart.
_CLOSEST = 1e-4


@dataclass(frozen=True)
class GaussRule:
    r"""Gauss quadrature for the spectral measure of a unit vector, with what leads on to the next step.

    Attributes
    ----------
    nodes : ndarray (m,)
        Ritz values, ascending.
    weights : ndarray (m,)
        Squared first components of the Ritz vectors; they sum to 1.
    couplings : ndarray (m,)
        Components of the next Lanczos vector in A times each Ritz vector, whose sign makes its first component
        positive. Their magnitudes are the residuals; all are zero where the Krylov space is invariant.
    """

    nodes: Floats
    weights: Floats
    couplings: Floats


def christoffel(rule: GaussRule, x: ArrayLike) -> Floats:
    r"""Return the largest weight that the vector can have at an eigenvalue, for each of the points x.

    The Christoffel number :math:`1 / \sum_{j \le m} p_j(x)^2` of the recurrence's orthonormal polynomials; at a node
    it is the node's weight.
    """
    distances = rule.nodes - np.asarray(x, dtype=np.float64)[..., None]
    at_node = distances == 0
    # p(x) is proportional to (T - x)^-1 e_m and p_0 = 1; the last polynomial follows from the coupling.
    resolvent = rule.couplings / np.where(at_node, 1.0, distances)
    between = (resolvent @ np.sqrt(rule.weights)) ** 2 / ((resolvent**2).sum(axis=-1) + 1.0)
    return np.where(at_node.any(axis=-1), at_node @ rule.weights, between)


def is_ruled_out(rule: GaussRule, x: ArrayLike, dimension: int, confidence: float) -> Booleans:
    """Whether the rule of a random vector would have shown an eigenvalue by now, at each of the points x.

    The vector's weight along the eigenvector is at most the Christoffel number, and times the dimension it is
    chi-square with one degree of freedom.

    Parameters
    ----------
    rule : GaussRule
        Rule of the random vector.
    x : array_like
        Points to rule out.
    dimension : int
        Dimension of the space that the vector was drawn from.
    confidence : float
        Probability with which an eigenvalue that is there is not ruled out.
    """
    if not rule.couplings.any():
        return np.ones(np.shape(x), dtype=bool)
    return christoffel(rule, x) <= least_weight(dimension, confidence)


def least_weight(dimension: int, confidence: float) -> float:
    """Return the weight above which that of a random vector along a unit vector lies with this probability."""
    return 2.0 * float(scipy.special.gammaincinv(0.5, 1.0 - confidence)) / dimension


def cumulative_bounds(rule: GaussRule, x: Floats, rounding: float) -> tuple[Floats, Floats]:
    r"""Bound the share of the vector's measure in :math:`(-\infty, x]`.

    The Chebyshev-Markov-Stieltjes inequalities [1]_: of the rule with m + 1 nodes of which one is x, the weights
    below x sum to a lower bound, and with that of x to an upper one. Their difference is the Christoffel number at x,
    tiny in a gap of the spectrum.

    Parameters
    ----------
    rule : GaussRule
    x : ndarray
    rounding : float
        By how much eigenvalues may be off; the bounds hold for every spectrum that close.

    References
    ----------
    .. [1] N. I. Akhiezer, The Classical Moment Problem (1965), section 2.5.
    """
    low, high = x - rounding, x + rounding
    if not rule.couplings.any():
        sums = np.concatenate([[0.0], np.cumsum(rule.weights)])
        return sums[np.searchsorted(rule.nodes, low)], sums[np.searchsorted(rule.nodes, high, side="right")]
    # Nothing is below minus infinity, and all is below plus infinity; no matrix need have such an entry.
    least, most = (x > 0).astype(float), (x > 0).astype(float)
    finite = ~np.isinf(x)
    # The share grows with x: moved outwards, both stay bounds.
    least[finite] = _radau_sums(rule, _apart(rule, low[finite], -1.0))[0]
    most[finite] = _radau_sums(rule, _apart(rule, high[finite], 1.0))[1]
    return least, most


def share_interval(low: Floats, high: Floats, freedom: float, confidence: float) -> tuple[Floats, Floats]:
    """Return the interval for the share of eigenvalues in a set of which the mean weight lies in [low, high].

    In a random direction of dimension d the weight of a set that holds the share F of all eigenvalues is
    Beta(d F / 2, d (1 - F) / 2), and the mean of s of them is nearly, and spread no more than, the same with s d for d.

    Parameters
    ----------
    low, high : ndarray
        Bounds of the measured weight.
    freedom : float
        Dimension times number of vectors.
    confidence : float
    """
    tail = 0.5 * (1.0 - confidence)

    def below(share: Floats, weight: Floats) -> Floats:
        found = scipy.special.betainc(0.5 * freedom * share, 0.5 * freedom * (1.0 - share), weight)
        return np.asarray(found, dtype=np.float64)

    low, high = np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)
    smallest = _bisect(np.zeros_like(low), low, lambda share: below(share, low) > 1.0 - tail)
    largest = _bisect(high, np.ones_like(high), lambda share: below(share, high) > tail)
    return np.where(low > 0, smallest[0], 0.0), np.where(high < 1, largest[1], 1.0)


def _bisect(left: Floats, right: Floats, is_left_of_root: Callable[[Floats], Booleans]) -> tuple[Floats, Floats]:
    for _ in range(60):
        middle = 0.5 * (left + right)
        before = is_left_of_root(middle)
        left, right = np.where(before, middle, left), np.where(before, right, middle)
    return left, right


def _apart(rule: GaussRule, x: Floats, direction: float) -> Floats:
    """Move points away from nodes that they nearly meet, where the last diagonal entry would overflow all others."""
    spread = float(np.ptp(rule.nodes)) + float(np.abs(rule.couplings).max())
    closest = np.maximum(_CLOSEST * rule.couplings**2 / spread, 4 * np.finfo(float).eps * np.abs(rule.nodes))
    moved = x.copy()
    order = range(len(rule.nodes)) if direction > 0 else range(len(rule.nodes) - 1, -1, -1)
    for j in order:
        near = np.abs(moved - rule.nodes[j]) < closest[j]
        moved[near] = rule.nodes[j] + direction * closest[j]
    return moved


def _radau_sums(rule: GaussRule, x: Floats) -> tuple[Floats, Floats]:
    """Return the weights below each x, without and with that of x, in the rule that has x as one node more."""
    m, without, including = len(rule.nodes), np.empty(len(x)), np.empty(len(x))
    for begin in range(0, len(x), _CHUNK):
        points = x[begin : begin + _CHUNK]
        arrows = np.zeros((len(points), m + 1, m + 1))
        arrows[:, np.arange(m), np.arange(m)] = rule.nodes
        arrows[:, m, :m] = arrows[:, :m, m] = rule.couplings
        distances = rule.nodes - points[:, None]
        terms = np.divide(rule.couplings**2, distances, out=np.zeros_like(distances), where=distances != 0)
        arrows[:, m, m] = points + terms.sum(axis=1)
        vectors = np.linalg.eigh(arrows)[1]
        weights = np.einsum("j,pjk->pk", np.sqrt(rule.weights), vectors[:, :m]) ** 2
        sums = np.concatenate([np.zeros((len(points), 1)), np.cumsum(weights, axis=1)], axis=1)
        # The new nodes interlace the old ones, so x has as many before it as there were.
        place = np.searchsorted(rule.nodes, points)
        rows = np.arange(len(points))
        without[begin : begin + _CHUNK], including[begin : begin + _CHUNK] = sums[rows, place], sums[rows, place + 1]
    return without, including
