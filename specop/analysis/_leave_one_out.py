"""leave_one_out: how the parameters change without some samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from specop.analysis._changed_losses import ChangedLoss, check_separable, check_some_stay
from specop.analysis._quadratic_model import warn_of_slope
from specop.arrays.backend import Array, backend_of, lengths_of
from specop.errors import InvalidInputError, checked_number
from specop.krylov.task import Task
from specop.objectives.mean import Objective
from specop.objectives.select import checked_samples
from specop.results.leave_one_out import LeaveOneOutResult
from specop.results.structure import Structure
from specop.solvers.many_solves import LARGEST, Attempts, ManySolves
from specop.statistics.numbers import Integers

__all__ = ["ROWS", "curvature_solves", "leave_one_out", "newton_changes"]

ROWS = "empirical fisher"


def leave_one_out(
    objective: Objective,
    indices: Sequence[Any] | Integers | None = None,
    *,
    damping: float,
    matrix: str = "hessian",
    newton: bool = False,
    theta: Array | None = None,
    rtol: float = 1e-5,
    atol: float = 0.0,
    max_matvecs: int | None = None,
    preconditioner: Any = None,
    seed: int = 0,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> LeaveOneOutResult:
    r"""Predict the parameters that training without some samples would give.

    For a group S of the m samples, what it adds to the loss is taken out of

    .. math:: \frac1m \sum_i \ell_i(\theta) + \frac d2 \|\theta\|^2,

    while all other weights and the penalty stay. With the sum :math:`g_S` of the group's gradients and :math:`H_S` of
    its Hessians, the change of the parameters is

    .. math:: (H + d I)^{-1} g_S / m, \qquad\text{or with } \mathtt{newton}\qquad
              (H - H_S / m + d I)^{-1} g_S / m.

    The first is the derivative, the second one Newton step on the remaining data: exact for quadratic losses, where for
    least squares it contains the factor :math:`1 / (1 - h_{ii})`. The minimum of the remaining terms is also that of
    their mean with a weight decay of :math:`d \, m / (m - |S|)`. Distances to a minimum that the parameters still
    have are left aside: the result is what the removal changes.

    Parameters
    ----------
    objective : Objective
        The training loss, at the trained parameters.
    indices : sequence of int, or of sequences of int, optional
        Numbers of samples, in the order of the data, to leave out one at a time, or groups of them to leave out
        together. Default: each sample. A vector of length n is held for each.
    damping : float
        Strength d of the L2 penalty that the model was trained with, at least 0.
    matrix : {"hessian", "ggn", "fisher", "empirical fisher"}
        What stands for H, all of the mean loss: its Hessian, the generalized Gauss-Newton matrix, the Fisher matrix,
        or, for the derivative only, the mean of the samples' :math:`g_i g_i^T`.
    newton : bool
        Use the matrix of the remaining data. Groups share their products without it, and have their own with it.
    theta : native vector (n,), optional
        The trained parameters, at which everything is evaluated; default: the model's current ones.
    rtol, atol : float
        Goal for the residual of each solve with the right-hand side b, the larger of ``rtol |b|`` and `atol`.
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
    LeaveOneOutResult
        With `changes`, a column for each group.

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
    D. Pregibon, Logistic regression diagnostics, Annals of Statistics 9 (1981), 705-724.

    Examples
    --------
    >>> import torch, specop
    >>> data = (torch.randn(8, 3), torch.randn(8, 1))
    >>> objective = specop.objective(torch.nn.Linear(3, 1), torch.nn.functional.mse_loss, data)
    >>> best = specop.analysis.retrain(objective, damping=0.1, gtol=1e-4).theta
    >>> specop.analysis.leave_one_out(objective, [0, 5], damping=0.1, theta=best).changes.shape
    torch.Size([4, 2])
    >>> specop.analysis.leave_one_out(objective, [[0, 5, 6]], damping=0.1, newton=True, theta=best).changes.shape
    torch.Size([4, 1])
    """
    task = Task(
        "leave_one_out",
        objective.backend,
        objective.processes,
        seed=seed,
        samples=objective.samples,
        progress=progress,
        raise_on_failure=raise_on_failure,
    )
    groups = _checked_groups(objective, indices)
    for group in groups:
        check_some_stay(objective, group)
    check_separable(objective, theta)
    backend, parts = task.backend, [_part_of(objective, group, theta) for group in groups]
    sizes = np.array([len(group) for group in groups])
    with task:
        attempts = Attempts(task, rtol, atol, max_matvecs, preconditioner)
        if newton:
            changes = newton_changes(attempts, objective, groups, damping, matrix, theta)
        else:
            solves = curvature_solves(attempts, objective, len(groups), damping, matrix, theta)
            changes = solves(backend.stack_columns(parts)).columns()
        slope = ChangedLoss(objective, damping).gradient(objective.theta if theta is None else theta)
        norm, *norms = lengths_of(backend, slope, *parts)
        warn_of_slope(norm, np.array(norms) * objective.samples / sizes, objective.samples, sizes)
        return task.result(
            LeaveOneOutResult,
            changes=backend.stack_columns(changes),
            indices=np.concatenate(groups),
            sizes=sizes,
            newton=newton,
            damping=checked_number("damping", damping),
            matrix=matrix,
            residuals=np.concatenate(attempts.residuals),
            converged=attempts.converged,
            message=attempts.message,
            structure=Structure(objective.shapes, objective.unflatten),
        )


def curvature_solves(
    attempts: Attempts, objective: Objective, count: int, damping: float, matrix: str, theta: Array | None
) -> ManySolves:
    """Return solves with a damped curvature matrix for so many right-hand sides."""
    entries = None
    if matrix == ROWS and damping > 0 and objective.n <= LARGEST:
        # One pass over the samples' gradients, where each product would take another.
        blocks = objective.per_sample_gradients(theta)
        backend = objective.backend
        moments = sum(backend.block_products(block, objective.n)[0] for block in blocks)
        entries = np.asarray(moments / objective.samples + damping * np.eye(objective.n))
    damped = ChangedLoss(objective, damping, matrix=matrix).hessian(theta)
    return ManySolves(attempts, damped, count, entries)


def newton_changes(
    attempts: Attempts,
    objective: Objective,
    groups: list[Integers],
    damping: float,
    matrix: str,
    theta: Array | None,
) -> list[Array]:
    """Return how the parameters change without each group, by one Newton step on the remaining data."""
    if matrix == ROWS:
        raise InvalidInputError(
            f"newton=True needs second derivatives: matrix='hessian', 'ggn' or 'fisher', got {ROWS!r}."
        )
    changes = []
    for group in groups:
        changed = ChangedLoss(objective, damping, without=group, matrix=matrix)
        changes.append(attempts.solve(changed.hessian(theta), _part_of(objective, group, theta)))
    return changes


def _checked_groups(objective: Objective, indices: Any) -> list[Integers]:
    count = objective.samples
    if indices is None:
        return list(np.arange(count)[:, None])
    given = list(indices) if isinstance(indices, Iterable) else []
    if not given:
        raise InvalidInputError(
            f"indices is a sequence of numbers of samples, from 0 to {count - 1}, or of groups of them, or None for "
            f"each sample; got {indices!r}."
        )
    # Groups may differ in size, so that NumPy would make no array of them.
    are_groups = {isinstance(one, Iterable) and getattr(one, "ndim", 1) > 0 for one in given}
    if len(are_groups) > 1:
        raise InvalidInputError(
            f"indices holds both numbers of samples and groups of them, {indices!r}: write a sample alone as a group "
            f"of one, such as [[1], [2, 3]]."
        )
    if not are_groups.pop():
        return list(checked_samples(given, count)[:, None])
    return [checked_samples(group, count) for group in given]


def _part_of(objective: Objective, group: Integers, theta: Array | None) -> Array:
    """Return what a group adds to the gradient of the mean loss."""
    part = objective.subset(group)
    gradient = part.gradient(theta)
    return backend_of(gradient).scale_(gradient, part.terms / objective.terms)
