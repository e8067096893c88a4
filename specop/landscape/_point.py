"""What functions of the landscape look at first: a point, its loss and its gradient, all of them finite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specop.arrays.backend import Array, Backend, backend_of, numbers_of
from specop.errors import NonFiniteError
from specop.objectives.checked_point import checked_point

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["PointOfLoss", "loss_beside", "point_of"]


@dataclass(frozen=True, eq=False)
class PointOfLoss:
    """Parameters with the loss and its gradient there.

    Attributes
    ----------
    theta : native vector (n,)
        A copy of the parameters.
    loss : float
    gradient : native vector (n,)
    slope : float
        Norm of the gradient.
    length : float
        Norm of the parameters.
    """

    theta: Array
    loss: float
    gradient: Array
    slope: float
    length: float

    @property
    def backend(self) -> Backend:
        """That of the vectors."""
        return backend_of(self.theta)

    @property
    def epsilon(self) -> float:
        """Machine epsilon of the vectors."""
        return self.backend.layout(self.theta).epsilon


def point_of(objective: Objective, theta: Array | None) -> PointOfLoss:
    """Return a point of the objective, by default where the model is; raise NonFiniteError if the loss has none."""
    at = checked_point(objective, theta)
    backend = backend_of(at)
    value, gradient = objective.loss_and_gradient(theta)
    loss, slope, length = numbers_of(backend, value, backend.norm(gradient), backend.norm(at))
    if not np.isfinite(loss) or not np.isfinite(slope):
        raise NonFiniteError(
            f"the loss is {loss:g} and its gradient has the norm {slope:g} at parameters of norm {length:.3g}, all of "
            f"them finite: look for overflow, log(0) or sqrt(0) in the loss, and for NaN in the data."
        )
    return PointOfLoss(at, loss, gradient, slope, length)


def loss_beside(objective: Objective, point: PointOfLoss, direction: Array, distance: float) -> float:
    """Return the loss at a distance along a direction from the point, NaN where it has none."""
    backend = point.backend
    moved = backend.axpy_(backend.copy(point.theta), distance, direction)
    try:
        return numbers_of(backend, objective.loss(moved))[0]
    except NonFiniteError:
        return float("nan")
