"""Crossed: curvature along noise and gradient from samples that do not know each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specop.arrays.backend import Array, add_, numbers_of
from specop.errors import NonFiniteError
from specop.krylov.task import Task
from specop.landscape._units import Units
from specop.statistics.numbers import Floats, Integers
from specop.statistics.ratio import jackknife_covariance

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["Crossed", "finite"]


class Crossed:
    """tr(HS) and g'Hg from products of each part's Hessian with gradients of the other parts.

    For part l they are estimated by the signed sums z_k of the other parts' centred gradients, and by their mean, which
    neither H_l nor z_k knows; `forms[l, k]` is z_k'H_l z_k, and `slopes[l, k]` the mean gradient of part k in the
    product of H_l with the mean of all but l.
    """

    def __init__(
        self,
        task: Task,
        objective: Objective,
        theta: Array | None,
        units: Units,
        part: Integers,
        combined: list[Array],
        signs: Floats,
    ) -> None:
        backend, parts = task.backend, len(signs)
        self.counts = np.bincount(part, minlength=parts)
        sums, signed = combined[:parts], combined[parts:]
        means = [backend.scale_(backend.copy(one), 1.0 / n) for one, n in zip(sums, self.counts, strict=True)]
        signed = [backend.axpy_(one, -float(sign), mean) for one, sign, mean in zip(signed, signs, means, strict=True)]
        self.forms, self.slopes, self.along = np.zeros((parts, parts)), np.zeros((parts, parts)), np.zeros(parts)
        for own in range(parts):
            others = [k for k in range(parts) if k != own]
            weights = self.counts[others] / self.counts[others].sum()
            mean = add_(backend, backend.zeros(backend.layout(means[0])), weights, [means[k] for k in others])
            some = objective.subset(units.samples(np.flatnonzero(part == own)))
            hessian = some.hessian(theta)
            with hessian.session():
                image = task.multiply_by(hessian, mean)
                found = [backend.dot(mean, image), *(backend.dot(means[k], image) for k in others)]
                for k in others:
                    found.append(backend.dot(signed[k], task.multiply_by(hessian, signed[k])))
                    task.update()
            numbers = np.array(finite(numbers_of(backend, *found)))
            some.release()
            self.along[own] = numbers[0]
            self.slopes[own, others], self.forms[own, others] = np.split(numbers[1:], 2)

    def estimates(self) -> tuple[Floats, Floats]:
        """Return tr(HS) and g'Hg, and the jackknife's covariance over parts."""
        parts, counts = len(self.counts), self.counts
        total = counts.sum()
        noise = np.array([self._noise(own) for own in range(parts)])
        bent = self.along - noise / (total - counts)
        without = np.empty((parts, 2))
        for k in range(parts):
            left = [own for own in range(parts) if own != k]
            noise_without = np.array([self._noise(own, k) for own in left])
            # The mean of the others moves away from part k; what that adds in second order is noise, and taken off.
            share = counts[k] / (total - counts[left] - counts[k])
            moved = 2.0 * share * (self.along[left] - self.slopes[left, k])
            lost = (noise_without - noise[left]) / (total - counts[left])
            without[k] = noise_without.mean(), (bent[left] + moved - lost).mean()
        whole = np.array([noise.mean(), bent.mean()])
        return whole, jackknife_covariance(without)

    def _noise(self, own: int, gone: int = -1) -> float:
        """Return tr(H_l S) from all parts but its own, and but one more."""
        others = [k for k in range(len(self.counts)) if k not in (own, gone)]
        return float(self.forms[own, others].sum() / (self.counts[others] - 1).sum())


def finite(numbers: list[float]) -> list[float]:
    if not np.isfinite(numbers).all():
        raise NonFiniteError(
            "products of the Hessian with samples' gradients hold NaN or infinity. Look for a loss whose second "
            "derivative is infinite somewhere (sqrt at 0, norm at 0), and for overflow."
        )
    return numbers
