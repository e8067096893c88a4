"""How far down a direction leads before the loss turns, by the loss itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from specop.statistics.numbers import Floats

__all__ = ["Descent", "descend"]

# Losses that refine the place where it turns.
_REFINEMENTS = 12


@dataclass(frozen=True)
class Descent:
    """The loss along a line, on both sides of a point.

    Attributes
    ----------
    coordinates, losses : ndarray
        Signed distances, ascending, with the point itself at 0, and the losses there.
    drop : float
        How far below the point the loss is at the lowest place before it rises; 0 if it does not fall.
    distance : float
        Signed distance of that lowest place from the point.
    turns : bool
        Whether the loss rises beyond it; else the search ended there.
    """

    coordinates: Floats
    losses: Floats
    drop: float
    distance: float
    turns: bool


def descend(
    value: Callable[[float], float], loss: float, start: float, reach: float, noise: Callable[[float], float]
) -> Descent:
    """Follow the loss downhill on both sides of a point until it rises.

    Distances double from one loss to the next; where the loss has turned its lowest place is refined.

    Parameters
    ----------
    value : callable
        ``value(distance)``: the loss there; NaN and infinity count as a rise.
    loss : float
        The loss at the point.
    start, reach : float
        The first distance, and the largest one.
    noise : callable
        ``noise(distance)``: how far rounding may move a loss there.
    """
    seen = {0.0: loss}
    ends = [_downhill(value, loss, side, start, reach, noise, seen) for side in (1.0, -1.0)]
    (lowest, distance), turns = min(ends)
    where = np.array(sorted(seen))
    drop = loss - lowest if loss - lowest > noise(abs(distance)) else 0.0
    return Descent(
        where, np.array([seen[place] for place in where]), drop, distance if drop else 0.0, turns or drop == 0.0
    )


def _downhill(
    value: Callable[[float], float],
    loss: float,
    side: float,
    start: float,
    reach: float,
    noise: Callable[[float], float],
    seen: dict[float, float],
) -> tuple[tuple[float, float], bool]:
    """Return the lowest loss on one side, where it is, and whether the loss rises beyond."""
    lowest, place, distance, turns = loss, 0.0, start, False
    while distance <= reach and not turns:
        seen[side * distance] = found = value(side * distance)
        if found < lowest:
            lowest, place = found, distance
        turns = not found <= lowest + noise(distance)
        distance *= 2.0
    if turns and loss - lowest > noise(place):
        bounds = (0.5 * place, 2.0 * place)

        def noted(where: float) -> float:
            seen[side * where] = found = value(side * where)
            return found if np.isfinite(found) else np.inf

        # Importing it takes almost half as long as all of specop.
        import scipy.optimize

        scipy.optimize.minimize_scalar(noted, bounds=bounds, method="bounded", options={"maxiter": _REFINEMENTS})
        on_this_side = [(found, where) for where, found in seen.items() if side * where > 0 and found <= lowest]
        lowest, place = min((found, side * where) for found, where in on_this_side)
    return (lowest, side * place), turns
