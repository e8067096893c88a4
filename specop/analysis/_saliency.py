"""saliency: by how much the loss would rise without a weight, or without a group of weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from specop.analysis._candidates import Candidates, Members, candidates_of
from specop.analysis._inverse_curvature import InverseCurvature, curvature_diagonal, inverse_curvature
from specop.arrays.backend import Array, backend_of
from specop.errors import InvalidInputError, NonFiniteError
from specop.results.result import versions
from specop.results.saliency import SaliencyResult

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["Scores", "check_method", "checked_point", "saliency", "scores_at"]

_METHODS = ("obs", "obd", "magnitude")


def saliency(
    objective: Objective,
    method: str = "obs",
    *,
    matrix: str = "empirical fisher",
    damping: float | None = None,
    blocks: Any = None,
    groups: Any = None,
    theta: Array | None = None,
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
        Only diagonal blocks of the empirical Fisher matrix, as in `specop.ShermanMorrison`. Default: all of it, which
        holds the gradients of all samples or a matrix with a column for each parameter, whichever is smaller.
    groups : {"rows", "columns"} or sequence of index arrays, optional
        Weights that go together. Rows are the slices of each parameter along its first axis: output neurons and output
        channels in PyTorch. Columns are those along the last axis: the same in JAX and TensorFlow. Heads and all else
        are arrays of indices into the parameter vector; ``objective.slices`` tells where a parameter stands.
    theta : native vector (n,), optional
        Where; default: the model's current parameters.

    Returns
    -------
    SaliencyResult
        With `least` and `measured`: the least significant ones, with the expected and the measured change of the loss.

    Raises
    ------
    DomainError
        If the damped matrix is not positive definite, naming its eigenvalue; or if the matrix is zero.
    InvalidInputError, NonFiniteError

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
    >>> data = (torch.randn(8, 3), torch.randn(8, 1))
    >>> objective = specop.objective(model, torch.nn.functional.mse_loss, data)
    >>> scores = specop.analysis.saliency(objective, matrix="ggn", damping=0.0)
    >>> len(scores.measured(3))
    3
    """
    started = time.perf_counter()
    check_method(method)
    candidates = candidates_of(objective, groups)
    at = checked_point(objective, theta)
    backend, (values,) = backend_of(at), backend_of(at).to_host(at)
    left = np.flatnonzero((values != 0) | (candidates.group < 0))
    if not (candidates.group[left] >= 0).any():
        raise InvalidInputError("all weights that may go are zero already: none has a saliency.")
    found = scores_at(objective, method, matrix, damping, blocks, candidates, at, left)
    whole = backend.layout(at)
    size = len(candidates.labels) or whole.n
    saliencies, slopes = np.full((2, size), np.nan)
    saliencies[found.members.numbers], slopes[found.members.numbers] = found.costs, found.slopes
    layout = whole.of_length(size)
    return SaliencyResult(
        saliency=backend.from_host(saliencies, layout),
        slopes=slopes,
        order=found.members.numbers[np.argsort(found.costs, kind="stable")],
        theta=at,
        group=candidates.group,
        labels=candidates.labels,
        shapes=objective.shapes,
        method=method,
        matrix=matrix,
        damping=found.damping,
        loss_without=_loss_without(objective, at, left, found.inverse),
        matvecs=found.products,
        seconds=time.perf_counter() - started,
        samples=objective.samples,
        seed=0,
        converged=True,
        message=f"{len(found.costs)} saliencies",
        versions=versions(backend.name),
    )


@dataclass(frozen=True, eq=False)
class Scores:
    """Saliencies of the candidates among the weights that are left.

    Attributes
    ----------
    members : Members
        The candidates.
    costs : ndarray
        Their saliencies.
    slopes : ndarray
        What the gradient adds to the expected changes of the loss; nothing at a minimum.
    damping : float
    products : int
    inverse : InverseCurvature or None
        For "obs".
    gradient : native vector or None
        Of the loss, at the weights that are left; for "obs".
    """

    members: Members
    costs: NDArray[np.float64]
    slopes: NDArray[np.float64]
    damping: float
    products: int
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
    left: NDArray[np.intp],
) -> Scores:
    """Return the saliencies at a point among the weights that are left, the others being zero for good.

    Parameters
    ----------
    objective, method, matrix, damping, blocks, theta
        As in `saliency`.
    candidates : Candidates
    left : ndarray of int
        Entries of the vector.
    """
    backend, members = backend_of(theta), candidates.among(left)
    weights = backend.gather(theta, left)
    (values,) = backend.to_host(weights)
    if method == "obs":
        inverse = inverse_curvature(objective, matrix, damping, blocks, theta, left)
        gradient = backend.gather(objective.gradient(theta), left)
        (along,) = backend.to_host(inverse.operator @ gradient)
        if candidates.labels:
            found = [(places, *inverse.cost(weights, places)) for places in members.each()]
            costs = np.array([cost for _, cost, _ in found])
            slopes = np.array([-float(along[places] @ multipliers) for places, _, multipliers in found])
        else:
            costs = members.sums(values**2 / (2 * inverse.diagonal))
            slopes = members.sums(-along * values / inverse.diagonal)
        return Scores(members, costs, slopes, inverse.damping, inverse.products, inverse, gradient)
    if damping is not None or blocks is not None:
        raise InvalidInputError(f"method={method!r} inverts nothing and takes neither damping= nor blocks=.")
    if method == "magnitude":
        return Scores(members, members.sums(values**2 / 2), np.zeros(len(members.numbers)), float("nan"), 0)
    curvature, products = curvature_diagonal(objective, matrix, theta, left)
    (along,) = backend.to_host(backend.gather(objective.gradient(theta), left))
    costs, slopes = members.sums(curvature * values**2 / 2), members.sums(-along * values)
    return Scores(members, costs, slopes, float("nan"), products)


def check_method(method: str) -> None:
    """Raise InvalidInputError unless this is a method."""
    if method not in _METHODS:
        raise InvalidInputError(f"method must be one of {', '.join(map(repr, _METHODS))}, got {method!r}.")


def checked_point(objective: Objective, theta: Array | None) -> Array:
    """Return a copy of theta, by default the model's parameters; raise if it is no vector of finite numbers."""
    own = objective.theta
    backend = backend_of(own)
    if theta is not None:
        backend.check_vector(theta, backend.layout(own), "theta")
    at = own if theta is None else backend.copy(theta)
    (values,) = backend.to_host(at)
    wrong = [name for name, where in objective.slices.items() if not np.isfinite(values[where]).all()]
    if wrong:
        raise NonFiniteError(f"these parameters hold NaN or infinity: {', '.join(wrong[:5])}. Restore them.")
    return at


def _loss_without(
    objective: Objective, theta: Array, left: NDArray[np.intp], inverse: InverseCurvature | None
) -> Callable[[NDArray[np.intp]], float]:
    """Return the loss as a function of which entries of the vector are removed."""
    backend = backend_of(theta)
    layout, weights = backend.layout(theta), backend.gather(theta, left)

    def loss(entries: NDArray[np.intp]) -> float:
        chosen = np.flatnonzero(np.isin(left, entries))
        if inverse is not None and len(chosen):
            moved, _ = inverse.removal(weights, chosen)
            at = backend.scatter(moved, left, layout)
        else:
            kept = np.delete(left, chosen)
            at = backend.scatter(backend.gather(theta, kept), kept, layout)
        (value,) = backend.to_host(objective.loss(at))
        return float(value)

    return loss
