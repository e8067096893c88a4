"""The loss as a function of a few coordinates, and its quadratic model in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specop.arrays.backend import Array, Backend, add_, lengths_of, numbers_of
from specop.errors import NonFiniteError
from specop.krylov.task import Task
from specop.landscape._taylor import Model
from specop.operators.operator import LinearOperator
from specop.statistics.numbers import Floats

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["Surface", "SurfaceModel", "model_of"]


@dataclass(eq=False)
class Surface:
    """The loss as a function of the coordinates along some directions.

    Attributes
    ----------
    objective : Objective
    backend : Backend
    theta : native vector (n,)
        Parameters at which all coordinates are zero.
    rows : list of native vectors (n,)
    task : Task
        Task whose progress bar moves with each loss.
    evaluations : int
        Number of losses and gradients so far.
    """

    objective: Objective
    backend: Backend
    theta: Array
    rows: list[Array]
    task: Task
    evaluations: int

    def point(self, coordinates: Floats) -> Array:
        """Return the parameters at some coordinates."""
        return add_(self.backend, self.backend.copy(self.theta), coordinates, self.rows)

    def along(self, number: int, x: float) -> Floats:
        """Return the coordinates of a point on one axis."""
        found = np.zeros(len(self.rows))
        found[number] = x
        return found

    def __call__(self, coordinates: Floats) -> float:
        """Return the loss there, whether it is finite or not."""
        self.evaluations += 1
        self.task.update(f"{self.evaluations} losses")
        try:
            return numbers_of(self.backend, self.objective.loss(self.point(coordinates)))[0]
        except NonFiniteError as error:
            # Far out that is an answer.
            return error.value

    def grid(self, weights: Floats) -> Floats:
        """Return the losses for coordinates of shape (k, ...)."""
        flat = weights.reshape(len(weights), -1)
        return np.array([self(one) for one in flat.T]).reshape(weights.shape[1:])


@dataclass(frozen=True, eq=False)
class SurfaceModel:
    """The quadratic model of the loss on the directions.

    Attributes
    ----------
    level : float
        The loss where they begin.
    slopes, lengths, errors : ndarray (k,)
        For each direction: the derivative along it, its length, and the rounding error of the curvature.
    curvature : ndarray (k, k)
        Second derivatives in the coordinates.
    """

    level: float
    slopes: Floats
    lengths: Floats
    curvature: Floats
    errors: Floats

    def at(self, weights: Floats) -> Floats:
        """Return the model for coordinates of shape (k, ...)."""
        linear = np.tensordot(self.slopes, weights, 1)
        bent = np.tensordot(self.curvature, weights, 1)
        return np.asarray(self.level + linear + 0.5 * (weights * bent).sum(axis=0))

    def along(self, number: int) -> Model:
        """Return the model along one direction."""
        return Model(self.level, float(self.slopes[number]), float(self.curvature[number, number]))


def model_of(surface: Surface, hessian: LinearOperator) -> SurfaceModel:
    """Return the quadratic model, for a product with the Hessian for each direction; raise if it is not finite."""
    backend, rows = surface.backend, surface.rows
    gradient = surface.objective.gradient(surface.theta)
    surface.evaluations += 1
    level = surface(np.zeros(len(rows)))
    slopes = np.array(numbers_of(backend, *(backend.dot(gradient, row) for row in rows)))
    if not np.isfinite(level) or not np.isfinite(slopes).all():
        raise NonFiniteError(
            f"the loss is {level:g} and its slopes are {', '.join(f'{slope:g}' for slope in slopes)} where the slice "
            f"begins: there is no model of it. Check the parameters and the data for NaN."
        )
    products = [surface.task.multiply_by(hessian, row) for row in rows]
    curvature = np.array([numbers_of(backend, *(backend.dot(row, one) for row in rows)) for one in products])
    lengths, sizes = (np.array(lengths_of(backend, *many)) for many in (rows, products))
    if not np.isfinite(curvature).all():
        raise NonFiniteError("products with the Hessian are not finite where the slice begins.")
    errors = hessian.precision * sizes * lengths
    return SurfaceModel(level, slopes, lengths, 0.5 * (curvature + curvature.T), errors)
