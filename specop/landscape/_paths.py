"""Paths between two minima: the straight one, a Bezier curve whose bend is trained, and the barrier on either."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array, add_, backend_of, lengths_of, numbers_of
from specop.objectives.mean import Objective
from specop.solvers.descent import descent
from specop.solvers.newton import Minimum
from specop.statistics.numbers import Floats

__all__ = ["PATH_NODES", "barrier_on", "bent", "path_weights"]

# Points of a path that its mean loss is made of: Gauss-Legendre, exact for polynomials of degree 15 in t.
PATH_NODES = 8
# Length of the random displacement that the bend begins with, and of the first step, as shares of the path's.
_SHAKE, _FIRST = 1e-2, 5e-2
# How exactly the place of the barrier is found, as a share of the path.
_SHARP = 1e-5


def path_weights(t: Floats, *, is_bent: bool) -> Floats:
    """Return how much of each direction there is in the points of a path, a row for each direction.

    The quadratic Bezier curve is (1 - t)^2 a + 2 t (1 - t) c + t^2 b; from a, its directions are b - a and c - a.

    Parameters
    ----------
    t : ndarray
        From 0 to 1.
    is_bent : bool
    """
    return np.array([t**2, 2.0 * t * (1.0 - t)]) if is_bent else np.array([t])


def bent(objective: Objective, theta: Array, away: Array, *, gtol: float, max_steps: int, seed: int) -> Minimum:
    """Return the direction from one end of a Bezier curve to its middle point that makes the curve's mean loss least.

    Parameters
    ----------
    objective : Objective
    theta : native vector (n,)
        Parameters at which the curve begins.
    away : native vector (n,)
        Direction from the curve's beginning to its end.
    gtol : float
        Norm of the gradient in the middle point to reach, as a share of the largest one seen.
    max_steps : int
        Largest number of gradient steps.
    seed : int
        Seed of a small random displacement: where the loss is symmetric the straight line is a maximum that no gradient
        leaves.
    """
    backend = backend_of(theta)
    (length,) = lengths_of(backend, away)
    nodes, shares = np.polynomial.legendre.leggauss(PATH_NODES)
    t, shares = 0.5 * (nodes + 1.0), 0.5 * shares
    weights = path_weights(t, is_bent=True)

    def mean_loss(middle: Array) -> tuple[float, Array]:
        losses, total = [], backend.zeros(backend.layout(theta))
        for share, along in zip(shares, weights.T, strict=True):
            point = add_(backend, backend.copy(theta), along, [away, middle])
            loss, gradient = objective.loss_and_gradient(point)
            losses.append(loss)
            total = backend.axpy_(total, float(share * along[1]), gradient)
        return float(shares @ numbers_of(backend, *losses)), total

    noise = probes.normal(backend, backend.layout(theta), seed, 0)
    (size,) = lengths_of(backend, noise)
    start = add_(backend, backend.scale_(noise, _SHAKE * length / size), [0.5], [away])
    return descent(mean_loss, start, first_step=_FIRST * length, gtol=gtol, max_steps=max_steps)


def barrier_on(value: Callable[[float], float], t: Floats, losses: Floats) -> tuple[float, float]:
    """Return how far a path's loss rises above the straight line between its ends, and where.

    Parameters
    ----------
    value : callable
        The loss at a place on the path.
    t, losses : ndarray
        Places from 0 to 1, and the loss there; the highest is refined between its neighbours.

    Returns
    -------
    height, at : float
        Zero at 0 where the path nowhere rises above the line; infinite where its loss is not finite.
    """

    def rise(at: float, level: float) -> float:
        return level - (1.0 - at) * float(losses[0]) - at * float(losses[-1])

    rises = np.array([rise(at, level) for at, level in zip(t, losses, strict=True)])
    if not np.isfinite(rises).all():
        return float("inf"), float(t[~np.isfinite(rises)][0])
    top = int(np.argmax(rises))
    if top in (0, len(t) - 1):
        return 0.0, float(t[top])
    # Importing it takes almost half as long as all of specop.
    import scipy.optimize

    refined = scipy.optimize.minimize_scalar(
        lambda at: -rise(at, value(at)), bounds=(t[top - 1], t[top + 1]), method="bounded", options={"xatol": _SHARP}
    )
    height, at = max((float(rises[top]), float(t[top])), (-float(refined.fun), float(refined.x)))
    return height, at
