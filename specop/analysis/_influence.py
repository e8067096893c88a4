"""influence: what removing a training sample does to a test loss, to first order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from specop.analysis._changed_losses import check_same_point, check_separable
from specop.analysis._leave_one_out import ROWS, curvature_solves, newton_changes
from specop.analysis._quadratic_model import row_norms, warn_of_slope
from specop.arrays.backend import Array, lengths_of, numbers_of, shape_of
from specop.errors import InvalidInputError, checked_number
from specop.krylov.task import Task
from specop.objectives.mean import Objective
from specop.objectives.select import checked_samples
from specop.results.influence import InfluenceResult
from specop.solvers.many_solves import LARGEST, Attempts, ManySolves
from specop.solvers.woodbury.row_forms import row_forms
from specop.statistics.numbers import Floats, Integers

__all__ = ["influence", "quantity_of"]

# All samples' gradients are held up to so many samples, and entries.
_ROWS, _ENTRIES = 2000, 40_000_000


def influence(
    objective: Objective,
    on: Any = None,
    *,
    damping: float,
    matrix: str = "hessian",
    indices: ArrayLike | None = None,
    per_sample: bool = False,
    newton: bool = False,
    theta: Array | None = None,
    rtol: float = 1e-5,
    atol: float = 0.0,
    max_matvecs: int | None = None,
    preconditioner: Any = None,
    seed: int = 0,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> InfluenceResult:
    r"""Predict how the removal of training samples changes a quantity, to first order.

    For m training samples with gradients :math:`g_i` and a quantity with the gradient v, the score of sample i is

    .. math:: \frac1m v^T (H + d I)^{-1} g_i,

    the change of the quantity when the sample's term is taken out of

    .. math:: \frac1m \sum_i \ell_i(\theta) + \frac d2 \|\theta\|^2

    and the minimum moves: positive scores belong to helpful samples, without which a test loss grows. So `damping` is
    the strength of the L2 penalty that the model was trained with (the weight decay of a mean loss), whose share stays
    when a sample goes; the objective itself has none. A model trained without one may need some damping
    nevertheless, because its Hessian is singular or indefinite; scores are then of the penalized problem.

    Parameters
    ----------
    objective : Objective
        The training loss, at the trained parameters.
    on : Objective, native vector (n,) or native array (n, k), optional
        What is looked at: a test loss, whose objective belongs to the same model, or any differentiable function, as an
        objective of the function or as its gradient; the i-th unit vector stands for the i-th parameter. Default: the
        loss of each sample itself, its self-influence. Single losses count as they do in their mean: where it gives
        weights, by classes or by counted tokens, times the sample's weight over the mean of all weights.
    damping : float
        Strength d of the L2 penalty, at least 0.
    matrix : {"hessian", "ggn", "fisher", "empirical fisher"}
        What stands for H, all of the mean loss: its Hessian, the generalized Gauss-Newton matrix, which is positive
        semidefinite where the Hessian may not be, the Fisher matrix, or the mean of :math:`g_i g_i^T`.
    indices : array_like of int, optional
        Numbers of the training samples to score, in the order of the data; default: all.
    per_sample : bool
        Score the loss of each test sample by itself. One solution, a vector of length n, is held for each.
    newton : bool
        Predict by one Newton step on the remaining data, as `leave_one_out` does, instead of the derivative, and
        evaluate the loss of `on` at the predicted parameters. That is a solve for each training sample, not for each
        test loss: meant for few `indices`, such as those that the derivative finds. It is much closer to retraining
        where single samples matter.
    theta : native vector (n,), optional
        The trained parameters, at which everything is evaluated; default: the model's current ones.
    rtol, atol : float
        Goal for the residual of each solve with the right-hand side b, the larger of ``rtol |b|`` and `atol`. Test
        samples are solved for together; where they are many and parameters few, by the inverse of the matrix.
    max_matvecs : int, optional
        Limit on products with the matrix in all; default: that of each solve, see `specop.solve`.
    preconditioner : LinearOperator, optional
        An approximation of the inverse of the damped matrix: see `specop.nystrom_preconditioner`.
    seed : int
        Seed of the random vectors that a solve needs after a breakdown.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.
    raise_on_failure : bool
        Whether to raise NotConvergedError instead of warning where a solve did not reach its goal.

    Returns
    -------
    InfluenceResult
        With `scores` (m,), or (m, k) for several quantities.

    Raises
    ------
    InvalidInputError
        If the loss is not the mean over samples, so that what a sample adds is not known.
    NotConvergedError
        Only with ``raise_on_failure``.

    Warns
    -----
    ConvergenceWarning
        If a solve did not reach its tolerance.
    QuadraticModelWarning
        If the gradient of the penalized loss is larger than its standard error over the samples: no minimum is near.

    References
    ----------
    P. W. Koh and P. Liang, Understanding black-box predictions via influence functions, ICML (2017).
    R. D. Cook and S. Weisberg, Residuals and Influence in Regression (1982).

    Examples
    --------
    >>> import torch, specop
    >>> model, criterion = torch.nn.Linear(3, 1), torch.nn.functional.mse_loss
    >>> train = specop.objective(model, criterion, (torch.randn(8, 3), torch.randn(8, 1)))
    >>> test = specop.objective(model, criterion, (torch.randn(5, 3), torch.randn(5, 1)))
    >>> best = specop.analysis.retrain(train, damping=0.1, gtol=1e-4).theta
    >>> specop.analysis.influence(train, test, damping=0.1, theta=best).scores.shape
    (8,)
    >>> specop.analysis.influence(train, test, damping=0.1, theta=best, per_sample=True).scores.shape
    (8, 5)
    """
    task = Task(
        "influence",
        objective.backend,
        objective.processes,
        seed=seed,
        samples=objective.samples,
        progress=progress,
        raise_on_failure=raise_on_failure,
    )
    backend, damping = task.backend, checked_number("damping", damping)
    chosen = np.arange(objective.samples) if indices is None else checked_samples(indices, objective.samples)
    ordered = np.sort(chosen)
    if on is None and (per_sample or newton):
        raise InvalidInputError("per_sample=True and newton=True need something to look at in on=.")
    check_separable(objective, theta)
    with task:
        attempts = Attempts(task, rtol, atol, max_matvecs, preconditioner)
        gradients, quantity = _gradients(objective, on, per_sample, theta)
        if newton:
            found = [row_norms(backend, rows) for rows in _rows(objective, ordered, theta)]
            norms = _weight(objective, ordered) * np.concatenate(found)
            changes = newton_changes(attempts, objective, list(ordered[:, None]), damping, matrix, theta)
            level = on if isinstance(on, Objective) and not per_sample else None
            scores = _differences(objective, changes, gradients, level, theta)
        elif matrix == ROWS and damping > 0 and _rows_fit(objective):
            scores, norms = _by_rows(attempts, objective, ordered, gradients, damping, theta)
        else:
            solves = curvature_solves(attempts, objective, len(gradients) or len(chosen), damping, matrix, theta)
            scores, norms = _by_solves(solves, objective, ordered, gradients, theta)
        is_single = on is not None and not per_sample and len(shape_of(on)) != 2
        gradient, point = objective.gradient(theta), objective.theta if theta is None else theta
        (loss_slope,) = lengths_of(backend, gradient)
        (slope,) = lengths_of(backend, backend.axpy_(gradient, damping, point))
        warn_of_slope(slope, norms, objective.samples)
        return task.result(
            InfluenceResult,
            scores=(scores[:, 0] if is_single else scores)[np.argsort(np.argsort(chosen))],
            indices=chosen,
            quantity=quantity,
            newton=newton,
            damping=damping,
            matrix=matrix,
            residuals=np.concatenate(attempts.residuals),
            gradient_norm=slope,
            loss_gradient_norm=loss_slope,
            converged=attempts.converged,
            message=attempts.message,
        )


def _gradients(objective: Objective, on: Any, per_sample: bool, theta: Array | None) -> tuple[list[Array], str]:
    """Return the gradients of what is looked at, and what that is in words."""
    backend = objective.backend
    if on is None:
        return [], quantity_of(on)
    if isinstance(on, Objective):
        check_same_point(objective, on, "on")
        if not per_sample:
            return [on.gradient(theta)], quantity_of(on)
        on.check_numbered()
        rows = [row for block in on.per_sample_gradients(theta) for row in backend.columns(backend.transpose(block))]
        return rows, quantity_of(on, per_sample=True)
    if per_sample:
        raise InvalidInputError(f"per_sample=True needs a test objective in on=, got {type(on).__name__}.")
    given = on if shape_of(on) else objective.flatten(on)
    are_several = len(shape_of(given)) == 2 and isinstance(given, backend.array_type)
    columns = backend.columns(given) if are_several else [given]
    for column in columns:
        backend.check_vector(column, backend.layout(objective.theta), "each column of on" if are_several else "on")
    return columns, quantity_of(on)


def quantity_of(on: Any, *, per_sample: bool = False) -> str:
    """Return what is looked at in words."""
    if on is None:
        return "the loss of each one itself"
    if isinstance(on, Objective):
        return (
            f"the loss of each of {on.samples} test samples"
            if per_sample
            else f"the mean loss of {on.samples} test samples"
        )
    shape = shape_of(on)
    return f"{shape[1]} quantities with given gradients" if len(shape) == 2 else "a quantity with a given gradient"


_Scores = tuple[Floats, Floats]


def _by_solves(
    solves: ManySolves,
    objective: Objective,
    chosen: Integers,
    gradients: list[Array],
    theta: Array | None,
) -> _Scores:
    """Return the derivatives, and the norms of the samples' gradients."""
    backend, weight = objective.backend, _weight(objective, chosen)
    solutions = solves(backend.stack_columns(gradients)) if gradients else None
    scores, norms = [], []
    for rows in _rows(objective, chosen, theta):
        norms.append(weight * row_norms(backend, rows))
        if solutions is None:
            scores.append(weight**2 * solves(backend.transpose(rows)).paired(rows))
        else:
            scores.append(weight * solutions.products(rows))
    return np.concatenate(scores) / objective.samples, np.concatenate(norms)


def _rows_fit(objective: Objective) -> bool:
    """Return whether all samples' gradients are held; those of few parameters are added up instead."""
    return objective.n > LARGEST and objective.samples <= _ROWS and objective.n * objective.samples <= _ENTRIES


def _by_rows(
    attempts: Attempts,
    objective: Objective,
    chosen: Integers,
    gradients: list[Array],
    damping: float,
    theta: Array | None,
) -> _Scores:
    """Return the same for the empirical Fisher matrix, whose inverse has a closed form in its rows."""
    backend = objective.backend
    rows = list(_rows(objective, np.arange(objective.samples), theta))
    others = [backend.stack(gradients)] if gradients else rows
    forms, residuals = row_forms(backend, rows, others, damping)
    attempts.residuals.append(residuals if gradients else residuals[chosen])
    scores = forms[chosen] if gradients else forms.diagonal()[chosen]
    return scores / objective.samples, np.concatenate([row_norms(backend, block) for block in rows])[chosen]


def _differences(
    objective: Objective, changes: list[Array], gradients: list[Array], on: Objective | None, theta: Array | None
) -> Floats:
    """Return by how much changes of the parameters change the loss of `on`, or without one what has these gradients."""
    backend = objective.backend
    if on is None:
        rows, others = (backend.transpose(backend.stack_columns(several)) for several in (changes, gradients))
        return backend.row_products([rows], [others])
    at = objective.theta if theta is None else theta
    losses = [on.loss(theta), *(on.loss(backend.axpy_(change, 1.0, at)) for change in changes)]
    before, *after = numbers_of(backend, *losses)
    return np.array(after)[:, None] - before


def _rows(objective: Objective, chosen: Integers, theta: Array | None) -> Iterator[Array]:
    """Yield the gradients of samples, in the order of the data."""
    part = objective if len(chosen) == objective.samples else objective.subset(chosen)
    return part.per_sample_gradients(theta)


def _weight(objective: Objective, chosen: Integers) -> float:
    """Return what a row of `_rows` must be multiplied by, so that all samples' rows have the whole gradient as mean.

    By themselves those of some samples have the gradient of these as mean.
    """
    if len(chosen) == objective.samples:
        return 1.0
    return objective.subset(chosen).terms * objective.samples / (objective.terms * len(chosen))
