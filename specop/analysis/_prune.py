"""prune: weights removed step by step, the least significant first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from specop.analysis._candidates import Candidates, candidates_of
from specop.analysis._quadratic_model import FAR, far_behind
from specop.analysis._saliency import Scores, check_method, scores_at, warn_of_point, without
from specop.arrays.backend import Array, backend_of, numbers_of
from specop.errors import InvalidInputError, checked_number, is_number
from specop.krylov.task import Task
from specop.objectives.checked_point import checked_point
from specop.results.prune import PruneResult
from specop.results.structure import Structure
from specop.statistics.numbers import Floats, Integers

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["prune"]

# Of a number of weights that is computed as a share of all.
_ROUNDING = 1e-6


def prune(
    objective: Objective,
    sparsity: float,
    method: str = "obs",
    *,
    steps: int | Sequence[float] = 20,
    matrix: str = "empirical fisher",
    damping: float | None = None,
    blocks: Any = None,
    groups: Any = None,
    exclude: Any = None,
    layer_limit: float | None = None,
    trust: float | None = FAR,
    theta: Array | None = None,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> PruneResult:
    """Set the least significant weights to zero, and for "obs" let all others make up for it.

    In each step the saliencies are computed anew, at the point and among the weights that the steps before have left.
    What is to go is chosen one by one, but goes together: with "obs" the others move to the minimum of the quadratic
    model on the set where all removed weights are zero. A weight that is zero stays zero.

    Parameters
    ----------
    objective : Objective
        The model is left as it is: load `PruneResult.parameters` into it.
    sparsity : float
        Share of weights to be zero at the end, from 0 to 1, of those that may go at all. It is not exceeded, and
        missed by less than a weight or a group.
    method : {"obs", "obd", "magnitude"}
        How saliencies are computed: optimal brain surgeon, optimal brain damage, or half the square of the weight; see
        `saliency`.
    matrix : {"empirical fisher", "hessian", "ggn", "fisher"}
        The curvature matrix behind them. All but the first are for at most 1000 weights with "obs".
    damping : float, optional
        Multiple of the identity that is added before an inversion; default: a hundredth of the mean of the matrix's
        diagonal, in each step anew.
    blocks : int or sequence of slice, optional
        Only diagonal blocks of the empirical Fisher matrix: a number of the weights that are left, or slices of the
        parameter vector, such as ``list(objective.slices.values())``. Default: all of it.
    groups : {"rows", "columns"} or sequence of index arrays, optional
        Weights that go together, ranked by their saliency for each weight. Rows are the slices of each parameter along
        its first axis: output neurons and output channels in PyTorch. Columns are those along the last axis: the same
        in JAX and TensorFlow. Biases and factors of normalization with an entry for each slice go with it. Heads and
        all else are arrays of indices into the parameter vector; ``objective.slices`` tells where a parameter stands.
    exclude : str, callable or list, optional
        Parameters that stay, as `select` of `specop.objective` names them. Default: those whose rows or columns are the
        outputs themselves, so that no class is removed; () for none. Index arrays are taken as given.
    layer_limit : float, optional
        Largest share of zeros in one parameter, so that no layer is removed whole; default: ``1 - (1 - sparsity) / 5``.
    trust : float, optional
        Stop before a step in which the loss rises by more than this multiple of what is expected and of a hundredth of
        the loss; None: never.
    steps : int or sequence of float
        Number of steps, each of which removes the same share of the weights that are left; 1 is one-shot. Or the
        sparsity after each step, ascending, the last one being `sparsity`: any other schedule.
    theta : native vector (n,), optional
        Parameters to start from; default: the model's current parameters. Weights that are zero there count as removed:
        an earlier result's ``theta``, also after training under its `masks`, goes on from there.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.
    raise_on_failure : bool
        Whether to raise NotConvergedError instead of warning where it stopped before `sparsity`.

    Returns
    -------
    PruneResult
        With `converged` where `sparsity` was reached.

    Raises
    ------
    InvalidInputError
        If more weights are zero already than asked for, among others.
    DomainError
        If the damped matrix is not positive definite, naming its eigenvalue; or if the matrix is zero.
    NonFiniteError
        If the parameters are not finite.
    NotConvergedError
        Only with ``raise_on_failure``.

    Warns
    -----
    ConvergenceWarning
        If a step was not taken, because the loss would rise far more than expected, or if `layer_limit` keeps more.
    QuadraticModelWarning
        If the gradient is larger than its standard error over the samples: no minimum is near.

    Notes
    -----
    Few large steps are much worse than many small ones: a quadratic model with a fixed matrix holds nearby only. On a
    network of 6,570 parameters 90 % in one step leave 39 % of the digits right, in ten steps 94 to 96 %, in
    twenty 96 to 97 %, of 97 % before.

    Examples
    --------
    >>> import torch, specop
    >>> model, data = torch.nn.Linear(4, 2), (torch.randn(20, 4), torch.randn(20, 2))
    >>> objective = specop.objective(model, torch.nn.functional.mse_loss, data)
    >>> best = specop.analysis.retrain(objective, damping=0.0, gtol=1e-4).theta
    >>> result = specop.analysis.prune(objective, 0.5, steps=4, matrix="ggn", damping=0.0, theta=best)
    >>> int((result.parameters["weight"] == 0).sum())
    4
    >>> _ = model.load_state_dict(result.parameters)
    """
    task = Task(
        "prune",
        objective.backend,
        objective.processes,
        samples=objective.samples,
        progress=progress,
        raise_on_failure=raise_on_failure,
    )
    check_method(method)
    sparsity = _checked_sparsity(sparsity)
    candidates = candidates_of(objective, groups, exclude)
    limit = _checked_limit(sparsity, layer_limit)
    if trust is not None:
        checked_number("trust", trust)
    at = checked_point(objective, theta)
    (values,) = task.backend.to_host(at)
    may = candidates.group >= 0
    left = candidates.left(values)
    count = int(may.sum())
    targets = _targets(sparsity, steps, 1.0 - np.count_nonzero(may[left]) / count)

    with task:
        warn_of_point(objective, method, at)
        losses = [_loss(objective, at)]
        expected, dampings, sparsities, message = [], [], [], f"{len(targets)} steps"
        for target in targets:
            surplus = np.count_nonzero(may[left]) - math.ceil((1.0 - target) * count - _ROUNDING)
            scores = scores_at(objective, method, matrix, damping, blocks, candidates, at, left)
            chosen = _chosen(scores, surplus, _spare(candidates, left, limit))
            pruned, kept, change = _without(at, left, chosen, scores)
            change = float("nan") if method == "magnitude" else change
            share, loss = 1.0 - np.count_nonzero(may[kept]) / count, _loss(objective, pruned)
            rise = loss - losses[-1]
            if trust is not None and far_behind(rise, change, losses[-1], trust):
                message = (
                    f"stopped before step {len(losses)} of {len(targets)}, to {100 * share:.3g} % zeros: the loss "
                    f"would rise from {losses[-1]:.3g} by {rise:.2g}, where {change:.2g} is expected. Take more steps, "
                    f"train in between, or pass trust=None to go on all the same."
                )
                break
            at, left = pruned, kept
            expected.append(change)
            dampings.append(scores.damping)
            sparsities.append(share)
            losses.append(loss)
            task.update(f"step {len(sparsities)} of {len(targets)}, loss {losses[-1]:.4g}")
        sizes = candidates.among(left).sizes
        missing = math.floor(sparsity * count + _ROUNDING) - (count - np.count_nonzero(may[left]))
        is_reached = len(sparsities) == len(targets)
        if is_reached and missing >= sizes.max(initial=1):
            is_reached = False
            message = (
                f"stopped at {100 * sparsities[-1]:.3g} % zeros, where {100 * sparsity:.3g} % were asked for: no "
                f"parameter may lose more than layer_limit={limit:.3g} of its weights. Raise layer_limit=."
            )
        mask = np.zeros(objective.n, dtype=bool)
        mask[left] = True
        return task.result(
            PruneResult,
            theta=at,
            mask=mask,
            prunable=may,
            sparsities=np.array(sparsities),
            losses=np.array(losses),
            expected=np.array(expected),
            dampings=np.array(dampings),
            method=method,
            matrix=matrix,
            structure=Structure(objective.shapes, objective.unflatten),
            converged=is_reached,
            message=message,
        )


def _checked_sparsity(sparsity: Any) -> float:
    if not is_number(sparsity) or not 0 <= sparsity < 1:
        raise InvalidInputError(f"sparsity must be a number from 0 to below 1, got {sparsity!r}.")
    return float(sparsity)


def _checked_limit(sparsity: float, layer_limit: Any) -> float:
    if layer_limit is None:
        return 1.0 - (1.0 - sparsity) / 5
    if not is_number(layer_limit) or not 0 <= layer_limit <= 1:
        raise InvalidInputError(f"layer_limit is a share of a parameter's weights, from 0 to 1, got {layer_limit!r}.")
    return float(layer_limit)


def _targets(sparsity: float, steps: int | Sequence[float], reached: float) -> Floats:
    if reached > sparsity:
        raise InvalidInputError(f"{100 * reached:.4g} % of the weights are zero already, got sparsity={sparsity!r}.")
    if isinstance(steps, (int, np.integer)):
        if isinstance(steps, bool) or steps < 1:
            raise InvalidInputError(f"steps must be a positive integer or a sequence of sparsities, got {steps!r}.")
        share = np.arange(1, steps + 1) / steps
        # The end is given, not computed.
        return np.append((1.0 - (1.0 - reached) ** (1 - share) * (1.0 - sparsity) ** share)[:-1], sparsity)
    given = np.asarray(steps)
    if given.dtype.kind not in "iuf":
        raise InvalidInputError(f"steps must be a positive integer or a sequence of sparsities, got {steps!r}.")
    if given.ndim != 1 or not given.size or not (np.diff([reached, *given]) >= 0).all() or given[-1] != sparsity:
        raise InvalidInputError(
            f"steps must ascend from what is zero already, {reached:g}, to sparsity={sparsity!r}, got {steps!r}."
        )
    return given.astype(np.float64)


def _spare(candidates: Candidates, left: Integers, limit: float) -> Integers:
    """Return how many weights each parameter may still lose."""
    may = candidates.group >= 0
    size = int(candidates.layer.max()) + 1
    there = np.bincount(candidates.layer[left[may[left]]], minlength=size)
    all_of_it = np.bincount(candidates.layer[may], minlength=size)
    return there - np.ceil((1.0 - limit) * all_of_it - _ROUNDING).astype(np.intp)


def _chosen(scores: Scores, surplus: int, spare: Integers) -> Integers:
    """Return which candidates go: the least significant ones for their size, with at most `surplus` weights.

    Of each parameter no more than it has to spare.
    """
    sizes, layers = scores.members.sizes, scores.members.layers
    order = np.argsort(scores.costs / sizes, kind="stable")
    # What goes of a candidate's own parameter until then: sums that begin anew in each.
    by_layer = np.argsort(layers[order], kind="stable")
    sums = np.cumsum(sizes[order][by_layer])
    first = np.unique(layers[order][by_layer], return_index=True)[1]
    begun = np.repeat(sums[first] - sizes[order][by_layer][first], np.diff([*first, len(order)]))
    within = np.empty(len(order), dtype=np.intp)
    within[by_layer] = sums - begun
    order = order[within <= spare[layers[order]]]
    return order[np.cumsum(sizes[order]) <= surplus]


def _without(theta: Array, left: Integers, candidates: Integers, scores: Scores) -> tuple[Array, Integers, float]:
    """Return the parameters without some candidates, which weights are left, and the expected change of the loss."""
    pruned, kept, rise = without(theta, left, scores.members.of(candidates), scores.inverse)
    if scores.inverse is None:
        return pruned, kept, float((scores.costs + scores.slopes)[candidates].sum())
    backend = backend_of(theta)
    shift = backend.axpy_(backend.gather(pruned, left), -1.0, backend.gather(theta, left))
    return pruned, kept, rise + numbers_of(backend, backend.dot(scores.gradient, shift))[0]


def _loss(objective: Objective, theta: Array) -> float:
    return numbers_of(backend_of(theta), objective.loss(theta))[0]
