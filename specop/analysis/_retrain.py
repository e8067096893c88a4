"""retrain: the minimum without some samples or with more, by Newton steps from the old one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from specop.analysis._changed_losses import ChangedLoss, check_additive, check_separable, check_some_stay
from specop.arrays.backend import Array, shape_of
from specop.errors import InvalidInputError, checked_count, checked_number
from specop.krylov.task import Task
from specop.objectives.mean import Objective
from specop.objectives.select import checked_samples
from specop.results.retrain import RetrainResult
from specop.results.structure import Structure
from specop.solvers.newton import Minimum, newton

__all__ = ["minimized", "retrain", "shortfall"]

_STEPS = 100


def retrain(
    objective: Objective,
    *,
    damping: float,
    without: ArrayLike | None = None,
    added: Objective | None = None,
    theta: Any = None,
    steps: int | None = None,
    gtol: float = 1e-6,
    rtol: float = 1e-4,
    matrix: str = "hessian",
    max_matvecs: int | None = None,
    seed: int = 0,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> RetrainResult:
    r"""Train on, after samples were removed or added, by Newton steps from the old solution.

    With m samples in `objective`, those that stay and those that are added enter

    .. math:: J(\theta) = \frac1m \sum_i \ell_i(\theta) + \frac d2 \|\theta\|^2,

    so that each keeps its weight beside the penalty: the minimum is that of the new mean loss with a weight decay of
    d m / (new number of samples). The certificate is the norm of the gradient of J at the new point: where J is
    convex around both, the distance to the minimum is at most that norm over the smallest curvature, which is at
    least d.

    The model is not touched: `parameters` of the result is what to load into it. With neither `without` nor
    `added`, training goes on with all data, to a small gradient.

    Parameters
    ----------
    objective : Objective
        The old training loss, at the old solution.
    damping : float
        Strength d of the L2 penalty, at least 0.
    without : array_like of int, optional
        Numbers of the samples to remove, in the order of the data.
    added : Objective, optional
        Objective of the same model, with the data to add.
    theta : native vector (n,) or parameter structure, optional
        Parameters to begin with; default: the model's parameters. With those of before training, the cost is that of
        training anew.
    steps : int, optional
        Take this many Newton steps, fewer if `gtol` is reached. Default: until `gtol` is reached, at most 100.
    gtol : float
        Norm of the gradient of J to reach.
    rtol : float
        Relative residual to which each step's linear system is solved.
    matrix : {"hessian", "ggn", "fisher"}
        What stands for the second derivatives.
    max_matvecs : int, optional
        Limit on products with second derivatives in all; default: 10,000 in each step.
    seed : int
        Seed of the random vectors that a solve needs after a breakdown.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.
    raise_on_failure : bool
        Whether to raise NotConvergedError instead of warning where `gtol` was not reached and the number of steps not
        given.

    Returns
    -------
    RetrainResult
        With `converged` where `gtol` was reached.

    Raises
    ------
    InvalidInputError
        If the loss is not the mean over samples, so that what a sample adds is not known.
    NotConvergedError
        Only with ``raise_on_failure``.

    Warns
    -----
    ConvergenceWarning
        If `gtol` was not reached and the number of steps was not given.

    References
    ----------
    C. Guo, T. Goldstein, A. Hannun, L. van der Maaten, Certified data removal from machine learning models, ICML
    (2020).

    Examples
    --------
    >>> import torch, specop
    >>> data = (torch.randn(8, 3), torch.randn(8, 1))
    >>> objective = specop.objective(torch.nn.Linear(3, 1), torch.nn.functional.mse_loss, data)
    >>> result = specop.analysis.retrain(objective, without=[0, 5], damping=0.1, gtol=1e-5)
    >>> result.gradient_norm < 1e-5
    True
    """
    task = Task(
        "retrain",
        objective.backend,
        objective.processes,
        seed=seed,
        samples=objective.samples,
        progress=progress,
        raise_on_failure=raise_on_failure,
    )
    checked_number("gtol", gtol, positive=True)
    if steps is not None:
        checked_count("steps", steps)
    if matrix == "empirical fisher":
        raise InvalidInputError("retrain needs second derivatives: matrix='hessian', 'ggn' or 'fisher'.")
    removed = np.array([], dtype=np.intp) if without is None else checked_samples(without, objective.samples)
    if removed.size:
        check_some_stay(objective, removed)
        check_separable(objective)
    elif added is not None:
        check_additive(objective)
    changed = ChangedLoss(objective, damping, without=removed if removed.size else None, added=added, matrix=matrix)
    start = objective.theta if theta is None else theta if shape_of(theta) else objective.flatten(theta)
    with task:
        found = minimized(changed, start, gtol, rtol, steps=steps, max_matvecs=max_matvecs, seed=seed)
        return task.result(
            RetrainResult,
            theta=found.x,
            loss=found.value,
            gradient_norms=np.array(found.gradient_norms),
            gtol=gtol,
            gradients=found.gradients,
            losses=found.values,
            removed=removed,
            added=0 if added is None else added.samples,
            damping=changed.damping,
            matrix=matrix,
            # A number of steps that was asked for is no failure.
            stopped=steps is not None,
            converged=found.converged,
            message=found.message if found.converged else shortfall(found, gtol),
            structure=Structure(objective.shapes, objective.unflatten),
        )


def minimized(
    changed: ChangedLoss,
    start: Array,
    gtol: float,
    rtol: float,
    *,
    steps: int | None = None,
    max_matvecs: int | None = None,
    seed: int = 0,
) -> Minimum:
    """Minimize a changed loss by Newton's method."""
    return newton(
        changed.loss,
        changed.gradient,
        changed.hessian,
        start,
        gtol=gtol,
        max_steps=_STEPS if steps is None else steps,
        rtol=rtol,
        max_matvecs=max_matvecs,
        seed=seed,
    )


def shortfall(found: Minimum, gtol: float) -> str:
    """Return what is to be said of a minimum that was not reached."""
    return f"the gradient has the norm {found.gradient_norms[-1]:.2e}, where {gtol:.2e} is asked for: {found.message}."
