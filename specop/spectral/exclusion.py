"""Exclusion: which eigenvalues a Krylov space from a random vector rules out, and between which it cannot tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from specop.krylov.projected import Ritz
from specop.krylov.space import KrylovSpace
from specop.spectral.ends import End
from specop.statistics.measure import GaussRule, is_ruled_out
from specop.statistics.numbers import Booleans, Floats

__all__ = ["Exclusion", "Seen", "level"]

# What a missed eigenvalue's probability is multiplied by in a space that has closed.
_DOUBT_OF_CLOSED = 1e-4
_GRID = 33
# Where to look between two eigenvalues: next to one, its own weight hides another's.
_INSIDE_GAP = np.array([0.3, 0.5, 0.7])
# Within so many residuals of an eigenvalue, another of the least weight that a random vector has does not stand out.
_HIDDEN_WITHIN = 160.0
# From the last wanted eigenvalue to the border, closest at the eigenvalue.
_LADDER = np.concatenate([[0.0], 0.5 ** np.arange(20.0, -1.0, -1.0)])


@dataclass(frozen=True)
class Seen:
    """What a second chain shows.

    Attributes
    ----------
    values : ndarray
        Ritz values outside of the first space, ascending.
    residuals : ndarray
        Norms of their residuals there.
    told : Ritz or GaussRule
        Ritz pairs or Gauss rule that these numbers were read off.
    """

    values: Floats
    residuals: Floats
    told: Ritz | GaussRule


class Exclusion:
    r"""What the start vectors of chains say of eigenvalues that these do not show.

    An eigenvector's weight in a start vector is at most the Christoffel number, and n times the weight is chi-square
    with one degree of freedom if the vector was random.

    Parameters
    ----------
    space : KrylovSpace
    tol : float
        Relative residual at which a pair has converged.
    confidence : float
        Probability with which a missed eigenvalue is found.

    Attributes
    ----------
    is_doubted : bool
        Whether copies were seen on their way into the space.
    """

    def __init__(self, space: KrylovSpace, tol: float, confidence: float) -> None:
        self.space = space
        self.tol = tol
        self.confidence = confidence
        self.is_doubted = False

    @property
    def certainty(self) -> float:
        """Probability with which a chain is to show an eigenvalue that is there."""
        # Copies are likely where a space closes early, or would but for rounding, and soon found.
        doubt = _DOUBT_OF_CLOSED if self.space.has_closed or self.is_doubted else 1.0
        return 1.0 - doubt * (1.0 - self.confidence)

    def ladder(self, end: End, held: Ritz) -> list[float]:
        """Return keys from the last wanted one up to the border."""
        last = int(end.best(held.values)[: end.count][-1])
        keys, floor = end.keys(held.values), self.space.error_floor
        width = 2.0 * self.tol * abs(float(held.values[last]))
        if (keys[:-1] <= keys[-1] + width + floor).any():
            width = min(width, 2.0 * float(held.residuals[last]))
        return list(keys[-1] + _LADDER * width + floor * (_LADDER > 0))

    def open_gaps(self, end: End, ladder: Floats, held: Ritz) -> set[int] | None:
        """Return the numbers of the wanted values below which the first chain can rule out nothing at all.

        None while it does not rule out eigenvalues in each other gap between wanted values, and beyond them. A Ritz
        value that is still on its way through others that have converged is no rare sight: of twenty runs on ten
        eigenvalues a percent apart, one missed one of them. Nothing can be ruled out between two whose errors meet.
        """
        border, floor, best = ladder[-1], self.space.error_floor, end.best(held.values)[: end.count]
        keys, errors = end.key(held.values[best]), held.residuals[best] + floor
        margin, open_gaps = 2.0 * self.tol * abs(float(keys[0])) + floor, set()
        for i in range(int(np.count_nonzero(keys > border))):
            is_last = i + 1 == len(keys) or keys[i + 1] <= border
            low, error = (border, errors[i]) if is_last else (keys[i + 1], errors[i] + errors[i + 1])
            if keys[i] - low <= min(2.0 * margin, error):
                open_gaps.add(i)
                continue
            inside = self.excluded(end, low + _INSIDE_GAP * (keys[i] - low), held, each_side=True)
            if not inside.any(axis=1).all():
                return None
        highest = max(border, keys[0] + min(margin, _HIDDEN_WITHIN * errors[0])) if keys[0] > border else border
        return open_gaps if self.excluded(end, np.array([highest]), held).all() else None

    def first_doubt(self, end: End, border: float, held: Ritz) -> float | None:
        """Return the lowest key beyond the border that the first chain does not rule out, or None."""
        keys = end.keys(held.values)
        keys = np.sort(keys[keys > border])
        if len(keys) == 0:
            return None
        grid = np.linspace(border, keys[0], _GRID)
        clear = self.excluded(end, grid, held).tolist()
        return float(grid[max(clear.index(False) - 1, 0)]) if False in clear else float(keys[0])

    def excluded(self, end: End, keys: Floats, seen: Seen | Ritz, *, each_side: bool = False) -> Booleans:
        """Whether a chain from a random vector rules out eigenvalues with these keys."""
        told = seen if isinstance(seen, Ritz) else seen.told
        rule = self.space.rule(told) if isinstance(told, Ritz) else told
        first = int(told.rows[0]) if isinstance(told, Ritz) else self.space.size
        found = is_ruled_out(rule, end.values_at(keys), self.space.n - first, self.certainty)
        return found if each_side else np.asarray(found.all(axis=0))

    def beyond(self, end: End, ladder: Floats, seen: Seen, is_restarted: bool) -> Booleans:
        """Whether the second chain has ruled out each rung, and with it all that lies beyond."""
        highest = float(end.key(seen.values).max())
        if is_restarted or end.is_interior:
            return ladder == ladder[-1]
        return (self.excluded(end, ladder, seen) & (ladder > highest)) | (ladder == ladder[-1])


def level(ladder: Any, cleared: Any) -> float:
    """Return the lowest rung from which on all are cleared; the last one always is."""
    open_rungs = np.flatnonzero(~np.array(cleared)[:-1])
    return float(ladder[open_rungs[-1] + 1 if len(open_rungs) else 0])
