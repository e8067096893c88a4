r"""Enclosure: each eigenvalue of a mean over all samples between numbers that two parts of them give.

For parts A and B whose means are unbiased, i orthonormal vectors V that do not depend on B, and the eigenvalues
:math:`\lambda_1 \ge \lambda_2 \ge \dots` of H, by Courant and Fischer and because the smallest eigenvalue of a matrix
is concave and the largest one convex,

.. math:: E[\lambda_{\min}(V^\top H_B V)] \le \lambda_{\min}(V^\top H V) \le \lambda_i(H), \quad
    \lambda_{i + 1}(H) \le \lambda_1(P H P) \le E[\lambda_1(P H_B P)], \quad P = I - V V^\top,

where V has the first i eigenvectors of A. That holds for eigenvalues inside the spectrum, for copies, and where parts
disagree about the order of near ones; both sides come closer as parts grow. With the largest eigenpairs
:math:`(\mu_j, w_j)`, j up to k, of B,

.. math:: \lambda_1(P H_B P) \le \mu_k + \lambda_1(D^{1/2} W^\top P W D^{1/2}),
    \quad D = \operatorname{diag}(\mu_j - \mu_k),

takes no product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from specop.arrays.backend import Array, Backend
from specop.krylov.run import Run
from specop.spectral.part.sampled_mean import SampledMean
from specop.statistics.estimate import Estimate, normal_error, within
from specop.statistics.group_sums import GroupSum
from specop.statistics.numbers import Floats

__all__ = ["End", "Side", "enclosed_by"]


@dataclass(frozen=True)
class End:
    """Eigenpairs of a half at one end of its spectrum, the outermost first.

    Attributes
    ----------
    sign : float
        1 for the largest, -1 for the smallest eigenvalues.
    keys : ndarray (k,)
        Eigenvalues times the sign, descending.
    bounds : ndarray (k,)
        Bounds of their errors.
    rows : native array (k, n)
        Eigenvectors.
    """

    sign: float
    keys: Floats
    bounds: Floats
    rows: Array


@dataclass(frozen=True)
class Side:
    """What both halves say of one end, the outermost eigenvalue first.

    Attributes
    ----------
    values : list of Estimate
    sampling_errors, residuals, bounds : ndarray (k,)
    rows : list of native vector
    missed : tuple of int
        Halves whose outermost eigenvalue is another one than was found: the other's eigenvector shows a larger one.
    """

    values: list[Estimate]
    sampling_errors: Floats
    rows: list[Array]
    residuals: Floats
    bounds: Floats
    missed: tuple[int, ...] = ()


def enclosed_by(run: Run, halves: list[SampledMean], ends: list[End], confidence: float) -> Side:
    """Return what lies between both sides for each eigenvalue of one end."""
    backend, sign = halves[0].backend, ends[0].sign
    rows = [backend.index(ends[0].rows, i) for i in range(len(ends[0].keys))]
    bounds = np.mean([end.bounds for end in ends], axis=0)
    if len(ends) == 1:
        values = [
            within(sign * float(key), float(bound), confidence) for key, bound in zip(ends[0].keys, bounds, strict=True)
        ]
        return Side(values, np.zeros(len(values)), rows, ends[0].bounds, bounds)
    lower, errors, chances, residuals = zip(
        *(_lower(run, half, end, confidence) for half, end in zip(halves, reversed(ends), strict=True)), strict=True
    )
    upper = np.mean([_upper(backend, *pair) for pair in (ends, ends[::-1])], axis=0)
    low = np.mean(lower, axis=0)
    # Both sides move with the parts alike: an eigenvalue changes by what its matrix changes along the eigenvector.
    error, chance = (np.linalg.norm(one, axis=0) / 2.0 for one in (errors, chances))
    low, high = np.minimum(low, upper), np.maximum(low, upper)
    intervals = np.stack([low - chance - bounds, high + chance + bounds])
    values = []
    for middle, *interval in zip(sign * (low + high) / 2.0, *(sign * intervals), strict=True):
        limits = (float(min(interval)), float(max(interval)))
        values.append(Estimate(float(middle), normal_error(limits, confidence), limits, confidence))
    missed = tuple(i for i, end in enumerate(ends) if lower[i][0] > end.keys[0] + end.bounds[0])
    return Side(values, error, rows, residuals[1], bounds, missed)


def _lower(run: Run, half: SampledMean, end: End, confidence: float) -> tuple[Floats, Floats, Floats, Floats]:
    """Return what is too small by the other half's eigenvectors, its errors and chances, and their residuals here."""
    backend, count = half.backend, len(end.keys)
    vectors = [backend.index(end.rows, i) for i in range(count)]
    images = [backend.zeros(half.domain) for _ in vectors]
    places: list[int] = []
    factors: list[float] = []
    found: list[Floats] = []
    for i, weight, group in half.groups():
        columns = []
        for j, vector in enumerate(vectors):
            image = run.multiply_group(group, vector)
            columns.append(backend.apply_rows(end.rows, image))
            images[j] = backend.axpy_(images[j], half.factor(i) * group.share, image)
        places.append(i)
        factors.append(half.factor(i) / weight)
        found.append(end.sign * weight * group.share * np.array(run.to_host(*columns)))
    total: Floats = np.sum([factor * one for factor, one in zip(factors, found, strict=True)], axis=0)
    rest = [backend.axpy_(image, -end.sign * float(total[j, j]), vectors[j]) for j, image in enumerate(images)]
    residuals = np.array([float(one) for one in run.to_host(*map(backend.norm, rest))])
    low, errors, chances = np.zeros(count), np.zeros(count), np.zeros(count)
    for k in range(1, count + 1):
        values, across = np.linalg.eigh((total[:k, :k] + total[:k, :k].T) / 2.0)
        direction, forms = across[:, 0], GroupSum(half.strata, is_noisy=False)
        for i, one in zip(places, found, strict=True):
            forms.add(i, float(direction @ one[:k, :k] @ direction))
        value, _ = forms.estimate(confidence)
        low[k - 1], errors[k - 1], chances[k - 1] = values[0], value.standard_error, value.interval[1] - value.estimate
    chances += half.unseen(confidence) * np.abs(low)
    return low, errors, chances, residuals


def _upper(backend: Backend, fixed: End, other: End) -> Floats:
    """Return what is too large: the largest eigenvalues of one half where eigenvectors of the other are taken out."""
    count = len(other.keys)
    columns = [backend.apply_rows(fixed.rows, backend.index(other.rows, j)) for j in range(count)]
    overlaps = np.array(backend.to_host(*columns)).T
    root = np.sqrt(np.maximum(0.0, other.keys - other.keys[-1]))
    found = np.empty(count)
    for i in range(count):
        left = np.eye(count) - overlaps[:i].T @ overlaps[:i]
        found[i] = other.keys[-1] + np.linalg.eigvalsh(root[:, None] * left * root)[-1]
    return found
