"""influence: what removing a training sample does to a test loss, to first order."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specop.analysis._changed_losses import check_same_point, check_separable
from specop.analysis._leave_one_out import leave_one_out
from specop.analysis._many_solves import ManySolves
from specop.arrays.backend import Array, Backend, backend_of, shape_of
from specop.errors import InvalidInputError
from specop.objectives.mean import Objective
from specop.objectives.select import checked_samples
from specop.results.influence import InfluenceResult
from specop.results.leave_one_out import LeaveOneOutResult
from specop.results.result import versions
from specop.solvers.operands import checked_damping

__all__ = ["influence"]


def influence(
    objective: Objective,
    on: Any = None,
    *,
    damping: float,
    matrix: str = "hessian",
    samples: ArrayLike | None = None,
    per_sample: bool = False,
    newton: bool = False,
    **options: Any,
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
        loss of each sample itself, its self-influence.
    damping : float
        As above, at least 0.
    matrix : {"hessian", "ggn", "fisher", "empirical fisher"}
        As in `Objective.solve`. The Gauss-Newton matrix is positive semidefinite where the Hessian may not be.
    samples : array_like of int, optional
        Numbers of the training samples to score, in the order of the data; default: all.
    per_sample : bool
        Score the loss of each test sample by itself. One solution, a vector of length n, is held for each.
    newton : bool
        Predict by one Newton step on the remaining data, as `leave_one_out` does, instead of the derivative, and
        evaluate the loss of `on` at the predicted parameters. That is a solve for each training sample, not for each
        test loss: meant for few `samples`, such as those that the derivative finds. It is much closer to retraining
        where single samples matter.
    **options
        Of `specop.solve`: rtol, max_matvecs, preconditioner, progress, ... Test samples are solved for together; where
        they are many and parameters few, by the inverse of the matrix.

    Returns
    -------
    InfluenceResult
        With `scores` (m,), or (m, k) for several quantities.

    Raises
    ------
    InvalidInputError
        If the loss is not the mean over samples, so that what a sample adds is not known.

    Warns
    -----
    ConvergenceWarning
        If a solve did not reach its tolerance.

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
    >>> specop.analysis.influence(train, test, damping=0.01).scores.shape
    (8,)
    >>> specop.analysis.influence(train, test, damping=0.01, per_sample=True).scores.shape
    (8, 5)
    """
    started = time.perf_counter()
    damping, theta = checked_damping(damping), objective.theta
    backend = backend_of(theta)
    chosen = np.arange(objective.samples) if samples is None else checked_samples(samples, objective.samples)
    if not newton:
        check_separable(objective)
    options = {"matrix": matrix, "damping": damping, **options}
    solved: ManySolves | LeaveOneOutResult
    if on is None:
        if per_sample or newton:
            raise InvalidInputError("per_sample=True and newton=True need something to look at in on=.")
        scores, solved = _self_influence(objective, backend, np.sort(chosen), options)
        quantity = "the loss of each one itself"
    else:
        columns, quantity = _gradients(objective, backend, on, per_sample)
        if newton:
            evaluated = on if isinstance(on, Objective) and not per_sample else None
            scores, solved = _by_newton_steps(objective, backend, np.sort(chosen), columns, evaluated, options)
        else:
            scores, solved = _by_derivatives(objective, backend, np.sort(chosen), columns, options)
        if not per_sample and len(backend.shape(on)) != 2:
            scores = scores[:, 0]
    gradient = objective.gradient()
    loss_slope, slope = (
        float(x) for x in backend.to_host(backend.norm(gradient), backend.norm(backend.axpy_(gradient, damping, theta)))
    )
    return InfluenceResult(
        scores=scores[np.argsort(np.argsort(chosen))],
        indices=chosen,
        quantity=quantity,
        newton=newton,
        damping=damping,
        matrix=matrix,
        residuals=np.concatenate(solved.residuals) if isinstance(solved, ManySolves) else solved.residuals,
        gradient_norm=slope,
        loss_gradient_norm=loss_slope,
        matvecs=solved.matvecs,
        seconds=time.perf_counter() - started,
        samples=objective.samples,
        seed=0,
        converged=solved.converged,
        message=solved.message,
        versions=versions(backend.name),
    )


def _gradients(objective: Objective, backend: Backend, on: Any, per_sample: bool) -> tuple[list[Array], str]:
    """Return the gradients of what is looked at, and what that is in words."""
    if isinstance(on, Objective):
        check_same_point(objective, on, "on")
        if not per_sample:
            return [on.gradient()], f"the mean loss of {on.samples} test samples"
        rows = [row for block in on.per_sample_gradients() for row in backend.columns(backend.transpose(block))]
        return rows, f"the loss of each of {on.samples} test samples"
    if per_sample:
        raise InvalidInputError(f"per_sample=True needs a test objective in on=, got {type(on).__name__}.")
    dimensions = len(backend.shape(on))
    if dimensions == 2:
        columns = backend.columns(on)
        return columns, f"{len(columns)} quantities with given gradients"
    return [on if dimensions else objective.flatten(on)], "a quantity with a given gradient"


def _by_derivatives(
    objective: Objective,
    backend: Backend,
    chosen: NDArray[np.intp],
    columns: list[Array],
    options: dict[str, Any],
) -> tuple[NDArray[np.float64], ManySolves]:
    solves = ManySolves(objective, len(columns), **options)
    solutions = backend.transpose(solves(backend.stack_columns(columns)))
    blocks = [backend.row_products([rows], [solutions]) for rows in _rows(objective, chosen)]
    return np.concatenate(blocks) * _share(objective, chosen), solves


def _by_newton_steps(
    objective: Objective,
    backend: Backend,
    chosen: NDArray[np.intp],
    columns: list[Array],
    on: Objective | None,
    options: dict[str, Any],
) -> tuple[NDArray[np.float64], LeaveOneOutResult]:
    """Predict changes of the loss of `on` by evaluating it, or without one of what has the gradients in `columns`."""
    found = leave_one_out(objective, chosen, newton=True, **options)
    if on is None:
        rows = backend.transpose(backend.stack_columns(columns))
        return backend.row_products([backend.transpose(found.changes)], [rows]), found
    theta = objective.theta
    points = [backend.axpy_(change, 1.0, theta) for change in backend.columns(found.changes)]
    before, *after = (float(x) for x in backend.to_host(on.loss(theta), *(on.loss(point) for point in points)))
    return np.array(after)[:, None] - before, found


def _self_influence(
    objective: Objective, backend: Backend, chosen: NDArray[np.intp], options: dict[str, Any]
) -> tuple[NDArray[np.float64], ManySolves]:
    values: list[float] = []
    solves = ManySolves(objective, len(chosen), **options)
    for rows in _rows(objective, chosen):
        block = backend.transpose(rows)
        pairs = zip(backend.columns(block), backend.columns(solves(block)), strict=True)
        values += [float(x) for x in backend.to_host(*(backend.dot(row, solution) for row, solution in pairs))]
    return np.array(values) * _share(objective, chosen), solves


def _rows(objective: Objective, chosen: NDArray[np.intp]) -> Iterator[Array]:
    """Yield the gradients of samples, in the order of the data."""
    part = objective if len(chosen) == objective.samples else objective.subset(chosen)
    count = 0
    for block in part.per_sample_gradients():
        count += shape_of(block)[0]
        yield block
    if count != len(chosen):
        raise InvalidInputError(
            f"{len(chosen)} samples gave {count} gradients: batches of weight zero have none. Leave them "
            f"out of the data."
        )


def _share(objective: Objective, chosen: NDArray[np.intp]) -> float:
    """Return what a row of `_rows` must be multiplied by to be the sample's part of the mean loss's gradient."""
    if len(chosen) == objective.samples:
        return 1.0 / objective.samples
    return objective.subset(chosen).terms / (objective.terms * len(chosen))
