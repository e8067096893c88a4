"""validate_influence: predicted influences beside what retraining without the samples gives."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specop.analysis._changed_losses import ChangedLoss, check_same_point, check_separable
from specop.analysis._retrain import minimized
from specop.arrays.backend import Array, Backend, backend_of
from specop.errors import ConvergenceWarning, InvalidInputError
from specop.krylov.progress import progress_bar
from specop.objectives.mean import Objective
from specop.results.influence import InfluenceResult
from specop.results.influence_check import InfluenceCheck

__all__ = ["validate_influence"]


def validate_influence(
    objective: Objective,
    on: Any,
    influence: InfluenceResult,
    *,
    samples: int | ArrayLike = 50,
    gtol: float = 1e-6,
    rtol: float = 1e-4,
    progress: bool = False,
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
        Its damping is used for retraining too. Scores of several test samples are averaged.
    samples : int or array_like of int
        How many of the most influential samples, of either sign; or the numbers of those to look at.
    gtol : float
        Norm of the gradient to which every minimum is found.
    rtol : float
        Relative residual of each Newton step's solve.
    progress : bool
        Show a progress bar.

    Returns
    -------
    InfluenceCheck
        With both changes, their correlations, and `plot`.
    """
    started = time.perf_counter()
    scores = influence.scores if influence.scores.ndim == 1 else influence.scores.mean(axis=1)
    places = _places(influence, scores, samples)
    chosen = influence.indices[places]
    check_separable(objective)
    backend = backend_of(objective.theta)
    if isinstance(on, Objective):
        check_same_point(objective, on, "on")
    elif len(getattr(on, "shape", ())) != 1:
        raise InvalidInputError(
            f"on must be an objective or a native vector ({objective.n},), got {type(on).__name__}."
        )

    whole = ChangedLoss(objective, influence.damping)
    reference = minimized(whole, objective.theta, gtol, None, rtol, None)
    runs = [reference]
    level = _level(backend, on, reference.x)
    changes = []
    with progress_bar(progress, "retraining") as update:
        for index in chosen:
            changed = ChangedLoss(objective, influence.damping, without=[index])
            runs.append(minimized(changed, reference.x, gtol, None, rtol, None))
            changes.append(_level(backend, on, runs[-1].x) - level)
            update(len(runs) - 1, f"of {len(chosen)}")
    norms = np.array([run.gradient_norms[-1] for run in runs])
    failed = next((run for run in runs if not run.converged), None)
    actual = np.array(changes)
    result = InfluenceCheck(
        indices=chosen,
        predicted=scores[places],
        actual=actual,
        gradient_norms=norms,
        correlation=_correlation(scores[places], actual),
        rank_correlation=_correlation(_ranks(scores[places]), _ranks(actual)),
        quantity=influence.quantity,
        damping=influence.damping,
        gtol=gtol,
        matvecs=sum(run.matvecs for run in runs),
        seconds=time.perf_counter() - started,
        samples=objective.samples,
        seed=0,
        converged=failed is None,
        message="converged" if failed is None else failed.message,
        versions=influence.versions,
    )
    if failed is not None:
        warnings.warn(
            f"{int((norms > gtol).sum())} of {len(runs)} minima were not reached; the largest gradient has the norm "
            f"{norms.max():.2e}, where {gtol:.2e} is asked for: {failed.message}.",
            ConvergenceWarning,
            stacklevel=2,
        )
    return result


def _places(influence: InfluenceResult, scores: NDArray[np.float64], samples: int | ArrayLike) -> NDArray[np.intp]:
    """Return where the samples to look at stand among the scores."""
    if isinstance(samples, (int, np.integer)):
        if samples < 2:
            raise InvalidInputError(f"samples must be at least 2 for a correlation, got {samples}.")
        return np.argsort(-np.abs(scores), kind="stable")[: int(samples)]
    wanted = np.asarray(samples)
    where = {int(index): place for place, index in enumerate(influence.indices)}
    missing = [int(index) for index in wanted if int(index) not in where]
    if missing:
        raise InvalidInputError(f"sample {missing[0]} has no score in this result.")
    return np.array([where[int(index)] for index in wanted])


def _level(backend: Backend, on: Any, theta: Array) -> float:
    value = on.loss(theta) if isinstance(on, Objective) else backend.dot(on, theta)
    return float(backend.to_host(value)[0])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.argsort(np.argsort(values)).astype(float)


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / scale if scale > 0 else float("nan")
