"""The diagonal of a mean over all samples from products with a part of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array
from specop.krylov.run import Run
from specop.operators.sample_mean import Group
from specop.results.eigen import EigenResult
from specop.spectral.goals import Goal
from specop.spectral.part.control import Control, control_of
from specop.spectral.part.part import STRATA, Part, part_of, within_limit
from specop.statistics.group_sums import GroupSum
from specop.statistics.numbers import Floats

__all__ = ["PartDiagonal", "diagonal_of_part"]

# Vectors that a stratum holds, and those beside them.
_EACH, _BESIDE = 3, 6
# Blocks of a stratum that are multiplied by two random vectors, which tells their chance from that of the choice.
_DOUBLED = 8
# By how much what they tell may be too small: one direction may dominate.
_DOUBT = 2.0
# A stratum of at most so many blocks is multiplied as a whole, round after round.
_FEW = 8


@dataclass(frozen=True)
class PartDiagonal:
    """What a part of the data says of a diagonal.

    Attributes
    ----------
    x, standard_errors : native vector
    norm, error_norm : float
        Euclidean norms of the diagonal and of its error.
    sampling_error : float
        The part of `error_norm` that comes from the choice of samples.
    samples_used, probes : int
        Different samples, and random vectors.
    """

    x: Array
    standard_errors: Array
    norm: float
    error_norm: float
    sampling_error: float
    samples_used: int
    probes: int


def diagonal_of_part(run: Run, goal: Goal, deflate: EigenResult | None) -> PartDiagonal:
    """Return the diagonal of the mean over all samples, by a random vector of its own for each group of them."""
    room = run.room()
    room.check(_EACH + _BESIDE, "data='part'", "Leave data= out: bekas holds two vectors beside the product.")
    count = max(1, min(STRATA, (room.rows - _BESIDE) // _EACH - 1))
    part, control = part_of(run, run.seed, count), control_of(run, deflate)
    total = _VectorSum(part, control.diagonal())
    counts = total.first(part.left)
    while True:
        for i, group in part.next(counts):
            total.multiply(i, group, control)
        norm, error, sampling_error = total.errors()
        run.update(f"norm {norm:.5g} +- {error:.2g}, {part.used} samples")
        wished = 0.0 if goal.is_budget else goal.tolerance(norm)
        if error <= wished:
            break
        reachable = total.reachable(part.left // max(len(one.blocks[0]) for one in part.strata))
        counts = within_limit(part, total.wanted(max(wished, reachable)))
        if counts == part.taken:
            break
    return PartDiagonal(total.mean(), total.standard_errors(), norm, error, sampling_error, part.used, total.drawn)


class _VectorSum(GroupSum):
    """Sums of vectors, one for each block, with what they scatter.

    The vectors of a stratum that is taken whole are summed over its blocks first, so that only random vectors are left
    to scatter.

    Parameters
    ----------
    part : Part
    known : native vector
        What is added to the sum.
    """

    def __init__(self, part: Part, known: Array) -> None:
        super().__init__(part.strata, is_noisy=True)
        self.run, self.backend, self.known, self.drawn = part.run, part.run.backend, known, 0
        layout = part.run.A.domain
        self.run.pay(0, _EACH * len(part.strata))
        self.sums, self.squares, self.rounds = ([self.backend.zeros(layout) for _ in part.strata] for _ in range(_EACH))
        self.lengths = [0.0] * len(part.strata)
        # How many of a stratum's first blocks are multiplied by two random vectors.
        self.doubled = [0] * len(part.strata)

    def first(self, samples: int) -> list[int]:
        """Return how many blocks of each stratum come first, fewer where so many samples are all there may be."""
        doubled = sum(_DOUBLED * len(one.blocks[0]) for one in self.strata if len(one) > _FEW)
        counts = super().first(samples - doubled)
        self.doubled = [
            min(_DOUBLED, count) if len(one) > _FEW else 0 for count, one in zip(counts, self.strata, strict=True)
        ]
        return counts

    def multiply(self, stratum: int, group: Group, control: Control) -> None:
        """Take in what a random vector, or two of them, say of the next block of a stratum."""
        blocks, taken = len(self.strata[stratum]), len(self.values[stratum])
        vector = self._seen(group, control)
        noise = 0.0
        if taken < self.doubled[stratum]:
            other = self._seen(group, control)
            rest = self.backend.axpy_(self.backend.copy(vector), -1.0, other)
            (apart,) = self.run.to_host(self.backend.norm(rest))
            noise = 0.5 * float(apart) ** 2
            vector = self.backend.scale_(self.backend.axpy_(vector, 1.0, other), 0.5)
        self.add(stratum, 1.0, noise)
        if blocks <= _FEW:
            self.rounds[stratum] = vector = self.backend.axpy_(self.rounds[stratum], 1.0, vector)
            if (taken + 1) % blocks:
                return
        (length,) = self.run.to_host(self.backend.norm(vector))
        self.run.check_size(float(length), squared=True)
        self.lengths[stratum] += float(length) ** 2
        self.sums[stratum] = self.backend.axpy_(self.sums[stratum], 1.0, vector)
        self.squares[stratum] = self.backend.axpy_(self.squares[stratum], 1.0, self.backend.multiply(vector, vector))
        if blocks <= _FEW:
            self.rounds[stratum] = self.backend.zeros(self.run.A.domain)

    def _seen(self, group: Group, control: Control) -> Array:
        run, self.drawn = self.run, self.drawn + 1
        probe = probes.rademacher(self.backend, run.A.domain, run.seed, self.drawn - 1)
        image = control.subtract_(run.multiply_group(group, probe), probe)
        return self.backend.scale_(self.backend.multiply(probe, image), group.share)

    def mean(self) -> Array:
        """Return the sum over all blocks."""
        total = self.backend.copy(self.known)
        for i, vector in enumerate(self.sums):
            total = self.backend.axpy_(total, self._factor(i) / self._count(i), vector)
        return total

    def errors(self) -> tuple[float, float, float]:
        """Return the norm of the sum, that of its error, and the part of that which the choice of blocks has."""
        (norm,) = self.run.to_host(self.backend.norm(self.mean()))
        variances, sampled = 0.0, 0.0
        for i, one in enumerate(self.strata):
            count, blocks, spread = self._count(i), len(one), self._spread(i)
            variances += self._factor(i) ** 2 * spread * self._left(i) / count
            if blocks > _FEW and count < blocks:
                noise = float(np.mean(self.noises[i][: self.doubled[i]]))
                sampled += blocks**2 * (1.0 - count / blocks) * max(0.0, spread - noise) / count
        return float(norm), float(variances**0.5), float(min(sampled, variances) ** 0.5)

    def standard_errors(self) -> Array:
        """Return the standard error of each entry."""
        variances: Floats = np.zeros(self.run.n)
        for i in range(len(self.strata)):
            count = self._count(i)
            if count < 2:
                variances += np.nan
                continue
            mean, squares = (
                self.backend.to_numpy(one).astype(float) / count for one in (self.sums[i], self.squares[i])
            )
            variances += self._factor(i) ** 2 * np.maximum(0.0, squares - mean**2) / (count - 1) * self._left(i)
        return self.backend.from_host(np.sqrt(variances).astype(self.run.A.dtype), self.run.A.domain)

    def _count(self, stratum: int) -> int:
        """Return how many vectors there are of a stratum: of blocks, or of all its blocks together."""
        count, blocks = len(self.values[stratum]), len(self.strata[stratum])
        return count if blocks > _FEW else count // blocks

    def _factor(self, stratum: int) -> int:
        blocks = len(self.strata[stratum])
        return blocks if blocks > _FEW else 1

    def _left(self, stratum: int) -> float:
        """Return the share of the variance of a stratum's vectors that so many of its blocks leave."""
        blocks, spread = len(self.strata[stratum]), self._spread(stratum)
        if blocks <= _FEW or spread == 0.0:
            return 1.0
        noise = min(1.0, _DOUBT * float(np.mean(self.noises[stratum][: self.doubled[stratum]])) / spread)
        return max(0.0, 1.0 - self._count(stratum) / blocks) * (1.0 - noise) + noise

    def _spread(self, stratum: int) -> float:
        """Return the variance of a vector of a stratum, summed over its entries."""
        count = self._count(stratum)
        if count < 2:
            return self.lengths[stratum] / count
        (length,) = self.run.to_host(self.backend.norm(self.sums[stratum]))
        return max(0.0, self.lengths[stratum] - float(length) ** 2 / count) / (count - 1)

    def _deviation(self, stratum: int) -> float:
        blocks = len(self.strata[stratum])
        return (self._spread(stratum) / (1.0 if blocks > _FEW else blocks)) ** 0.5

    def allowed(self, stratum: int, count: int, rounds: int = 32) -> int:
        blocks = len(self.strata[stratum])
        return super().allowed(stratum, max(count, blocks) if blocks <= _FEW else count, rounds)
