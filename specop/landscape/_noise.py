"""noise: how much gradients of samples scatter, beside the slope, and which batch size that advises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specop.arrays.backend import Array, Backend, numbers_of
from specop.errors import InvalidInputError, checked_count
from specop.krylov.task import Task
from specop.landscape._crossed import Crossed, finite
from specop.landscape._rows import Rows, random_signs, read_rows
from specop.landscape._units import LEAST, Units, parts_of, units_of
from specop.objectives.checked_point import checked_point
from specop.results.noise import NoiseResult
from specop.statistics.estimate import Estimate, check_confidence, estimate_from_samples, exact, with_error
from specop.statistics.numbers import Floats
from specop.statistics.ratio import jackknife_covariance, ratio

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["noise"]

_FITTED = (
    "the mean gradient is smaller than chance makes it: the parameters were fitted to these samples, which then say "
    "nothing of a population's gradient; pass fresh ones, or population=False"
)
# Up to so many samples whose gradients are all multiplied, each on its own.
_FEW = 16


def noise(
    objective: Objective,
    *,
    population: bool = True,
    parts: int = 8,
    confidence: float = 0.95,
    theta: Array | None = None,
    seed: int = 0,
    progress: bool = False,
) -> NoiseResult:
    r"""Return the noise scales of the gradient, and the batch size that they advise.

    With the gradient g, the covariance S of single samples' gradients and the Hessian H, these are [1]_

    .. math:: \frac{\operatorname{tr} S}{|g|^2} \quad\text{and}\quad \frac{\operatorname{tr}(H S)}{g^\top H g},

    the number of samples at which noise costs as much of a step's descent as the step gains. Batches of B samples need
    :math:`1 + s/B` times as many steps as exact gradients do, and :math:`1 + B/s` times the least number of samples,
    with the second scale s where a step's length is the best for B; the first one stands in for it where H is not
    known, and equals it where H is a multiple of the identity.

    By default the data are a sample of a population that the parameters were not fitted to, and its g, S and H are
    meant. :math:`|\bar g|^2` of the data is too large by :math:`\operatorname{tr} S/m`, and
    :math:`\bar g^\top H \bar g` by even more, because H and g come from the same samples. So the data are cut into
    parts: each part's H is multiplied with gradients of the other parts, and what noise adds is taken off. Numerators
    and denominators are unbiased then. Their errors are the jackknife's, over samples for the first scale and over
    parts for the second, and limits of the ratios are Fieller's: where the denominator is not told from zero, a scale
    has no upper limit.

    It takes a gradient and one pass over samples' gradients; tr S and the first scale need no more. The second takes
    ``parts ** 2`` products with a ``parts``-th of the data each, which cost what `parts` products do, and holds
    ``2 parts`` vectors.

    Parameters
    ----------
    objective : Objective
        The model is left as it is. Where samples depend on each other, as with batch normalization in training mode,
        or the criterion reads the parameters, 8 or more batches of one size take the place of samples, and `notes` says
        so. Of a function that returns the loss without outputs, samples' gradients are computed one by one.
    population : bool
        Whether the data are a sample of more. Otherwise their mean gradient and their Hessian are the exact ones, S is
        the covariance of the m samples at hand, and errors are those of ``2 parts`` random combinations of samples'
        gradients in tr(HS), a product each; with up to 16 samples each has its own product, and nothing is random.
    parts : int
        Number of parts, at least 4; fewer where there are not two samples for each. Their number less one is that of
        degrees of freedom behind the interval of the second scale.
    confidence : float
        Probability with which an interval covers its number.
    theta : native vector (n,), optional
        Parameters at which it is computed; default: the model's current ones.
    seed : int
        Seed of the parts and of the signs of random combinations. The same seed gives the same bits.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.

    Returns
    -------
    NoiseResult

    Raises
    ------
    InvalidInputError
        If there are fewer than 8 samples behind a population; if samples depend on each other and there are no 8
        batches of one size; or if the loss is no mean over samples.
    NonFiniteError
        If parameters, gradients or products are not finite.

    References
    ----------
    .. [1] S. McCandlish, J. Kaplan, D. Amodei et al., An empirical model of large-batch training, arXiv:1812.06162
       (2018).

    Examples
    --------
    >>> import torch, specop
    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(256, 4)
    >>> data = (x, x.sum(1, keepdim=True) + torch.randn(256, 1))
    >>> objective = specop.objective(torch.nn.Linear(4, 1), torch.nn.functional.mse_loss, data)
    >>> found = specop.landscape.noise(objective)
    >>> low, high = found.curvature_scale.interval
    >>> low < found.batch_size < high
    True
    >>> found.steps(found.batch_size) < 2.1
    True
    """
    task = Task(
        "noise", objective.backend, objective.processes, seed=seed, samples=objective.samples, progress=progress
    )
    check_confidence(confidence)
    checked_count("parts", parts)
    if parts < 4:
        raise InvalidInputError(f"parts must be at least 4, got {parts}: fewer do not show how much they scatter.")
    checked_point(objective, theta)
    if population and objective.samples < LEAST:
        raise InvalidInputError(
            f"the data have {objective.samples} samples: the noise of a population shows in {LEAST} or more. Pass "
            f"more, or population=False if these are all there are."
        )
    with task:
        units = units_of(objective, theta)
        if units.note:
            task.notes[units.note] = None
        if population:
            found = _of_population(task, objective, theta, units, min(parts, units.count // 2), confidence)
        else:
            found = _of_data(task, objective, theta, units, parts, confidence)
        simple = found.simple.scaled(units.size)
        curved = found.curved.scaled(units.size)
        advised = [(name, one) for name, one in (("curvature", curved), ("simple", simple)) if _is_bounded(one)]
        by, scale = advised[0] if advised else ("", None)
        size = None if scale is None else max(1, round(scale.estimate))
        return task.result(
            NoiseResult,
            simple_scale=simple,
            curvature_scale=curved,
            squared_gradient=found.squared_gradient,
            variance=found.variance.scaled(units.size),
            gradient_curvature=found.gradient_curvature,
            noise_curvature=found.noise_curvature.scaled(units.size),
            batch_size=size,
            advised_by=by,
            population=population,
            parts=found.parts,
            converged=True,
            message=found.message,
        )


@dataclass(frozen=True)
class _Found:
    """Estimates for a unit: tr S, |g|^2, tr(HS), g'Hg and both ratios."""

    variance: Estimate
    squared_gradient: Estimate
    noise_curvature: Estimate
    gradient_curvature: Estimate
    simple: Estimate
    curved: Estimate
    parts: int
    message: str


def _of_population(
    task: Task, objective: Objective, theta: Array | None, units: Units, parts: int, confidence: float
) -> _Found:
    m, part = units.count, parts_of(objective, units, parts, task.seed)
    members = np.equal.outer(part, np.arange(parts)).astype(float)
    signs = random_signs(task.seed, m, 1)
    rows = read_rows(task.backend, objective, theta, units, np.hstack([members, members * signs]))
    values, without = _simple(rows.squares, rows.along)
    covariance = jackknife_covariance(without)
    crossed = Crossed(task, objective, theta, units, part, rows.combined, members.T @ signs[:, 0])
    curved, curved_covariance = crossed.estimates()
    variance, square = _with_errors(values, covariance, m - 1, confidence)
    along_noise, along = _with_errors(curved, curved_covariance, parts - 1, confidence)
    # No square is negative: the nearest that it can be is zero.
    simple = ratio(variance.estimate, max(square.estimate, 0.0), covariance, m - 1, confidence)
    scale = ratio(curved[0], curved[1], curved_covariance, parts - 1, confidence)
    if square.interval[1] < 0:
        task.notes[_FITTED] = None
        scale = _endless(scale)
    message = f"{parts} parts: each of the {task.products} products is with a part of the data"
    return _Found(variance, square, along_noise, along, _positive(simple), scale, parts, message)


def _of_data(
    task: Task, objective: Objective, theta: Array | None, units: Units, count: int, confidence: float
) -> _Found:
    m, backend = units.count, task.backend
    is_exact = m <= max(_FEW, 2 * count)
    coefficients = np.eye(m) if is_exact else random_signs(task.seed, m, 2 * count)
    rows = read_rows(backend, objective, theta, units, coefficients)
    square = rows.squared_mean if rows.squared_mean > _rounding(backend, rows) ** 2 else 0.0
    variance = float(np.mean(rows.squares)) - rows.squared_mean
    hessian = objective.hessian(theta)
    curvatures = []
    with hessian.session():
        for total, vector in zip(coefficients.sum(axis=0), rows.combined, strict=True):
            centred = backend.axpy_(vector, -float(total), rows.mean)
            curvatures.append(backend.dot(centred, task.multiply_by(hessian, centred)))
            task.update()
        curvatures.append(backend.dot(rows.mean, task.multiply_by(hessian, rows.mean)))
    *forms, slope = finite(numbers_of(backend, *curvatures))
    if is_exact:
        curved = exact(float(np.sum(forms)) / m, confidence)
    else:
        curved = estimate_from_samples(np.array(forms) / m, confidence)
    bent = exact(slope if square else 0.0, confidence)
    variances = np.diag([curved.standard_error**2, 0.0])
    return _Found(
        exact(max(variance, 0.0), confidence),
        exact(square, confidence),
        curved,
        bent,
        ratio(max(variance, 0.0), square, np.zeros((2, 2)), m, confidence),
        ratio(curved.estimate, bent.estimate, variances, max(1, len(forms) - 1), confidence),
        0,
        "converged",
    )


def _simple(squares: Floats, along: Floats) -> tuple[Floats, Floats]:
    """Return tr S and |g|^2 without bias, and the same without each unit."""
    m, total, mean = len(squares), float(squares.sum()), float(along.mean())
    means = (m * m * mean - 2 * m * along + squares) / (m - 1) ** 2

    def unbiased(total: Floats, mean: Floats, count: int) -> Floats:
        variance = np.maximum((total - count * mean) / (count - 1), 0.0)
        return np.stack([variance, mean - variance / count], axis=-1)

    return unbiased(np.array(total), np.array(mean), m), unbiased(total - squares, means, m - 1)


def _rounding(backend: Backend, rows: Rows) -> float:
    """Return the norm of a mean gradient that is rounding alone."""
    return 4.0 * backend.layout(rows.mean).epsilon * float(np.sqrt(np.mean(rows.squares)))


def _with_errors(values: Floats, covariance: Floats, degrees: int, confidence: float) -> list[Estimate]:
    errors = np.sqrt(np.diagonal(covariance))
    pairs = zip(values, errors, strict=True)
    return [with_error(float(value), float(error), degrees, confidence) for value, error in pairs]


def _endless(value: Estimate) -> Estimate:
    return Estimate(float("inf"), float("inf"), (-float("inf"), float("inf")), value.confidence)


def _positive(value: Estimate) -> Estimate:
    """Return a scale that cannot be negative with the part of its interval that is possible."""
    low, high = value.interval
    return Estimate(max(value.estimate, 0.0), value.standard_error, (max(low, 0.0), max(high, 0.0)), value.confidence)


def _is_bounded(scale: Estimate) -> bool:
    return bool(np.isfinite(scale.interval).all()) and scale.estimate >= 0
