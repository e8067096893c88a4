"""Copies: nodes of a Gauss rule that rounding has made several of, and that stand for one eigenvalue."""

from __future__ import annotations

import numpy as np

from specop.statistics.measure import GaussRule
from specop.statistics.numbers import Floats, Integers

__all__ = ["NEXT_TO_NOTHING", "without_copies"]

# A node whose residual is below this share of it is an eigenvalue, as in `transport`.
_RESOLVED = 1e-3
NEXT_TO_NOTHING = 1e-4
"""Share of a simple eigenvalue's mean weight, below which a node counts for a copy on its way.

Once in 100 times a random vector has less along an eigenvalue.
"""


def without_copies(rule: GaussRule, dimension: int, rounding: float) -> GaussRule:
    r"""Return a rule of a Lanczos run without stored rows with each eigenvalue's copies put into one node.

    Without reorthogonalization an eigenvalue that has converged is found again and again. In spite of that the rule is
    the one that exact arithmetic gives for a matrix whose eigenvalues lie in tiny clusters around the true ones, with
    the true weights shared among each cluster's [1]_. Two nodes are one where both are eigenvalues by their residuals
    and either lie within rounding of each other, or one has next to no weight and its residual reaches the other: a
    copy on its way. Weights are added; nodes take their mean place, and couplings that of the vector that has all of
    the weight. Copies of a multiple eigenvalue, which rounding lets a stored basis find, cannot be told from these.

    Parameters
    ----------
    rule : GaussRule
        Rule of a random vector's run.
    dimension : int
        Dimension of the space that the vector was drawn from.
    rounding : float
        How far apart copies may be.

    References
    ----------
    .. [1] A. Greenbaum, Behavior of slightly perturbed Lanczos and conjugate-gradient recurrences, Linear Algebra Appl.
       113 (1989), 7-63.
    """
    home = _homes(rule, dimension, rounding)
    kept, place = np.unique(home, return_inverse=True)
    weights: Floats = np.bincount(place, rule.weights).astype(np.float64)
    shares = np.divide(rule.weights, weights[place], out=np.zeros(len(home)), where=weights[place] > 0)
    shares[kept] = np.where(weights > 0, shares[kept], 1.0)
    nodes: Floats = np.bincount(place, shares * rule.nodes).astype(np.float64)
    couplings: Floats = np.bincount(place, np.sqrt(shares) * rule.couplings).astype(np.float64)
    order = np.argsort(nodes, kind="stable")
    return GaussRule(nodes[order], weights[order], couplings[order])


def _homes(rule: GaussRule, dimension: int, rounding: float) -> Integers:
    """Return for each node the one that its weight goes to: itself, or a heavier one that stands for its eigenvalue."""
    home = np.arange(len(rule.nodes))
    sizes = np.abs(rule.couplings)
    resolved = sizes <= np.maximum(_RESOLVED * np.abs(rule.nodes), rounding)
    reach = np.where(rule.weights * dimension <= NEXT_TO_NOTHING, np.maximum(sizes, rounding), rounding)
    heads: list[int] = []
    for i in np.argsort(-rule.weights, kind="stable"):
        if resolved[i]:
            distances: Floats = np.abs(rule.nodes[heads] - rule.nodes[i])
            if len(heads) and distances.min() <= reach[i]:
                home[i] = heads[int(np.argmin(distances))]
            else:
                heads.append(int(i))
    return home
