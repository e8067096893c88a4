"""The Hessian by differences of gradients, for models whose gradients cannot be differentiated."""

from __future__ import annotations

import itertools
from dataclasses import replace

from specop.arrays import probes
from specop.arrays.backend import Array, lengths_of
from specop.objectives.curvature import Watched
from specop.objectives.loss import mean_gradient
from specop.objectives.point import Point

__all__ = ["DifferenceOperator"]

_STEPS = 6
_RATIO = 4.0


class DifferenceOperator(Watched):
    """Central differences of the gradient; made by `Objective.finite_difference_hessian`.

    Parameters
    ----------
    point : Point
        Parameters, data and derivatives that the matrix is made of.

    Attributes
    ----------
    step : float
        Length of the step in parameter space.
    """

    def __init__(self, point: Point) -> None:
        super().__init__(point, is_symmetric=True)
        self._theta = point.autodiff.point() if point.theta is None else point.theta
        self.step, self._error = self._best_step()

    @property
    def precision(self) -> float:
        return max(self._error, super().precision)

    @property
    def notes(self) -> tuple[str, ...]:
        return (*super().notes, f"products by differences of gradients, to about {self.precision:.0e} of their size")

    def _matvec(self, x: Array) -> Array:
        return self._difference(x, self.step)

    def _difference(self, x: Array, step: float) -> Array:
        (length,) = lengths_of(self.backend, x)
        if length == 0:
            return self.backend.copy(x)
        ahead, behind = (self._gradient(sign * step / length, x) for sign in (1, -1))
        return self.backend.scale_(self.backend.axpy_(ahead, -1.0, behind), length / (2 * step))

    def _gradient(self, step: float, x: Array) -> Array:
        theta = self.backend.axpy_(self.backend.copy(self._theta), step, x)
        return mean_gradient(replace(self.point, theta=theta))

    def _best_step(self) -> tuple[float, float]:
        """Return the step that agrees best with those around it, and by how much they differ.

        Truncation grows with the step's square and with curvature, rounding with the step's inverse. After two products
        a random direction is turned to where curvature is large. Two steps may agree by chance, in one dimension to the
        last bit, so both neighbours count: the shorter one differs by its own rounding. None promises more digits than
        the parameters' own rounding leaves of the step.
        """
        (length,) = lengths_of(self.backend, self._theta)
        scale = length or 1.0
        largest = _RATIO * self.domain.epsilon ** (1 / 3) * scale
        direction = probes.sphere(self.backend, self.domain, 0, 0)
        for _ in range(2):
            direction = self._difference(direction, largest / _RATIO**2)
        steps = [largest / _RATIO**i for i in range(_STEPS)]
        images = [self._difference(direction, step) for step in steps]
        changes = []
        for coarse, fine in itertools.pairwise(images):
            size, change = lengths_of(self.backend, fine, self.backend.axpy_(coarse, -1.0, fine))
            changes.append(change / size if size > 0 else 0.0)
        least = self.domain.epsilon * scale
        around = zip(changes, changes[1:], steps[1:], strict=False)
        error, step = min((max(longer, shorter / _RATIO, least / step), step) for longer, shorter, step in around)
        return step, error
