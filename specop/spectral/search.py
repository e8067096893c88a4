"""The search for wanted Ritz pairs in a Krylov space, and the check that none was missed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specop.krylov.projected import Ritz
from specop.krylov.space import KrylovSpace
from specop.statistics.measure import is_ruled_out

__all__ = ["CHECK_ROWS", "End", "Search", "wanted"]

CHECK_ROWS = 12
"""Rows that the check needs for itself."""

_STEPS_TO_SETTLE = 12
_GRID = 33
# Where to look between two eigenvalues: next to one, its own weight hides another's.
_INSIDE_GAP = (0.3, 0.5, 0.7)


@dataclass(frozen=True)
class End:
    """One end of a spectrum and how many eigenvalues are wanted there; the key is larger the more wanted."""

    key: Callable[[Any], Any]
    values_at: Callable[[float], tuple[float, ...]]
    count: int
    interior: bool = False

    def best(self, values: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return the indices of the values, most wanted first."""
        return np.argsort(-self.key(values), kind="stable")


@dataclass
class Chain:
    """A second Krylov space, grown outside of the first one to see what that missed.

    Attributes
    ----------
    first : int
        Its first row.
    steps : int
        Its products so far.
    borders : list of float
        For each end the key that a missed eigenvalue exceeds.
    doubts : list of float or None
        For each end the lowest key that it must rule out, if any.
    restarted : bool
        Whether its rows are no longer those of the recurrence.
    """

    first: int
    steps: int
    borders: list[float]
    doubts: list[float | None]
    restarted: bool = False


class Search:
    """The state of one search in a Krylov space that has a start vector.

    Parameters
    ----------
    space : KrylovSpace
    ends : list of End
        What is wanted; the counts add up to k.
    k : int
    tol : float
        Relative residual at which a pair has converged.
    check_multiplicity : bool
        Whether to look for what the Krylov space could not show.
    confidence : float
        Probability with which that finds an eigenvalue that was missed.

    Attributes
    ----------
    check_products : int
        Products since the k pairs had converged for the first time.
    failure : str or None
        Why the search ended early, if it did.
    """

    def __init__(
        self, space: KrylovSpace, ends: list[End], k: int, tol: float, check_multiplicity: bool, confidence: float
    ) -> None:
        self.run = space.run
        self.space = space
        self.ends = ends
        self.k = k
        self.tol = tol
        self.confidence = confidence
        self.check_products = 0
        self.failure: str | None = None
        self._check_multiplicity = check_multiplicity
        self._chain: Chain | None = None
        self._completing = False
        self._is_found = False
        self._lagging = k

    def step(self) -> bool:
        """Do what comes next, a restart or a few products; return whether anything is left to be done.

        First k pairs are found; then, until a check is clean, those that their Krylov space could not show. Nothing but
        this object and the space holds the state between two steps.
        """
        if self._is_found and self.space.is_exhausted:
            return False
        before = self.run.products
        if self._completing:
            is_open = self._complete()
        else:
            is_open = self._find() if self._chain is None else self._look_further(self._chain)
        if self._is_found:
            self.check_products += self.run.products - before
        return is_open

    @property
    def note(self) -> str:
        """What is being done, for a progress bar."""
        if self._chain is not None:
            return "checking for missed copies"
        return f"{self.k - self._lagging} of {self.k} converged"

    def best(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the wanted Ritz values so far, ascending, and their residuals."""
        ritz = self.space.ritz()
        chosen = np.sort(wanted(self.ends, ritz.values))
        return ritz.values[chosen], ritz.residuals[chosen]

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as plain values."""
        chain = None if self._chain is None else asdict(self._chain)
        return {
            "is_found": self._is_found,
            "chain": chain,
            "completing": self._completing,
            "check_products": self.check_products,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._is_found = state["is_found"]
        self._chain = None if state["chain"] is None else Chain(**state["chain"])
        self._completing = state["completing"]
        self.check_products = state["check_products"]

    def _find(self) -> bool:
        """Expand towards the wanted Ritz pairs, or restart a full space; begin a check once they are there."""
        space = self.space
        ritz = space.ritz()
        lagging = self._unconverged(ritz)
        self._lagging = len(lagging)
        if space.is_exhausted or (len(ritz.values) >= self.k and len(lagging) == 0):
            self._is_found = True
            return self._check_multiplicity and not space.is_exhausted and self._begin_check(ritz)
        if self.run.left == 0:
            self.failure = self._what_lags()
            return False
        if space.is_closed and not (space.lost and len(lagging)):
            space.start()
        # Vectors that started together grow in turns, so that none shows less than the others.
        in_turns = not space.is_mixed and len(space.frontier) > 1
        sweep = space.frontier if in_turns else space.frontier[-1:]
        if not space.has_room_for(max(1, len(sweep))):
            most = space.capacity - 2 * len(space.frontier) - 1
            space.restart(ritz, _best(self.ends, ritz.values, min((self.k + len(ritz.values)) // 2, most)))
            return True
        if not in_turns and len(lagging):
            space.advance(ritz, int(lagging[0]))
            return True
        for row in sweep[: self.run.left]:
            space.expand(int(row))
        return True

    def _begin_check(self, held: Ritz) -> bool:
        """Rule out what the space of one random vector can; start a search outside of the space for the rest."""
        space, borders = self.space, self._borders(held)
        doubts: list[float | None] = list(borders)
        # A chain says nothing about eigenvalues inside the spectrum before it has shown all of it.
        trusted = space.is_chain
        if trusted and not any(end.interior for end in self.ends):
            trusted = self._shows_all(held, borders)
            if trusted:
                doubts = [self._first_doubt(end, border, held) for end, border in zip(self.ends, borders, strict=True)]
            elif space.has_room_for(1):
                if self.run.left:
                    space.expand()
                    return True
                self.failure = self._what_is_unchecked()
        if self.failure is not None or not any(doubt is not None for doubt in doubts):
            return False

        # What a chain cannot reach is orthogonal to all of it: search outside of the whole. Other spaces hold parts of
        # what may still be missed, and only their converged pairs do not.
        room = space.capacity - CHECK_ROWS
        if space.capacity == space.n and (space.size if trusted else self.k) > room:
            self._completing = True
            return True
        if not trusted or space.size > room:
            keep = max(self.k, min(room - len(space.frontier), len(held.values))) if trusted else self.k
            space.restart(held, _best(self.ends, held.values, keep), forget_frontier=not trusted)
        self._chain = Chain(space.size, 0, borders, doubts)
        space.start()
        return True

    def _look_further(self, chain: Chain) -> bool:
        """Expand the chain until it shows a wanted eigenvalue, or that there is none."""
        space = self.space
        if self.run.left == 0:
            self.failure = self._what_is_unchecked()
            return False
        chain.steps += 1
        space.expand()
        ritz = space.ritz(chain.first)
        if any((end.key(ritz.values) > key).any() for end, key in zip(self.ends, chain.borders, strict=True)):
            self._chain = None
            return True
        closed = space.is_closed or space.frontier[-1] < chain.first
        if closed or self._is_ruled_out(ritz, chain) or self._is_settled(ritz, chain):
            return False
        if not space.has_room_for(1):
            space.restart(ritz, _best(self.ends, ritz.values, max(1, len(ritz.values) // 2)))
            chain.restarted = True
        return True

    def _complete(self) -> bool:
        """Multiply what is left of a space small enough to be held whole."""
        space = self.space
        if self.run.left == 0:
            self.failure = self._what_is_unchecked()
            return False
        if space.is_closed:
            space.start()
        space.expand(int(space.frontier[0]))
        return True

    def _shows_all(self, held: Ritz, borders: list[float]) -> bool:
        """Whether the first chain rules out eigenvalues between the wanted ones, and beyond them.

        A Ritz value that is still on its way through others that have converged is no rare sight: of twenty runs on ten
        eigenvalues a percent apart, one missed one of them.
        """
        clears = self._evidence(held)
        for end, border in zip(self.ends, borders, strict=True):
            keys = self._keys_beyond(end, border, held)
            margin = border - float(end.key(held.values[end.best(held.values)[: end.count][-1]]))
            for low, high in itertools.pairwise([border, *keys]):
                inside = [end.values_at(low + part * (high - low)) for part in _INSIDE_GAP]
                for points in zip(*inside, strict=True):
                    if high - low > 2 * margin and not any(map(clears, points)):
                        return False
            beyond = max([border, *(key + margin for key in keys)])
            if not all(map(clears, end.values_at(beyond))):
                return False
        return True

    def _first_doubt(self, end: End, border: float, held: Ritz) -> float | None:
        """Return the lowest key beyond the border that the first chain does not rule out, or None."""
        keys = self._keys_beyond(end, border, held)
        if not keys:
            return None
        grid, clears = np.linspace(border, keys[0], _GRID), self._evidence(held)
        clear = [all(map(clears, end.values_at(float(key)))) for key in grid]
        return float(grid[max(clear.index(False) - 1, 0)]) if False in clear else keys[0]

    def _keys_beyond(self, end: End, border: float, held: Ritz) -> list[float]:
        keys = end.key(held.values[end.best(held.values)[: end.count]])
        return sorted(float(key) for key in keys if key > border)

    def _is_ruled_out(self, ritz: Ritz, chain: Chain) -> bool:
        """Whether the chain rules out what was in doubt."""
        doubts = [end.values_at(key) for end, key in zip(self.ends, chain.doubts, strict=True) if key is not None]
        return not chain.restarted and all(map(self._evidence(ritz), itertools.chain(*doubts)))

    def _evidence(self, chain: Ritz) -> Callable[[float], bool]:
        """Return the test whether a chain from a random vector rules an eigenvalue out."""
        rule, dimension = self.space.rule(chain), self.space.n - int(chain.rows[0])
        return lambda mu: is_ruled_out(rule, mu, dimension, self.confidence)

    def _is_settled(self, ritz: Ritz, chain: Chain) -> bool:
        """Whether the search has found what is outermost there, and it is not wanted."""
        tops = [int(end.best(ritz.values)[0]) for end in self.ends]
        settled = ritz.inner_residuals[tops] <= self._tolerances(ritz.values[tops])
        return chain.steps >= _STEPS_TO_SETTLE and bool(settled.all())

    def _borders(self, held: Ritz) -> list[float]:
        """Return for each end the key that a missed eigenvalue exceeds: the last one held, and the tolerance."""
        borders = []
        for end in self.ends:
            last = held.values[end.best(held.values)[: end.count][-1]]
            borders.append(float(end.key(last)) + 2 * self.tol * abs(float(last)) + self.space.error_floor)
        return borders

    def bounds(self, ritz: Ritz, chosen: NDArray[np.intp]) -> NDArray[np.float64]:
        """Bound each eigenvalue's error by its residual r, or by r^2 / gap (Kato and Temple) where that is smaller.

        The gap is to what is known. The check for missed eigenvalues reaches down to the last wanted one, so next to
        that there may be others, and only the residual counts.
        """
        bounds = ritz.residuals[chosen].copy()
        borders = list(zip(self.ends, self._borders(ritz), strict=True))
        for position, i in enumerate(chosen):
            others = np.abs(np.delete(ritz.values, i) - ritz.values[i]) - np.delete(ritz.residuals, i)
            gap = float(others.min(initial=np.inf))
            checked = any(end.key(ritz.values[i]) > key for end, key in borders)
            if gap > bounds[position] and (checked or self.space.is_exhausted):
                bounds[position] *= bounds[position] / gap
        return bounds

    def _unconverged(self, ritz: Ritz) -> NDArray[np.intp]:
        chosen = wanted(self.ends, ritz.values)
        return chosen[ritz.residuals[chosen] > self._tolerances(ritz.values[chosen])]

    def _tolerances(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        smallest = self.run.A.domain.epsilon ** (2 / 3) * self.space.scale
        return np.maximum(self.tol * np.maximum(smallest, np.abs(values)), self.space.noise_floor)

    def _what_is_unchecked(self) -> str:
        return (
            f"eigsh stopped after {self.run.products} products (max_matvecs={self.run.limit}): the {self.k} "
            f"eigenvalues converged, but the check for missed copies did not finish. Raise max_matvecs, or pass "
            f"check_multiplicity=False if the spectrum is known to be simple."
        )

    def _what_lags(self) -> str:
        advice = "Raise max_matvecs or ncv, or loosen tol; the residuals tell which ones lag."
        if any(end.interior for end in self.ends):
            advice = (
                "The smallest in magnitude lie inside the spectrum, where a Krylov space looks last; with many of them "
                "near zero there is no end to it. For their number see spectral_density, for a solve use A + s * "
                "identity_like(A)."
            )
        return (
            f"eigsh stopped after {self.run.products} products (max_matvecs={self.run.limit}) with "
            f"{self.k - self._lagging} of {self.k} eigenvalues converged to tol={self.tol:g}. {advice}"
        )


def wanted(ends: list[End], values: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices of the wanted values, best first; each end is served from what the others left."""
    taken: list[int] = []
    for end in ends:
        best = [int(i) for i in end.best(values) if int(i) not in taken]
        taken += best[: end.count]
    return np.array(taken, dtype=np.intp)


def _best(ends: list[End], values: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Indices of about `count` values, at least the wanted ones, each end having its share."""
    total = sum(end.count for end in ends)
    return wanted([replace(end, count=max(end.count, count * end.count // total)) for end in ends], values)
