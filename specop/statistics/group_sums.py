"""GroupSum: a sum over all samples from blocks of some of them, each value of which may be random itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from specop.statistics.estimate import Estimate, with_error
from specop.statistics.numbers import Floats
from specop.statistics.strata import Stratum

__all__ = ["GroupSum"]

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
    """

    def __init__(self, strata: Sequence[Stratum], is_noisy: bool) -> None:
        self.strata = strata
        self.is_noisy = is_noisy
        self.values: list[list[float]] = [[] for _ in strata]
        self.noises: list[list[float]] = [[] for _ in strata]

    def add(self, stratum: int, value: float, noise: float = 0.0) -> None:
        """Take in the value of a stratum's next block, and the variance that random vectors give it."""
        self.values[stratum].append(value)
        self.noises[stratum].append(noise)

    def first(self, samples: int) -> list[int]:
        """Return how many values each stratum is to have at first, fewer where so many samples are all there may be."""
        fewest = _FEWEST
        while True:
            rounds = fewest * _FEWEST_ROUNDS // _FEWEST
            counts = [self._allowed(i, min(fewest, len(one)), rounds) for i, one in enumerate(self.strata)]
            needed = sum(count * len(one.blocks[0]) for one, count in zip(self.strata, counts, strict=True))
            if needed <= samples or fewest == 1:
                return counts
            fewest //= 2

    def wanted(self, error: float) -> list[int]:
        """Return how many values each stratum is to have for that standard error, as far as can be told now."""
        scatter = self._scatter()
        have = np.array([len(values) for values in self.values])
        goal = scatter * scatter.sum() / error**2 if error > 0 else np.full(len(have), np.inf)
        # A little more than enough, so that it need not be asked for again.
        asked = np.minimum(np.ceil(1.1 * goal), _GROWTH * have)
        best = int(np.argmax(scatter / np.sqrt(have)))
        asked[best] = max(asked[best], have[best] + 1)
        return [max(int(have[i]), self._allowed(i, int(asked[i]))) for i in range(len(have))]

    def reachable(self, more: int) -> float:
        """Return the standard error that so many more values leave at best."""
        return float(self._scatter().sum()) / (sum(map(len, self.values)) + more) ** 0.5

    def estimate(self, confidence: float) -> tuple[Estimate, float]:
        """Return the sum, and the part of its standard error that the choice of blocks has."""
        total, variances, sampled, degrees = 0.0, [], 0.0, []
        for one, values, noises in zip(self.strata, self.values, self.noises, strict=True):
            count, blocks = len(values), len(one)
            total += blocks * float(np.mean(values))
            noise, free = _noise(values, noises, blocks)
            spread = float(np.var(values, ddof=1)) if count > 1 else 0.0
            left = max(0.0, 1.0 - count / blocks) * max(0.0, spread - noise)
            variances.append(blocks**2 * (left + noise) / count)
            sampled += blocks**2 * left / count
            degrees.append(max(1.0, free / _TAIL) if self.is_noisy else free)
        variance = float(np.sum(variances))
        squares = float(np.sum(np.square(variances) / degrees))
        value = Estimate(total, float("nan"), (-np.inf, np.inf), confidence)
        return with_error(value, variance**0.5, max(1.0, variance**2 / squares if squares else 1e9)), sampled**0.5

    def shown(self) -> Floats:
        """Return all values, weighted so that their mean is the sum."""
        count = sum(map(len, self.values))
        pairs = zip(self.strata, self.values, strict=True)
        return np.concatenate([count * len(one) / len(values) * np.array(values) for one, values in pairs])

    def _scatter(self) -> Floats:
        return np.array([len(one) * self._deviation(i) for i, one in enumerate(self.strata)])

    def _deviation(self, stratum: int) -> float:
        values, blocks = self.values[stratum], len(self.strata[stratum])
        noise, _ = _noise(values, self.noises[stratum], blocks)
        if len(values) >= blocks:
            return noise**0.5
        return max(noise, float(np.var(values, ddof=1)) if len(values) > 1 else 0.0) ** 0.5

    def _allowed(self, stratum: int, count: int, rounds: int = _FEWEST_ROUNDS) -> int:
        """Return a number of values that leaves the sum unbiased: any below all blocks, and whole rounds above."""
        blocks = len(self.strata[stratum])
        if not self.is_noisy:
            return min(count, blocks)
        if count < blocks:
            return count
        return -(-max(count, rounds) // blocks) * blocks


def _noise(values: Sequence[float], noises: Sequence[float], blocks: int) -> tuple[float, int]:
    """Return the variance that random vectors give a single value, and the degrees of freedom of what is known."""
    count = len(values)
    if count < 2 * blocks or not any(noises):
        return float(np.mean(noises)), max(1, count - 1)
    rounds = np.reshape(values, (-1, blocks))
    return float(np.mean(np.var(rounds, axis=0, ddof=1))), count - blocks
