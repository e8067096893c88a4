"""outliers: how many eigenvalues stand apart from the bulk, and whether gradients lie in their space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from specop.arrays.backend import Array, Backend, numbers_of
from specop.errors import InvalidInputError, check_choice, checked_count
from specop.krylov.task import Task
from specop.objectives.matrices import MATRICES
from specop.results.eigen import EigenResult
from specop.results.outliers import OutliersResult
from specop.spectral.eigsh import eigsh
from specop.spectral.spectral_density import spectral_density
from specop.statistics.estimate import Estimate, check_confidence
from specop.statistics.numbers import Floats, Integers
from specop.statistics.spacings import gap_chances

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["outliers"]

_WITHOUT_CLASSES = 20
# Gaps below those of the outliers, which these are compared with.
_BELOW = 10
# Neighbours whose ratio is less are one group, however even the gaps below are.
_LEAST_RATIO = 1.2
# Eigenvalues below this share of the largest count as equal.
_SMALLEST = 1e-6
_STEPS = 30


def outliers(
    objective: Objective,
    classes: Any = None,
    *,
    k: int | None = None,
    matrix: str = "hessian",
    tol: float = 1e-3,
    max_matvecs: int | None = None,
    theta: Array | None = None,
    confidence: float = 0.99,
    seed: int = 0,
    progress: bool = False,
) -> OutliersResult:
    r"""Count the largest eigenvalues that stand apart from the bulk, beside the number of classes.

    With the k largest eigenvalues :math:`\lambda_1 \ge \ldots \ge \lambda_k`, and the upper end of the density of the
    others for :math:`\lambda_{k + 1}`, a bulk with an exponential tail would show such a gap as that below
    :math:`\lambda_i` with the probability

    .. math:: p_i = k \left(1 + \frac{w_i}{w_{i + 1} + \cdots + w_k}\right)^{-(k - i)},
       \quad w_i = i \, (\lambda_i - \lambda_{i + 1}).

    Those above a gap stand out if :math:`p_i \le 1 -` `confidence` and :math:`\lambda_i / \lambda_{i + 1} \ge 1.2`. Of
    several such gaps, all in `places`, `count` is that of the largest :math:`i \ln(\lambda_i / \lambda_{i + 1})`. The
    bulk's edge is the eigenvalue below it.

    With K classes a classifier near the end of its training is expected to have K - 1 or K outliers [1]_ [2]_, and
    K (K - 1) smaller ones between these and the bulk, K^2 in all [3]_. The gradient may lie mostly in their space [4]_:
    its share there, and the shares of the mean gradients of the classes, stand beside.

    Parameters
    ----------
    objective : Objective
    classes : int or array_like (samples,), optional
        The number K of classes, or the label of each sample in the order of the data, which the mean gradients of
        classes need.
    k : int, optional
        How many eigenvalues to compute; default ``max(2 K, K + 10)``, 20 without classes, at most half of all. A k
        above ``K**2 + 10`` shows whether K^2 stand out.
    matrix : {"hessian", "ggn", "fisher", "empirical fisher"}
        Which matrix; ``objective.matrix`` takes the same names.
    tol, max_matvecs
        Relative residual of the eigenpairs and limit on products, as `specop.eigsh` takes them.
    theta : native vector (n,), optional
        Parameters at which it is computed; default: the model's current ones.
    confidence : float
        Probability with which an exponential tail is not taken for one with outliers; also of the intervals. In heavy
        tails, such as that of a Pareto distribution, some eigenvalues stand out, too.
    seed : int
        Seed of the random vectors.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.

    Returns
    -------
    OutliersResult
        The eigenvalues and what explains them; its table has a row for each eigenvalue.

    Raises
    ------
    InvalidInputError
        If there are more classes than the labels or the parameters allow.

    Notes
    -----
    It takes the products of `specop.eigsh` for k pairs, which are many where the last ones lie in the bulk, and 31 for
    the density; and a gradient for all data and one for each class.

    References
    ----------
    .. [1] L. Sagun et al., Empirical analysis of the Hessian of over-parametrized neural networks, ICLR workshop
       (2018).
    .. [2] V. Papyan, The full spectrum of deepnet Hessians at scale, arXiv:1811.07062 (2018).
    .. [3] V. Papyan, Traces of class/cross-class structure pervade deep learning spectra, JMLR 21 (2020).
    .. [4] G. Gur-Ari, D. A. Roberts, E. Dyer, Gradient descent happens in a tiny subspace, arXiv:1812.04754 (2018).

    Examples
    --------
    >>> import torch, specop
    >>> curvature = torch.cat([torch.tensor([50.0, 40.0]), torch.linspace(1.0, 0.1, 48)]).double()
    >>> fun = lambda x, _: 0.5 * (curvature * x**2).sum()
    >>> objective = specop.objective(fun, params=torch.ones(50).double(), data=torch.zeros(1, 1))
    >>> found = specop.landscape.outliers(objective, classes=3)
    >>> found.count, round(found.edge, 3), round(found.gradient_overlap, 3)
    (2, 1.0, 0.996)
    """
    task = Task(
        "outliers", objective.backend, objective.processes, seed=seed, samples=objective.samples, progress=progress
    )
    check_choice("matrix", matrix, MATRICES)
    check_confidence(confidence)
    backend = task.backend
    number, members = _classes(objective, backend, classes)
    n = objective.n
    wanted = max(2 * number, number + _BELOW) if number else _WITHOUT_CLASSES
    size = min(max(n // 2, 1), wanted) if k is None else checked_count("k", k, n)
    operator = objective.matrix(matrix, theta)
    task.operators = (operator,)
    with task:
        eigen = eigsh(operator, size, which="LA", tol=tol, max_matvecs=max_matvecs, seed=seed)
        density = spectral_density(
            operator, steps=min(_STEPS, max(n - size, 1)), deflate=eigen, confidence=confidence, seed=seed
        )
        trace = density.moment(1).scaled(n)
        values = eigen.eigenvalues[::-1]
        rest = density.nodes[density.probe >= 0]
        following = np.append(values, rest.max() if len(rest) else values[-1])
        ratios, chances = _gaps(following, float(eigen.bounds.max()))
        places = np.flatnonzero((chances <= 1.0 - confidence) & (ratios >= _LEAST_RATIO)) + 1
        count = int(places[np.argmax(places * np.log(ratios[places - 1]))]) if len(places) else 0
        gradient = objective.gradient(theta)
        means = [objective.subset(chosen).gradient(theta) for chosen in members.values()]
        found = np.array([_shares(backend, eigen, vector) for vector in (gradient, *means)])
        return task.result(
            OutliersResult,
            eigenvalues=values,
            bounds=eigen.bounds[::-1],
            ratios=ratios,
            chances=chances,
            gradient_shares=found[0],
            class_shares=found[1:],
            labels=tuple(members),
            count=count,
            places=places,
            edge=float(following[count]),
            classes=number,
            trace=trace,
            share=_share(float(values[:count].sum()), trace),
            n=n,
            matrix=matrix,
            confidence=confidence,
            rows=eigen.rows,
            converged=eigen.converged,
            # Its own warning has been given.
            stopped=True,
            message=eigen.message,
        )


def _classes(objective: Objective, backend: Backend, classes: Any) -> tuple[int, dict[str, Integers]]:
    """Return the number of classes, 0 where it is unknown, and the samples of each where labels are given."""
    if classes is None:
        return 0, {}
    if isinstance(classes, (int, np.integer)) and not isinstance(classes, bool):
        if classes < 2:
            raise InvalidInputError(f"classes must be at least 2, got {classes!r}.")
        return int(classes), {}
    labels = np.asarray(backend.to_numpy(classes) if isinstance(classes, backend.array_type) else classes)
    if labels.shape != (objective.samples,):
        raise InvalidInputError(
            f"classes must be a number, or a label for each of the {objective.samples} samples, got an array of shape "
            f"{labels.shape}. Of one-hot labels pass the argmax."
        )
    objective.check_numbered()
    values, owner = np.unique(labels, return_inverse=True)
    if len(values) < 2:
        raise InvalidInputError(f"all {len(labels)} labels are {values[0]!r}: there is one class only.")
    if len(values) > max(2, len(labels) // 2):
        raise InvalidInputError(
            f"classes has {len(values)} different labels for {len(labels)} samples: these are no classes."
        )
    return len(values), {str(value): np.flatnonzero(owner == i) for i, value in enumerate(values)}


def _gaps(values: Floats, bound: float) -> tuple[Floats, Floats]:
    """Return the ratio of each eigenvalue to the next, and the chance of such a gap."""
    if values[0] <= 0:
        return np.ones(len(values) - 1), np.ones(len(values) - 1)
    floored = np.maximum(values, max(_SMALLEST * float(values[0]), min(bound, float(values[0]))))
    # The end of a density may lie above the last eigenvalue by its error.
    floored = np.minimum.accumulate(floored)
    return floored[:-1] / floored[1:], gap_chances(floored)


def _shares(backend: Backend, eigen: EigenResult, vector: Array) -> Floats:
    """Return which share of a vector's squared length lies along each eigenvector, the largest eigenvalue first."""
    along = backend.to_host(backend.apply_rows(eigen.rows, vector))[0][::-1]
    (length,) = numbers_of(backend, backend.norm(vector))
    return np.asarray((along / length) ** 2) if length > 0 else np.full(len(along), np.nan)


def _share(part: float, whole: Estimate) -> Estimate:
    """Return a known part of an estimated whole; unbounded where that may be zero."""
    low, high = whole.interval
    if low <= 0 <= high:
        return Estimate(float("nan"), float("inf"), (-float("inf"), float("inf")), whole.confidence)
    share = part / whole.estimate
    ends = sorted((part / low, part / high))
    return Estimate(
        share, abs(share) * whole.standard_error / abs(whole.estimate), (ends[0], ends[1]), whole.confidence
    )
