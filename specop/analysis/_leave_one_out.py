"""leave_one_out: how the parameters change without some samples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specop.analysis._changed_losses import ChangedLoss, check_separable, check_some_stay
from specop.arrays.backend import Array, Backend, backend_of
from specop.errors import InvalidInputError
from specop.objectives.mean import Objective
from specop.objectives.select import checked_samples
from specop.results.leave_one_out import LeaveOneOutResult
from specop.results.solve import SolveResult
from specop.solvers.operands import checked_damping
from specop.solvers.solve import solve

__all__ = ["leave_one_out"]


def leave_one_out(
    objective: Objective,
    samples: Sequence[Any] | NDArray[np.intp] | None = None,
    *,
    damping: float,
    matrix: str = "hessian",
    newton: bool = False,
    **options: Any,
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
    samples : sequence of int, or of sequences of int, optional
        Numbers of samples, in the order of the data, to leave out one at a time, or groups of them to leave out
        together. Default: each sample. A vector of length n is held for each.
    damping : float
        Strength of the L2 penalty that the model was trained with, at least 0; see `influence`.
    matrix : {"hessian", "ggn", "fisher"}
        As in `Objective.solve`; for the derivative also "empirical fisher".
    newton : bool
        Use the matrix of the remaining data. Groups share their products without it, and have their own with it.
    **options
        Of `specop.solve`: rtol, max_matvecs, preconditioner, progress, ...

    Returns
    -------
    LeaveOneOutResult
        With `changes`, a column for each group.

    Raises
    ------
    InvalidInputError
        If the loss is not the mean over samples, so that what a sample adds is not known.

    References
    ----------
    D. Pregibon, Logistic regression diagnostics, Annals of Statistics 9 (1981), 705-724.

    Examples
    --------
    >>> import torch, specop
    >>> data = (torch.randn(8, 3), torch.randn(8, 1))
    >>> objective = specop.objective(torch.nn.Linear(3, 1), torch.nn.functional.mse_loss, data)
    >>> specop.analysis.leave_one_out(objective, [0, 5], damping=0.1).changes.shape
    torch.Size([4, 2])
    >>> specop.analysis.leave_one_out(objective, [[0, 5, 6]], damping=0.1, newton=True).changes.shape
    torch.Size([4, 1])
    """
    started = time.perf_counter()
    damping = checked_damping(damping)
    if newton and matrix == "empirical fisher":
        raise InvalidInputError(
            "newton=True needs second derivatives: matrix='hessian', 'ggn' or 'fisher', got 'empirical fisher'."
        )
    groups = _checked_groups(objective, samples)
    for group in groups:
        check_some_stay(objective, group)
    check_separable(objective)
    backend = backend_of(objective.theta)
    if newton:
        solved = [_newton_step(objective, group, damping, matrix, options) for group in groups]
        changes = backend.stack_columns([result.solution for result in solved])
    else:
        rhs = [_part_of(objective, backend, group) for group in groups]
        solved = [objective.solve(backend.stack_columns(rhs), matrix=matrix, damping=damping, **options)]
        changes = solved[0].solution
    # What is to be said of all solves together: a failure, or an indefinite matrix.
    worst = min(solved, key=lambda result: (result.converged, result.message == "converged"))
    return LeaveOneOutResult(
        changes=changes,
        indices=np.concatenate(groups),
        sizes=np.array([len(group) for group in groups]),
        newton=newton,
        damping=damping,
        matrix=matrix,
        residuals=np.concatenate([result.residuals for result in solved]),
        matvecs=sum(result.matvecs for result in solved),
        seconds=time.perf_counter() - started,
        samples=objective.samples,
        seed=worst.seed,
        converged=worst.converged,
        message=worst.message,
        versions=worst.versions,
        unflatten=objective.unflatten,
    )


def _checked_groups(objective: Objective, samples: Any) -> list[NDArray[np.intp]]:
    count = objective.samples
    if samples is None:
        return list(np.arange(count)[:, None])
    if len(samples) == 0:
        raise InvalidInputError(f"no samples to leave out: pass numbers from 0 to {count - 1}, or None for each one.")
    # Groups may differ in size, so that NumPy would make no array of them.
    if np.ndim(samples[0]) == 0:
        return list(checked_samples(samples, count)[:, None])
    return [checked_samples(group, count) for group in samples]


def _part_of(objective: Objective, backend: Backend, group: NDArray[np.intp]) -> Array:
    """Return what a group adds to the gradient of the mean loss."""
    part = objective.subset(group)
    return backend.scale_(part.gradient(), part.terms / objective.terms)


def _newton_step(
    objective: Objective, group: NDArray[np.intp], damping: float, matrix: str, options: dict[str, Any]
) -> SolveResult:
    changed = ChangedLoss(objective, damping, without=group, matrix=matrix)
    (weight, part) = changed.parts[1]
    rhs = changed.backend.scale_(part.gradient(), -weight)
    return solve(changed.hessian(), rhs, **options)
