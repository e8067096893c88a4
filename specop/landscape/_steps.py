"""The losses of the next steps: by the quadratic model, and by the loss itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specop.arrays.backend import Array, Backend, numbers_of
from specop.errors import NonFiniteError
from specop.krylov.task import Task
from specop.landscape._dynamics import Dynamics
from specop.operators.operator import LinearOperator
from specop.statistics.numbers import Floats

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["next_losses"]


def next_losses(
    task: Task,
    objective: Objective,
    hessian: LinearOperator,
    dynamics: Dynamics,
    theta: Array,
    loss: float,
    gradient: Array,
    steps: int,
) -> tuple[Floats, Floats]:
    """Return the losses now and after each of the next steps, predicted and true, two arrays (steps + 1,).

    Second moments stand still in both. Each step takes a product, and a gradient and a loss.

    Parameters
    ----------
    task : Task
        Task that has the Hessian among its operators.
    objective : Objective
    hessian : LinearOperator
        At theta.
    dynamics : Dynamics
    theta : native vector
    loss : float
        At theta.
    gradient : native vector
        At theta.
    steps : int
    """
    backend = task.backend
    predicted, actual = [loss], [loss]
    model, truth = (_Path(backend, dynamics, theta) for _ in range(2))
    slope = gradient
    true_slope: Array | None = gradient
    for _ in range(steps):
        away = model.step(slope)
        image = task.multiply_by(hessian, away)
        along, curved = numbers_of(backend, backend.dot(gradient, away), backend.dot(away, image))
        predicted.append(loss + along + 0.5 * curved)
        slope = backend.axpy_(image, 1.0, gradient)
        task.update(f"predicted {predicted[-1]:.4g}")
        found = np.inf
        if true_slope is not None:
            place = backend.axpy_(backend.copy(truth.step(true_slope)), 1.0, theta)
            found, true_slope = _looked_at(objective, backend, place)
        actual.append(found)
    return np.array(predicted), np.array(actual)


class _Path:
    """Steps of an optimizer, away from a point."""

    def __init__(self, backend: Backend, dynamics: Dynamics, theta: Array) -> None:
        self._backend = backend
        self._dynamics = dynamics
        self._theta = theta
        self._away = backend.zeros(backend.layout(theta))
        kept = dynamics.average
        self._average = backend.zeros(backend.layout(theta)) if kept is None else backend.copy(kept)

    def step(self, gradient: Array) -> Array:
        """Take the step that follows from a gradient of the loss; return where that leads, to be read only."""
        backend, dynamics, step = self._backend, self._dynamics, self._dynamics.step
        slope = self._with_decay(backend.copy(gradient), dynamics.coupled, 1.0)
        self._average = backend.axpy_(backend.scale_(self._average, step.momentum), step.gain, slope)
        force = backend.axpy_(slope, step.momentum, self._average) if step.nesterov else self._average
        move = dynamics.preconditioned(backend, force)
        away = self._with_decay(backend.copy(self._away), dynamics.decoupled, -1.0)
        self._away = backend.axpy_(away, -step.rate, move)
        return self._away

    def _with_decay(self, vector: Array, decay: Array | float, sign: float) -> Array:
        """Return a vector with so many times the parameters, for a number or a vector of decays, added to it."""
        backend = self._backend
        if isinstance(decay, float) and not decay:
            return vector
        place = backend.axpy_(backend.copy(self._away), 1.0, self._theta)
        if isinstance(decay, float):
            return backend.axpy_(vector, sign * decay, place)
        return backend.axpy_(vector, sign, backend.multiply(decay, place))


def _looked_at(objective: Objective, backend: Backend, place: Array) -> tuple[float, Array | None]:
    """Return loss and gradient; infinity and nothing where steps have led out of their range."""
    try:
        (found,) = numbers_of(backend, objective.loss(place))
        return (found, objective.gradient(place)) if np.isfinite(found) else (np.inf, None)
    except NonFiniteError:
        return np.inf, None
