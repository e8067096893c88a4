"""Sums over the spectrum that one set of Lanczos runs gives together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg

from specop.operators.operator import LinearOperator
from specop.results.eigen import EigenResult
from specop.results.spectral_density import SpectralDensity
from specop.spectral.eigsh import eigsh
from specop.spectral.spectral_density import spectral_density
from specop.statistics.estimate import Estimate, estimate_from_samples, exact
from specop.statistics.measure import GaussRule
from specop.statistics.numbers import Floats

__all__ = ["density_of", "root_of", "sum_of", "top_of"]

# Up to so many parameters all eigenvalues take no more products than the probes.
_WHOLE, _STEPS = 240, 30
# Relative residual of eigenvalues that are all wanted: each direction is multiplied anyway.
_TOL = 1e-6


def density_of(hessian: LinearOperator, top: EigenResult, probes: int, confidence: float, seed: int) -> SpectralDensity:
    """Return all eigenvalues, without any chance, or rules of random vectors beside the largest eigenpairs."""
    n = hessian.shape[0]
    if n <= _WHOLE:
        every = eigsh(hessian, k=n, tol=_TOL, seed=seed)
        return spectral_density(hessian, deflate=every, confidence=confidence, seed=seed)
    steps = min(_STEPS, n - len(top.eigenvalues))
    return spectral_density(hessian, steps=steps, probes=probes, deflate=top, confidence=confidence, seed=seed)


def top_of(n: int) -> int:
    """Return how many of the largest eigenpairs are worth their products: they take the variance from the sums."""
    return 1 if n <= _WHOLE else 5


def sum_of(
    density: SpectralDensity, function: Callable[[Floats], Floats], limits: tuple[float, float] = (-np.inf, np.inf)
) -> Estimate:
    """Return the sum of a function over all eigenvalues, its interval widened by what quadrature leaves open.

    That is what the last quarter of the steps changed. The sum is known to lie between the limits.
    """
    known = function(density.nodes[density.probe < 0])
    rules, rest = density.rules, density.n - len(known)
    if not rules:
        total = float(known.sum())
        return exact(total, density.confidence)
    # Each rule's own weights: those of the density, in which eigenvalues that a run has found count 1/n, are biased.
    samples = np.array([known.sum() + rest * float(rule.weights @ function(rule.nodes)) for rule in rules])
    value = estimate_from_samples(samples, density.confidence)
    slack = rest * float(np.mean([_change(rule, function) for rule in rules]))
    low, high = (float(np.clip(end, *limits)) for end in (value.interval[0] - slack, value.interval[1] + slack))
    return Estimate(value.estimate, value.standard_error, (low, high), value.confidence)


def root_of(value: Estimate) -> Estimate:
    """Return the root of a number that is not negative."""
    root = float(np.sqrt(max(value.estimate, 0.0)))
    low, high = (float(np.sqrt(max(limit, 0.0))) for limit in value.interval)
    return Estimate(root, 0.5 * value.standard_error / root if root else 0.0, (low, high), value.confidence)


def _change(rule: GaussRule, function: Callable[[Floats], Floats]) -> float:
    """Return what the last quarter of a run changed of its sum."""
    m = len(rule.nodes)
    keep = m - max(1, m // 4)
    if not rule.couplings.any() or keep < 1:
        return 0.0
    # The recurrence's matrix, from the nodes and weights that it has led to.
    bordered = np.zeros((m + 1, m + 1))
    bordered[0, 1:] = bordered[1:, 0] = np.sqrt(rule.weights)
    bordered[1:, 1:] = np.diag(rule.nodes)
    reduced = scipy.linalg.hessenberg(bordered)[1 : keep + 1, 1 : keep + 1]
    nodes, vectors = scipy.linalg.eigh((reduced + reduced.T) / 2)
    return abs(float(rule.weights @ function(rule.nodes) - vectors[0] ** 2 @ function(nodes)))
