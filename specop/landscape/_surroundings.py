"""Surroundings: what a point is by its Hessian's spectrum, its gradient and the loss along lines through it."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specop.arrays.backend import Array, numbers_of
from specop.krylov.run import Run
from specop.landscape._descent import Descent, descend
from specop.landscape._point import PointOfLoss, loss_beside
from specop.spectral.edges import Edges
from specop.spectral.shares import Parts, parts_by_sign, parts_of

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["Surroundings"]

# Rounding of a loss, in roundings of a number.
_LOSS_ROUNDINGS = 20.0
# Directions without curvature along which the loss is looked at, and how far, relative to the parameters.
_TRIED, _NEAR = 3, (1e-3, 1e-2, 1e-1)
# The same for the search along a direction that leads down.
_START, _FIRST, _REACH = 1e-4, 1e-8, 1e3


@dataclass(frozen=True, eq=False)
class Surroundings:
    """A point, what is known of its spectrum, and what counts as zero there.

    Attributes
    ----------
    objective : Objective
    point : PointOfLoss
    edges : Edges
        Smallest and largest eigenvalues of the Hessian.
    resolution : float
        How far beyond the smallest and the largest eigenvalue found another one may lie, relative to the largest size.
    zero : float
        Size up to which eigenvalues count as zero.
    given : float
        Size up to which the user lets eigenvalues count as zero; 0 where that is not said.
    allowed : float
        Amount of the loss that counts as zero.
    rounding : float
        What rounding of the parameters makes of the loss.
    """

    objective: Objective
    point: PointOfLoss
    edges: Edges
    resolution: float
    zero: float
    given: float
    allowed: float
    rounding: float

    def noise(self, distance: float = 0.0) -> float:
        """How far rounding may move a loss, that of products along a direction without curvature included."""
        rest = self.rounding + 0.5 * self.edges.rounding * distance**2
        epsilon = max(self.point.epsilon, self.edges.space.run.A.precision)
        return _LOSS_ROUNDINGS * epsilon * abs(self.point.loss) + rest

    @property
    def reach(self) -> float:
        """How long the parameters are, at least 1."""
        return max(self.point.length, 1.0)

    def parts(self, run: Run) -> Parts:
        """Return what the gradient has along positive, negative and small eigenvalues."""
        if self.edges.is_whole:
            squares = self.edges.coordinates(self.point.gradient) ** 2
            return parts_of(self.edges.ritz.values, squares, self.zero)
        return parts_by_sign(run, self.point.gradient, self.zero, 0.1 * self.allowed)

    def kind(self, parts: Parts) -> tuple[str, Array, Descent]:
        """Return what the point is, a direction of its smallest eigenvalue, and what the loss does along it."""
        low, high = self.edges.smallest.interval
        lowest = self.edges.vector(np.eye(1, len(self.edges.ritz.values)).ravel())
        is_critical = max(parts.positive / 2, -parts.negative / 2, self._gain(parts.outside)) <= self.allowed
        is_minimum, is_negative = low > self.given, high < -self.given
        if is_minimum:
            kind = "minimum" if is_critical else "not critical"
            return kind, lowest, Descent(np.zeros(1), np.array([self.point.loss]), 0.0, 0.0, True)
        if self._is_flat() and not self._moves():
            return "plateau", lowest, self._descend(lowest)
        if is_negative or not is_critical:
            descent = self._descend(lowest)
            explained = parts.positive - parts.negative + 2 * self._gain(parts.outside)
            is_saddle = is_negative and (high < -self.resolution * self.edges.size or descent.drop > explained)
            if not is_critical or is_saddle:
                return "saddle" if is_critical else "not critical", lowest, descent
        return ("degenerate", *self._lowest_flat(lowest))

    def slope_along(self, direction: Array) -> float:
        """Return the gradient along a direction."""
        backend = self.point.backend
        return numbers_of(backend, backend.dot(self.point.gradient, direction))[0]

    def _gain(self, outside: float) -> float:
        if outside == 0.0:
            return 0.0
        return outside**2 / (2 * self.zero) if self.zero else math.inf

    def _is_flat(self) -> bool:
        """Whether neither slope nor curvature move the loss, over a distance as long as the parameters."""
        return self.point.slope * self.reach + self.edges.size * self.reach**2 / 2 <= self.allowed

    def _moves(self) -> bool:
        """Whether the loss itself does, nearby in some directions."""
        far = _NEAR[-1] * self.reach
        losses = [self._loss(direction, side * far) for direction in self._flat_directions() for side in (1.0, -1.0)]
        return not np.max(np.abs(np.array(losses) - self.point.loss)) <= max(self.allowed, self.noise(far))

    def _lowest_flat(self, lowest: Array) -> tuple[Array, Descent]:
        """Return the direction without curvature along which the loss falls most, and how it does."""
        best, direction = 0.0, lowest
        for one in (lowest, *self._flat_directions()):
            fall = self._fall(one)
            if fall > best:
                best, direction = fall, one
        if best:
            return direction, self._descend(direction)
        places = sorted(side * step * self.reach for step in (0.0, *_NEAR) for side in (1.0, -1.0) if step or side > 0)
        losses = [self._loss(direction, place) if place else self.point.loss for place in places]
        return direction, Descent(np.array(places), np.array(losses), 0.0, 0.0, True)

    def _fall(self, direction: Array) -> float:
        """Return by how much the loss falls nearby on one side, if that is more than rounding and the slope explain."""
        slope = self.slope_along(direction)
        for step in _NEAR:
            far = step * self.reach
            falls = [self.point.loss - self._loss(direction, side * far) for side in (1.0, -1.0)]
            fall = max((one for one in falls if not math.isnan(one)), default=0.0)
            if fall > self.noise(far) + 2.0 * abs(slope) * far:
                return fall
        return 0.0

    def _flat_directions(self) -> list[Array]:
        """Return random directions among those whose Ritz values count as zero."""
        flat = np.abs(self.edges.ritz.values) <= self.zero
        if not flat.any():
            flat = np.arange(len(flat)) == 0
        weights = np.random.default_rng(self.edges.space.run.seed).normal(size=(_TRIED, len(flat))) * flat
        return [self.edges.vector(row) for row in weights]

    def _descend(self, direction: Array) -> Descent:
        """Follow the loss along a direction."""
        curvature = abs(float(self.edges.ritz.values[0]))
        # Where the fall shows above rounding, if curvature makes it.
        seen = math.sqrt(200.0 * self.noise() / curvature) if curvature else math.inf
        start = min(_START * self.reach, max(seen, _FIRST * self.reach))
        value = functools.partial(self._loss, direction)
        return descend(value, self.point.loss, start, _REACH * self.reach, self.noise)

    def _loss(self, direction: Array, distance: float) -> float:
        return loss_beside(self.objective, self.point, direction, distance)
