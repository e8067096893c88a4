"""Gauss rules of random vectors beyond known eigenvectors, for a density and a trace at once."""

from __future__ import annotations

import numpy as np

from specop.krylov.known import random_beside
from specop.krylov.run import Run
from specop.krylov.short_recurrence import ShortRecurrence
from specop.krylov.space import KrylovSpace
from specop.results.eigen import EigenResult
from specop.spectral.fitting import may_store
from specop.spectral.goals import STAGE
from specop.statistics.estimate import estimate_from_samples
from specop.statistics.measure import GaussRule
from specop.statistics.numbers import Floats

__all__ = ["complement_rules"]

# Products that a trace may take beside those of the rules.
_PRODUCTS = 1000


def complement_rules(
    run: Run,
    largest: EigenResult,
    rule: GaussRule | None,
    every: Floats | None,
    steps: int,
    probes: int,
    trace_rtol: float,
) -> tuple[list[GaussRule], Floats, float, bool]:
    """Return rules of random vectors in the complement of the largest eigenvectors, and what each says of the trace.

    Parameters
    ----------
    run : Run
    largest : EigenResult
    rule : GaussRule or None
        Rule of the vector from which the largest were found: what it has outside of them is the first random vector.
    every : ndarray or None
        All eigenvalues, if they are known: then there are no rules.
    steps, probes : int
        Lanczos steps for each rule, and the number of rules.
    trace_rtol : float
        Standard error of the trace, relative to it, until which single products are added.

    Returns
    -------
    rules : list of GaussRule
    samples : ndarray
        The trace as each random vector has it.
    floor : float
        What rounding does to eigenvalues.
    orthogonal : bool
        Whether steps were made orthogonal to earlier ones.
    """
    k, n = len(largest.eigenvalues), run.n
    if every is not None or k == n:
        return [], np.zeros(0), float(largest.bounds.max()), True
    vectors = [largest.eigenvector(i) for i in range(k)]
    space: KrylovSpace | ShortRecurrence = ShortRecurrence(run, vectors, largest.eigenvalues)
    if may_store(run, min(n, k + steps), None):
        space = KrylovSpace(run, min(n, k + steps))
        space.hold(vectors, largest.eigenvalues, largest.residuals)
    # That of the Krylov space waits until other vectors have looked for copies of what it found.
    first = [] if rule is None or probes < 2 else _without(rule, largest)
    rules: list[GaussRule] = []
    samples: list[float] = []
    index = 0
    limit = run.products + probes * steps + _PRODUCTS
    while run.products < limit:
        if first and len(rules) == probes - 1:
            if not _shows_copies(rules, largest):
                rules, samples = [*first, *rules], [_sample(first[0], largest, n), *samples]
            first = []
        enough = len(rules) >= probes
        if enough and len(samples) >= STAGE:
            mean = estimate_from_samples(np.array(samples), 0.95)
            if mean.standard_error <= trace_rtol * abs(mean.estimate):
                break
        space.start(random_beside(run, k, index))
        index += 1
        for _ in range(1 if enough else min(steps, n - k)):
            if space.is_closed:
                break
            space.expand()
            run.update("probes of trace and density")
        one = space.gauss_rule(k)
        samples.append(_sample(one, largest, n))
        if not enough:
            rules.append(one)
        space.truncate(k)
    return rules, np.array(samples), space.error_floor, isinstance(space, KrylovSpace)


def _without(rule: GaussRule, largest: EigenResult) -> list[GaussRule]:
    """Return the rule of what a start vector has outside of eigenvectors that its own Krylov space has found.

    Nothing where others were found beside it: of eigenvalues with copies the start vector shows only some.
    """
    k = len(largest.eigenvalues)
    apart = np.abs(rule.nodes[-k:] - largest.eigenvalues) > largest.residuals
    rest = float(rule.weights[:-k].sum())
    if apart.any() or rest <= np.finfo(float).eps:
        return []
    return [GaussRule(rule.nodes[:-k], rule.weights[:-k] / rest, rule.couplings[:-k])]


def _shows_copies(rules: list[GaussRule], largest: EigenResult) -> bool:
    """Whether vectors outside of the largest eigenvectors have found one of the largest eigenvalues again.

    What the start vector has along copies lies in the one eigenvector that it has found: its rule lacks the others.
    """
    near = largest.tol * np.abs(largest.eigenvalues) + largest.residuals
    nodes = np.concatenate([one.nodes for one in rules])
    return bool((np.abs(nodes[:, None] - largest.eigenvalues) <= near).any())


def _sample(rule: GaussRule, largest: EigenResult, n: int) -> float:
    """Return the trace as one random vector has it."""
    known = largest.eigenvalues
    return float(known.sum() + (n - len(known)) * (rule.weights @ rule.nodes))
