r"""The spectral norm of a mean over all samples from a part of them: eigenvectors of one part, held against another.

The norm is convex. For parts A and B whose means are unbiased, a unit vector v that does not depend on B, and a sign s,

.. math:: s \, E[v^\top H_B v] = s \, v^\top H v \le \|H\| \le E \|H_A\|,

so eigenvectors of each of two parts, on the other one, give a number that is too small on average, and the norms of
both one that is too large. Both come closer as parts grow, also where eigenvalues lie so close together that parts
disagree about their order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from specop.arrays.backend import Array
from specop.krylov.run import Run
from specop.operators.operator import Composite
from specop.operators.sample_mean import Group
from specop.results.eigen import EigenResult
from specop.spectral.eigsh import eigsh
from specop.spectral.from_part import Part, part_of
from specop.statistics.estimate import Estimate, normal_error
from specop.statistics.group_sums import GroupSum
from specop.statistics.numbers import Integers

__all__ = ["NormOfPart", "norm_of_part"]

# Groups of each stratum in each half before the first look.
_FIRST = 6
# Samples of a stratum that are multiplied together where their sum alone is asked for.
_TOGETHER = 256


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


def norm_of_part(run: Run, rtol: float, tol: float, confidence: float) -> NormOfPart:
    """Return the largest size of an eigenvalue of the mean over all samples.

    Parameters
    ----------
    run : Run
        Of the operator.
    rtol : float
        Goal for the standard error, relative.
    tol : float
        Relative residual of eigenpairs of parts, at least a quarter of the goal.
    confidence : float
    """
    part = part_of(run, run.seed)
    nothing = Estimate(float("nan"), float("nan"), (0.0, float("inf")), confidence)
    estimate = NormOfPart(nothing, float("nan"), float("nan"), 0, True)
    count = _FIRST
    starts: Sequence[EigenResult | None] = (None, None)
    while True:
        counts = [min(count, len(one)) if 2 * count <= len(one) else len(one) for one in part.strata]
        halves = [_Half(part, counts, number) for number in (0, 1)]
        if halves[0].is_whole:
            halves = halves[:1]
        found = _found(part, halves, starts, tol if len(halves) == 1 else max(tol, rtol / 4.0))
        if len(found) < len(halves):
            # Not even two products of each part are left: what was found before stands.
            return replace(estimate, is_limited=True)
        estimate = _bracket(part, halves, found, confidence)
        value = estimate.value
        run.update(f"{value.estimate:.5g} +- {value.standard_error:.2g}, {estimate.samples_used} samples")
        if len(halves) == 1 or value.standard_error <= rtol * value.estimate:
            return estimate
        starts = found
        count *= 2


class _Half(Composite):
    """The mean over some groups of each stratum, weighted so that it is that of all samples on average.

    Parameters
    ----------
    part : Part
    counts : sequence of int
        Groups of each stratum.
    number : int
        0 or 1: which half of twice as many groups, where there are so many.
    """

    def __init__(self, part: Part, counts: Sequence[int], number: int) -> None:
        A = part.run.A
        super().__init__((A,), A.domain, A.codomain, is_symmetric=True)
        self._part = part
        self.blocks: list[tuple[Integers, ...]] = []
        self._factors: list[float] = []
        self._chosen: list[Integers] = []
        for one, count in zip(part.strata, counts, strict=True):
            first = 0 if count == len(one) else number * count
            blocks = one.blocks[first : first + count]
            self.blocks.append(blocks)
            each = max(1, _TOGETHER // len(blocks[0]))
            together = [np.concatenate(blocks[i : i + each]) for i in range(0, len(blocks), each)]
            self._chosen += together
            self._factors += [len(one) / count] * len(together)
        self.is_whole = all(count == len(one) for count, one in zip(counts, part.strata, strict=True))
        self.size = sum(map(len, self._chosen))
        self._held = self._holdable()

    def _holdable(self) -> list[Group] | None:
        """Return all groups, or None where they are more than may be held, and are read again for each product."""
        room, held = self._part.mean.room(), []
        for group in self._part.mean.groups(self._chosen):
            room -= group.bytes
            if room < 0:
                return None
            held.append(group)
        return held

    def _matvec(self, x: Array) -> Array:
        total: Array | None = None
        groups = self._part.mean.groups(self._chosen) if self._held is None else self._held
        for factor, group in zip(self._factors, groups, strict=True):
            image = self._part.run.multiply_group(group, x)
            weight = factor * group.share
            total = self.backend.scale_(image, weight) if total is None else self.backend.axpy_(total, weight, image)
        return total


def _found(part: Part, halves: list[_Half], starts: Sequence[EigenResult | None], tol: float) -> list[EigenResult]:
    """Return the outermost eigenpair of each half, or of fewer where products run out."""
    found: list[EigenResult] = []
    for number, (half, start) in enumerate(zip(halves, starts, strict=False)):
        if _left(part, half) < 2:
            return found
        found.append(_outermost(part, half, start, tol, number))
    for i, half in enumerate(halves if len(halves) > 1 else []):
        # A random start may miss the outermost eigenvalue: the other half's eigenvector then shows a larger one.
        along = _along(part, half, found[1 - i], 0.5).estimate
        if along > abs(found[i].eigenvalues[0]) + found[i].bounds[0] and _left(part, half) >= 2:
            found[i] = _outermost(part, half, found[1 - i], tol, i)
    return found


def _outermost(part: Part, half: _Half, start: EigenResult | None, tol: float, number: int) -> EigenResult:
    # Copies of an eigenvalue do not change a norm, so nobody looks for them where another half shows what was missed.
    return eigsh(
        half,
        k=1,
        tol=tol,
        v0=start,
        max_matvecs=min(_left(part, half), 1000),
        seed=(part.run.seed + number) % 2**64,
        check_multiplicity=half.is_whole,
    )


def _left(part: Part, half: _Half) -> int:
    return part.left // max(1, half.size)


def _bracket(part: Part, halves: list[_Half], found: list[EigenResult], confidence: float) -> NormOfPart:
    """Return what lies between eigenvectors on the other half and the norms of both halves."""
    high = float(np.mean([abs(eigen.eigenvalues[0]) for eigen in found]))
    bound = float(np.mean([eigen.bounds[0] for eigen in found]))
    used = len(np.unique(np.concatenate([block for half in halves for blocks in half.blocks for block in blocks])))
    if len(halves) == 1:
        value = Estimate(high, 0.0, (max(0.0, high - bound), high + bound), confidence)
        return NormOfPart(value, 0.0, bound, used, False)
    seen = [_along(part, half, eigen, confidence) for half, eigen in zip(halves, reversed(found), strict=True)]
    low = float(np.mean([one.estimate for one in seen]))
    # Both numbers move with the parts alike: a norm changes by what its matrix changes along the eigenvector.
    error = math.hypot(*(one.standard_error for one in seen)) / 2.0
    chance = math.hypot(*(one.interval[1] - one.estimate for one in seen)) / 2.0
    low, high = min(low, high), max(low, high)
    interval = max(0.0, low - chance - bound), high + chance + bound
    value = Estimate((low + high) / 2.0, normal_error(interval, confidence), interval, confidence)
    return NormOfPart(value, error, bound, used, False)


def _along(part: Part, half: _Half, eigen: EigenResult, confidence: float) -> Estimate:
    """Return the mean along an eigenvector of the other half, with the sign of its eigenvalue."""
    total, vector = GroupSum(part.strata, is_noisy=False), eigen.eigenvector(0)
    sign = 1.0 if eigen.eigenvalues[0] >= 0 else -1.0
    places = [i for i, blocks in enumerate(half.blocks) for _ in blocks]
    for i, group in zip(places, part.mean.groups([block for blocks in half.blocks for block in blocks]), strict=True):
        (along,) = part.run.to_host(half.backend.dot(vector, part.run.multiply_group(group, vector)))
        total.add(i, sign * group.share * float(along))
    return total.estimate(confidence)[0]
