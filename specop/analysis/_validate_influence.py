"""validate_influence: predicted influences beside what retraining without the samples gives."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from specop.analysis._changed_losses import ChangedLoss, check_same_point, check_separable
from specop.analysis._influence import quantity_of
from specop.analysis._retrain import minimized, shortfall
from specop.arrays.backend import Array, Backend, numbers_of, shape_of
from specop.errors import InvalidInputError
from specop.krylov.task import Task
from specop.objectives.mean import Objective
from specop.objectives.select import checked_samples
from specop.results.influence import InfluenceResult
from specop.results.influence_check import InfluenceCheck
from specop.statistics.numbers import Floats, Integers

__all__ = ["validate_influence"]


def validate_influence(
    objective: Objective,
    on: Any,
    influence: InfluenceResult,
    *,
    samples: int = 50,
    indices: ArrayLike | None = None,
    theta: Array | None = None,
    gtol: float = 1e-6,
    rtol: float = 1e-4,
    seed: int = 0,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> InfluenceCheck:
    r"""Retrain without some samples, and compare what that changes with the influences that were predicted.

    The reference is the minimum of the whole penalized loss that is reached from the model's parameters; from there,
    each sample is removed by itself and the minimum of the rest is found by Newton's method, as `retrain` does. Where
    the loss has many minima, these are the ones close by, not those that another random start would find.

    Parameters
    ----------
    objective : Objective
        The training loss, at the trained parameters.
    on : Objective or native vector (n,)
        What the influences are on, as it was given to `influence`.
    influence : InfluenceResult
        Predicted changes to compare with; their damping is used for retraining too. Scores of several test samples are
        averaged.
    samples : int
        Number of samples to look at: those with the largest scores, of either sign.
    indices : array_like of int, optional
        Numbers of the samples to look at, instead.
    theta : native vector (n,), optional
        The trained parameters, from which the reference is sought; default: the model's current ones.
    gtol : float
        Norm of the gradient to which every minimum is found.
    rtol : float
        Relative residual of each Newton step's solve.
    seed : int
        Seed of the random vectors that a solve needs after a breakdown.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.
    raise_on_failure : bool
        Whether to raise NotConvergedError instead of warning where a minimum was not reached.

    Returns
    -------
    InfluenceCheck
        With both changes, their correlations, and `plot`.
    """
    task = Task(
        "validate_influence",
        objective.backend,
        objective.processes,
        seed=seed,
        samples=objective.samples,
        progress=progress,
        raise_on_failure=raise_on_failure,
    )
    _check_influence(influence, objective, on)
    scores = influence.scores if influence.scores.ndim == 1 else influence.scores.mean(axis=1)
    places = _places(influence, scores, samples, indices, objective.samples)
    chosen = influence.indices[places]
    check_separable(objective, theta)
    backend = task.backend
    if isinstance(on, Objective):
        check_same_point(objective, on, "on")
    else:
        on = on if shape_of(on) else objective.flatten(on)
        backend.check_vector(on, backend.layout(objective.theta), "on")

    with task:
        start = objective.theta if theta is None else theta
        minima = [minimized(ChangedLoss(objective, influence.damping), start, gtol, rtol, seed=seed)]
        for index in chosen:
            changed = ChangedLoss(objective, influence.damping, without=[index])
            minima.append(minimized(changed, minima[0].x, gtol, rtol, seed=seed))
            task.update(f"{len(minima) - 1} of {len(chosen)} samples")
        level, *levels = (_level(backend, on, minimum.x) for minimum in minima)
        predicted, actual = scores[places], np.array(levels) - level
        norms = np.array([minimum.gradient_norms[-1] for minimum in minima])
        failed = [minimum for minimum in minima if not minimum.converged]
        worst = max(failed, key=lambda minimum: minimum.gradient_norms[-1], default=None)
        return task.result(
            InfluenceCheck,
            indices=chosen,
            predicted=predicted,
            actual=actual,
            gradient_norms=norms,
            correlation=_correlation(predicted, actual),
            rank_correlation=_correlation(_ranks(predicted), _ranks(actual)),
            quantity=influence.quantity,
            damping=influence.damping,
            gtol=gtol,
            converged=worst is None,
            message="converged"
            if worst is None
            else f"{len(failed)} of {len(minima)} minima were not reached; of the worst {shortfall(worst, gtol)}",
        )


def _places(
    influence: InfluenceResult, scores: Floats, samples: int, indices: ArrayLike | None, count: int
) -> Integers:
    """Return where the samples to look at stand among the scores."""
    if indices is None:
        if isinstance(samples, bool) or not isinstance(samples, (int, np.integer)) or samples < 2:
            raise InvalidInputError(
                f"samples must be a number of samples, at least 2 for a correlation, got {samples!r}. To choose some, "
                f"pass indices=."
            )
        return np.argsort(-np.abs(scores), kind="stable")[: int(samples)]
    wanted = checked_samples(indices, count)
    where = {int(index): place for place, index in enumerate(influence.indices)}
    missing = [int(index) for index in wanted if int(index) not in where]
    if missing:
        raise InvalidInputError(f"sample {missing[0]} has no score in this result.")
    return np.array([where[int(index)] for index in wanted])


def _check_influence(influence: Any, objective: Objective, on: Any) -> None:
    """Raise InvalidInputError unless these may be influences of this data on what is looked at here."""
    if not isinstance(influence, InfluenceResult):
        raise InvalidInputError(
            f"influence must be what specop.analysis.influence returned, got {type(influence).__name__}."
        )
    if influence.samples != objective.samples:
        raise InvalidInputError(
            f"the influences are of {influence.samples} training samples, and the objective has {objective.samples}. "
            f"Pass the objective that they were computed with."
        )
    quantities = {quantity_of(on), quantity_of(on, per_sample=True)} if isinstance(on, Objective) else {quantity_of(on)}
    if influence.quantity not in quantities:
        raise InvalidInputError(
            f"the influences are on {influence.quantity}, and on= is {' or '.join(sorted(quantities))}: nothing can be "
            f"compared. Pass what influence(...) was given as on=; that of each sample on itself is not retrained for."
        )


def _level(backend: Backend, on: Any, theta: Array) -> float:
    value = on.loss(theta) if isinstance(on, Objective) else backend.dot(on, theta)
    return numbers_of(backend, value)[0]


def _ranks(values: Floats) -> Floats:
    # Equal values have the mean of their ranks.
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[where], dtype=float)


def _correlation(x: Floats, y: Floats) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / scale if scale > 0 else float("nan")
