"""Linear systems in one Krylov space that is kept orthogonal, shared by several right-hand sides."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from specop.arrays.backend import Array
from specop.krylov.run import Run
from specop.krylov.space import KrylovSpace
from specop.solvers.equations import Equations, Outcome

__all__ = ["ProjectedSystem", "columns_at_once"]

# A basis of so many entries is small next to any model's data.
_ENTRIES = 40_000_000
_FEWEST_ROWS, _MOST_ROWS, _MOST_COLUMNS = 40, 500, 8


class ProjectedSystem:
    r"""Solutions of some columns from one Krylov space, which grows until all are exact enough.

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

    Parameters
    ----------
    system : Equations
    columns : range
        At most `columns_at_once`.
    seed : int
        Of nothing but a breakdown.

    References
    ----------
    .. [1] A. Abdel-Rehim, R. Morgan, D. Nicely and W. Wilcox, Deflated and restarted symmetric Lanczos methods for
       eigenvalues and linear equations with multiple right-hand sides, SIAM J. Sci. Comput. 32 (2010), 129-149.
    """

    def __init__(self, system: Equations, columns: range, seed: int) -> None:
        self.system = system
        self.columns = columns
        self.run = Run(system.operator, "solve", seed=seed)
        self.space = KrylovSpace(self.run, _rows_for(system.operator.shape[0]))
        self.curvature: float | None = None
        self.direction: Array | None = None
        self._order: list[int] = []
        self._factor = np.zeros((self.space.capacity, self.space.capacity))
        self._is_definite = True

    def solve(self, allowance: int) -> Outcome:
        """Improve the solutions until their true residuals are small; `allowance` is the most products.

        Where the reason is "full", the norms of the true residuals are not up to date.
        """
        system, space, columns = self.system, self.space, self.columns
        here = slice(columns.start, columns.stop)
        goals, last, previous = system.goals[here], system.products + allowance - len(columns), np.inf
        residuals = [system.begin(j) for j in columns]
        while (system.norms[here] > goals).any():
            if not space.has_room_for(2 * len(columns)):
                self._cut_down()
            included = [space.include(residual) for residual in residuals]
            C = np.stack([np.pad(c, (0, space.size - len(c))) for c in included], axis=1)
            end, Y = self._reduce(C, goals, last)
            for j, y in zip(columns, Y.T, strict=True):
                if y.any():
                    coordinates = np.zeros(space.size)
                    coordinates[self._order] = y
                    system.move(j, 1.0, space.combine(coordinates))
            if end == "full" and not self._is_definite:
                return self._outcome(end)
            residuals = system.residuals(columns)
            excess = float(np.max(system.norms[here] / np.maximum(goals, np.finfo(float).tiny)))
            if excess <= 1:
                break
            if end == "limit":
                return self._outcome(end)
            if end == "stationary" or (end == "goal" and excess > 0.5 * previous):
                return self._outcome(self._judged(residuals))
            if end == "goal":
                previous = excess
        return self._outcome("converged")

    def _outcome(self, reason: str) -> Outcome:
        return Outcome(reason, self.run.products, self.curvature, self.direction)

    def _judged(self, residuals: list[Array]) -> str:
        """Tell whether the residual farthest from its goal is the least one, or what rounding leaves of zero."""
        system, here = self.system, slice(self.columns.start, self.columns.stop)
        worst = int(np.argmax(system.norms[here] - system.goals[here]))
        (image,) = system.scalars(system.backend.norm(system.multiply(residuals[worst])))
        scale = self.space.scale * float(system.norms[here][worst])
        return "least squares" if image <= system.operator.precision**0.5 * scale else "rounding"

    def _reduce(self, C: NDArray[np.float64], goals: NDArray[np.float64], last: int) -> tuple[str, NDArray[np.float64]]:
        """Take products until the estimates of the residuals reach their goals; return why it ended, and Y."""
        space, system, due = self.space, self.system, 0
        while True:
            frontier = space.frontier
            is_last, is_full = system.products >= last, not space.has_room_for(1)
            if len(self._order) >= due or is_last or is_full or space.is_closed:
                Y, left = self._projected_solution(C)
                norms = np.linalg.norm(left, axis=0)
                system.report(norms, goals)
                if (norms <= goals).all():
                    return "goal", Y
                closed = space.is_closed
                if closed or (not self._is_definite and self._is_stationary(left[:, norms > goals])):
                    return "stationary", Y
                if is_last or is_full:
                    return "limit" if is_last else "full", Y
                # Least squares cost a factorization at each look.
                due = len(self._order) + (1 if self._is_definite else 1 + len(self._order) // 20)
                needed = np.abs(left[:, norms > goals]).max(axis=1)
            # Rows that are new since the last look come after those that had a weight then.
            weights = np.pad(needed, (0, space.size - len(needed)))
            row = int(frontier[np.argmax(weights[frontier])])
            space.expand(row)
            system.products += 1
            self._append(row)
            C = np.pad(C, ((0, space.size - len(C)), (0, 0)))

    def _append(self, row: int) -> None:
        """Add a row that was multiplied to the Cholesky factor of the projected matrix, if that is definite."""
        m, space = len(self._order), self.space
        if self._is_definite:
            beside, column = np.zeros(0), space.projected(columns=[row])[:, 0]
            if m:
                known = column[self._order]
                beside = scipy.linalg.solve_triangular(self._factor[:m, :m], known, lower=True, check_finite=False)
            square = float(column[row] - beside @ beside)
            if square > self._rounding * space.scale:
                self._factor[m, :m], self._factor[m, m] = beside, square**0.5
            else:
                self._is_definite = False
                self._note_curvature()
        self._order.append(row)

    @property
    def _rounding(self) -> float:
        """What counts as zero beside the norm of A."""
        return float(10 * (1 + len(self._order) ** 0.5) * self.run.A.precision)

    def _note_curvature(self) -> None:
        """Keep the Ritz vector of the lowest Ritz value, if that is not positive."""
        ritz = self.space.ritz()
        zero = self._rounding * self.space.scale
        if ritz.values[0] > zero:
            return
        self.curvature = float(ritz.values[0]) if ritz.values[0] < -zero else 0.0
        coordinates = np.zeros(self.space.size)
        coordinates[ritz.rows] = ritz.coefficients[:, 0]
        self.direction = self.space.combine(coordinates)

    def _projected_solution(self, C: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return Y, and the coordinates of the residuals that V_M'Y leaves, along all rows."""
        m = len(self._order)
        if m == 0:
            return np.zeros((0, C.shape[1])), C
        columns = self.space.projected(slice(len(C)), self._order)
        if self._is_definite:
            Y = scipy.linalg.cho_solve((self._factor[:m, :m], True), C[self._order], check_finite=False)
        else:
            # What rounding has made of a zero would only lengthen Y.
            Y = scipy.linalg.lstsq(columns, C, cond=self._rounding, lapack_driver="gelsy", check_finite=False)[0]
        return Y, C - columns @ Y

    def _is_stationary(self, left: NDArray[np.float64]) -> bool:
        """Whether A times least residuals is zero to rounding."""
        space, frontier = self.space, self.space.frontier
        beyond = np.linalg.norm(space.projected(frontier, self._order) @ left[self._order], axis=0)
        unknown = space.scale * np.linalg.norm(left[frontier], axis=0)
        zero = self._rounding * space.scale * np.linalg.norm(left, axis=0)
        return bool((beyond + unknown <= zero).all())

    def _cut_down(self) -> None:
        """Keep the Ritz vectors of the largest eigenvalues, and the frontier."""
        space = self.space
        ritz = space.ritz()
        space.restart(ritz, np.sort(np.argsort(-np.abs(ritz.values))[: space.capacity // 2]))
        self._order = [row for row in range(space.size) if row not in space.frontier]
        if self._is_definite:
            m = len(self._order)
            self._factor[:m, :m] = np.linalg.cholesky(space.projected(self._order, self._order))


def columns_at_once(n: int) -> int:
    """Return how many columns may share a space: as many as leave each the rows that pay, none if there are too few."""
    return min(_MOST_COLUMNS, min(_MOST_ROWS, _ENTRIES // n) // _FEWEST_ROWS)


def _rows_for(n: int) -> int:
    return min(n, _MOST_ROWS, max(_FEWEST_ROWS, _ENTRIES // n))
