"""The trace of a mean over all samples from products with a part of them."""

from __future__ import annotations

import itertools

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array, add_
from specop.krylov.known import eigenvectors_for
from specop.krylov.run import Run
from specop.operators.sample_mean import Group
from specop.results.eigen import EigenResult
from specop.spectral.from_part import PartEstimate, part_of, sum_of_part
from specop.spectral.goals import Goal
from specop.statistics.group_sums import GroupSum

__all__ = ["Control", "trace_of_part"]


def trace_of_part(run: Run, goal: Goal, confidence: float, deflate: EigenResult | None) -> PartEstimate:
    """Return the trace of the mean over all samples, by a random vector of its own for each group of them."""
    part, control, index = part_of(run, run.seed), Control(run, deflate), itertools.count()
    total = GroupSum(part.strata, is_noisy=True)

    def measure(_: int, group: Group) -> tuple[float, float]:
        probe = probes.rademacher(run.backend, run.A.domain, run.seed, next(index))
        rest = control.subtract_(run.multiply_group(group, probe), probe)
        form, length = (float(one) for one in run.to_host(run.backend.dot(probe, rest), run.backend.norm(rest)))
        # Random signs give z'Bz a variance of 2(|B|^2 - sum of squares on the diagonal), and |Bz|^2 the mean |B|^2.
        return group.share * (form + control.trace), 2.0 * (group.share * length) ** 2

    return sum_of_part(part, total, goal, confidence, measure)


class Control:
    """A matrix of low rank that is taken out of all groups' matrices; its own trace is added."""

    def __init__(self, run: Run, deflate: EigenResult | None) -> None:
        self._backend, self._layout = run.backend, run.A.domain
        self._values = np.zeros(0) if deflate is None else deflate.eigenvalues
        vectors = [] if deflate is None else eigenvectors_for(deflate, run.backend, run.A.domain, "deflate")
        self._rows = run.backend.stack(vectors) if vectors else None
        self._vectors = vectors
        self.trace = float(self._values.sum())
        self.square = float(np.sum(self._values**2))

    def subtract_(self, image: Array, vector: Array) -> Array:
        """Return an image minus the control's product with a vector; the image is consumed."""
        if self._rows is None:
            return image
        (along,) = self._backend.to_host(self._backend.apply_rows(self._rows, vector))
        return add_(self._backend, image, -self._values * along, self._vectors)

    def diagonal(self) -> Array:
        """Return the control's diagonal."""
        total = self._backend.zeros(self._layout)
        return add_(
            self._backend, total, self._values, (self._backend.multiply(vector, vector) for vector in self._vectors)
        )
