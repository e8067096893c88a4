"""Sums over the spectrum that one set of Lanczos runs gives together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from specop.operators.operator import LinearOperator
from specop.results.eigen import EigenResult
from specop.results.spectral_density import SpectralDensity
from specop.spectral.eigsh import eigsh
from specop.spectral.spectral_density import spectral_density
from specop.statistics.estimate import Estimate, estimate_from_samples, exact
from specop.statistics.measure import GaussRule, cumulative_bounds
from specop.statistics.numbers import Floats

__all__ = ["density_of", "increasing_sum", "root_of", "sum_of", "top_of"]

# Up to so many parameters all eigenvalues take no more products than the probes.
_WHOLE, _STEPS = 240, 30
# Relative residual of eigenvalues that are all wanted: each direction is multiplied anyway.
_TOL = 1e-6
# Points at which bounds are taken, chosen of so many from this share of the largest eigenvalue on.
_LEVELS, _FINE, _FINEST = 100, 4000, 1e-9


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


def sum_of(density: SpectralDensity, power: int) -> Estimate:
    """Return the sum of a power of all eigenvalues, which rules of several steps integrate exactly."""
    return _summed(density, lambda h: h**power, None)


def increasing_sum(density: SpectralDensity, function: Callable[[Floats], Floats]) -> Estimate:
    """Return the sum of a function of all eigenvalues that nowhere falls, and is constant below the lowest one.

    Rules are exact for no such function, and what more steps change says little where many eigenvalues lie close to
    where it is steep: the interval holds what each rule proves of how many lie above any point.
    """
    lowest, highest = min(0.0, float(density.nodes[0])), float(density.nodes[-1])
    above = np.geomspace(_FINEST * highest, highest, _FINE) if highest > 0 else np.array([])
    fine = np.concatenate([[lowest, 0.0], above])
    # As many points as give steps of one height.
    heights = function(fine)
    levels = np.linspace(heights[0], heights[-1], _LEVELS)
    points = np.unique(np.concatenate([fine[:2], fine[np.searchsorted(heights, levels[1:-1])], fine[-1:]]))
    found = _summed(density, function, points)
    low, high = np.clip(found.interval, density.n * heights[0], density.n * heights[-1]).tolist()
    return replace(found, interval=(low, high))


def _summed(density: SpectralDensity, function: Callable[[Floats], Floats], points: Floats | None) -> Estimate:
    known = function(density.nodes[density.probe < 0])
    rules, rest = density.rules, density.n - len(known)
    if not rules:
        return exact(float(known.sum()), density.confidence)
    # Each rule's own weights: those of the density, in which eigenvalues that a run has found count 1/n, are biased.
    samples = np.array([float(rule.weights @ function(rule.nodes)) for rule in rules])
    ends = [(one, one) for one in samples] if points is None else [_ends(density, r, function, points) for r in rules]
    value, low, high = (
        estimate_from_samples(known.sum() + rest * np.array(one), density.confidence)
        for one in (samples, *zip(*ends, strict=True))
    )
    return Estimate(value.estimate, value.standard_error, (low.interval[0], high.interval[1]), value.confidence)


def _ends(
    density: SpectralDensity, rule: GaussRule, function: Callable[[Floats], Floats], points: Floats
) -> tuple[float, float]:
    """Return what a rule's vector can have at least and at most, by how much of it lies above each point."""
    heights = function(points)
    below, most_below = cumulative_bounds(rule, points, density.rounding)
    rises = np.diff(heights)
    return heights[0] + float((1.0 - most_below[1:]) @ rises), heights[0] + float((1.0 - below[:-1]) @ rises)


def root_of(value: Estimate) -> Estimate:
    """Return the root of a number that is not negative."""
    root = float(np.sqrt(max(value.estimate, 0.0)))
    low, high = (float(np.sqrt(max(limit, 0.0))) for limit in value.interval)
    return Estimate(root, 0.5 * value.standard_error / root if root else 0.0, (low, high), value.confidence)
