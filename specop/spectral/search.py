"""The search for wanted Ritz pairs in a Krylov space."""

from __future__ import annotations

from typing import Any

import numpy as np

from specop.krylov.projected import Ritz
from specop.krylov.space import KrylovSpace
from specop.results.structure import Structure
from specop.spectral.check import Check
from specop.spectral.ends import End, share, wanted
from specop.statistics.numbers import Floats, Integers

__all__ = ["Search"]


class Search:
    """The state of one search in a Krylov space that has a start vector.

    Parameters
    ----------
    space : KrylovSpace
        Krylov space that is searched.
    ends : list of End
        What is wanted; the counts add up to k.
    tol : float
        Relative residual at which a pair has converged.
    check : Check or None
        Looks for what the Krylov space could not show, unless nobody wants to know.

    Attributes
    ----------
    check_products : int
        Products since the k pairs had converged for the first time.
    failure : str or None
        Why the search ended early, if it did.
    """

    def __init__(self, space: KrylovSpace, ends: list[End], tol: float, check: Check | None) -> None:
        self.run = space.run
        self.space = space
        self.ends = ends
        self.k = sum(end.count for end in ends)
        self.tol = tol
        self.check = check
        self.check_products = 0
        self.failure: str | None = None
        self._is_found = False
        self._lagging = self.k
        self._slowest: tuple[End, int, int] | None = None

    def step(self) -> bool:
        """Do what comes next, a restart or a few products; return whether anything is left to be done.

        First k pairs are found; then, until a check is clean, those that their Krylov space could not show. Nothing but
        this object, its check and the space holds the state between two steps.
        """
        if self._is_found and self.space.is_exhausted:
            return False
        before = self.run.products
        is_open = self._go_on_checking() if self.check is not None and self.check.is_under_way else self._find()
        if self._is_found:
            self.check_products += self.run.products - before
        return is_open

    @property
    def note(self) -> str:
        """What is being done, for a progress bar."""
        if self.check is not None and self.check.is_under_way:
            return "checking for missed copies"
        return f"{self.k - self._lagging} of {self.k} converged"

    def best(self) -> tuple[Floats, Floats]:
        """Return the wanted Ritz values so far, ascending, and their residuals."""
        ritz = self.space.ritz()
        chosen = np.sort(wanted(self.ends, ritz.values))
        return ritz.values[chosen], ritz.residuals[chosen]

    def bounds(self, ritz: Ritz, chosen: Integers) -> Floats:
        """Bound the distance of each wanted Ritz value to the eigenvalue of its number, copies counted.

        Some eigenvalue lies within the residual r, and within r^2 / gap where that is smaller (Kato and Temple); the
        gap is to what is known, and to the level above which a check has shown that nothing is unknown. That also tells
        the number: it is open for those at or below the level, as far as this. Before the check has ended numbers are
        open without a limit. Where none was wanted the distance to some eigenvalue is bounded.
        """
        bounds = ritz.residuals[chosen].copy()
        is_whole = self.space.is_exhausted
        levels = [-np.inf] * len(self.ends) if is_whole else None if self.check is None else self.check.levels
        if levels is None:
            return bounds if self.check is None else np.full(len(bounds), np.inf)
        position, taken = {int(i): at for at, i in enumerate(chosen)}, 0
        order = wanted(self.ends, ritz.values)
        for number, (end, level) in enumerate(zip(self.ends, levels, strict=True)):
            open_gaps = set() if self.check is None else self.check.open_gaps[number]
            above = np.inf
            for rank, i in enumerate(order[taken : taken + end.count]):
                key, at = float(end.key(ritz.values[i])), position[int(i)]
                apart = np.abs(np.delete(ritz.values, i) - ritz.values[i]) - np.delete(ritz.residuals, i)
                gap = min(float(apart.min(initial=np.inf)), key - level)
                is_apart = not open_gaps & {rank - 1, rank}
                if is_apart and gap > bounds[at]:
                    bounds[at] *= bounds[at] / gap
                bounds[at] = max(bounds[at], level - key)
                if rank - 1 in open_gaps:
                    # The next one above may be the one of this number.
                    bounds[at] = max(bounds[at], above - key)
                above = key
            taken += end.count
        return bounds

    def fields(self) -> dict[str, Any]:
        """Return what was found as fields of an `EigenResult`; the search gives up its space.

        Where products carry noise one more is made, and the user is warned if it is more than their dtype promises.
        """
        run, space, tol = self.run, self.space, self.tol
        ritz = space.ritz()
        chosen = np.sort(wanted(self.ends, ritz.values))
        values, floor = ritz.values[chosen], space.error_floor
        residuals = np.hypot(ritz.residuals[chosen], floor)
        bounds = np.hypot(self.bounds(ritz, chosen), floor)
        goals = np.hypot(space.tolerances(values, tol), floor)
        run.warn_of_noise()
        noise = space.noise_of(ritz, chosen)
        residuals, bounds, goals = (np.hypot(found, noise) for found in (residuals, bounds, goals))
        rows = space.extract(ritz, chosen)
        return {
            "eigenvalues": values,
            "rows": rows,
            "residuals": residuals,
            "bounds": bounds,
            "goals": goals,
            "check_matvecs": self.check_products,
            "tol": tol,
            "structure": Structure(run.A.parameter_shapes, run.A.unflatten),
        }

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as plain values."""
        return {"is_found": self._is_found, "check_products": self.check_products}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._is_found = state["is_found"]
        self.check_products = state["check_products"]

    def _find(self) -> bool:
        """Expand towards the wanted Ritz pairs, or restart a full space; begin a check once they are there."""
        space = self.space
        if self.run.left and space.has_room_for(1) and self._still_lags():
            space.expand()
            return True
        ritz = space.ritz()
        lagging = self._unconverged(ritz)
        self._lagging = len(lagging) + max(self.k - len(ritz.values), 0)
        if space.is_exhausted or (len(ritz.values) >= self.k and len(lagging) == 0):
            self._is_found = True
            if self.check is None or self.check.levels is not None or space.is_exhausted:
                return False
            return self._begin_check(self.check, ritz)
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
            # Rows that were multiplied again have left others behind; they go where they take the room of wanted pairs.
            is_crowded = most < self.k
            # How many are kept makes next to no difference to the products, and fewer take less time.
            kept = self.k + (len(ritz.values) - self.k) // 4
            kept = min(kept, space.capacity - 2 if is_crowded else most)
            space.restart(ritz, share(self.ends, ritz.values, kept), forget_frontier=is_crowded)
            return True
        self._watch_slowest(ritz, lagging)
        if not in_turns and len(lagging):
            space.advance(ritz, int(lagging[0]))
            return True
        for row in sweep[: self.run.left]:
            space.expand(int(row))
        return True

    def _begin_check(self, check: Check, held: Ritz) -> bool:
        """Begin a check, or make the product that it asks for first; return whether anything is left to be done."""
        if check.begin(held):
            if self.run.left == 0:
                self.failure = self._what_is_unchecked()
                return False
            self.space.expand()
            return True
        return check.is_under_way

    def _go_on_checking(self) -> bool:
        """Make a product of the check; return whether anything is left to be done."""
        if self.run.left == 0:
            self.failure = self._what_is_unchecked()
            return False
        assert self.check is not None
        self.check.step()
        # What a check has given up to see more may have been a part of a converged pair.
        return self.check.levels is None or len(self._unconverged(self.space.ritz())) > 0

    def _unconverged(self, ritz: Ritz) -> Integers:
        chosen = wanted(self.ends, ritz.values)
        return chosen[ritz.residuals[chosen] > self.space.tolerances(ritz.values[chosen], self.tol)]

    def _watch_slowest(self, ritz: Ritz, lagging: Integers) -> None:
        """Note which pair is farthest from convergence, by its end and its number from one side."""
        self._slowest = None
        if len(ritz.values) < self.k or len(lagging) == 0:
            return
        slowest = int(
            lagging[np.argmax(ritz.residuals[lagging] / self.space.tolerances(ritz.values[lagging], self.tol))]
        )
        taken = 0
        for end in self.ends:
            taken += end.count
            if slowest in wanted(self.ends, ritz.values)[:taken]:
                break
        side = end.sides[0] if len(end.sides) == 1 else int(np.copysign(1, ritz.values[slowest]))
        if not end.is_interior:
            self._slowest = end, side, len(ritz.values) - slowest if side > 0 else slowest + 1

    def _still_lags(self) -> bool:
        """Whether one pair, wanted and not converged, tells that there is no need to look at all of them."""
        if self._slowest is None:
            return False
        end, side, rank = self._slowest
        recurrence = self.space.recurrence()
        pair = None if recurrence is None else recurrence.pair(side, rank)
        if recurrence is None or pair is None:
            return False
        value, residual = pair
        if residual <= self.space.tolerances(value, self.tol):
            return False
        # Those on its own side are known by its number.
        before = rank - 1 + sum(recurrence.count(s, s * abs(value)) for s in end.sides if s != side)
        return before < end.count

    def _what_is_unchecked(self) -> str:
        return (
            f"eigsh stopped after {self.run.products} products (max_matvecs={self.run.limit}): the {self.k} "
            f"eigenvalues converged, but the check for missed copies did not finish. Raise max_matvecs, or pass "
            f"check_multiplicity=False if the spectrum is known to be simple."
        )

    def _what_lags(self) -> str:
        advice = "Raise max_matvecs or ncv, or loosen tol; the residuals tell which ones lag."
        if any(end.is_interior for end in self.ends):
            advice = (
                "The smallest in magnitude lie inside the spectrum, where a Krylov space looks last; with many of them "
                "near zero there is no end to it. For their number see spectral_density, for a solve use A + s * "
                "identity_like(A)."
            )
        return (
            f"eigsh stopped after {self.run.products} products (max_matvecs={self.run.limit}) with "
            f"{self.k - self._lagging} of {self.k} eigenvalues converged to tol={self.tol:g}. {advice}"
        )
