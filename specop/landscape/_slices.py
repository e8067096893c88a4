"""slices: the loss along one or two directions, or on a path between two minima, with its quadratic model beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from specop.arrays.backend import lengths_of, numbers_of
from specop.errors import InvalidInputError, checked_count, is_number
from specop.krylov.task import Task
from specop.landscape._directions import (
    Direction,
    as_vector,
    check_filter_axis,
    check_independent,
    directions_of,
    directions_to,
)
from specop.landscape._paths import PATH_NODES, barrier_on, bent, path_weights
from specop.landscape._surface import Surface, SurfaceModel, model_of
from specop.landscape._taylor import Model, taylor_limit, third_derivative
from specop.results.slices import SlicesResult
from specop.results.structure import Structure
from specop.statistics.numbers import Floats

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["slices"]

_POINTS = {1: 41, 2: 25}
# A Bezier curve's middle point has been found when its gradient is this share of the largest one on the way.
_GTOL, _STEPS = 3e-4, 300
# How far beyond the parameters' own length the model is looked at.
_FARTHEST = 10.0


def slices(
    objective: Objective,
    directions: Any = None,
    *,
    to: Any = None,
    bend: bool = False,
    span: float | tuple[float, float] | None = None,
    points: int | None = None,
    theta: Any = None,
    filter_axis: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> SlicesResult:
    r"""Evaluate the loss along one or two directions, and say how far its quadratic model holds there.

    The slice holds :math:`L(\theta + a u + b v)` for coordinates a and b. With the gradient g and the Hessian H at
    :math:`\theta`, and s for the step :math:`a u + b v`, the model beside it is

    .. math:: Q = L(\theta) + g^T s + \tfrac12 s^T H s.

    Along each direction it gives slope and curvature, the third derivative, and the distance on both sides at which
    the error of Q first is a tenth of the size of its terms, :math:`|a \, g^T u| + \tfrac12 a^2 |u^T H u|`.

    Parameters
    ----------
    objective : Objective
        The model is left as it is.
    directions : optional
        One direction, or a list of two:

        - 1 or 2: eigenvectors of the largest eigenvalues of the Hessian, which are computed; the default is 1.
        - an EigenResult: the eigenvectors of its one or two eigenvalues that are largest in size; also from a file.
        - "gradient": the gradient scaled to length 1, so that the loss rises to the right.
        - "random": each output filter normal and as long as the parameters' own, biases and factors of norms zero
          [1]_.
        - a native vector (n,) or a parameter structure, as it is; or a native array of two columns.
    to : native vector (n,), parameter structure, or list of two of these, optional
        Instead of `directions`: another point, such as a checkpoint's parameters. Coordinate 0 is where the slice
        begins and 1 is that point. Two points and the first span a plane. Of a mapping by names only the objective's
        parameters are taken; statistics of batches stay those of the model.
    bend : bool
        Whether to go to the other point on the quadratic Bezier curve of least mean loss, instead of straight [2]_.
        Its middle point is found by gradient steps.
    span : float or (float, float), optional
        The coordinates go from -span to span, or from the one to the other, which must hold 0. Default: twice as far as
        the model holds, at most to where it would double the loss if it does not fail before; 1 for random directions;
        from 0 to 1 on a path; from -0.25 to 1.25 in a plane of three points.
    points : int, optional
        Number of coordinates on each axis; default 41 for one direction, 25 for two.
    theta : native vector (n,) or parameter structure, optional
        Parameters at the origin of the slice; default: the model's current parameters.
    filter_axis : int, optional
        Axis of the parameters along which their output filters lie, for "random". By default the last one of what is
        called "kernel", the first of "weight" and of embeddings, and of others the first in PyTorch and the last in JAX
        and TensorFlow.
    seed : int
        Seed of random directions, and of the bend's start.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.

    Returns
    -------
    SlicesResult
        With coordinates, losses, quadratic, curvatures, and where the model stops to hold. Losses that are not finite
        are kept, and named in its message.

    Raises
    ------
    InvalidInputError
        If directions are zero, parallel, or of another length than the parameters.
    NonFiniteError
        If the loss, the gradient or a direction is not finite where the slice begins.

    Warns
    -----
    ConvergenceWarning
        If the bend was not found within 300 steps.

    Notes
    -----
    One direction takes five products and two take ten, four for each third derivative at points of their own; 41 losses
    for a curve or 625 for a plane; and 20 to 60 losses on each side of each direction for the distance at which the
    model fails. A bend takes 8 gradients a step.

    Distances are searched outwards in steps of a factor 1.5 and then to a thousandth: where the model fails in between
    and holds again, that is not seen.

    References
    ----------
    .. [1] H. Li, Z. Xu, G. Taylor, C. Studer, T. Goldstein, Visualizing the loss landscape of neural nets, NeurIPS
       (2018).
    .. [2] T. Garipov et al., Loss surfaces, mode connectivity, and fast ensembling of DNNs, NeurIPS (2018).

    Examples
    --------
    A quartic along one axis, x^2 + x^4 / 4: the model is off by a tenth where x^4 / 4 is a tenth of x^2.

    >>> import torch, specop
    >>> x = torch.zeros(2, dtype=torch.float64)
    >>> fun = lambda x, _: (x**2).sum() + 0.25 * x[0] ** 4
    >>> objective = specop.objective(fun, params=x, data=torch.zeros(1, 1))
    >>> found = specop.landscape.slices(objective, torch.tensor([1.0, 0.0], dtype=torch.float64))
    >>> found.curvatures, found.limits.round(3)
    (array([2.]), array([[0.632, 0.632]]))
    """
    task = Task(
        "slices", objective.backend, objective.processes, seed=seed, samples=objective.samples, progress=progress
    )
    if to is not None and directions is not None:
        raise InvalidInputError("pass directions or to, not both: a slice to another point has its own directions.")
    if bend and to is None:
        raise InvalidInputError("bend=True needs to=, the other end of the path.")
    check_filter_axis(filter_axis, objective.shapes)
    start = objective.theta if theta is None else as_vector(objective, theta, "theta")
    # Without a theta of its own the linearization of the present point is shared.
    hessian = objective.hessian(None if theta is None else start)
    task.operators = (hessian,)
    with task:
        if to is not None:
            found = directions_to(objective, to, start)
        else:
            found = directions_of(
                objective, 1 if directions is None else directions, start, hessian, filter_axis=filter_axis, seed=seed
            )
        check_independent(found)
        if bend and len(found) > 1:
            raise InvalidInputError("bend=True takes one other point, got two.")
        if points is not None and checked_count("points", points) < 3:
            raise InvalidInputError(f"points must be at least 3, got {points}.")
        kind = "" if to is None or len(found) > 1 else "bezier" if bend else "straight"
        count = _POINTS[len(found)] if points is None else points
        failure, evaluations = None, 0
        if bend:
            middle = bent(objective, start, found[0].vector, gtol=_GTOL, max_steps=_STEPS, seed=seed)
            found.append(Direction("to the bend", middle.x, 1.0))
            failure, evaluations = None if middle.converged else middle.message, PATH_NODES * middle.gradients
        surface = Surface(objective, task.backend, start, [one.vector for one in found], task, evaluations)
        model = model_of(surface, hessian)
        limits, searched, thirds = _validity(surface, model, found, hessian.precision)
        spans = _spans(found, model, limits, searched, span, kind)
        if kind:
            coordinates = np.linspace(*spans[0], count)
            weights = path_weights(coordinates, is_bent=bend)
        else:
            coordinates = np.array([np.linspace(*ends, count) for ends in spans])
            weights = np.stack(np.meshgrid(*coordinates, indexing="ij"))
            coordinates = coordinates if len(found) == 2 else coordinates[0]
        losses = surface.grid(weights)
        barrier, at = float("nan"), float("nan")
        if kind:
            barrier, at = barrier_on(
                lambda t: surface(path_weights(np.array([t]), is_bent=bend)[:, 0]), coordinates, losses
            )
        return task.result(
            SlicesResult,
            coordinates=coordinates,
            losses=losses,
            quadratic=model.at(weights),
            labels=tuple(one.label for one in found),
            lengths=model.lengths,
            slopes=model.slopes,
            curvatures=np.diag(model.curvature).copy(),
            curvature_errors=model.errors,
            thirds=thirds[:, 0],
            third_errors=thirds[:, 1],
            limits=limits,
            searched=searched,
            loss=model.level,
            path=kind,
            barrier=barrier,
            barrier_at=at,
            rows=task.backend.stack(surface.rows),
            theta=start,
            structure=Structure(objective.shapes, objective.unflatten),
            evaluations=surface.evaluations,
            converged=failure is None,
            message=_not_finite(coordinates, losses)
            if failure is None
            else f"the bend of least loss was not found, so that the barrier may be lower: {failure}. Take points that "
            f"are nearer to each other, or the straight path.",
        )


def _validity(
    surface: Surface, model: SurfaceModel, found: list[Direction], precision: float
) -> tuple[Floats, Floats, Floats]:
    """Return where the model fails on both sides of each direction, how far that was searched, and third derivatives.

    A third derivative stands beside its error.
    """
    (size,) = lengths_of(surface.backend, surface.theta)
    limits, thirds = np.empty((len(found), 2)), np.empty((len(found), 2))
    searched = np.empty(len(found))
    for number, one in enumerate(found):
        own = model.along(number)
        searched[number] = max(_FARTHEST * (size or 1.0) / float(model.lengths[number]), 2.0 * (one.reach or 0.0))
        value = _along(surface, number)
        for side, sign in enumerate((-1, 1)):
            limits[number, side] = taylor_limit(value, own, sign, searched[number], precision)
        reach = np.nanmin([*limits[number], _natural(own, searched[number])])
        thirds[number] = third_derivative(_curvature_along(surface, number), float(reach), own.curvature, precision)
    return limits, searched, thirds


def _natural(model: Model, searched: float) -> float:
    """Return where the model doubles the loss, where that is not too far."""
    return min(model.distance(abs(model.level)) or searched, searched)


def _along(surface: Surface, number: int) -> Callable[[float], float]:
    return lambda x: surface(surface.along(number, x))


def _curvature_along(surface: Surface, number: int) -> Callable[[float], float]:
    row = surface.rows[number]

    def curvature(x: float) -> float:
        hessian = surface.objective.hessian(surface.point(surface.along(number, x)))
        return numbers_of(surface.backend, surface.backend.dot(row, surface.task.multiply_by(hessian, row)))[0]

    return curvature


def _spans(
    found: list[Direction],
    model: SurfaceModel,
    limits: Floats,
    searched: Floats,
    span: float | tuple[float, float] | None,
    kind: str,
) -> list[tuple[float, float]]:
    """Return where each axis begins and ends."""
    if span is not None:
        if kind:
            raise InvalidInputError("a path goes from 0 to 1 and takes no span.")
        low, high = _ends(span)
        if not (low <= 0 <= high and low < high):
            raise InvalidInputError(f"span must be a positive number, or two numbers around 0, got {span!r}.")
        return [(low, high)] * len(found)
    if kind:
        return [(0.0, 1.0)]
    spans = []
    for number, one in enumerate(found):
        if one.reach is not None:
            is_point = one.label != "random"
            spans.append((-0.25, 1.25) if is_point else (-one.reach, one.reach))
            continue
        own = model.along(number)
        seen = limits[number][np.isfinite(limits[number])]
        reach = 2.0 * float(seen.min()) if len(seen) else _natural(own, float(searched[number]))
        reach = min(reach, float(searched[number]))
        spans.append((-reach, reach))
    return spans


def _ends(span: Any) -> tuple[float, float]:
    """Return both ends of a span, NaN where it is not one number or two."""
    ends = (-span, span) if is_number(span) else tuple(span) if isinstance(span, (tuple, list, np.ndarray)) else ()
    if len(ends) != 2 or not all(is_number(end) and np.isfinite(end) for end in ends):
        return np.nan, np.nan
    return float(ends[0]), float(ends[1])


def _not_finite(coordinates: Floats, losses: Floats) -> str:
    """Return what is to be said of losses that are not finite."""
    lost = ~np.isfinite(losses)
    if not lost.any():
        return "converged"
    axes = np.atleast_2d(coordinates)
    where = np.argwhere(lost)
    if len(axes) == losses.ndim:
        points = np.array([[axes[axis, i] for axis, i in enumerate(place)] for place in where])
    else:
        points = coordinates[where]
    nearest = points[int(np.argmin(np.abs(points).max(axis=1)))]
    at = ", ".join(f"{x:.3g}" for x in nearest)
    return f"{lost.sum()} of {losses.size} losses are NaN or infinite, the nearest at {at}"
