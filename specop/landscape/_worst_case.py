"""The largest rise of the loss in a region around a point, from below: by projected ascent on the loss itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specop.arrays.backend import Array, Backend, lengths_of
from specop.landscape._point import PointOfLoss, loss_beside

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["Region", "largest_rise", "sizes_of"]

_STEPS = 20
# A step that gains less than this share of the rise is the last.
_GAIN = 1e-3
_SHARES = (1.0, 0.5, 0.25, 0.1)
# Makes signs of all entries that matter, and leaves float32 in its range.
_STEEP = 1e30


@dataclass(frozen=True, eq=False)
class Region:
    """Displacements z = s u, entry by entry, with u in a ball or in the box from -1 to 1.

    Attributes
    ----------
    backend : Backend
    radius : float or None
        Radius of the ball; None for the box.
    scale : native vector or None
        s; None for ones.
    """

    backend: Backend
    radius: float | None
    scale: Array | None = None

    def displacement(self, u: Array) -> Array:
        """Return z."""
        return u if self.scale is None else self.backend.multiply(self.scale, u)

    def farthest(self, u: Array) -> Array | None:
        """Return the point of the ball or the box that lies farthest in the direction of u; None for no direction."""
        backend = self.backend
        (length,) = lengths_of(backend, u)
        if length == 0 or not np.isfinite(length):
            return None
        if self.radius is not None:
            return backend.scale_(backend.copy(u), self.radius / length)
        # In two factors, because one may leave the range of float32.
        grown = backend.scale_(backend.scale_(backend.copy(u), 1.0 / length), _STEEP)
        return backend.clip(grown, -1.0, 1.0)


def largest_rise(objective: Objective, point: PointOfLoss, region: Region, starts: Iterable[Array]) -> float:
    """Return the largest rise that was found, a lower bound of that in the whole region.

    From each start, the point of the region farthest along the gradient is the next one: on a convex loss it never lies
    lower. Where it does, a part of the way is tried.

    Parameters
    ----------
    objective : Objective
    point : PointOfLoss
    region : Region
    starts : iterable of native vectors
        Directions u to begin with.
    """
    return max((_ascend(objective, point, region, start) for start in starts), default=0.0)


def sizes_of(point: PointOfLoss, offset: float) -> Array:
    """Return the sizes of the parameters plus an offset, entry by entry."""
    backend, theta = point.backend, point.theta
    signs = backend.clip(backend.scale_(backend.copy(theta), _STEEP), -1.0, 1.0)
    layout = backend.layout(theta)
    offsets = backend.from_host(np.full(layout.n, offset, dtype=layout.dtype), layout)
    return backend.axpy_(offsets, 1.0, backend.multiply(theta, signs))


def _ascend(objective: Objective, point: PointOfLoss, region: Region, start: Array) -> float:
    backend = point.backend

    def rise(u: Array) -> float:
        found = loss_beside(objective, point, region.displacement(u), 1.0) - point.loss
        return found if np.isfinite(found) else -np.inf

    place = region.farthest(start)
    if place is None:
        return 0.0
    best = rise(place)
    if not np.isfinite(best):
        return 0.0
    for _ in range(_STEPS):
        moved = backend.axpy_(backend.copy(point.theta), 1.0, region.displacement(place))
        target = region.farthest(region.displacement(objective.gradient(moved)))
        if target is None:
            break
        # The way to the target, of which a part may do.
        way = backend.axpy_(target, -1.0, place)
        before = best
        for share in _SHARES:
            tried = backend.axpy_(backend.copy(place), share, way)
            found = rise(tried)
            if found > best:
                place, best = tried, found
                break
        if best - before <= _GAIN * abs(best):
            break
    return max(best, 0.0)
