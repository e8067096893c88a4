"""The search for wanted Ritz pairs in a Krylov space, and the check that none was missed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specop.spectral.krylov import KrylovSpace, Ritz

__all__ = ["CHECK_ROWS", "End", "Search", "wanted"]

CHECK_ROWS = 12
"""Rows that the check needs for itself."""

_FEWEST_STEPS = 3
_STEPS_TO_SETTLE = 12
# A chi-square variable with one degree of freedom lies below this once in a hundred times.
_CHI_SQUARE_1_PERCENT = 1.5708785790970192e-04


@dataclass(frozen=True)
class End:
    """One end of a spectrum and how many eigenvalues are wanted there; the key is larger the more wanted."""

    key: Callable[[Any], Any]
    values_at: Callable[[float], tuple[float, ...]]
    count: int

    def best(self, values: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return the indices of the values, most wanted first."""
        return np.argsort(-self.key(values), kind="stable")


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
    limit : int
        Largest number of products; `failure` says so when it was reached.
    update : callable
        Told the number of products and a note after each.
    """

    def __init__(
        self, space: KrylovSpace, ends: list[End], k: int, tol: float, limit: int, update: Callable[[int, str], None]
    ) -> None:
        self.space = space
        self.ends = ends
        self.k = k
        self.tol = tol
        self.limit = limit
        self.update = update
        self.failure: str | None = None
        self.check_products = 0

    def run(self, check_multiplicity: bool) -> None:
        """Find k pairs; then, until a check is clean, those that their Krylov space could not show."""
        self._find()
        found = self.space.products
        while check_multiplicity and self.failure is None and not self.space.is_exhausted:
            if not self._misses_something():
                break
            self._find()
        self.check_products = self.space.products - found

    def _find(self) -> None:
        """Expand until the wanted Ritz pairs have converged, restarting whenever the space is full."""
        space = self.space
        while True:
            ritz = space.ritz()
            lagging = self._lagging(ritz)
            if space.is_exhausted or (len(ritz.values) >= self.k and len(lagging) == 0):
                return
            if space.products >= self.limit:
                self.failure = self._what_lags(len(lagging))
                return
            if space.is_full:
                most = space.capacity - len(space.frontier) - 2
                space.restart(ritz, _best(self.ends, ritz.values, min((self.k + len(ritz.values)) // 2, most)))
                continue
            if len(space.frontier) == 0 and not space.lost.any():
                space.start()
            space.expand(space.next_for(ritz, int(lagging[0])) if len(lagging) else int(space.frontier[-1]))
            self.update(space.products, f"{self.k - len(lagging)} of {self.k} converged")

    def _misses_something(self) -> bool:
        """Search outside of the space from a random vector; return whether a wanted eigenvalue shows there."""
        space = self.space
        held = space.ritz()
        # What the Krylov space of one vector misses is orthogonal to all of it: search outside of the whole. A space
        # grown from several vectors holds parts of what may still be missed, and only its converged pairs do not.
        room = space.capacity - CHECK_ROWS if space.starts == 1 else 0
        if space.rows > room and space.capacity == space.n:
            self._exhaust()
            return False
        if space.rows > room:
            keep = max(self.k, min(room - len(space.frontier), len(held.values)))
            space.restart(held, _best(self.ends, held.values, keep), forget_frontier=space.starts > 1)
            held = space.ritz()
        first, begun, restarted = space.rows, space.products, False
        space.start()
        while True:
            if space.products >= self.limit:
                self.failure = self._what_is_unchecked()
                return False
            space.expand(int(space.frontier[-1]))
            self.update(space.products, "checking for missed copies")
            chain = space.ritz(first)
            if any((end.key(chain.values) > key).any() for end, key in self._borders(held)):
                return True
            steps = space.products - begun
            closed = len(space.frontier) == 0 or space.frontier[-1] < first
            if closed or (not restarted and self._is_ruled_out(chain, held, first)) or self._is_settled(chain, steps):
                return False
            if space.is_full:
                space.restart(chain, _best(self.ends, chain.values, max(1, len(chain.values) // 2)))
                restarted = True

    def _exhaust(self) -> None:
        """Multiply what is left of a space small enough to be held whole."""
        space = self.space
        while not space.is_exhausted:
            if space.products >= self.limit:
                self.failure = self._what_is_unchecked()
                return
            if len(space.frontier) == 0:
                space.start()
            space.expand(int(space.frontier[0]))
            self.update(space.products, "completing the space")

    def _is_ruled_out(self, chain: Ritz, held: Ritz, first: int) -> bool:
        r"""Whether an eigenvalue beyond the border would have shown by now, with 99 % confidence.

        After m steps from a unit vector r, no eigenvector x with eigenvalue mu has :math:`(r'x)^2` above the
        Christoffel number :math:`1 / \sum_{j \le m} p_j(\mu)^2` of the orthonormal polynomials of the recurrence.
        For a random r in dimension d, :math:`d (r'x)^2` is chi-square with one degree of freedom.
        """
        if len(chain.values) < _FEWEST_STEPS:
            return False
        space = self.space
        beta = np.linalg.norm(space.G[space.frontier[-1], chain.rows])
        for end, key in self._borders(held):
            for mu in end.values_at(key):
                # p(mu) is proportional to (T - mu)^-1 e_m, with p_0 = 1; the last one follows from beta.
                distances = chain.values - mu
                if not distances.all():
                    return False
                resolvent = chain.coefficients[-1] / distances
                lead = chain.coefficients[0] @ resolvent
                largest = lead**2 / (resolvent @ resolvent + 1.0 / beta**2)
                if (space.n - first) * largest > _CHI_SQUARE_1_PERCENT:
                    return False
        return True

    def _is_settled(self, chain: Ritz, steps: int) -> bool:
        """Whether the search has found what is outermost there, and it is not wanted."""
        tops = [int(end.best(chain.values)[0]) for end in self.ends]
        settled = chain.inner_residuals[tops] <= self._tolerances(chain.values[tops])
        return steps >= _STEPS_TO_SETTLE and bool(settled.all())

    def _borders(self, held: Ritz) -> list[tuple[End, float]]:
        """Return for each end the key that a missed eigenvalue exceeds: the last one held, and the tolerance."""
        borders = []
        for end in self.ends:
            last = held.values[end.best(held.values)[end.count - 1]]
            borders.append((end, float(end.key(last)) + 2 * self.tol * abs(last) + self.space.error_floor))
        return borders

    def bounds(self, ritz: Ritz, chosen: NDArray[np.intp]) -> NDArray[np.float64]:
        """Bound each eigenvalue's error by its residual r, or by r^2 / gap (Kato and Temple) where that is smaller.

        The gap is to what is known. The check for missed eigenvalues reaches down to the last wanted one, so next to
        that there may be others, and only the residual counts.
        """
        bounds = ritz.residuals[chosen].copy()
        for position, i in enumerate(chosen):
            others = np.abs(np.delete(ritz.values, i) - ritz.values[i]) - np.delete(ritz.residuals, i)
            gap = float(others.min(initial=np.inf))
            checked = any(end.key(ritz.values[i]) > key for end, key in self._borders(ritz))
            if gap > bounds[position] and (checked or self.space.is_exhausted):
                bounds[position] *= bounds[position] / gap
        return bounds

    def _lagging(self, ritz: Ritz) -> NDArray[np.intp]:
        chosen = wanted(self.ends, ritz.values)
        return chosen[ritz.residuals[chosen] > self._tolerances(ritz.values[chosen])]

    def _tolerances(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        smallest = self.space.A.domain.epsilon ** (2 / 3)
        return np.maximum(self.tol * np.maximum(smallest, np.abs(values)), self.space.noise_floor)

    def _what_is_unchecked(self) -> str:
        return (
            f"eigsh stopped after {self.space.products} products (max_matvecs={self.limit}): the {self.k} eigenvalues "
            f"converged, but the check for missed copies did not finish. Raise max_matvecs, or pass "
            f"check_multiplicity=False if the spectrum is known to be simple."
        )

    def _what_lags(self, lagging: int) -> str:
        return (
            f"eigsh stopped after {self.space.products} products (max_matvecs={self.limit}) with "
            f"{self.k - lagging} of {self.k} eigenvalues converged to tol={self.tol:g}. Raise max_matvecs or ncv, or "
            f"loosen tol; the residuals tell which ones lag."
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
