"""The loss of an objective whose data have changed, written as the old loss and what the change adds to it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from specop.arrays.backend import Array, Backend, backend_of, lengths_of, numbers_of
from specop.errors import InvalidInputError, checked_number
from specop.objectives.mean import Objective
from specop.operators.identity import identity_like
from specop.operators.operator import LinearOperator
from specop.statistics.numbers import Integers

__all__ = ["ChangedLoss", "check_additive", "check_same_point", "check_separable", "check_some_stay"]

# Rounding errors of a loss, each of the size of the model's precision, that a sum over parts may differ by.
_ROUNDING = 100.0
# A loss computed in 16 bit is not more exact than this.
_COARSEST = 0.03


class ChangedLoss:
    r"""Loss without some samples or with more, and with an L2 penalty.

    .. math:: J(\theta) = L(\theta) - \frac{w_S}{w} L_S(\theta) + \frac{w_A}{w} L_A(\theta)
              + \frac{d}{2} \|\theta\|^2

    with the mean losses of all old data, of those removed and of those added, and their numbers of terms w. What stays
    keeps its weight beside the penalty. Only the small parts are new: products use the linearizations that are kept for
    the old data, and compiled code meets no new shape of batches.

    Parameters
    ----------
    objective : Objective
    damping : float
    without : array_like of int, optional
        Samples to remove.
    added : Objective, optional
        Objective of the same model, with the data to add.
    matrix : str
        What stands for the second derivatives: "hessian", "ggn", "fisher" or "empirical fisher".
    """

    def __init__(
        self,
        objective: Objective,
        damping: float,
        *,
        without: ArrayLike | None = None,
        added: Objective | None = None,
        matrix: str = "hessian",
    ) -> None:
        self.damping = checked_number("damping", damping)
        self.matrix = matrix
        self.parts: list[tuple[float, Objective]] = [(1.0, objective)]
        self.backend: Backend = objective.backend
        if without is not None:
            removed = objective.subset(without)
            self.parts.append((-removed.terms / objective.terms, removed))
        if added is not None:
            check_same_point(objective, added, "added")
            self.parts.append((added.terms / objective.terms, added))

    def loss(self, theta: Array) -> float:
        """Return the value at a point."""
        losses = [part.loss(theta) for _, part in self.parts]
        square, *found = numbers_of(self.backend, self.backend.dot(theta, theta), *losses)
        return 0.5 * self.damping * square + sum(
            weight * loss for (weight, _), loss in zip(self.parts, found, strict=True)
        )

    def gradient(self, theta: Array) -> Array:
        """Return the gradient at a point."""
        total = self.backend.scale_(self.backend.copy(theta), self.damping)
        for weight, part in self.parts:
            total = self.backend.axpy_(total, weight, part.gradient(theta))
        return total

    def hessian(self, theta: Array | None = None) -> LinearOperator:
        """Return the matrix that stands for the second derivatives; without a point, at the model's own."""
        (_, first), *others = self.parts
        total: LinearOperator = first.matrix(self.matrix, theta)
        for weight, part in others:
            total = total + weight * part.matrix(self.matrix, theta)
        return total + self.damping * identity_like(total) if self.damping else total


def check_separable(objective: Objective, theta: Array | None = None) -> None:
    """Raise unless there are samples with lasting numbers, and the loss is the weighted mean of theirs."""
    objective.check_numbered()
    if objective.samples == 1:
        raise InvalidInputError("the data hold one sample: what it adds to the mean loss is all of it.")
    check_additive(objective, theta)


def check_additive(objective: Objective, theta: Array | None = None) -> None:
    """Raise unless the loss is the weighted mean of those of two parts of its samples; one sample shows nothing.

    Every second sample against the others: that cuts through each batch, and shows a coupling as clearly as any cut.
    """
    even, odd = np.arange(0, objective.samples, 2), np.arange(1, objective.samples, 2)
    if odd.size == 0:
        return
    parts = [objective.subset(even), objective.subset(odd)]
    backend = objective.backend
    whole, *losses = numbers_of(backend, objective.loss(theta), *(part.loss(theta) for part in parts))
    mean = sum(part.terms / objective.terms * loss for part, loss in zip(parts, losses, strict=True))
    tolerance = min(_ROUNDING * objective.hessian().precision, _COARSEST) * max(abs(whole), *map(abs, losses))
    if abs(mean - whole) > tolerance:
        raise InvalidInputError(
            f"the loss is {whole:.6g}, but the mean of those of every second sample and the rest {mean:.6g}: what a "
            f"sample adds is not known. Criteria that compare samples or divide by the weights of classes do so, and "
            f"batch normalization in training mode; if the criterion averages over something else than samples, pass "
            f"weight= to objective()."
        )


def check_some_stay(objective: Objective, indices: Integers) -> None:
    """Raise InvalidInputError if these distinct samples are all that there are."""
    if len(indices) == objective.samples:
        raise InvalidInputError(f"all {objective.samples} samples are to be removed: nothing is left to train on.")


def check_same_point(objective: Objective, other: Objective, name: str) -> None:
    """Raise InvalidInputError unless another objective has the same parameters, at the same values."""
    if not isinstance(other, Objective):
        raise InvalidInputError(
            f"{name} must be an objective, got {type(other).__name__}. Make one of the data with the same model and "
            f"criterion: specop.objective(model, criterion, data)."
        )
    theta, there = objective.theta, other.theta
    backend = backend_of(theta)
    if backend_of(there) is not backend or backend.layout(there) != backend.layout(theta):
        raise InvalidInputError(
            f"{name} must be an objective of the same parameters: {objective!r} and {other!r} differ. Make it with the "
            f"same model, select= and device."
        )
    (distance,) = lengths_of(backend, backend.axpy_(backend.copy(there), -1.0, theta))
    if distance != 0:
        raise InvalidInputError(
            f"{name} stands at other parameter values than the training objective, at a distance of {distance:.3g}. "
            f"Make both with the same model, or the same params=, after training."
        )
