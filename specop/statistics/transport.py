"""What Gauss rules of random vectors say of a spectrum: weights of its simple eigenvalues, and how far it may be."""

from __future__ import annotations

import numpy as np

from specop.statistics.measure import GaussRule
from specop.statistics.numbers import Booleans, Floats

__all__ = ["known_weights", "open_transport", "transport_errors"]

# A node whose residual is below this share of it is an eigenvalue.
_RESOLVED = 1e-3
# The weight of a simple eigenvalue is chi-square with one degree of freedom, over n; it exceeds this once in 1,000
# times. A larger weight speaks of several copies, whose number is then left to the quadrature.
_LARGEST_SIMPLE_WEIGHT = 10.83


def known_weights(rule: GaussRule, dimension: int) -> Floats:
    """Give the Ritz values that are simple eigenvalues the weight 1/dimension, and scale the others to the rest."""
    simple = _is_simple(rule, dimension)
    if len(simple) == dimension:
        return np.full(dimension, 1.0 / dimension)
    if simple.all() or not simple.any():
        return rule.weights
    scaled = rule.weights * (1.0 - simple.sum() / dimension) / rule.weights[~simple].sum()
    return np.where(simple, 1.0 / dimension, scaled)


def transport_errors(rules: list[GaussRule], known: Floats, rest: int) -> tuple[float, float]:
    """Estimate the distance to the true spectrum that quadrature leaves open, and that which chance does."""
    if not rules:
        return 0.0, 0.0
    return open_transport(rules, known, rest), _by_chance(rules, known, rest)


def open_transport(rules: list[GaussRule], known: Floats, rest: int) -> float:
    """Bound the distance to the spectrum that the nodes' residuals leave open, as a share of its spread.

    Parameters
    ----------
    rules : list of GaussRule
        One for each random vector of the unknown part.
    known : ndarray
        Eigenvalues that are known.
    rest : int
        Number of the others.
    """
    total = 0.0
    for rule in rules:
        gaps = np.concatenate([[np.inf], np.diff(rule.nodes), [np.inf]])
        # Half way to the neighbours; beyond the outermost nodes as far as inside of them.
        reach = np.abs(rule.couplings)
        if len(rule.nodes) > 1:
            reach = np.minimum(reach, 0.5 * np.minimum(gaps[1:], gaps[:-1]))
        total += float(known_weights(rule, rest) @ reach)
    return _relative(total / len(rules), rules, known, rest)


def _is_simple(rule: GaussRule, dimension: int) -> Booleans:
    """Whether each node is an eigenvalue, and simple as far as its weight tells; n nodes leave nothing open."""
    if len(rule.nodes) == dimension:
        return np.ones(dimension, dtype=bool)
    resolved = np.abs(rule.couplings) <= _RESOLVED * np.abs(rule.nodes)
    simple = resolved & (rule.weights * dimension <= _LARGEST_SIMPLE_WEIGHT)
    # With rounding for all other weight there are fewer eigenvalues than dimensions: some of these have copies.
    return simple & bool(rule.weights[~simple].sum() > np.finfo(float).eps)


def _by_chance(rules: list[GaussRule], known: Floats, rest: int) -> float:
    nodes, weights, unknown = [], [], 0.0
    for rule in rules:
        simple = _is_simple(rule, rest)
        if not simple.all():
            nodes.append(rule.nodes[~simple])
            weights.append(rule.weights[~simple] / rule.weights[~simple].sum())
            unknown += (rest - simple.sum()) / len(rules)
    if not nodes:
        return 0.0
    values, masses = np.concatenate(nodes), np.concatenate(weights) / len(nodes)
    order = np.argsort(values)
    share = np.clip(np.cumsum(masses[order])[:-1], 0.0, 1.0)
    deviation = np.sqrt(2.0 * share * (1.0 - share) / (len(rules) * (unknown + 2.0)))
    # The mean of a normal variable's magnitude is this share of its standard deviation.
    mean = np.sqrt(2.0 / np.pi) * float(deviation @ np.diff(values[order]))
    return _relative(mean * unknown / rest, rules, known, rest)


def _relative(transport: float, rules: list[GaussRule], known: Floats, rest: int) -> float:
    """Return a transport within the unknown part as a share of the whole spectrum's spread."""
    nodes = np.concatenate([known, *(rule.nodes for rule in rules)])
    spread = float(np.ptp(nodes))
    return transport * rest / (rest + len(known)) / spread if spread > 0 else 0.0
