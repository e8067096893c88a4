"""kink: how close to a point a loss is seen not to be smooth."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array, Backend, add_, lengths_of, numbers_of
from specop.arrays.layout import Layout
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
# Second differences that are rounding: how many a side, over what share of the smallest step, at which places and with
# which weights. In directions of their own, and not at equal distances: numbers that are rounded to few steps show
# nothing along some directions, and are rounded alike on both sides.
_ROUNDED, _CLOSE = 4, 1e-2
_GOLDEN = (5.0**0.5 - 1.0) / 2.0
_PLACES, _APART = (1.0, -_GOLDEN), (1.0 + _GOLDEN, -_GOLDEN, -1.0)


def kink(task: Task, objective: Objective, theta: Array, gradient: Array) -> float:
    r"""Return how far, relative to the point's length, kinks are seen; infinity where none are.

    Third differences of the gradient along a line fall as :math:`h^3` or faster for a smooth loss. Where units switch,
    as those of ReLU and max pooling, the gradient jumps, or its derivative, and as long as some switch within h the
    differences fall as :math:`h^{3/2}` or slower; closer to the point there may be none. Two random directions are
    looked at, both ways and across, from a tenth of the point's length down to where rounding ends it. Each step is a
    gradient: about 130 in float64, 80 in float32.
    """
    backend, layout = task.backend, task.backend.layout(theta)
    (length,) = lengths_of(backend, theta)
    steps = np.array([REACH * (length or 1.0) * 0.5**j for j in range(_STEPS[layout.dtype.itemsize])])
    nearest = float("inf")
    for number in range(_DIRECTIONS):
        first = _PROBE + number * (1 + _ROUNDED)
        direction = _direction(task, layout, first)
        others = (_direction(task, layout, first + 1 + i) for i in range(_ROUNDED))
        sides, across, floors = _differences(backend, objective, theta, gradient, direction, others, steps)
        places = [_first_kink(side, floor, _SMOOTH) for side, floor in zip(sides, floors, strict=True)]
        places.append(_first_kink(across, floors.sum(axis=0), _SMOOTH_ACROSS))
        nearest = min([nearest, *(REACH * 0.5**place for place in places if place is not None)])
        task.update()
    return nearest


def _direction(task: Task, layout: Layout, number: int) -> Array:
    vector = probes.normal(task.backend, layout, task.seed, number)
    return task.backend.scale_(vector, 1.0 / lengths_of(task.backend, vector)[0])


def _differences(
    backend: Backend,
    objective: Objective,
    theta: Array,
    gradient: Array,
    direction: Array,
    others: Iterable[Array],
    steps: Floats,
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

    def at(h: float, beside: float = 0.0, other: Array | None = None) -> Array:
        place = backend.axpy_(backend.copy(theta), float(h), direction)
        return objective.gradient(place if other is None else backend.axpy_(place, float(beside), other))

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
    # Close together on one side of whatever is at the point itself.
    for other in others:
        for sign, middle in zip(signs, here, strict=True):
            beside = [at(sign * steps[-1], place * _CLOSE * steps[-1], other) for place in _PLACES]
            noises.append(combined(_APART, [middle, *beside]))
    numbers = np.array(numbers_of(backend, *thirds, *sizes, *seconds, *noises))
    count = len(steps)
    sides, lengths = numbers[: 2 * count].reshape(-1, 2).T, numbers[2 * count : 4 * count].reshape(-1, 2).T
    noise = numbers[5 * count :].max()
    floors = 10.0 * (noise + 4.0 * backend.layout(theta).epsilon * lengths)
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
