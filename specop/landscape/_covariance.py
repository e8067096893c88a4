"""covariance: whether the covariance of low-loss samples around a minimum is the inverse Hessian."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array, lengths_of, numbers_of
from specop.errors import DomainError, InvalidInputError, NonFiniteError, checked_count, checked_number
from specop.krylov.task import Task
from specop.landscape._ends import outermost
from specop.objectives.checked_point import checked_point
from specop.results.covariance import CovarianceResult
from specop.results.eigen import EigenResult
from specop.statistics.estimate import check_confidence, estimate_from_samples
from specop.statistics.numbers import Floats, Integers
from specop.statistics.tilted import fitted_slope, fitted_tilt

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["covariance"]

# Index of the samples, far from those of other probes.
_PROBE = 1 << 40
# Standard deviation of samples, relative to the root mean square of the parameters.
_SIZE = 0.01
# How many times more than the slope curvature is to move losses, where sigma is chosen here.
_MARGIN = 4.0
# Samples whose rise is held against the quadratic model.
_CHECKED = 4
# A negative eigenvalue of more than this share of the largest one is a saddle's.
_SADDLE = 0.1
# Losses are moved to the host together.
_TOGETHER = 64


def covariance(
    objective: Objective,
    *,
    winners: int = 100,
    offspring: int = 20,
    sigma: float | None = None,
    k: int = 10,
    rtol: float = 0.1,
    tol: float = 1e-2,
    confidence: float = 0.95,
    theta: Array | None = None,
    seed: int = 0,
    progress: bool = False,
) -> CovarianceResult:
    r"""Compare the covariance of selected samples around a minimum with the inverse of the Hessian.

    Evolution strategies draw normal samples around a point, keep the best of each `offspring` (the winners of
    (1, lambda) selection) or the best of all, and learn the shape of the loss from their covariance C. On a quadratic
    loss with Hessian H, drawn around its minimum [1]_,

    .. math:: C \to \frac{2 E[L_{\min} - L(\theta)]}{n} \, H^{-1}

    as the number of offspring grows: their logarithm must be large beside the number n of directions that matter. It
    is right for a handful of parameters. For more, the best of a few is hardly better along any one direction, and

    .. math:: C \approx \sigma^2 (I + 2 t \sigma^2 H)^{-1}

    with a small t, which is next to the identity and says little of H. `t` is fitted with its error, so that the result
    says which of both it is. No step is taken and nothing is adapted.

    Parameters
    ----------
    objective : Objective
        The parameters are at a minimum; the model is left as it is.
    winners : int
        Number of winners, and of the lowest of all samples; at least 10.
    offspring : int
        Number of samples of which a winner is the best, at least 2. ``winners * offspring`` losses are evaluated, each
        on all data.
    sigma : float, optional
        Standard deviation of each entry of a sample's distance from the point. Default: a hundredth of the root mean
        square of the parameters, or where the gradient is not quite zero, as much as curvature needs to count for more.
    k : int
        Number of largest eigenvalues of the Hessian, along whose eigenvectors covariances are looked at; all where the
        loss has fewer parameters. Vectors of samples are drawn again where they are needed, none is kept.
    rtol : float
        Error of the largest eigenvalue, relative to it, for `needed`.
    tol : float
        Relative residual at which an eigenpair has converged.
    confidence : float
        Probability with which intervals cover their numbers.
    theta : native vector (n,), optional
        Parameters at which it is computed; default: the model's current ones.
    seed : int
        Seed of the samples. The same seed gives the same bits.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.

    Returns
    -------
    CovarianceResult

    Raises
    ------
    DomainError
        If the point is no minimum: a negative eigenvalue is more than a tenth of the largest one in size, or the
        gradient moves losses more than curvature does; or if losses do not differ by more than rounding.
    InvalidInputError, NonFiniteError
        If an argument does not fit, or parameters or losses are not finite.

    References
    ----------
    .. [1] O. M. Shir, A. Yehudayoff, On the covariance-Hessian relation in evolution strategies, Theoretical Computer
       Science 801 (2020), 157-174.

    Examples
    --------
    >>> import torch, specop
    >>> def loss(params, batch):
    ...     return 0.5 * (params["w"] ** 2).sum() + 0.0 * batch[0].sum()
    >>> params = {"w": torch.zeros(2, dtype=torch.float64)}
    >>> objective = specop.objective(loss, params=params, data=(torch.zeros(1, 1, dtype=torch.float64),))
    >>> found = specop.landscape.covariance(objective, sigma=1.0, winners=50, offspring=5)
    >>> found.variances.shape, found.constant.interval[0] < 1 / 5 < found.constant.interval[1]
    ((2,), True)
    """
    task = Task(
        "covariance", objective.backend, objective.processes, seed=seed, samples=objective.samples, progress=progress
    )
    check_confidence(confidence)
    checked_number("rtol", rtol, positive=True)
    if checked_count("winners", winners) < 10 or checked_count("offspring", offspring) < 2:
        raise InvalidInputError(
            f"winners={winners} and offspring={offspring}: a covariance takes 10 winners, and a winner 2."
        )
    at = checked_point(objective, theta)
    backend = task.backend
    with task:
        n = objective.n
        hessian = objective.hessian(theta)
        eigen = outermost(hessian, min(checked_count("k", k), n), "LA", None, tol, None, confidence, seed)
        _check_curvature(objective, theta, eigen, confidence, seed)
        values = eigen.eigenvalues[::-1].copy()
        length, slope = lengths_of(backend, at, objective.gradient(theta))
        if sigma is None:
            # Losses scatter by sigma |g| because of the slope, and by sigma^2 |H| / sqrt(2) or more by curvature.
            least = _MARGIN * slope * 2**0.5 / float(np.linalg.norm(values))
            deviation = max(_SIZE * (length / n**0.5 or 1.0), least)
        else:
            deviation = checked_number("sigma", sigma, positive=True)
        started = time.perf_counter()
        rises = _rises(task, objective, at, deviation, winners * offspring)
        seconds = time.perf_counter() - started
        _check_slope(slope, rises, deviation)
        best = np.argmin(rises.reshape(winners, offspring), axis=1) + offspring * np.arange(winners)
        lowest = np.argsort(rises, kind="stable")[:winners]
        projections = {number: _projected(task, eigen, number) for number in sorted({*best.tolist(), *lowest.tolist()})}
        won, low = (np.stack([projections[number] for number in some.tolist()]) for some in (best, lowest))
        tilt, low_tilt = (fitted_tilt(some, deviation**2 * values, confidence) for some in (won, low))
        return task.result(
            CovarianceResult,
            eigenvalues=values,
            variances=np.mean(won**2, axis=0),
            errors=np.std(won**2, axis=0, ddof=1) / winners**0.5,
            low_variances=np.mean(low**2, axis=0),
            t=tilt,
            low_t=low_tilt,
            slope=fitted_slope(won, values, confidence),
            constant=estimate_from_samples((won**2 * values).mean(axis=1), confidence).scaled(deviation**2),
            limit=estimate_from_samples(rises[best], confidence).scaled(2.0 / n),
            alignment=_cosine(won.T @ won / winners, values),
            isotropic_alignment=_cosine(np.eye(len(values)), values),
            quadratic_share=_quadratic_share(task, objective, theta, rises, deviation),
            rank=min(winners, n),
            winners=winners,
            offspring=offspring,
            sigma=deviation,
            rtol=rtol,
            eigen_products=eigen.matvecs,
            eigen_seconds=eigen.seconds,
            loss_seconds=seconds / (winners * offspring),
            n=n,
            converged=True,
            message="converged",
        )


def _rises(task: Task, objective: Objective, at: Array, sigma: float, count: int) -> Floats:
    """Return by how much the loss of each sample is above that of the point."""
    backend, layout = task.backend, task.backend.layout(at)
    values, pending = [], [objective.loss(at)]
    for number in range(count):
        step = probes.normal(backend, layout, task.seed, _PROBE + number)
        pending.append(objective.loss(backend.axpy_(backend.copy(at), sigma, step)))
        if len(pending) >= _TOGETHER:
            values += numbers_of(backend, *pending)
            pending = []
            task.update()
    losses = np.array(values + (numbers_of(backend, *pending) if pending else []))
    if not np.isfinite(losses).all():
        bad = int(np.sum(~np.isfinite(losses)))
        raise NonFiniteError(f"{bad} of {count + 1} losses are not finite. Choose a smaller sigma than {sigma:.3g}.")
    rises = losses[1:] - losses[0]
    rounding = 100.0 * layout.epsilon * float(np.abs(losses).max())
    if np.std(rises) <= rounding:
        raise DomainError(
            f"losses of samples scatter by {np.std(rises):.2g}, where rounding may make {rounding:.1g} of it: nothing "
            f"can be selected. Raise sigma={sigma:.3g}."
        )
    return rises


def _projected(task: Task, eigen: EigenResult, number: int) -> Floats:
    """Return a sample's components along the eigenvectors, the largest eigenvalue first."""
    backend = task.backend
    sample = probes.normal(backend, backend.layout(eigen.eigenvector(0)), task.seed, _PROBE + number)
    (found,) = backend.to_host(backend.apply_rows(eigen.rows, sample))
    return found[::-1].copy()


def _check_curvature(
    objective: Objective, theta: Array | None, eigen: EigenResult, confidence: float, seed: int
) -> None:
    top = float(eigen.eigenvalues[-1])
    lowest = outermost(objective.hessian(theta), 1, "SA", None, 0.1, 60, confidence, seed)
    value = float(lowest.eigenvalues[0])
    if not top > 0 or value < -_SADDLE * top:
        raise DomainError(
            f"the point is no minimum: eigenvalues of the Hessian go from {value:.3g} to {top:.3g}. Around a saddle "
            f"the lowest samples lie far down its slopes. Train on to a minimum; landscape.critical_point tells more."
        )


def _check_slope(length: float, rises: Floats, sigma: float) -> None:
    if sigma * length > 0.5 * np.std(rises):
        raise DomainError(
            f"the point is no minimum for samples of this size: the gradient, of norm {length:.3g}, moves their losses "
            f"by {sigma * length:.2g}, and all together scatter by {np.std(rises):.2g}: selection sees the slope, not "
            f"the curvature. Train on to a minimum, or raise sigma={sigma:.3g}."
        )


def _quadratic_share(task: Task, objective: Objective, theta: Array | None, rises: Floats, sigma: float) -> float:
    """Return the rise of some samples, without the gradient's part, over that of the quadratic model."""
    backend, hessian, gradient = task.backend, objective.hessian(theta), objective.gradient(theta)
    count = min(_CHECKED, len(rises))
    with hessian.session():
        samples = [probes.normal(backend, hessian.domain, task.seed, _PROBE + i) for i in range(count)]
        forms = [backend.dot(one, task.multiply_by(hessian, one)) for one in samples]
    numbers = numbers_of(backend, *forms, *(backend.dot(gradient, one) for one in samples))
    model = sigma**2 / 2 * sum(numbers[:count])
    return (float(rises[:count].sum()) - sigma * sum(numbers[count:])) / model if model else float("nan")


def _cosine(matrix: Floats, values: Floats) -> float:
    """Return the cosine between a covariance and the inverse Hessian, as far as eigenvalues are positive."""
    some: Integers = np.flatnonzero(values > 0)
    inverse, part = 1.0 / values[some], matrix[np.ix_(some, some)]
    return float(np.diagonal(part) @ inverse / (np.linalg.norm(part) * np.linalg.norm(inverse)))
