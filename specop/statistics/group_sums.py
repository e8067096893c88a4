"""GroupSum: a sum over all samples from blocks of some of them, each value of which may be random itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from specop.statistics.estimate import Estimate, with_error
from specop.statistics.numbers import Floats
from specop.statistics.strata import Stratum

__all__ = ["GroupSum", "Moments", "added_up"]

# Values of a stratum before its scatter says something, and where only random vectors are left to scatter: an error
# that is small by chance goes with a sum that is off, and must not end the estimate.
_FEWEST, _FEWEST_ROUNDS = 16, 32
# A value with one dominating direction is the square of a normal number, whose sample variance is as uncertain as that
# of a seventh as many normal ones.
_TAIL = 7.0
# By how much a stratum may grow at once: what the first values say of their scatter is itself uncertain.
_GROWTH = 4


class GroupSum:
    r"""A sum over all blocks of all strata.

    With values :math:`y_b` of the first k of K blocks, the stratum adds :math:`K \bar y`. Its variance is

    .. math:: K^2 \left( \left(1 - \frac kK\right) \max(0, s^2 - p) + p \right) / k

    with the sample variance s^2, in which p is what random vectors add to the variance of a single value. Once all
    blocks were taken only p is left, and further rounds lessen it; p is then the variance inside of blocks, before
    that a bound that is given with each value.

    Parameters
    ----------
    strata : sequence of Stratum
    is_noisy : bool
        Whether values depend on random vectors.
    are_bounds_loose : bool
        Whether the bounds of p may be far above it. They are then held to the sample variance: all that values scatter
        by is taken for p at most, and never more than they do.
    """

    def __init__(self, strata: Sequence[Stratum], is_noisy: bool, *, are_bounds_loose: bool = False) -> None:
        self.strata = strata
        self.is_noisy = is_noisy
        self.are_bounds_loose = are_bounds_loose
        self.values: list[list[float]] = [[] for _ in strata]
        self.noises: list[list[float]] = [[] for _ in strata]

    def add(self, stratum: int, value: float, noise: float = 0.0) -> None:
        """Take in the value of a stratum's next block, and the variance that random vectors give it."""
        self.values[stratum].append(value)
        self.noises[stratum].append(noise)

    def first(self, samples: int) -> list[int]:
        """Return how many values each stratum is to have at first, fewer where so many samples are all there may be.

        Of each block there is one value at most before a number is returned that takes more samples.
        """
        fewest = _FEWEST
        while True:
            rounds = fewest * _FEWEST_ROUNDS // _FEWEST
            counts = [self.allowed(i, min(max(1, fewest), len(one)), rounds) for i, one in enumerate(self.strata)]
            needed = sum(count * len(one.blocks[0]) for one, count in zip(self.strata, counts, strict=True))
            if needed <= samples or not fewest:
                return counts
            fewest //= 2

    def wanted(self, error: float) -> list[int]:
        """Return how many values each stratum is to have for that standard error, as far as can be told now."""
        scatter = self.scatter()
        have = np.array([len(values) for values in self.values])
        goal = scatter * scatter.sum() / error**2 if error > 0 else np.full(len(have), np.inf)
        # A little more than enough, so that it need not be asked for again.
        asked = np.minimum(np.ceil(1.1 * goal), _GROWTH * have)
        best = int(np.argmax(scatter / np.sqrt(have)))
        asked[best] = max(asked[best], have[best] + 1)
        return [max(int(have[i]), self.allowed(i, int(asked[i]))) for i in range(len(have))]

    def reachable(self, more: int) -> float:
        """Return the standard error that so many more values leave at best."""
        return float(self.scatter().sum()) / (sum(map(len, self.values)) + more) ** 0.5

    def estimate(self, confidence: float) -> tuple[Estimate, float]:
        """Return the sum, and the part of its standard error that the choice of blocks has."""
        return added_up([self], confidence)

    @property
    def moments(self) -> Moments:
        """What is known of the sum."""
        total = sum(len(one) * float(np.mean(values)) for one, values in zip(self.strata, self.values, strict=True))
        return replace(self._chance([len(values) for values in self.values]), total=total)

    def foreseen(self, factor: float, confidence: float) -> float:
        """Return half the interval's width that so many times as many values of each stratum are likely to leave."""
        counts = [math.ceil(factor * len(values)) for values in self.values]
        value = _estimate(self._chance([self.allowed(i, count) for i, count in enumerate(counts)]), confidence)
        return value.interval[1] - value.estimate

    def _chance(self, counts: Sequence[int]) -> Moments:
        """Return what so many values leave to chance, of a total that is 0."""
        variances, sampled, degrees = [], 0.0, []
        for i, (count, one, values) in enumerate(zip(counts, self.strata, self.values, strict=True)):
            blocks, (noise, free) = len(one), self._noise(i)
            spread = float(np.var(values, ddof=1)) if len(values) > 1 else 0.0
            left = max(0.0, 1.0 - count / blocks) * max(0.0, spread - noise)
            variances.append(blocks**2 * (left + noise) / count)
            sampled += blocks**2 * left / count
            free += count - len(values)
            degrees.append(max(1.0, free / _TAIL) if self.is_noisy else free)
        return Moments(0.0, float(np.sum(variances)), sampled, float(np.sum(np.square(variances) / degrees)))

    def shown(self) -> Floats:
        """Return all values, weighted so that their mean is the sum."""
        count = sum(map(len, self.values))
        pairs = zip(self.strata, self.values, strict=True)
        return np.concatenate([count * len(one) / len(values) * np.array(values) for one, values in pairs])

    def scatter(self) -> Floats:
        """Return, for each stratum, the standard error of its sum times the root of the number of its values."""
        return np.array([len(one) * self._deviation(i) for i, one in enumerate(self.strata)])

    def _deviation(self, stratum: int) -> float:
        values, blocks = self.values[stratum], len(self.strata[stratum])
        noise, _ = self._noise(stratum)
        if len(values) >= blocks:
            return noise**0.5
        return max(noise, float(np.var(values, ddof=1)) if len(values) > 1 else 0.0) ** 0.5

    def _noise(self, stratum: int) -> tuple[float, int]:
        values = self.values[stratum]
        noise, free = _noise(values, self.noises[stratum], len(self.strata[stratum]))
        if self.are_bounds_loose and len(values) > 1:
            noise = min(noise, float(np.var(values, ddof=1)))
        return noise, free

    def allowed(self, stratum: int, count: int, rounds: int = _FEWEST_ROUNDS) -> int:
        """Return a number of values that leaves the sum unbiased: any below all blocks, and whole rounds above."""
        blocks = len(self.strata[stratum])
        if not self.is_noisy:
            return min(count, blocks)
        if count < blocks:
            return count
        return -(-max(count, rounds) // blocks) * blocks


@dataclass(frozen=True)
class Moments:
    """What is known of a sum over strata.

    Attributes
    ----------
    total : float
    variance, sampled : float
        Variance of the total, and the part of it that comes from the choice of blocks.
    squares : float
        The sum over strata of squared variances, each over its degrees of freedom.
    """

    total: float
    variance: float
    sampled: float
    squares: float


def added_up(sums: Sequence[GroupSum], confidence: float) -> tuple[Estimate, float]:
    """Return the total of independent sums, and the part of its standard error that the choice of blocks has.

    The degrees of freedom are those of Welch and Satterthwaite.
    """
    moments = [one.moments for one in sums]
    whole = Moments(*(sum(getattr(one, field.name) for one in moments) for field in fields(Moments)))
    return _estimate(whole, confidence), whole.sampled**0.5


def _estimate(found: Moments, confidence: float) -> Estimate:
    degrees = max(1.0, found.variance**2 / found.squares if found.squares else 1e9)
    return with_error(found.total, found.variance**0.5, degrees, confidence)


def _noise(values: Sequence[float], noises: Sequence[float], blocks: int) -> tuple[float, int]:
    """Return the variance that random vectors give a single value, and the degrees of freedom of what is known."""
    count = len(values)
    if count < 2 * blocks or not any(noises):
        return float(np.mean(noises)), max(1, count - 1)
    rounds = np.reshape(values, (-1, blocks))
    return float(np.mean(np.var(rounds, axis=0, ddof=1))), count - blocks
