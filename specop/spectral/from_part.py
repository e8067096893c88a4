"""Estimates for the mean over all samples from products with a part of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array, add_
from specop.errors import InvalidInputError
from specop.krylov.known import eigenvectors_for
from specop.krylov.run import Run
from specop.operators.sample_mean import Group, SampleMean
from specop.results.eigen import EigenResult
from specop.spectral.goals import Goal
from specop.statistics.estimate import Estimate, normal_error
from specop.statistics.group_sums import GroupSum
from specop.statistics.numbers import Floats
from specop.statistics.strata import Stratum, stratified

__all__ = ["DATA", "Part", "part_of", "trace_of_part"]

DATA = ("all", "part")
"""What an estimator may be allowed to look at."""

# Samples that are multiplied at once, each group by a random vector of its own: smaller groups have less variance for
# the same number of samples, larger ones take less time for each.
_SIZE = 32
_STRATA = 8
# A stratum of at most so many groups is held.
_FEW = 8
# Samples that are held at once.
_HELD = 8192


@dataclass
class Part:
    """Samples of a mean in strata, and which of their blocks were multiplied.

    Parameters
    ----------
    run : Run
        Of the operator; it counts.
    mean : SampleMean
    strata : list of Stratum

    Attributes
    ----------
    used : int
        Samples that were looked at.
    """

    run: Run
    mean: SampleMean
    strata: list[Stratum]

    def __post_init__(self) -> None:
        self.taken = [0] * len(self.strata)
        self._kept: dict[tuple[int, int], Group] = {}

    @property
    def used(self) -> int:
        """Number of different samples that were multiplied."""
        pairs = zip(self.strata, self.taken, strict=True)
        return sum(len(block) for one, taken in pairs for block in one.blocks[:taken])

    @property
    def left(self) -> int:
        """Samples that may still be multiplied within the limit on products."""
        return self.run.samples_left

    def next(self, counts: Sequence[int]) -> Iterator[tuple[int, Group]]:
        """Give the number of each stratum and its next blocks, up to so many in all; after the last one the first."""
        waiting = [
            (i, n) for i, count in enumerate(counts) for n in range(self.taken[i], min(count, len(self.strata[i])))
        ]
        for held in _pieces(waiting, self.strata):
            chosen = [self.strata[i].blocks[n] for i, n in held]
            for (i, n), group in zip(held, self.mean.groups(chosen), strict=True):
                self.taken[i] += 1
                # What all groups of a stratum are few of is multiplied again; then it is worth a linearization.
                if len(self.strata[i]) <= _FEW:
                    self._kept[i, n] = group
                yield i, group
        for i, count in enumerate(counts):
            blocks = len(self.strata[i])
            while self.taken[i] < count:
                yield from ((i, group) for group in self._again(i))
                self.taken[i] += blocks

    def _again(self, stratum: int) -> Iterator[Group]:
        blocks = self.strata[stratum].blocks
        if (stratum, 0) in self._kept:
            yield from (self._kept[stratum, n] for n in range(len(blocks)))
            return
        for held in _pieces([(stratum, n) for n in range(len(blocks))], self.strata):
            yield from self.mean.groups([blocks[n] for _, n in held])


def part_of(run: Run, seed: int) -> Part:
    """Return the operator's samples, by one forward pass, in strata of about equal weight; nothing is multiplied yet.

    Raises
    ------
    InvalidInputError
        If the operator is no mean over samples.
    """
    mean = run.A.sample_mean
    if mean is None:
        raise InvalidInputError(
            f"data='part' needs a mean over data samples as objective.hessian(), .ggn() and .fisher() are, got "
            f"{run.A!r}. Leave data= out; of a sum or a multiple, take the matrix itself and add up afterwards."
        )
    size = max(1, min(_SIZE, mean.largest, mean.samples // (2 * _STRATA)))
    return Part(run, mean, stratified(mean.importance(), size, _STRATA, seed))


@dataclass(frozen=True)
class PartEstimate:
    """What a part of the data says of a number.

    Attributes
    ----------
    value : Estimate
        With the error of both kinds of chance.
    sampling_error : float
        Its standard error from the choice of samples alone.
    samples_used : int
    estimates : ndarray
        What each group gave, weighted so that their mean is the estimate.
    """

    value: Estimate
    sampling_error: float
    samples_used: int
    estimates: Floats


def trace_of_part(run: Run, goal: Goal, confidence: float, deflate: EigenResult | None) -> PartEstimate:
    """Return the trace of the mean over all samples, by a random vector of its own for each group of them."""
    part = part_of(run, run.seed)
    control, total = _Control(run, deflate), GroupSum(part.strata, is_noisy=True)
    counts, index = total.first(part.left), itertools.count()
    while True:
        for i, group in part.next(counts):
            total.add(i, *_measured(run, group, control, next(index)))
        value, sampling_error = total.estimate(confidence, control.trace)
        run.update(f"{value.estimate:.5g} +- {value.standard_error:.2g}, {part.used} samples")
        # As many products as allowed where no error is asked for.
        wished = 0.0 if goal.is_budget else goal.tolerance(value.estimate)
        if value.standard_error == 0.0:
            break
        # An error that is small by chance goes with a sum that is off: the interval knows how few values there are.
        error = normal_error(value.interval, confidence)
        if error <= wished:
            break
        wished *= value.standard_error / error
        reachable = total.reachable(part.left // max(len(one.blocks[0]) for one in part.strata))
        counts = _within(part, total.wanted(max(wished, reachable)))
        if counts == part.taken:
            break
    return PartEstimate(value, sampling_error, part.used, total.shown(control.trace))


def _measured(run: Run, group: Group, control: _Control, index: int) -> tuple[float, float]:
    """Return what a random vector says of a group's part of the trace, and the variance that the vector gives it."""
    probe = probes.rademacher(run.backend, run.A.domain, run.seed, index)
    rest = control.subtract_(run.multiply_group(group, probe), probe)
    form, length = (float(one) for one in run.to_host(run.backend.dot(probe, rest), run.backend.norm(rest)))
    # Random signs give z'Bz a variance of 2(|B|^2 - sum of squares on the diagonal), and |Bz|^2 the mean |B|^2.
    return group.share * form, 2.0 * (group.share * length) ** 2


def _within(part: Part, counts: list[int]) -> list[int]:
    """Return the counts, or where the limit allows fewer products, those of what comes first."""
    found, left = list(part.taken), part.left
    for i, count in enumerate(counts):
        size = len(part.strata[i].blocks[0])
        more = min(count - found[i], left // size)
        if found[i] + more > len(part.strata[i]):
            # Whole rounds only.
            more -= (found[i] + more) % len(part.strata[i])
        found[i] += max(0, more)
        left -= max(0, more) * size
    return found


class _Control:
    """A matrix of low rank that is taken out of all groups' matrices; its own trace is added in the end."""

    def __init__(self, run: Run, deflate: EigenResult | None) -> None:
        self._backend = run.backend
        self._values = np.zeros(0) if deflate is None else deflate.eigenvalues
        vectors = [] if deflate is None else eigenvectors_for(deflate, run.backend, run.A.domain, "deflate")
        self._rows = run.backend.stack(vectors) if vectors else None
        self._vectors = vectors
        self.trace = float(self._values.sum())

    def subtract_(self, image: Array, vector: Array) -> Array:
        """Return an image minus the control's product with a vector; the image is consumed."""
        if self._rows is None:
            return image
        (along,) = self._backend.to_host(self._backend.apply_rows(self._rows, vector))
        return add_(self._backend, image, -self._values * along, self._vectors)


def _pieces(places: list[tuple[int, int]], strata: list[Stratum]) -> Iterator[list[tuple[int, int]]]:
    """Cut a list of blocks where it holds too many samples."""
    held: list[tuple[int, int]] = []
    samples = 0
    for i, n in places:
        size = len(strata[i].blocks[n])
        if held and samples + size > _HELD:
            yield held
            held, samples = [], 0
        held.append((i, n))
        samples += size
    if held:
        yield held
