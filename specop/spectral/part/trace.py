r"""The trace of a mean over all samples from products with a part of them.

A group's matrix B is probed by a vector z of random signs of its own. With a matrix C of low rank and a number c,
neither of which depends on z,

.. math:: z^\top B z - c (z^\top C z - \operatorname{tr} C)

has the same mean, and less variance where c C is near to B. C is known, or has the directions that products with the
first groups have in common. c belongs to a stratum, because samples of little weight have little of C, and follows from
the groups of the stratum that came before.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

from specop.arrays import probes
from specop.arrays.backend import Array
from specop.krylov.run import Run
from specop.operators.sample_mean import Group
from specop.results.eigen import EigenResult
from specop.spectral.goals import Goal
from specop.spectral.part.control import Control, control_of, shared
from specop.spectral.part.part import PartEstimate, part_of, sum_of_part
from specop.spectral.part.split import trace_of_split
from specop.spectral.sampling import LARGEST_SKETCH
from specop.statistics.group_sums import GroupSum
from specop.statistics.regression import Regression

__all__ = ["trace_of_part"]

# Groups of each stratum whose products show what they have in common.
_PILOT = 4


def trace_of_part(run: Run, goal: Goal, confidence: float, deflate: EigenResult | None) -> PartEstimate:
    """Return the trace of the mean over all samples, by a random vector of its own for each group of them."""
    part = part_of(run, run.seed)
    split = part.mean.split if deflate is None else None
    found = None if split is None else trace_of_split(run, split, part, goal, confidence)
    if found is not None:
        return found
    # Nothing of what was read before a sample turned out to have no gradient of its own was multiplied.
    part = replace(part)
    pilot = [min(_PILOT, len(one)) for one in part.strata]
    held = 2 * sum(pilot) + _PILOT
    learns = deflate is None and held * run.n <= LARGEST_SKETCH and held < run.room().rows
    probed = _Probed(run, control_of(run, deflate), len(part.strata), sum(pilot) if learns else 0)
    return sum_of_part(
        part, GroupSum(part.strata, is_noisy=True), goal, confidence, probed.measure, pilot if learns else None
    )


class _Probed:
    """What random vectors say of groups' parts of the trace.

    Parameters
    ----------
    run : Run
    control : Control
    strata : int
    pilot : int
        After how many products the control is made of what they have in common; 0 if it is known.
    """

    def __init__(self, run: Run, control: Control, strata: int, pilot: int) -> None:
        self._run, self._control, self._pilot, self._is_known = run, control, pilot, not pilot
        self._index = itertools.count()
        self._slopes = self._no_pairs(strata)
        self._first: list[tuple[int, float, Array, Array]] = []

    def measure(self, stratum: int, group: Group) -> tuple[float, float]:
        """Return what a random vector says of a group's part, and the variance that the vector gives it."""
        run, backend, slope = self._run, self._run.backend, self._slopes[stratum]
        probe = probes.rademacher(backend, run.A.domain, run.seed, next(self._index))
        image = backend.scale_(run.multiply_group(group, probe), group.share)
        form, length = (float(one) for one in run.to_host(backend.dot(probe, image), backend.norm(image)))
        known, across, square = self._control.forms(image, probe)
        # The slope knows nothing of this vector yet. Pairs of a similar matrix are believed to be those of each group.
        c = slope.slope(group.share if self._is_known else 0.0)
        slope.add(form, float(known))
        value = form - c * float(known - self._control.trace)
        rest = max(0.0, length**2 - 2.0 * c * float(across) + c**2 * float(square))
        if self._pilot:
            self._learn(stratum, form, image, probe)
        # Random signs give z'Bz a variance of 2(|B|^2 - sum of squares on the diagonal), and |Bz|^2 the mean |B|^2.
        return value, 2.0 * rest

    def _learn(self, stratum: int, form: float, image: Array, probe: Array) -> None:
        self._first.append((stratum, form, image, probe))
        if len(self._first) < self._pilot:
            return
        strata, forms, images, vectors = map(list, zip(*self._first, strict=True))
        self._control = shared(self._run, images, vectors)
        self._slopes = self._no_pairs(len(self._slopes))
        for i, value, vector in zip(strata, forms, vectors, strict=True):
            self._slopes[i].add(value, float(self._control.forms(vector, vector)[0]))
        self._first, self._pilot = [], 0

    def _no_pairs(self, strata: int) -> list[Regression]:
        # Random signs give z'Cz a variance of 2|C|^2 at most.
        return [Regression(2.0 * self._control.square) for _ in range(strata)]
