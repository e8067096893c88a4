"""Strata: groups of samples of which parts are drawn with known probabilities."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from specop.statistics.numbers import Floats, Integers

__all__ = ["FLOOR", "Stratum", "stratified"]

FLOOR = 0.1
"""Of the mean weight, added to all: no sample is so unlikely that its own weight, the inverse, has no bound."""


@dataclass(frozen=True)
class Stratum:
    """Samples of about the same weight, in blocks in the order in which they are drawn.

    The first k of K blocks hold each sample with probability k / K. A block has one sample of each of as many runs of
    neighbouring weights as it is long, so that blocks are alike; the mean over the first k, times K, is an unbiased
    estimate of the stratum's sum.

    Attributes
    ----------
    blocks : tuple of ndarray of int
        Numbers of samples, of one length; together the whole stratum.
    """

    blocks: tuple[Integers, ...]

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def samples(self) -> int:
        """How many it has."""
        return sum(map(len, self.blocks))

    def coarser(self, each: int) -> Stratum:
        """Return the same samples in blocks of so many of these, and a last one of what is left."""
        return Stratum(tuple(np.concatenate(self.blocks[i : i + each]) for i in range(0, len(self), each)))


def stratified(weights: Floats, size: int, count: int, seed: int) -> list[Stratum]:
    """Return strata of about equal total weight, the heaviest samples first.

    From each as many blocks are to be drawn: samples are then drawn in proportion to the mean weight of their stratum.
    Where the samples are no multiple of the blocks' length, the heaviest ones are a stratum of a single shorter block.

    Parameters
    ----------
    weights : ndarray (m,)
        Not negative; a tenth of their mean is added to each.
    size : int
        Number of samples in a block.
    count : int
        Number of strata, at most.
    seed : int
        Seed of the draw.
    """
    generator = np.random.default_rng([seed, 0x5A])
    raised = weights + FLOOR * weights.mean() if weights.any() else np.ones(len(weights))
    # Equal weights come in no particular order.
    order = generator.permutation(len(weights))
    order = order[np.argsort(-raised[order], kind="stable")]
    rest = len(order) % size
    found = [Stratum((order[:rest].astype(np.intp),))] if rest else []
    order = order[rest:]
    if not len(order):
        return found
    reached = np.cumsum(raised[order])
    ends = np.searchsorted(reached, reached[-1] * np.arange(1, count) / count) // size
    bounds = np.unique([0, *ends, len(order) // size]) * size
    for start, stop in itertools.pairwise(bounds):
        runs = generator.permuted(order[start:stop].reshape(size, -1), axis=1)
        found.append(Stratum(tuple(runs.T.astype(np.intp))))
    return found
