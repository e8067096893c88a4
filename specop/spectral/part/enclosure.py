r"""Enclosure: each eigenvalue of a mean over all samples between numbers that parts of them give.

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

What eigenvectors are off by falls with the size of a part, and chance only with its root, but samples beside both parts
take one product for each vector where a part takes all those of a search. Such samples C lessen the chance of both
sides: of the lower one, which is that of B and C together, and of the upper one, by what V says of both, which has the
same mean:

.. math:: \lambda_1(P H_B P) - \lambda_{\min}(V^\top H_B V) + \lambda_{\min}(V^\top H_{B \cup C} V).

The first difference is of second order in what eigenvectors are off by, so next to none of its own chance is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specop.arrays.backend import Array, Backend
from specop.krylov.run import Run
from specop.operators.sample_mean import Group
from specop.spectral.part.grouping import Grouping
from specop.statistics.estimate import Estimate, normal_error, within
from specop.statistics.group_sums import GroupSum
from specop.statistics.numbers import Floats
from specop.statistics.strata import Stratum

__all__ = ["Enclosure", "End", "Side", "whole_side"]

# Of an error as large as it may be, what halves may leave of it for samples beside them, and what the next ones are to.
_FIXED, _AIM = 0.7, 0.5
# How many times as many samples may come next: what the first ones say of their scatter is itself uncertain.
_MORE = (1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0)


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
    """What samples say of one end, the outermost eigenvalue first.

    Attributes
    ----------
    values : list of Estimate
    sums : list of GroupSum
        What the interval has of the choice of samples, which further ones beside both halves lessen; none for all.
    sampling_errors, residuals, bounds : ndarray (k,)
    rows : list of native vector
    missed : tuple of int
        Halves whose outermost eigenvalue is another one than was found: the other's eigenvector shows a larger one.
    """

    values: list[Estimate]
    sums: list[GroupSum]
    sampling_errors: Floats
    rows: list[Array]
    residuals: Floats
    bounds: Floats
    missed: tuple[int, ...] = ()

    def plan(self, i: int, rtol: float) -> tuple[float, float]:
        """Return what an eigenvalue still takes for a standard error of `rtol` relative to it; zeros for nothing.

        Returns
        -------
        growth : float
            How much larger halves have to be.
        more : float
            How many times as many samples are to be looked at along these eigenvectors.
        """
        value = self.values[i]
        wished, found = rtol * abs(value.estimate), value.standard_error
        if found <= wished:
            return 0.0, 0.0
        # As much of the interval's width as of the standard error.
        errors = 2.0 * found / (value.interval[1] - value.interval[0])
        fixed = found - (errors * self.sums[i].foreseen(1.0, value.confidence) if self.sums else 0.0)
        if not wished:
            return np.inf, 0.0
        if fixed > _FIXED * wished:
            return fixed / (_AIM * wished), 0.0
        enough = (more for more in _MORE if fixed + errors * self.sums[i].foreseen(more, value.confidence) <= wished)
        return 0.0, next(enough, _MORE[-1])


def whole_side(backend: Backend, end: End, confidence: float) -> Side:
    """Return what the mean over all samples itself says."""
    keys = [(end.sign * float(key), float(bound)) for key, bound in zip(end.keys, end.bounds, strict=True)]
    values, zeros = [within(key, bound, confidence) for key, bound in keys], np.zeros(len(keys))
    return Side(values, [], zeros, _vectors(backend, end), end.bounds, end.bounds)


class Enclosure:
    """What groups of samples say of eigenpairs of two halves at one end of the spectrum.

    Parameters
    ----------
    run : Run
    grouping : Grouping
    ends : sequence of End
        Of either half, as many eigenpairs each.
    confidence : float
    """

    def __init__(self, run: Run, grouping: Grouping, ends: Sequence[End], confidence: float) -> None:
        self._run, self._backend, self._grouping, self._ends = run, run.backend, grouping, ends
        self._confidence = confidence
        self._vectors = [_vectors(run.backend, end) for end in ends]
        # By the half whose eigenvectors they are of, and by stratum: those of the other half's groups come first.
        self._forms: list[list[list[Floats]]] = [[[] for _ in grouping.strata] for _ in ends]
        # Of the first half's eigenvectors with the second half.
        self._images = [run.backend.zeros(run.A.domain) for _ in self._vectors[0]]

    @property
    def count(self) -> int:
        """How many eigenvectors either half has."""
        return len(self._ends[0].keys)

    def measure(self, stratum: int, weight: float, group: Group, number: int) -> None:
        """Take in what a group, which is not in the half of that number, is along the half's eigenvectors."""
        run, backend, end, forms = self._run, self._backend, self._ends[number], self._forms[number][stratum]
        first = self._grouping.firsts[stratum]
        blocks = len(self._grouping.strata[stratum])
        columns = []
        for j, vector in enumerate(self._vectors[number]):
            image = run.multiply_group(group, vector)
            columns.append(backend.apply_rows(end.rows, image))
            if number == 0 and len(forms) < (first or blocks):
                factor = blocks / (first or blocks)
                self._images[j] = backend.axpy_(self._images[j], factor * weight * group.share, image)
        forms.append(end.sign * weight * group.share * np.array(run.to_host(*columns)))

    def side(self) -> Side:
        """Return what lies between both sides for each eigenvalue."""
        ends, confidence, sign = self._ends, self._confidence, self._ends[0].sign
        along = [self._along(number) for number in (0, 1)]
        insides = [inside for inside, _ in along]
        uppers = [_upper(self._backend, fixed, other) for fixed, other in (ends, ends[::-1])]
        apart = np.mean([upper - inside for upper, inside in zip(uppers, insides, strict=True)], axis=0)
        sums = [self._sum(along[0][1][k], along[1][1][k]) for k in range(self.count)]
        seen = [one.estimate(confidence)[0] for one in sums]
        low = np.array([one.estimate for one in seen])
        chances = np.array([one.interval[1] - one.estimate for one in seen])
        bounds = np.mean([end.bounds for end in ends], axis=0)
        unseen = self._grouping.unseen(self._grouping.least, confidence) * np.abs(low)
        # The distance of both sides is as uncertain as it is large: few directions make it, each by a square.
        middle, around = low + apart / 2.0, np.abs(apart) / 2.0 + np.hypot(apart, chances) + bounds + unseen
        values = []
        for center, half in zip((sign * middle).tolist(), around.tolist(), strict=True):
            limits = (center - half, center + half)
            values.append(Estimate(center, normal_error(limits, confidence), limits, confidence))
        outermost = (end.keys[0] + end.bounds[0] for end in ends)
        missed = tuple(
            i for i, (inside, key) in enumerate(zip(insides[::-1], outermost, strict=True)) if inside[0] > key
        )
        # As wide as their intervals are: of few groups the scatter itself is uncertain.
        errors = np.array([normal_error(one.interval, confidence) for one in seen])
        return Side(values, sums, errors, self._vectors[0], self._residuals(), bounds, missed)

    def _sum(self, forms: list[list[float]], other: list[list[float]]) -> GroupSum:
        """Return what groups of both halves and beside them add to one eigenvalue, each once."""
        total = GroupSum(self._grouping.strata, is_noisy=False)
        for i, (first, left, right) in enumerate(zip(self._grouping.firsts, forms, other, strict=True)):
            # Both have seen a stratum that they share; else there are as many values by either for the halves.
            for value in [*left[:first], *right, *left[first:]] if first else np.add(left, right) / 2.0:
                total.add(i, float(value))
        return total

    def _along(self, number: int) -> tuple[Floats, list[list[list[float]]]]:
        """Return one half's lower side on the other half, and what all groups add to that of all samples."""
        forms, strata = self._forms[number], self._grouping.strata
        firsts = [first or len(one) for first, one in zip(self._grouping.firsts, strata, strict=True)]
        inside = _total(strata, [seen[:first] for seen, first in zip(forms, firsts, strict=True)])
        total, low, parts = _total(strata, forms), np.zeros(self.count), []
        for k in range(1, self.count + 1):
            low[k - 1] = np.linalg.eigvalsh(inside[:k, :k])[0]
            direction = np.linalg.eigh(total[:k, :k])[1][:, 0]
            parts.append([[float(direction @ one[:k, :k] @ direction) for one in seen] for seen in forms])
        return low, parts

    def _residuals(self) -> Floats:
        run, backend = self._run, self._backend
        forms = run.to_host(*map(backend.dot, self._vectors[0], self._images))
        rest = [
            backend.axpy_(backend.copy(image), -float(form), vector)
            for form, image, vector in zip(forms, self._images, self._vectors[0], strict=True)
        ]
        return np.array([float(one) for one in run.to_host(*map(backend.norm, rest))])


def _total(strata: Sequence[Stratum], forms: Sequence[Sequence[Floats]]) -> Floats:
    """Return the sum over all samples of matrices that some groups of each stratum give."""
    total: Floats = np.sum([len(one) * np.mean(seen, axis=0) for one, seen in zip(strata, forms, strict=True)], axis=0)
    return (total + total.T) / 2.0


def _vectors(backend: Backend, end: End) -> list[Array]:
    return [backend.index(end.rows, i) for i in range(len(end.keys))]


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
