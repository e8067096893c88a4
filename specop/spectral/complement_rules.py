"""Gauss rules of random vectors beyond known eigenvectors, for a density and a trace at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from specop.arrays.backend import Array
from specop.krylov.known import random_beside
from specop.krylov.run import Run
from specop.krylov.short_recurrence import ShortRecurrence
from specop.krylov.space import KrylovSpace
from specop.results.eigen import EigenResult
from specop.spectral.fitting import may_store
from specop.spectral.goals import STAGE
from specop.spectral.orthogonal import OrthogonalProbes, may_hold_all
from specop.statistics.estimate import Estimate, concentration_of, estimate_from_samples, exact, skewed
from specop.statistics.measure import GaussRule
from specop.statistics.numbers import Floats

__all__ = ["complement_rules"]

# Products that a trace may take beside those of the rules.
_PRODUCTS = 1000
_CONFIDENCE = 0.95


class ComplementRules(NamedTuple):
    """What random vectors say of a spectrum beyond its largest eigenvalues.

    Attributes
    ----------
    rules : list of GaussRule
    samples : ndarray
        The trace as each random vector has it.
    trace : Estimate
        The trace as all of them have it.
    method : str
        "exact" where they leave nothing to chance, "orthogonal" where single products are of orthogonal directions.
    floor : float
        What rounding does to eigenvalues.
    orthogonal : bool
        Whether steps were made orthogonal to earlier ones.
    """

    rules: list[GaussRule]
    samples: Floats
    trace: Estimate
    method: str
    floor: float
    orthogonal: bool


def complement_rules(
    run: Run,
    largest: EigenResult,
    rule: GaussRule | None,
    every: Floats | None,
    steps: int,
    probes: int,
    trace_rtol: float,
) -> ComplementRules:
    """Return rules of random vectors in the complement of the largest eigenvectors, and what they say of the trace.

    Single products that a trace takes beside them are of orthogonal directions, where all of these can be held.

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
    """
    k, n = len(largest.eigenvalues), run.n
    if every is not None or k == n:
        total = exact(float((largest.eigenvalues if every is None else every).sum()), _CONFIDENCE)
        return ComplementRules([], np.zeros(0), total, "exact", float(largest.bounds.max()), True)
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
    single, method = None, "hutchinson"
    if may_hold_all(run, 2 * k + steps, _PRODUCTS):
        single = OrthogonalProbes(run, n - k, _beyond(run, vectors))
    while True:
        if first and len(rules) == probes - 1:
            if not _shows_copies(rules, largest):
                rules, samples = [*first, *rules], [_sample(first[0], largest, n), *samples]
            first = []
        enough = len(rules) >= probes
        if enough:
            spanned = (single.count, single.dimension) if single else (0, 1)
            total = estimate_from_samples(np.array(samples), _CONFIDENCE, *spanned)
            if single and single.left == 0:
                method = "exact"
                break
            nodes = np.concatenate([rule.nodes for rule in rules])
            weights = np.concatenate([rule.weights for rule in rules]) / len(rules)
            # Unlike in `trace`, what shows the skewness was there before samples were drawn until they scatter little.
            shown = concentration_of(nodes, weights, n - k)
            total = skewed(total, total.standard_error, len(samples), shown, looks=1)
            is_close = total.standard_error <= trace_rtol * abs(total.estimate)
            if (is_close and len(samples) >= STAGE) or run.products >= limit:
                break
        vector = random_beside(run, k, index)
        index += 1
        if enough and single:
            vector, method = single.draw(vector), "orthogonal"
        space.start(vector)
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
    is_orthogonal = isinstance(space, KrylovSpace)
    return ComplementRules(rules, np.array(samples), total, method, space.error_floor, is_orthogonal)


def _beyond(run: Run, vectors: list[Array]) -> Callable[[Array], Array]:
    """Return what takes the part along orthonormal vectors out of another."""
    backend = run.backend
    basis = backend.allocate(run.A.domain, len(vectors), len(vectors))
    for i, vector in enumerate(vectors):
        basis = backend.set_row_(basis, i, vector, 1.0)
    return lambda x: backend.orthogonalize_(x, basis, len(vectors), ())[0]


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
