"""saliency: by how much the loss would rise without a weight, or without a group of weights."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from specop.analysis._candidates import Candidates, Members, candidates_of
from specop.analysis._inverse_curvature import InverseCurvature, curvature_diagonal, inverse_curvature
from specop.analysis._quadratic_model import far_behind, row_norms, warn_of_slope
from specop.arrays.backend import Array, backend_of, lengths_of, numbers_of
from specop.errors import InvalidInputError, QuadraticModelWarning
from specop.krylov.task import Task, level_of_user
from specop.objectives.checked_point import checked_point
from specop.results.saliency import SaliencyResult
from specop.results.structure import Structure
from specop.solvers.constrained import with_zeros, zeroing_cost
from specop.statistics.numbers import Floats, Integers

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["Scores", "check_method", "saliency", "scores_at", "warn_of_point", "without"]

_METHODS = ("obs", "obd", "magnitude")
# Which removals are measured at once: places in the order, as shares of it.
_TRIED = np.array([0.0, 0.1, 0.25, 0.5])


def saliency(
    objective: Objective,
    method: str = "obs",
    *,
    matrix: str = "empirical fisher",
    damping: float | None = None,
    blocks: Any = None,
    groups: Any = None,
    exclude: Any = None,
    theta: Array | None = None,
    progress: bool = False,
) -> SaliencyResult:
    r"""Return by how much the mean loss rises without a weight, in a quadratic model of it at a minimum.

    With the curvature matrix H and :math:`\delta` for the damping:

    - "obd" (optimal brain damage [1]_): :math:`H_{qq} w_q^2 / 2`; the other weights stay.
    - "obs" (optimal brain surgeon [2]_): :math:`w_q^2 / (2 [(H + \delta I)^{-1}]_{qq})`; all other parameters move
      to where they make up for it best. Of a group Q [3]_:
      :math:`w_Q^T ([(H + \delta I)^{-1}]_{QQ})^{-1} w_Q / 2`.
    - "magnitude": :math:`w_q^2 / 2`, which ranks as :math:`|w_q|` does and expects nothing.

    Where the gradient is not zero, removals change the loss to first order too. `SaliencyResult.least` adds that to
    what it expects; saliencies and ranking leave it out.

    Weights are entries of parameters of two or more dimensions; biases and factors of normalization are not removed
    unless `groups` names them. Weights that are zero are taken for removed.

    Parameters
    ----------
    objective : Objective
        The model is left as it is.
    method : {"obs", "obd", "magnitude"}
    matrix : {"empirical fisher", "hessian", "ggn", "fisher"}
        H. The first one is made of the samples' gradients and fits any size [4]_ [5]_. The others take as many products
        as there are parameters, and "obs" inverts them for at most 1000. Without damping the empirical Fisher matrix is
        singular unless there are more samples than parameters.
    damping : float, optional
        :math:`\delta`, of the mean loss; default: a hundredth of the mean of H's diagonal. "obd" takes none.
    blocks : int or sequence of slice, optional
        Only diagonal blocks of the empirical Fisher matrix: a number of the weights that are not zero, or slices of the
        parameter vector, such as ``list(objective.slices.values())``. Default: all of it, which holds the gradients of
        all samples or a matrix with a column for each parameter, whichever is smaller.
    groups : {"rows", "columns"} or sequence of index arrays, optional
        Weights that go together. Rows are the slices of each parameter along its first axis: output neurons and output
        channels in PyTorch. Columns are those along the last axis: the same in JAX and TensorFlow. Biases and factors
        of normalization with an entry for each slice go with it. Heads and all else are arrays of indices into the
        parameter vector; ``objective.slices`` tells where a parameter stands.
    exclude : str, callable or list, optional
        Parameters that stay, as `select` of `specop.objective` names them. Default: those whose rows or columns are the
        outputs themselves, so that no class is removed; () for none. Index arrays are taken as given.
    theta : native vector (n,), optional
        Parameters at which it is computed; default: the model's current ones.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.

    Returns
    -------
    SaliencyResult
        With `least` and `measured`: the least significant ones, with the expected and the measured change of the loss.
        Some removals are measured at once, and the result says where the expectation does not hold.

    Raises
    ------
    DomainError
        If the damped matrix is not positive definite, naming its eigenvalue; or if the matrix is zero.
    InvalidInputError, NonFiniteError
        If an argument does not fit, or the parameters are not finite.

    Warns
    -----
    QuadraticModelWarning
        If a removal costs more than twenty times what is expected and a hundredth of the loss; or if the gradient is
        larger than its standard error over the samples, so that no minimum is near.

    References
    ----------
    .. [1] Y. LeCun, J. Denker, S. Solla, Optimal brain damage, NeurIPS (1989).
    .. [2] B. Hassibi, D. G. Stork, Second order derivatives for network pruning: optimal brain surgeon, NeurIPS (1992).
    .. [3] E. Kurtic et al., The optimal BERT surgeon, EMNLP (2022).
    .. [4] S. P. Singh, D. Alistarh, WoodFisher: efficient second-order approximation for neural network compression,
       NeurIPS (2020).
    .. [5] E. Frantar, E. Kurtic, D. Alistarh, M-FAC: efficient matrix-free approximations of second-order information,
       NeurIPS (2021).

    Examples
    --------
    >>> import torch, specop
    >>> model = torch.nn.Linear(3, 1)
    >>> data = (torch.randn(20, 3), torch.randn(20, 1))
    >>> objective = specop.objective(model, torch.nn.functional.mse_loss, data)
    >>> best = specop.analysis.retrain(objective, damping=0.0, gtol=1e-4).theta
    >>> scores = specop.analysis.saliency(objective, matrix="ggn", damping=0.0, theta=best)
    >>> len(scores.measured(3))
    3
    """
    backend = objective.backend
    task = Task("saliency", backend, objective.processes, samples=objective.samples, progress=progress)
    check_method(method)
    candidates = candidates_of(objective, groups, exclude)
    at = checked_point(objective, theta)
    (values,) = backend.to_host(at)
    left = candidates.left(values)
    if not (candidates.group[left] >= 0).any():
        raise InvalidInputError("all weights that may go are zero already: none has a saliency.")
    with task:
        found = scores_at(objective, method, matrix, damping, blocks, candidates, at, left)
        warn_of_point(objective, method, at)
        order = found.members.numbers[np.argsort(found.costs, kind="stable")]

        def loss_without(entries: Integers) -> float:
            """Return the loss without some entries of the vector."""
            point, _, _ = without(at, left, np.flatnonzero(np.isin(left, entries)), found.inverse)
            return numbers_of(backend, objective.loss(point))[0]

        whole = backend.layout(at)
        size = len(candidates.labels) or whole.n
        saliencies, slopes = np.full((2, size), np.nan)
        saliencies[found.members.numbers], slopes[found.members.numbers] = found.costs, found.slopes
        result = task.result(
            SaliencyResult,
            saliency=backend.from_host(saliencies, whole.of_length(size)),
            slopes=slopes,
            order=order,
            theta=at,
            group=candidates.group,
            labels=candidates.labels,
            structure=Structure(objective.shapes, objective.unflatten),
            method=method,
            matrix=matrix,
            damping=found.damping,
            loss=loss_without(np.empty(0, dtype=np.intp)),
            tried=np.zeros(0, dtype=np.intp),
            tried_expected=np.zeros(0),
            tried_measured=np.zeros(0),
            loss_without=loss_without,
            converged=True,
            message=f"{len(found.costs)} saliencies",
        )
    return result if method == "magnitude" else _tried(result)


def _tried(result: SaliencyResult) -> SaliencyResult:
    """Return the result with some removals measured; warn where they cost far more than expected."""
    places = np.unique((_TRIED * (len(result.order) - 1)).astype(int))
    found = result.measured(result.order[places])
    expected, measured = (np.array([getattr(one, name) for one in found]) for name in ("expected", "measured"))
    far = far_behind(measured, expected, result.loss)
    if far.any():
        worst = found[int(np.argmax(np.where(far, measured - expected, -np.inf)))]
        warnings.warn(
            f"without {worst.name} alone the loss of {result.loss:.3g} changes by {worst.measured:+.2g}, where "
            f"{worst.expected:+.2g} is expected: the quadratic model does not hold that far. Rank by measured(...), or "
            f"remove in small steps with prune(...).",
            QuadraticModelWarning,
            stacklevel=level_of_user(),
        )
    return replace(result, tried=result.order[places], tried_expected=expected, tried_measured=measured)


def warn_of_point(objective: Objective, method: str, theta: Array) -> None:
    """Warn if a point that a quadratic model is made of is no minimum, where samples' gradients tell."""
    if method == "magnitude":
        return
    backend = backend_of(theta)
    try:
        norms = [row_norms(backend, rows) for _, rows in objective.numbered_gradients(theta)]
    except InvalidInputError:
        # Samples that depend on each other have no gradients of their own.
        return
    (slope,) = lengths_of(backend, objective.gradient(theta))
    warn_of_slope(slope, np.concatenate(norms), objective.samples)


@dataclass(frozen=True, eq=False)
class Scores:
    """Saliencies of the candidates among the weights that are left.

    Attributes
    ----------
    members : Members
        The weights, or groups of weights, that may be removed.
    costs : ndarray
        Saliency of each of them.
    slopes : ndarray
        What the gradient adds to the expected changes of the loss; nothing at a minimum.
    damping : float
        Multiple of the identity that was added; NaN without one.
    inverse : InverseCurvature or None
        Inverse of the curvature; only for method "obs".
    gradient : native vector or None
        Gradient of the loss, at the weights that are left; for "obs".
    """

    members: Members
    costs: Floats
    slopes: Floats
    damping: float
    inverse: InverseCurvature | None = None
    gradient: Array | None = None


def scores_at(
    objective: Objective,
    method: str,
    matrix: str,
    damping: float | None,
    blocks: Any,
    candidates: Candidates,
    theta: Array,
    left: Integers,
) -> Scores:
    """Return the saliencies at a point among the weights that are left, the others being zero for good.

    Parameters
    ----------
    objective, method, matrix, damping, blocks, theta
        The arguments of `saliency` of these names.
    candidates : Candidates
    left : ndarray of int
        Entries of the parameter vector that have not been removed.
    """
    backend, members = backend_of(theta), candidates.among(left)
    weights = backend.gather(theta, left)
    (values,) = backend.to_host(weights)
    if method == "obs":
        inverse = inverse_curvature(objective, matrix, damping, blocks, theta, left)
        gradient = backend.gather(objective.gradient(theta), left)
        (along,) = backend.to_host(inverse.operator @ gradient)
        if candidates.labels:
            found = [(places, *zeroing_cost(inverse.operator, weights, places)) for places in members.each()]
            costs = np.array([cost for _, cost, _ in found])
            slopes = np.array([-float(along[places] @ multipliers) for places, _, multipliers in found])
        else:
            costs = members.sums(values**2 / (2 * inverse.diagonal))
            slopes = members.sums(-along * values / inverse.diagonal)
        return Scores(members, costs, slopes, inverse.damping, inverse, gradient)
    if damping is not None or blocks is not None:
        raise InvalidInputError(f"method={method!r} inverts nothing and takes neither damping= nor blocks=.")
    if method == "magnitude":
        return Scores(members, members.sums(values**2 / 2), np.zeros(len(members.numbers)), float("nan"))
    curvature = curvature_diagonal(objective, matrix, theta, left)
    (along,) = backend.to_host(backend.gather(objective.gradient(theta), left))
    costs, slopes = members.sums(curvature * values**2 / 2), members.sums(-along * values)
    return Scores(members, costs, slopes, float("nan"))


def check_method(method: str) -> None:
    """Raise InvalidInputError unless this is a method."""
    if method not in _METHODS:
        raise InvalidInputError(f"method must be one of {', '.join(map(repr, _METHODS))}, got {method!r}.")


def without(
    theta: Array, left: Integers, chosen: Integers, inverse: InverseCurvature | None
) -> tuple[Array, Integers, float]:
    """Return a point without some of its weights, which are left then, and by how much the quadratic model rises.

    With an inverse of the curvature the others move to where they make up for it; without one they stay, and nothing is
    said of the rise.

    Parameters
    ----------
    theta : native vector (n,)
    left : ndarray of int
        Entries of the parameter vector that have not been removed.
    chosen : ndarray of int
        Places in `left` of the entries to remove.
    inverse : InverseCurvature or None
    """
    backend, kept = backend_of(theta), np.delete(left, chosen)
    if inverse is None or not len(chosen):
        return backend.scatter(backend.gather(theta, kept), kept, backend.layout(theta)), kept, 0.0
    moved, rise = with_zeros(inverse.operator, backend.gather(theta, left), chosen)
    return backend.scatter(moved, left, backend.layout(theta)), kept, rise
