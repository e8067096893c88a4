"""check_minimum: whether a point looks like a minimum of a smooth loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array, lengths_of, numbers_of
from specop.errors import DomainError
from specop.krylov.task import Task
from specop.landscape._kinks import REACH, kink

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["check_minimum", "saddle"]

# Where the search for lower losses starts, relative to the point's length, and how many steps it takes.
_STARTS, _DESCENT = (1e-1, 1e-2, 1e-3), 20
# Index of the random directions, far from those of other probes.
_PROBE = 1 << 39


def check_minimum(task: Task, objective: Objective, at: Array, largest: float, rtol: float) -> None:
    """Raise DomainError unless a point looks like a minimum of a smooth loss."""
    backend = task.backend
    value, gradient = objective.loss_and_gradient(at)
    loss, square, length = numbers_of(backend, value, backend.dot(gradient, gradient), backend.norm(at))
    rounding = 100.0 * backend.layout(at).epsilon * largest * length
    if square > rounding**2:
        hessian = objective.hessian(at)
        with hessian.session():
            (bent,) = numbers_of(backend, backend.dot(gradient, task.multiply_by(hessian, gradient)))
        gain = square**2 / (2 * bent) if bent > 0 else float("inf")
        if gain > rtol * abs(loss):
            raise DomainError(
                f"the point is no minimum: its gradient has the norm {square**0.5:.3g}, and one step along it lowers "
                f"the loss of {loss:.4g} by about {gain:.2g}, more than rtol={rtol:g} of it. Train on to a minimum, "
                f"such as by specop.analysis.retrain(objective, damping=...)."
            )
    nearest = kink(task, objective, at, gradient)
    if np.isfinite(nearest):
        raise DomainError(
            f"the loss is not analytic: its gradient, or the derivative of that, jumps within {nearest:.1g} of the "
            f"point's length, as where units of ReLU, leaky ReLU, ELU or max pooling switch. Learning coefficients are "
            f"those of analytic losses; replace such units by tanh, GELU or softplus, and train."
        )
    lower = _lower_loss(task, objective, at, loss, largest, length)
    if lower is not None:
        raise DomainError(
            f"the point is no minimum: within {REACH:g} of its length the loss falls from {loss:.6g} by {lower:.2g}, "
            f"though neither gradient nor Hessian say so. Train on from a point beside it."
        )


def _lower_loss(
    task: Task, objective: Objective, at: Array, loss: float, largest: float, length: float
) -> float | None:
    """Return by how much the loss falls on descents from points close by, if it does."""
    backend, layout = task.backend, task.backend.layout(at)
    for number, share in enumerate(_STARTS):
        direction = probes.normal(backend, layout, task.seed, _PROBE + number)
        reach = share * (length or 1.0)
        direction = backend.scale_(direction, reach / lengths_of(backend, direction)[0])
        for sign in (1.0, -1.0):
            place = backend.axpy_(backend.copy(at), sign, direction)
            highest = 0.0
            for _ in range(_DESCENT):
                value, gradient = objective.loss_and_gradient(place)
                here, size = numbers_of(backend, value, backend.norm(gradient))
                highest = max(highest, abs(here))
                tolerance = 100.0 * layout.epsilon * max(abs(loss), highest) + np.finfo(float).tiny
                if here < loss - tolerance:
                    return loss - here
                # Never further than a tenth of where it began: what lies far off says nothing of this minimum.
                rate = min(1.0 / largest if largest else np.inf, 0.1 * reach / size if size else 0.0)
                place = backend.axpy_(place, -rate, gradient)
            task.update()
    return None


def saddle(count: int, value: float, bound: float) -> DomainError:
    return DomainError(
        f"the point is no minimum: its Hessian has {count} or more negative eigenvalues, {value:.3g} among them, "
        f"certified to {bound:.1g}. Go down along that eigenvector and train on; landscape.critical_point tells more."
    )
