"""Ends: eigenpairs of parts of the data, as many at either end of the spectrum as an enclosure takes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array
from specop.errors import NotConvergedError
from specop.krylov.run import Run
from specop.results.eigen import EigenResult
from specop.spectral.fitting import default_limit
from specop.spectral.part.enclosure import End
from specop.spectral.part.sampled_mean import SampledMean
from specop.statistics.numbers import Integers

__all__ = ["Asked", "around", "ends_of", "solved"]

# Relative residual of pairs of parts, at most, and relative to the goal: on eigenvalues five percent apart, 16 of 100
# runs with 0.05 returned the one below in place of the last, 4 with 0.005.
_LOOSEST, _OF_GOAL = 2e-3, 0.1


@dataclass(frozen=True)
class Asked:
    """What is asked for.

    Attributes
    ----------
    k, which, confidence
        As in `eigsh`.
    tol : float
        Relative residual of eigenpairs where all samples are taken.
    rtol : float
        Goal for the standard error of each eigenvalue, relative to it.
    solve : callable
        `eigsh` with its other arguments, for each half.
    """

    k: int
    which: str
    tol: float
    rtol: float
    confidence: float
    solve: Callable[..., EigenResult]


def around(run: Run, eigen: EigenResult) -> Array:
    """Return a near eigenvector and half as much of a random vector, which has what that one may lack."""
    start = probes.sphere(run.backend, run.A.domain, run.seed, 1)
    return run.backend.axpy_(start, 2.0 * run.n**0.5, eigen.eigenvector(0))


def solved(
    half: SampledMean,
    asked: Asked,
    start: Array | EigenResult | None,
    which: str,
    k: int,
    seed: int,
    *,
    checks: bool = True,
) -> EigenResult | None:
    """Return eigenpairs of a half, or None where products ran out.

    A single one is not checked where its start has a random part: copies of it change nothing, and a larger one that
    was missed shows on the other half.
    """
    if half.affordable <= k:
        return None
    limit = min(half.affordable, default_limit(k))
    tol = asked.tol if half.grouping.is_whole else min(_LOOSEST, _OF_GOAL * asked.rtol)
    solve = asked.solve if checks else functools.partial(asked.solve, check_multiplicity=False)
    try:
        return solve(
            half, k, which=which, tol=tol, v0=start, max_matvecs=limit, seed=seed % 2**64, raise_on_failure=True
        )
    except NotConvergedError:
        return None


def ends_of(halves: list[SampledMean], pairs: list[EigenResult], asked: Asked) -> list[list[End]] | None:
    """Return as many eigenpairs of each half for either end that has any; None where products ran out."""
    ends: list[list[End]] = []
    for sign in (1.0, -1.0):
        count = max(len(_wanted(one, sign, asked)) for one in pairs)
        if not count:
            continue
        ends.append([])
        for half, eigen in zip(halves, pairs, strict=True):
            end = _end(half, asked, eigen, sign, count)
            if end is None:
                return None
            ends[-1].append(end)
    return ends


def _end(half: SampledMean, asked: Asked, eigen: EigenResult, sign: float, count: int) -> End | None:
    """Return so many eigenpairs of one end, of which most are known; None where products ran out."""
    chosen, known = _wanted(eigen, sign, asked), eigen
    if len(chosen) < count:
        # Halves may disagree about how many of the largest in size are negative.
        more = solved(half, asked, eigen, "LA" if sign > 0 else "SA", count, eigen.seed)
        if more is None:
            return None
        chosen, known = np.argsort(-sign * more.eigenvalues, kind="stable"), more
    rows = half.backend.stack([known.eigenvector(int(i)) for i in chosen])
    return End(sign, sign * known.eigenvalues[chosen], known.bounds[chosen], rows)


def _wanted(eigen: EigenResult, sign: float, asked: Asked) -> Integers:
    """Return the places of the eigenvalues that were found for one end, the outermost first."""
    order = np.argsort(-sign * eigen.eigenvalues, kind="stable")
    if asked.which == "LM":
        return order[(sign * eigen.eigenvalues[order] > 0) | ((sign > 0) & (eigen.eigenvalues[order] == 0))]
    largest = {"LA": asked.k, "SA": 0, "BE": asked.k - asked.k // 2}[asked.which]
    return order[: largest if sign > 0 else asked.k - largest]
