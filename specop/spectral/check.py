"""The check that a Krylov space has missed no wanted eigenvalue, and what its answer is worth."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from specop.krylov.projected import Ritz
from specop.krylov.short_recurrence import ShortRecurrence
from specop.krylov.space import KrylovSpace
from specop.spectral.ends import End, share, wanted
from specop.spectral.exclusion import Exclusion, Seen, level
from specop.spectral.fitting import CHECK_VECTORS
from specop.statistics.measure import least_weight
from specop.statistics.numbers import Floats

__all__ = ["CHECK_ROWS", "Check"]

CHECK_ROWS = 12
"""Rows that the check needs for itself."""

_STEPS_TO_SETTLE = 12
# A second chain with fewer rows seldom rules anything out before it is full, and with more it has a basis to restart.
_FEW_ROWS = 24
# Steps after which such a chain may end as one that was restarted does.
_PATIENCE = 40
# Share of a copy's eigenvector that may lie in the space without being in the way.
_LARGEST_DRIFT = 1e-2
# Share of the distance to the next Ritz value that the residual of a resolved one has at most.
_RESOLVED = 0.03


@dataclass
class Chain:
    """A second Krylov space, grown outside of the first one to see what that missed.

    Attributes
    ----------
    first : int
        First row of the chain.
    steps : int
        Number of the chain's products so far.
    doubts : list of float or None
        For each end the lowest key that it must rule out, if any.
    cleared : list of list of bool
        For each end, which rungs between the last wanted key and the border the first space has ruled out.
    restarted : bool
        Whether its rows are no longer those of the recurrence.
    """

    first: int
    steps: int
    doubts: list[float | None]
    cleared: list[list[bool]]
    restarted: bool = False


class Check:
    r"""The search for eigenvalues that the Krylov space of a start vector could not show.

    A missed eigenvalue may have copies among those found, and then its eigenvector lies outside of the whole space; or
    its Ritz value is still on its way through others that have converged, and then it lies mostly inside. The second
    kind is ruled out by the recurrence itself if its start vector was random: an eigenvector's weight in that is at
    most the Christoffel number, and n times the weight is chi-square with one degree of freedom. The first kind is
    looked for by a second chain, from a random vector outside of the space, until the same rule excludes it.

    The border, for each end, is the key that a missed eigenvalue must exceed to be noticed. What lies beyond it would
    be number one to k. Between the last wanted eigenvalue and the border only that one's number is open, or that of
    others which lie there too: then the border is drawn as close as the last one's own error.

    Parameters
    ----------
    space : KrylovSpace
        The space, with all wanted pairs converged each time that the check begins.
    ends : list of End
        Ends of the spectrum at which eigenvalues are wanted.
    tol : float
        Relative residual at which a pair has converged.
    confidence : float
        Probability with which a missed eigenvalue is found.

    Attributes
    ----------
    levels : list of float or None
        Once the check is clean, for each end the key above which no eigenvalue was missed.
    open_gaps : list of set of int
        For each end the numbers of wanted eigenvalues, from 0 for the outermost, below which one that is near to the
        next wanted one may have been missed.
    """

    def __init__(self, space: KrylovSpace, ends: list[End], tol: float, confidence: float) -> None:
        self.space = space
        self.ends = ends
        self.tol = tol
        self._exclusion = Exclusion(space, tol, confidence)
        self.levels: list[float] | None = None
        self.open_gaps: list[set[int]] = [set() for _ in ends]
        self._ladders: list[list[float]] = []
        self._chain: Chain | None = None
        # The second chain where its rows do not fit.
        self._short: ShortRecurrence | None = None
        self._is_completing = False

    @property
    def is_under_way(self) -> bool:
        """Whether `step` is to be called."""
        return self._chain is not None or self._is_completing

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as plain values."""
        chain = None if self._chain is None else asdict(self._chain)
        short = {} if self._short is None else self._short.state()
        return short | {
            "chain": chain,
            "is_short": self._short is not None,
            "ladders": self._ladders,
            "is_completing": self._is_completing,
            "levels": self.levels,
            "is_doubted": self._exclusion.is_doubted,
            "open_gaps": [sorted(gaps) for gaps in self.open_gaps],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._chain = None if state["chain"] is None else Chain(**state["chain"])
        self._ladders = state["ladders"]
        self._is_completing = state["is_completing"]
        self.levels = state["levels"]
        self._exclusion.is_doubted = state["is_doubted"]
        self.open_gaps = [set(gaps) for gaps in state["open_gaps"]]
        if state["is_short"]:
            self._short = ShortRecurrence(self.space.run, [], np.zeros(0))
            self._short.restore(state)
            self._short.avoid(self.space)

    def begin(self, held: Ritz) -> bool:
        """Ask the space itself; return whether that is to be expanded by a product before it is asked again.

        Afterwards the check is clean, and has levels, or it is under way.
        """
        space = self.space
        self._ladders = [self._exclusion.ladder(end, held) for end in self.ends]
        borders = [ladder[-1] for ladder in self._ladders]
        cleared = [[False] * len(ladder) for ladder in self._ladders]
        doubts = list[float | None](borders)
        # A chain says nothing about eigenvalues inside the spectrum before it has shown all of it.
        is_trusted = space.is_chain and not any(end.is_interior for end in self.ends)
        self.open_gaps = [set() for _ in self.ends]
        if is_trusted:
            found = [self._exclusion.open_gaps(*each, held) for each in self._by_end()]
            is_trusted = None not in found
            if not is_trusted and space.has_room_for(1):
                return True
            self.open_gaps = [gaps or set() for gaps in found]
        if is_trusted:
            cleared = [self._exclusion.excluded(end, ladder, held).tolist() for end, ladder in self._by_end()]
            doubts = [
                self._exclusion.first_doubt(end, border, held) for end, border in zip(self.ends, borders, strict=True)
            ]
        if not any(doubt is not None for doubt in doubts):
            self.levels = [level(*each) for each in zip(self._ladders, cleared, strict=True)]
            return False
        self._search_outside(held, is_trusted, doubts, cleared)
        return False

    def _search_outside(
        self, held: Ritz, is_trusted: bool, doubts: list[float | None], cleared: list[list[bool]]
    ) -> None:
        """Begin a second chain outside of what is known to hold no part of an eigenvector that was missed."""
        # What a chain cannot reach is orthogonal to all of it, and so is what a closed space lacks. Other spaces hold
        # parts of what may still be missed, and only their converged pairs do not.
        space, is_whole = self.space, is_trusted or (self.space.is_closed and not self.space.lost)
        k, room = sum(end.count for end in self.ends), space.capacity - CHECK_ROWS
        if space.capacity == space.n and (space.size if is_whole else k) > room:
            self._is_completing = True
            return
        best = wanted(self.ends, held.values)
        recurrence = space.recurrence() if is_trusted else None
        drift = np.zeros((1, 0))
        if recurrence is not None:
            drift = recurrence.drift(held.values[best], space.noise_floor / 4)
        drift = drift[:, np.abs(drift).max(axis=0) > _LARGEST_DRIFT]
        self._exclusion.is_doubted |= bool(drift.size) and _is_resolved(held)
        if drift.size and space.size <= room:
            # Of copies that are on their way into the space by rounding, a part would lie inside, out of sight.
            space.remove(held, best, drift[held.rows])
        elif drift.size or not is_whole or space.size > room:
            is_whole &= not drift.size
            keep = max(k, min(room - len(space.frontier), len(held.values))) if is_whole else k
            space.restart(held, share(self.ends, held.values, keep), forget_frontier=not is_whole)
        self._chain = Chain(space.size, 0, doubts, cleared)
        space.start()

    def step(self) -> None:
        """Make a product.

        Once an eigenvalue that may be wanted has shown, or the check is clean, it is no longer under way.
        """
        space, chain = self.space, self._chain
        if chain is None:
            if space.is_closed:
                space.start()
            space.expand(int(space.frontier[0]))
            return
        chain.steps += 1
        if self._short is not None:
            self._step_without_rows(self._short, chain)
            return
        space.expand()
        if space.has_room_for(1) and self._says_nothing(chain):
            return
        ritz = space.ritz(chain.first)
        seen = Seen(ritz.values, ritz.inner_residuals, ritz)
        if self._shows_wanted(seen):
            self._chain = None
        elif self._has_ruled_out(seen, chain) or self._has_settled(seen, chain):
            # A space that has closed rules out everything else.
            self._finish(seen, chain)
        elif self._may_go_on_without_rows(chain):
            self._short = ShortRecurrence.of_chain(space, chain.first)
        elif not space.has_room_for(1):
            space.restart(ritz, share(self.ends, ritz.values, max(1, len(ritz.values) // 2)))
            chain.restarted = True

    def _may_go_on_without_rows(self, chain: Chain) -> bool:
        is_interior = any(end.is_interior for end in self.ends)
        return (
            not (self.space.has_room_for(1) or chain.restarted or is_interior)
            and chain.steps < _FEW_ROWS
            and self.space.run.room().rows >= CHECK_VECTORS
        )

    def _step_without_rows(self, short: ShortRecurrence, chain: Chain) -> None:
        """Make a product of a chain that goes on where it was full."""
        short.expand()
        rule = short.gauss_rule(chain.first)
        seen = Seen(rule.nodes, np.abs(rule.couplings), rule)
        if self._shows_wanted(seen):
            # Its eigenvector is not known: a chain of rows, restarted where it is full, finds it.
            self._short = None
            self._chain = replace(chain, steps=0, restarted=True)
            self.space.start()
        elif short.is_closed or self._has_ruled_out(seen, chain) or self._has_settled(seen, chain):
            self._finish(seen, chain)

    def _shows_wanted(self, seen: Seen) -> bool:
        return any((end.key(seen.values) > ladder[-1]).any() for end, ladder in self._by_end())

    def _finish(self, seen: Seen, chain: Chain) -> None:
        """Note that nothing that is wanted was missed, and above which keys that is certain."""
        self.levels = [
            level(ladder, np.array(cleared) | self._exclusion.beyond(end, ladder, seen, chain.restarted))
            for (end, ladder), cleared in zip(self._by_end(), chain.cleared, strict=True)
        ]
        self._chain = self._short = None
        ritz = self.space.ritz()
        best = wanted(self.ends, ritz.values)
        if (ritz.residuals[best] > self.space.tolerances(ritz.values[best], self.tol)).any():
            # The chain's rows mix with converged pairs that have lost a part, or put a value of theirs in one's place.
            self.space.truncate(chain.first)

    def _says_nothing(self, chain: Chain) -> bool:
        """Whether the recurrence of the chain tells that its Ritz pairs neither show nor rule out anything."""
        recurrence = None if chain.restarted else self.space.recurrence(chain.first)
        if recurrence is None or not recurrence.coupling or any(end.is_interior for end in self.ends):
            return False
        unseen, rules_out = least_weight(self.space.n - chain.first, self._exclusion.certainty), True
        for end, ladder, doubt in zip(self.ends, self._ladders, chain.doubts, strict=True):
            for side in end.sides:
                if recurrence.count(side, side * ladder[-1]):
                    return False
                rules_out = rules_out and (doubt is None or recurrence.christoffel(side * doubt) <= unseen)
        return not rules_out

    def _by_end(self) -> zip[tuple[End, Floats]]:
        return zip(self.ends, map(np.array, self._ladders), strict=True)

    def _has_ruled_out(self, seen: Seen, chain: Chain) -> bool:
        """Whether the chain rules out what was in doubt."""
        doubts = [(end, key) for end, key in zip(self.ends, chain.doubts, strict=True) if key is not None]
        return not chain.restarted and all(
            self._exclusion.excluded(end, np.array([key]), seen).all() for end, key in doubts
        )

    def _has_settled(self, seen: Seen, chain: Chain) -> bool:
        """Whether the search has found what is outermost there, and it is not wanted.

        That is asked only where the chain cannot rule out: a Ritz value may converge to another eigenvalue before the
        outermost one shows, as it did on a cycle of 92 nodes.
        """
        may_rule_out = not chain.restarted and not any(end.is_interior for end in self.ends)
        is_patient = self._short is None or chain.steps < _PATIENCE
        if (may_rule_out and is_patient) or chain.steps < _STEPS_TO_SETTLE:
            return False
        for end, ladder in self._by_end():
            top = int(end.best(seen.values)[0])
            room = ladder[-1] - end.key(seen.values[top])
            if seen.residuals[top] > min(room, self.space.tolerances(seen.values[top], self.tol)):
                return False
        return True


def _is_resolved(held: Ritz) -> bool:
    """Whether each Ritz value stands apart within its residual, as all of them do where a space is about to close."""
    gaps = np.diff(held.values, prepend=-np.inf, append=np.inf)
    return bool((held.residuals <= _RESOLVED * np.minimum(gaps[:-1], gaps[1:])).all())
