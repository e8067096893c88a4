"""Part: which samples of a mean are multiplied, and sums over all of them from what some add."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from specop.errors import InvalidInputError
from specop.krylov.run import Run
from specop.operators.sample_mean import Group, SampleMean
from specop.spectral.goals import Goal, told
from specop.statistics.estimate import Estimate, normal_error
from specop.statistics.group_sums import GroupSum
from specop.statistics.numbers import Floats, Integers
from specop.statistics.strata import Stratum, stratified

__all__ = [
    "DATA",
    "DEFLATE",
    "HELD",
    "STRATA",
    "Part",
    "PartEstimate",
    "error_to_reach",
    "of_samples",
    "part_of",
    "pieces_of",
    "sum_of_part",
    "told_of_part",
    "within_limit",
]

DATA = ("all", "part")
"""What an estimator may be allowed to look at."""

DEFLATE = (
    "Raise max_matvecs or rtol, or pass deflate=specop.eigsh(A) of a smaller objective to take the largest eigenvalues "
    "out."
)
"""What to do where random vectors leave an error that is too large."""

HELD = 8192
"""Samples that are held at once."""

STRATA = 8
"""How many strata samples are sorted into."""

# Samples that are multiplied at once, each group by a random vector of its own: smaller groups have less variance for
# the same number of samples, larger ones take less time for each.
_SIZE = 32
# A stratum of at most so many groups is held.
_FEW = 8


@dataclass
class Part:
    """Samples of a mean in strata, and which of their blocks were multiplied.

    Parameters
    ----------
    run : Run
        Run of the operator; it counts.
    mean : SampleMean
    strata : list of Stratum
    weights : ndarray
        How much each sample may add to the matrix, up to a common factor.

    Attributes
    ----------
    used : int
        Samples that were looked at.
    """

    run: Run
    mean: SampleMean
    strata: list[Stratum]
    weights: Floats

    def __post_init__(self) -> None:
        self.taken = [0] * len(self.strata)
        self._kept: dict[tuple[int, int], Group] = {}

    @property
    def used(self) -> int:
        """Number of different samples that were multiplied."""
        return len(self.numbers)

    @property
    def numbers(self) -> Integers:
        """Those samples."""
        pairs = zip(self.strata, self.taken, strict=True)
        return np.concatenate([block for one, taken in pairs for block in one.blocks[:taken]] or [np.arange(0)])

    @property
    def left(self) -> int:
        """Samples that may still be multiplied within the limit on products."""
        return self.run.samples_left

    def next(self, counts: Sequence[int]) -> Iterator[tuple[int, Group]]:
        """Give the number of each stratum and its next blocks, up to so many in all; after the last one the first."""
        waiting = [
            (i, n) for i, count in enumerate(counts) for n in range(self.taken[i], min(count, len(self.strata[i])))
        ]
        for held in pieces_of(waiting, self.strata):
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
        for held in pieces_of([(stratum, n) for n in range(len(blocks))], self.strata):
            yield from self.mean.groups([blocks[n] for _, n in held])


def part_of(run: Run, seed: int, strata: int = STRATA, size: int = _SIZE) -> Part:
    """Return the operator's samples, by one forward pass, in strata of about equal weight; nothing is multiplied yet.

    Raises
    ------
    InvalidInputError
        If the operator is no mean over samples.
    """
    mean = run.A.sample_mean
    if mean is None:
        raise InvalidInputError(
            f"data='part' needs a mean over data samples as objective.hessian(), .ggn() and .fisher() are, a multiple "
            f"of one, or its product with a matrix that no data are behind, got {run.A!r}. Leave data= out; of a sum, "
            f"take the parts by themselves and add up afterwards."
        )
    return of_samples(run, mean, mean.importance(), seed, strata, size)


def of_samples(run: Run, mean: SampleMean, weights: Floats, seed: int, strata: int, size: int) -> Part:
    """Return the samples of a mean, whose weights are known, in strata of about equal weight."""
    size = max(1, min(size, mean.largest, mean.samples // (2 * STRATA)))
    return Part(run, mean, stratified(weights, size, strata, seed), weights)


def error_to_reach(value: Estimate, goal: Goal) -> float | None:
    """Return the standard error that an estimate is to have, 0 for as small as can be, or None if it is good enough."""
    if value.standard_error == 0.0:
        return None
    # As many products as allowed where no error is asked for.
    wished = 0.0 if goal.is_budget else goal.tolerance(value.estimate)
    # An error that is small by chance goes with a sum that is off: the interval knows how few values there are.
    error = normal_error(value.interval, value.confidence)
    return None if error <= wished else wished * value.standard_error / error


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
        What each group or sample gave, weighted so that their mean is the estimate.
    method : str
        "hutchinson" of groups, "gradients" where those of single samples have a part in it.
    """

    value: Estimate
    sampling_error: float
    samples_used: int
    estimates: Floats
    method: str = "hutchinson"


def sum_of_part(
    part: Part,
    total: GroupSum,
    goal: Goal,
    confidence: float,
    measure: Callable[[int, Group], tuple[float, float]],
    pilot: Sequence[int] | None = None,
) -> PartEstimate:
    """Return a sum over all samples from groups of some of them, as many as the goal takes.

    Parameters
    ----------
    part : Part
    total : GroupSum
        Empty, of the part's strata.
    goal : Goal
    confidence : float
    measure : callable
        Takes the number of a stratum and a group of it; returns what the group adds to the sum, and the variance that
        random vectors give that.
    pilot : sequence of int, optional
        How many groups of each stratum come before all others, where that many are within the limit on products.
    """
    run, counts = part.run, total.first(part.left)
    stages = [counts]
    if pilot is not None and all(few <= count for few, count in zip(pilot, counts, strict=True)):
        stages.insert(0, list(pilot))
    while True:
        for i, group in itertools.chain.from_iterable(map(part.next, stages)):
            total.add(i, *measure(i, group))
        value, sampling_error = total.estimate(confidence)
        run.update(f"{value.estimate:.5g} +- {value.standard_error:.2g}, {part.used} samples")
        wished = error_to_reach(value, goal)
        if wished is None:
            break
        reachable = total.reachable(part.left // max(len(one.blocks[0]) for one in part.strata))
        counts = within_limit(part, total.wanted(max(wished, reachable)))
        if counts == part.taken:
            break
        stages = [counts]
    return PartEstimate(value, sampling_error, part.used, total.shown())


def told_of_part(run: Run, found: PartEstimate, goal: Goal, remedy: str) -> dict[str, Any]:
    """Return the fields of a result that tell what a part says, and whether that is accurate enough."""
    value = found.value
    is_met = goal.is_budget or goal.accepts(value.estimate, value.standard_error)
    message = f"{found.samples_used} of {run.samples} samples, {len(found.estimates)} estimates"
    return told(run, value, is_met, message, remedy) | {
        "estimates": found.estimates,
        "sampling_error": found.sampling_error,
        "samples_used": found.samples_used,
    }


def within_limit(part: Part, counts: list[int]) -> list[int]:
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


def pieces_of(places: list[tuple[int, int]], strata: list[Stratum]) -> Iterator[list[tuple[int, int]]]:
    """Cut a list of blocks where it holds too many samples."""
    held: list[tuple[int, int]] = []
    samples = 0
    for i, n in places:
        size = len(strata[i].blocks[n])
        if held and samples + size > HELD:
            yield held
            held, samples = [], 0
        held.append((i, n))
        samples += size
    if held:
        yield held
