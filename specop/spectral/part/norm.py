r"""The spectral norm of a mean over all samples from a part of them: eigenvectors of one part, held against another.

The norm is convex. For parts A and B whose means are unbiased, a unit vector v that does not depend on B, and a sign s,

.. math:: s \, E[v^\top H_B v] = s \, v^\top H v \le \|H\| \le E \|H_A\|,

so eigenvectors of each of two parts, on the other one, give a number that is too small on average, and the norms of
both one that is too large. Both come closer as parts grow, also where eigenvalues lie so close together that parts
disagree about their order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from specop.krylov.run import Run
from specop.results.eigen import EigenResult
from specop.spectral.part.part import Part, part_of
from specop.spectral.part.sampled_mean import SIZE, SampledMean, first_count, halves_of, next_count, samples_of
from specop.statistics.estimate import Estimate, normal_error
from specop.statistics.group_sums import GroupSum

__all__ = ["NormOfPart", "norm_of_part"]


@dataclass(frozen=True)
class NormOfPart:
    """What a part of the data says of the spectral norm.

    Attributes
    ----------
    value : Estimate
        Its interval runs from what is too small to what is too large, each with its chance.
    sampling_error : float
        Standard error of both from the choice of samples.
    bound : float
        What eigenvalues of the parts may be off by.
    samples_used : int
    is_limited : bool
        Whether products ran out.
    """

    value: Estimate
    sampling_error: float
    bound: float
    samples_used: int
    is_limited: bool


def norm_of_part(run: Run, rtol: float, tol: float, confidence: float, solve: Callable[..., EigenResult]) -> NormOfPart:
    """Return the largest size of an eigenvalue of the mean over all samples.

    Parameters
    ----------
    run : Run
        Run of the operator.
    rtol : float
        Goal for the standard error, relative.
    tol : float
        Relative residual of eigenpairs of parts, at least a quarter of the goal.
    confidence : float
    solve : callable
        `specop.eigsh`, for the parts.
    """
    part = part_of(run, run.seed, size=SIZE)
    nothing = Estimate(float("nan"), float("nan"), (0.0, float("inf")), confidence)
    estimate = NormOfPart(nothing, float("nan"), float("nan"), 0, True)
    count = first_count(part)
    starts: Sequence[EigenResult | None] = (None, None)
    while True:
        halves = halves_of(part, count)
        found = _found(part, halves, starts, tol if len(halves) == 1 else max(tol, rtol / 4.0), solve)
        if len(found) < len(halves):
            # Not even two products of each part are left: what was found before stands.
            return replace(estimate, is_limited=True)
        estimate = _bracket(part, halves, found, confidence)
        value = estimate.value
        run.update(f"{value.estimate:.5g} +- {value.standard_error:.2g}, {estimate.samples_used} samples")
        if len(halves) == 1 or value.standard_error <= rtol * value.estimate:
            return estimate
        starts, count = found, next_count(count, value.standard_error / (rtol * value.estimate or 1.0))


def _found(
    part: Part,
    halves: list[SampledMean],
    starts: Sequence[EigenResult | None],
    tol: float,
    solve: Callable[..., EigenResult],
) -> list[EigenResult]:
    """Return the outermost eigenpair of each half, or of fewer where products run out."""
    found: list[EigenResult] = []
    # Each half is multiplied by the other's eigenvector twice.
    kept = 2 * len(halves) if len(halves) > 1 else 0
    for number, (half, start) in enumerate(zip(halves, starts, strict=False)):
        if half.affordable < kept + 2:
            return found
        found.append(_outermost(part, half, start, tol, number, solve, kept))
    for i, half in enumerate(halves if len(halves) > 1 else []):
        # A random start may miss the outermost eigenvalue: the other half's eigenvector then shows a larger one.
        along = _along(part.run, half, found[1 - i], 0.5).estimate
        if along > abs(found[i].eigenvalues[0]) + found[i].bounds[0] and half.affordable >= kept + 2:
            found[i] = _outermost(part, half, found[1 - i], tol, i, solve, kept)
    return found


def _outermost(
    part: Part,
    half: SampledMean,
    start: EigenResult | None,
    tol: float,
    number: int,
    solve: Callable[..., EigenResult],
    kept: int,
) -> EigenResult:
    # Copies of an eigenvalue do not change a norm, so nobody looks for them where another half shows what was missed.
    return solve(
        half,
        k=1,
        tol=tol,
        v0=start,
        max_matvecs=min(half.affordable - kept, 1000),
        seed=(part.run.seed + number) % 2**64,
        check_multiplicity=half.is_whole,
    )


def _bracket(part: Part, halves: list[SampledMean], found: list[EigenResult], confidence: float) -> NormOfPart:
    """Return what lies between eigenvectors on the other half and the norms of both halves."""
    high = float(np.mean([abs(eigen.eigenvalues[0]) for eigen in found]))
    bound = float(np.mean([eigen.bounds[0] for eigen in found]))
    used = samples_of(halves)
    if len(halves) == 1:
        value = Estimate(high, 0.0, (max(0.0, high - bound), high + bound), confidence)
        return NormOfPart(value, 0.0, bound, used, False)
    seen = [_along(part.run, half, eigen, confidence) for half, eigen in zip(halves, reversed(found), strict=True)]
    low = float(np.mean([one.estimate for one in seen]))
    # Both numbers move with the parts alike: a norm changes by what its matrix changes along the eigenvector.
    error = math.hypot(*(one.standard_error for one in seen)) / 2.0
    chances = (
        one.interval[1] - one.estimate + half.unseen(confidence) * abs(one.estimate)
        for one, half in zip(seen, halves, strict=True)
    )
    chance = math.hypot(*chances) / 2.0
    low, high = min(low, high), max(low, high)
    interval = max(0.0, low - chance - bound), high + chance + bound
    value = Estimate((low + high) / 2.0, normal_error(interval, confidence), interval, confidence)
    return NormOfPart(value, error, bound, used, False)


def _along(run: Run, half: SampledMean, eigen: EigenResult, confidence: float) -> Estimate:
    """Return the mean along an eigenvector of the other half, with the sign of its eigenvalue."""
    total, vector = GroupSum(half.strata, is_noisy=False), eigen.eigenvector(0)
    sign = 1.0 if eigen.eigenvalues[0] >= 0 else -1.0
    for i, weight, group in half.groups():
        (along,) = run.to_host(half.backend.dot(vector, run.multiply_group(group, vector)))
        total.add(i, sign * weight * group.share * float(along))
    return total.estimate(confidence)[0]
