r"""The part of the data whose spectrum stands for that of all of them, and how far both are apart at most.

For symmetric matrices A and H of n rows whose eigenvalues are paired in order, by Hoffman and Wielandt

.. math:: \frac1n \sum_i |\lambda_i(A) - \lambda_i(H)|^2 \le \frac1n \|A - H\|_F^2,

so the root of the right-hand side bounds the Wasserstein distances of both spectra. With A the mean of those of two
halves, whose errors know nothing of each other, :math:`E\|A - H\|_F^2 = E\|A_1 - A_2\|_F^2 / 4`, and a vector z of
random signs gives :math:`E\|(A_1 - A_2) z\|^2 = \|A_1 - A_2\|_F^2`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from specop.arrays import probes
from specop.krylov.run import Run
from specop.operators.operator import LinearOperator
from specop.results.spectral_density import SpectralDensity
from specop.spectral.goals import STAGE
from specop.spectral.part.part import part_of
from specop.spectral.part.sampled_mean import SampledMean, halves_of
from specop.statistics.estimate import root_of_mean

__all__ = ["PartDensity", "density_of_part"]

# Blocks of each stratum in each half before the first look.
_FIRST = 6
# Distance to the spectrum of all samples relative to its spread, where nobody says.
_CLOSE = 0.01


@dataclass(frozen=True)
class PartDensity:
    """The density of a part.

    Attributes
    ----------
    density : SpectralDensity
        Density of the part's matrix.
    distance : float
        Root of the mean squared distance of its eigenvalues to those of all samples, at most.
    samples_used : int
    is_close : bool
        Whether the distance, and the density's own error where that has a goal, are within it.
    """

    density: SpectralDensity
    distance: float
    samples_used: int
    is_close: bool

    @property
    def relative_distance(self) -> float:
        """The distance relative to the spread, which a density of a single node does not show."""
        if not self.distance:
            return 0.0
        return self.distance / self.density.spread if self.density.spread else float("inf")

    @property
    def error(self) -> float:
        """Distance of the density to the spectrum of all samples, relative to the spread."""
        return self.density.error + self.relative_distance


def density_of_part(
    run: Run, rtol: float | None, confidence: float, solve: Callable[[LinearOperator, int | None], SpectralDensity]
) -> PartDensity | None:
    """Return the density of a part that is large enough; None if the limit on products allows none.

    Parameters
    ----------
    run : Run
    rtol : float or None
        Goal for both distances together, relative to the spread.
    confidence : float
    solve : callable
        Returns the density of an operator by so many products at most.
    """
    part, count = part_of(run, run.seed), _FIRST
    found: PartDensity | None = None
    while True:
        halves = halves_of(part, count)
        grouping = halves[0].grouping
        size = sum(half.size for half in halves)
        if part.left < (STAGE + 1) * size:
            return found
        distance = _distance(run, halves, confidence)
        matrix = halves[0] if len(halves) == 1 else 0.5 * (halves[0] + halves[1])
        density = solve(matrix, None if run.limit is None else part.left // size)
        allowed = _CLOSE if rtol is None else rtol - density.error
        is_close = bool(distance <= max(allowed, 0.0) * density.spread)
        found = PartDensity(density, distance, grouping.samples_of(grouping.least), is_close)
        if is_close or len(halves) == 1:
            return found
        count *= 2


def _distance(run: Run, halves: list[SampledMean], confidence: float) -> float:
    """Return the upper end of an interval for the distance of the mean of both halves to the whole."""
    if len(halves) == 1:
        return 0.0
    lengths = np.zeros(STAGE)
    for i in range(STAGE):
        # Random vectors of the density are from the sphere.
        probe = probes.rademacher(run.backend, run.A.domain, run.seed, i)
        first, second = (half._matvec(probe) for half in halves)
        (length,) = run.to_host(run.backend.norm(run.backend.axpy_(first, -1.0, second)))
        lengths[i] = float(length)
    return root_of_mean(lengths**2, confidence).interval[1] / (2.0 * float(run.n) ** 0.5)
