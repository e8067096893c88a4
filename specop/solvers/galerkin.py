"""Linear systems in one Krylov space that is kept orthogonal, shared by several right-hand sides."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from specop.arrays.backend import Array
from specop.krylov.space import KrylovSpace
from specop.solvers.equations import Equations, Outcome
from specop.solvers.held import held_entries
from specop.solvers.least_squares import judged
from specop.spectral.fitting import rows_that_fit
from specop.statistics.numbers import Floats

__all__ = ["columns_at_once", "galerkin"]

# A basis of so many entries is small next to any model's data.
_ENTRIES = 40_000_000
_FEWEST_ROWS, _MOST_ROWS, _MOST_COLUMNS = 40, 500, 8
# Multiply-adds of orthogonalization: those of a step that take a millisecond, and those of a run that take a second.
_SHORT, _LONG = 1_000_000, 1_000_000_000


def galerkin(system: Equations, columns: range, allowance: int, *, may_leave: bool = False) -> Outcome:
    r"""Improve the solutions of some columns from one Krylov space until their true residuals are small.

    With orthonormal rows V, of which V_M have been multiplied and V_U have not, and residuals R = V'C, the correction
    V_M'Y with

    .. math:: V_M A V_M^\top Y = C_M

    leaves residuals along the rows V_U only. For one column these are the iterates of conjugate gradients in exact
    arithmetic. In floating point those forget what they have solved, and meet the largest eigenvalues again and again:
    where a few stand out from a bulk they take two to three times as many products. Where the projected matrix is not
    positive definite, Y minimizes the residuals instead, as in MINRES.

    What is left once the estimates have reached their goals is computed by products, and its part outside of the space
    goes on the frontier: refinement begins with all that is known. A full basis is cut down to the Ritz vectors of its
    largest eigenvalues [1]_. Minimal residuals would stagnate after that: the run then ends as "full".

    Where A is singular and b not in its range, the lowest Ritz value goes to zero without ever being negative, and
    Galerkin solutions grow beyond all bounds. Their residuals tell: where they are longer than those at the start, the
    least-squares solution is looked at, and in a space that closes Ritz values of rounding's size count as zero.

    Parameters
    ----------
    system : Equations
        Equations whose solutions are improved in place.
    columns : range
        Which share the space; at most `columns_at_once`.
    allowance : int
        Largest number of products.
    may_leave : bool
        Whether to end as "dear" where keeping the basis orthogonal takes longer than the products of conjugate
        gradients would; known of operators that are held as numbers.

    Returns
    -------
    Outcome
        Where the reason is "full" or "dear", the norms of the true residuals are not up to date.

    References
    ----------
    .. [1] A. Abdel-Rehim, R. Morgan, D. Nicely and W. Wilcox, Deflated and restarted symmetric Lanczos methods for
       eigenvalues and linear equations with multiple right-hand sides, SIAM J. Sci. Comput. 32 (2010), 129-149.
    """
    end = system.run.products + allowance
    projected = _ProjectedSystem(system, columns, end, held_entries(system.A) if may_leave else None)
    outcome = projected.solve()
    system.run.warn_of_noise()
    return outcome


def columns_at_once(n: int, fitting: int) -> int:
    """Return how many columns may share a space: as many as leave each the rows that pay, none if there are too few.

    `fitting` is how many vectors fit into the memory that is free.
    """
    return max(0, min(_MOST_COLUMNS, min(_ENTRIES // n, fitting) // _FEWEST_ROWS))


class _ProjectedSystem:
    """Some columns of a system, their Krylov space, and the Cholesky factor of its projected matrix.

    Coordinates are along the rows of the space, with a column for each right-hand side.

    Parameters
    ----------
    system : Equations
    columns : range
    end : int
        Number of products, counted from the start of the call, at which to end.
    entries : int or None
        Numbers that a product reads, where that is known and the run may end for it.
    """

    def __init__(self, system: Equations, columns: range, end: int, entries: int | None) -> None:
        self.system = system
        self.columns = columns
        self.goals = system.goals[columns]
        n = system.run.n
        self.space = KrylovSpace(
            system.run,
            rows_that_fit(system.run, min(n, _MOST_ROWS, max(_FEWEST_ROWS, _ENTRIES // n)), min(n, _FEWEST_ROWS)),
        )
        self.steps = 0
        self.curvature: float | None = None
        self.direction: Array | None = None
        self._order: list[int] = []
        self._factor = np.zeros((self.space.capacity, self.space.capacity))
        self._is_definite = True
        self._end = end
        self._entries = entries
        self._due = _FEWEST_ROWS
        self._expected: Floats

    @property
    def norms(self) -> Floats:
        """Norms of the true residuals."""
        return self.system.norms[self.columns]

    def solve(self) -> Outcome:
        """Improve the solutions until their true residuals are small, or no products are left."""
        system, space, columns = self.system, self.space, self.columns
        # The true residuals at the end are products too.
        last, previous = self._end - len(columns), np.inf
        residuals = [system.begin(j) for j in columns]
        while (self.norms > self.goals).any():
            if not space.has_room_for(2 * len(columns)):
                self._cut_down()
            reason, Y = self._reduce(self._coordinates(residuals), last)
            self._move(Y)
            if reason == "dear" or (reason == "full" and not self._is_definite):
                return self._outcome(reason)
            residuals = system.residuals(columns)
            excess = float(np.max(self.norms / np.maximum(self.goals, np.finfo(float).tiny)))
            if excess <= 1:
                break
            if system.run.products > last:
                return self._outcome(self._given_up())
            if reason == "stationary" or (reason == "goal" and excess > 0.5 * previous):
                was_wrong = reason == "goal" or previous < np.inf
                return self._outcome(self._why_they_stay(residuals, was_wrong))
            if reason == "goal":
                previous = excess
        return self._outcome("converged")

    def _outcome(self, reason: str) -> Outcome:
        return Outcome(reason, self.steps, self.curvature, self.direction)

    def _coordinates(self, vectors: list[Array]) -> Floats:
        """Return coordinates of vectors, whose parts outside of the space go on the frontier."""
        found = [self.space.include(vector) for vector in vectors]
        return np.stack([np.pad(c, (0, self.space.size - len(c))) for c in found], axis=1)

    def _move(self, Y: Floats) -> None:
        for j, y in zip(self.columns, Y.T, strict=True):
            self.system.move(j, 1.0, self.space.combine(y))

    def _reduce(self, C: Floats, last: int) -> tuple[str, Floats]:
        """Take products until the estimates of the residuals reach their goals; return why it ended, and Y."""
        space, run, due = self.space, self.system.run, 0
        lengths, due_least = np.linalg.norm(C, axis=0), 0
        while True:
            m, is_last, is_full = len(self._order), run.products >= last, not space.has_room_for(1)
            if m >= due or is_last or is_full or space.is_closed:
                Y, left = self._solution(C)
                norms = np.linalg.norm(left, axis=0)
                self.system.report(norms, self.goals)
                if space.is_closed:
                    return self._closed(C, Y, norms)
                waiting = norms > self.goals
                if not waiting.any():
                    return "goal", Y
                is_dear = self._is_dear(m)
                if self._is_definite and (norms > lengths).any() and (is_last or is_full or is_dear or m >= due_least):
                    Y, left = self._least(C)
                    norms, due_least = np.linalg.norm(left, axis=0), m + 1 + m // 5
                    if self._is_stationary(left[:, norms > self.goals]):
                        return "stationary", Y
                    # Restarts that make next to nothing shorter are not worth their products.
                    self._is_definite = not (is_full and (norms > 0.9 * lengths)[waiting].all())
                elif not self._is_definite and self._is_stationary(left[:, waiting]):
                    return "stationary", Y
                if is_last or is_full or is_dear:
                    return "limit" if is_last else "full" if is_full else "dear", Y
                # Least squares cost a factorization at each look.
                due = m + (1 if self._is_definite else 1 + m // 20)
                needed = (np.abs(left[:, waiting]) / self.goals[waiting]).max(axis=1)
            # Rows that are new since the last look come after those that had a weight then.
            frontier = space.frontier
            weights = np.pad(needed, (0, space.size - len(needed)))
            row = int(frontier[np.argmax(weights[frontier])])
            space.expand(row)
            self.steps += 1
            self._append(row)
            C = np.pad(C, ((0, space.size - len(C)), (0, 0)))

    def _append(self, row: int) -> None:
        """Add a row that was multiplied to the Cholesky factor of the projected matrix, if that is definite."""
        m, space = len(self._order), self.space
        self._order.append(row)
        if not self._is_definite:
            return
        known = space.projected(self._order, [row])[:, 0]
        beside = np.zeros(0)
        if m:
            beside = scipy.linalg.solve_triangular(self._factor[:m, :m], known[:m], lower=True, check_finite=False)
        square = float(known[m] - beside @ beside)
        if square <= self._rounding * space.scale:
            self._is_definite = False
            self._note_curvature()
        else:
            self._factor[m, :m], self._factor[m, m] = beside, square**0.5

    @property
    def _rounding(self) -> float:
        """What counts as zero beside the norm of A."""
        return float(10 * (1 + len(self._order) ** 0.5) * self.system.A.precision)

    def _note_curvature(self) -> None:
        """Keep the lowest Ritz value, which is no larger than the last pivot, and its vector."""
        ritz = self.space.ritz()
        lowest = float(ritz.values[0])
        self.curvature = lowest if lowest < -self._rounding * self.space.scale else 0.0
        coordinates = np.zeros(self.space.size)
        coordinates[ritz.rows] = ritz.coefficients[:, 0]
        self.direction = self.space.combine(coordinates)

    def _solution(self, C: Floats) -> tuple[Floats, Floats]:
        """Return Y, and the coordinates of the residuals that it leaves."""
        m, frontier = len(self._order), self.space.frontier
        if not self._is_definite or m == 0:
            return self._least(C)
        Y, left = np.zeros_like(C), np.zeros_like(C)
        Y[self._order] = scipy.linalg.cho_solve((self._factor[:m, :m], True), C[self._order], check_finite=False)
        left[frontier] = C[frontier] - self.space.projected(frontier) @ Y
        return Y, left

    def _least(self, C: Floats) -> tuple[Floats, Floats]:
        """Return Y that makes the residuals least, and their coordinates."""
        Y, columns = np.zeros_like(C), self.space.projected(columns=self._order)
        if self._order:
            # What rounding has made of a zero would only lengthen Y.
            Y[self._order] = scipy.linalg.lstsq(
                columns, C, cond=self._rounding, lapack_driver="gelsy", check_finite=False
            )[0]
        return Y, C - columns @ Y[self._order]

    def _closed(self, C: Floats, Y: Floats, norms: Floats) -> tuple[str, Floats]:
        """Return why it ended in a space that holds the products of all of its rows, and the solution."""
        short = self._without_zeros(C)
        if (self._expected <= self.goals).all():
            return "goal", short
        # It may be so, or rounding divided by rounding: the true residuals will tell, if there are products for them,
        # for those of another try, and for what is to be done where that was in vain.
        can_tell = self.system.run.products + 4 * len(self.columns) <= self._end
        return ("goal", Y) if can_tell and (norms <= self.goals).all() else ("stationary", short)

    def _without_zeros(self, C: Floats) -> Floats:
        """Return Y of least norm for the projected matrix, with eigenvalues of rounding's size taken for zero.

        The norms of the residuals that it should leave are kept, zero where they are rounding of Y.
        """
        ritz, Y = self.space.ritz(), np.zeros_like(C)
        kept = np.abs(ritz.values) > self._rounding * self.space.scale
        S = ritz.coefficients[:, kept]
        Y[ritz.rows] = (S / ritz.values[kept]) @ (S.T @ C[ritz.rows])
        left = np.linalg.norm(C - self.space.projected() @ Y, axis=0)
        self._expected = left * (left > self._rounding * self.space.scale * np.linalg.norm(Y, axis=0))
        return Y

    def _is_stationary(self, left: Floats) -> bool:
        """Whether A times least residuals is zero to rounding."""
        space, frontier = self.space, self.space.frontier
        beyond = np.linalg.norm(space.projected(frontier, self._order) @ left[self._order], axis=0)
        unknown = space.scale * np.linalg.norm(left[frontier], axis=0)
        zero = self._rounding * space.scale * np.linalg.norm(left, axis=0)
        return bool((beyond + unknown <= zero).all())

    def _is_dear(self, m: int) -> bool:
        """Whether the basis takes longer than the products of conjugate gradients would, as far as can be foreseen.

        Those take more products only once a Ritz pair has converged (Paige, 1971).
        """
        work = m * self.space.n
        if self._entries is None or not self._is_definite or m < self._due or work <= max(_SHORT, self._entries):
            return False
        self._due, ritz = m + m // 4, self.space.ritz()
        return m * work > _LONG or bool((ritz.residuals > 1e-3 * np.abs(ritz.values)).all())

    def _cut_down(self) -> None:
        """Keep the Ritz vectors of the largest eigenvalues, and the frontier."""
        space = self.space
        ritz = space.ritz()
        space.restart(ritz, np.sort(np.argsort(-np.abs(ritz.values))[: space.capacity // 2]))
        self._order = [row for row in range(space.size) if row not in space.frontier]
        if self._is_definite:
            m = len(self._order)
            self._factor[:m, :m] = np.linalg.cholesky(space.projected(self._order, self._order))

    def _why_they_stay(self, residuals: list[Array], was_wrong: bool) -> str:
        """Tell why true residuals are not small, after solving anew if estimates have said that they are."""
        system = self.system
        if was_wrong:
            # There are products for one round of residuals, and this takes another one.
            if system.run.products + 2 * len(self.columns) > self._end:
                return self._given_up()
            residuals = self._shortest(residuals)
        if (self.norms <= self.goals).all():
            return "converged"
        level = system.A.precision**0.5
        if self.space.is_closed and (self.norms <= np.maximum(self.goals, 1.01 * self._expected)).all():
            # The whole space has been looked at, and no residual in it is shorter.
            level = 10.0
        return judged(system, self.columns, residuals, self.space.scale, level)

    def _given_up(self) -> str:
        """Give up solutions that are worse than none."""
        for j in self.columns:
            if self.system.norms[j] > self.system.lengths[j]:
                self.system.forget(j)
        return "limit"

    def _shortest(self, residuals: list[Array]) -> list[Array]:
        """Solve from zero without eigenvalues of rounding's size; return the residuals of the better solutions."""
        system, norms, x = self.system, self.norms.copy(), [self.system.x[j] for j in self.columns]
        C = self._coordinates([system.forget(j) for j in self.columns])
        self._move(self._without_zeros(C) if self.space.is_closed else self._least(C)[0])
        found = system.residuals(self.columns)
        for i, j in enumerate(self.columns):
            # Where only rounding makes A regular, there are solutions of any length that look a little better.
            if norms[i] < 0.1 * system.norms[j]:
                system.x[j], system.norms[j], found[i] = x[i], norms[i], residuals[i]
        return found
