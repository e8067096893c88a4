"""kink: how close to a point a loss is seen not to be smooth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array, Backend, add_, lengths_of, numbers_of
from specop.krylov.task import Task
from specop.statistics.numbers import Floats

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["REACH", "kink"]

REACH = 0.1
"""How far from the point is looked, relative to its length."""

# Index of the random directions, far from those of other probes.
_PROBE = 1 << 37
_DIRECTIONS = 2
_STEPS = {8: 22, 4: 10}
# Of the third divided difference times h^3, at 0, h, 2h and 4h.
_WEIGHTS = -1 / 8, 1 / 3, -1 / 4, 1 / 24
# Of the second difference, at -h, 0 and h.
_ACROSS = 1.0, -2.0, 1.0
# Powers of the step: third differences of smooth gradients fall as the third one or faster, kinks leave at most one and
# a half; second differences as the second one, and one where the point itself is a kink.
_SMOOTH, _ABRUPT = 2.2, 5.0
_SMOOTH_ACROSS = 1.5
# Places, relative to the smallest step, whose second differences are rounding.
_CLOSE = 1.0, 1.01, 1.02, 1.03, 1.04


def kink(task: Task, objective: Objective, theta: Array, gradient: Array) -> float:
    r"""Return how far, relative to the point's length, kinks are seen; infinity where none are.

    Third differences of the gradient along a line fall as :math:`h^3` or faster for a smooth loss. Where units switch,
    as those of ReLU and max pooling, the gradient jumps, or its derivative, and as long as some switch within h the
    differences fall as :math:`h^{3/2}` or slower; closer to the point there may be none. Two random directions are
    looked at, both ways and across, from a tenth of the point's length down to where rounding ends it. Each step is a
    gradient: about 100 in float64, 60 in float32.
    """
    backend, layout = task.backend, task.backend.layout(theta)
    (length,) = lengths_of(backend, theta)
    steps = np.array([REACH * (length or 1.0) * 0.5**j for j in range(_STEPS[layout.dtype.itemsize])])
    nearest = float("inf")
    for number in range(_DIRECTIONS):
        direction = probes.normal(backend, layout, task.seed, _PROBE + number)
        direction = backend.scale_(direction, 1.0 / lengths_of(backend, direction)[0])
        sides, across, floors = _differences(backend, objective, theta, gradient, direction, steps)
        places = [_first_kink(side, floor, _SMOOTH) for side, floor in zip(sides, floors, strict=True)]
        places.append(_first_kink(across, floors.sum(axis=0), _SMOOTH_ACROSS))
        nearest = min([nearest, *(REACH * 0.5**place for place in places if place is not None)])
        task.update()
    return nearest


def _differences(
    backend: Backend, objective: Objective, theta: Array, gradient: Array, direction: Array, steps: Floats
) -> tuple[Floats, Floats, Floats]:
    """Return lengths of differences at steps that are halved, and what rounding may make of them.

    Returns
    -------
    sides : ndarray (2, steps)
        Third differences ahead and behind.
    across : ndarray (steps,)
        Second differences with the point in the middle.
    floors : ndarray (2, steps)
        What rounding may make of those of each side.
    """

    def at(h: float) -> Array:
        return objective.gradient(backend.axpy_(backend.copy(theta), float(h), direction))

    def combined(weights: tuple[float, ...], vectors: list[Array]) -> Array:
        first = backend.scale_(backend.copy(vectors[0]), weights[0])
        return backend.norm(add_(backend, first, weights[1:], vectors[1:]))

    signs = (1.0, -1.0)
    far = [[at(4.0 * sign * steps[0]), at(2.0 * sign * steps[0])] for sign in signs]
    thirds, sizes, seconds = [], [], []
    for h in steps:
        here = [at(sign * h) for sign in signs]
        for side, one in zip(far, here, strict=True):
            thirds.append(combined(_WEIGHTS, [gradient, one, side[1], side[0]]))
            sizes.append(backend.norm(one))
        seconds.append(combined(_ACROSS, [here[0], gradient, here[1]]))
        far = [[side[1], one] for side, one in zip(far, here, strict=True)]
    noises = []
    for sign in signs:
        # Close together on one side of whatever is at the point itself.
        close = [at(sign * place * steps[-1]) for place in _CLOSE]
        noises += [combined(_ACROSS, close[i : i + 3]) for i in range(len(close) - 2)]
    numbers = np.array(numbers_of(backend, *thirds, *sizes, *seconds, *noises))
    count = len(steps)
    sides, lengths = numbers[: 2 * count].reshape(-1, 2).T, numbers[2 * count : 4 * count].reshape(-1, 2).T
    noise = numbers[5 * count :].reshape(2, -1).max(axis=1)
    floors = 10.0 * (noise[:, None] + 4.0 * backend.layout(theta).epsilon * lengths)
    return sides, numbers[4 * count : 5 * count], floors


def _first_kink(differences: Floats, floor: Floats, smooth: float) -> int | None:
    """Return the number of the smallest step whose difference shows a kink, or None."""
    # From the first one on that rounding may explain, all may be rounding.
    seen = int(np.argmax(np.append(differences <= floor, True)))
    if seen < 5:
        return None
    clipped = np.maximum(differences, floor)[: seen + 1]
    slopes = np.log2(clipped[:-1] / clipped[1:])
    if slopes[seen - 4 : seen - 1].mean() < smooth:
        return seen - 1
    drops = [j for j in range(2, len(slopes)) if slopes[j] > _ABRUPT and slopes[j - 2 : j].mean() < smooth]
    return max(drops, default=None)
