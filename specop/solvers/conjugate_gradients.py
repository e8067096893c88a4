"""Conjugate gradients for one right-hand side or several that share their search directions."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from specop.arrays.backend import Array, Basis, add_
from specop.solvers.equations import Equations, Outcome
from specop.statistics.numbers import Floats

__all__ = ["conjugate_gradients"]


def conjugate_gradients(system: Equations, columns: range, allowance: int) -> Outcome:
    r"""Improve the solutions of some columns until their true residuals are small.

    With orthonormal directions P, Q = A P and G = P'Q, a step is

    .. math:: X \mathrel{+}= P G^{-1} P^\top R, \quad R \mathrel{-}= Q G^{-1} P^\top R, \quad
              P \leftarrow \mathrm{orth}(M R - P G^{-1} Q^\top M R).

    For one column this is the method of Hestenes and Stiefel. For several it is block conjugate gradients [1]_: each
    solution comes from the Krylov spaces of all, and directions that depend on each other are dropped, which keeps the
    recurrence from breaking down [2]_. Both coefficients are computed from P, Q, R and M R as they are, so a step is
    the best along P whatever rounding, a new residual or a preconditioner that varies have done before.

    The residual of the recurrence drifts away from the true one. That is computed anew when the recurrence's has
    changed by the square root of the rounding error, and when it has reached its goal; symmetry is looked at then.

    Parameters
    ----------
    system : Equations
    columns : range
        Columns that share directions.
    allowance : int
        Largest number of products.

    Returns
    -------
    Outcome
        Where the reason is "curvature", the norms of the true residuals are not up to date.

    References
    ----------
    .. [1] D. P. O'Leary, The block conjugate gradient algorithm and related methods, Linear Algebra Appl. 29 (1980),
       293-322.
    .. [2] H. Ji and Y. Li, A breakdown-free block conjugate gradient method, BIT 57 (2017), 379-403.
    """
    goals = system.goals[columns]
    # The true residuals at the end are products too.
    last = system.run.products + allowance - len(columns)
    directions = _Directions(system, len(columns))
    residuals = system.residuals(columns)
    norms = known = system.norms[columns]
    if (norms <= goals).all():
        return Outcome("converged", 0)
    P = directions.orthonormal([system.precondition(r) for r in residuals])
    largest, claimed, steps = 0.0, np.inf, 0
    drift = system.A.domain.epsilon**0.5
    while P and system.run.products + len(P) <= last:
        Q = [system.run.multiply(p) for p in P]
        steps += 1
        G, along = np.split(directions.products(P, Q + residuals), [len(Q)], axis=1)
        values, vectors = scipy.linalg.eigh((G + G.T) / 2, check_finite=False)
        largest = max(largest, float(np.abs(values).max()))
        zero = system.A.precision * largest
        if values[0] <= zero:
            curvature = float(values[0]) if values[0] < -zero else 0.0
            return Outcome(
                "curvature",
                steps,
                curvature,
                add_(system.backend, system.backend.zeros(system.A.domain), vectors[:, 0], P),
            )
        G_inverse = (vectors / values) @ vectors.T
        change = G_inverse @ along
        for j, column in enumerate(columns):
            for i, p in enumerate(P):
                system.move(column, float(change[i, j]), p)
            residuals[j] = add_(system.backend, residuals[j], -change[:, j], Q)
        norms = system.scalars(*(system.backend.norm(r) for r in residuals))
        system.report(norms, goals)
        claims = bool((norms <= goals).all())
        is_far = (norms <= drift * known).all() or (norms * drift > known).any()
        if claims or is_far:
            residuals = system.residuals(columns)
            norms = known = system.norms[columns]
            system.check_symmetry(columns[0], residuals[0], P[0], Q[0])
            if (norms <= goals).all():
                return Outcome("converged", steps)
            if claims:
                worst = float(np.max(norms / np.maximum(goals, np.finfo(float).tiny)))
                if worst > 0.5 * claimed:
                    return Outcome("rounding", steps)
                claimed = worst
        Z = [system.precondition(r) for r in residuals]
        back = -G_inverse @ directions.products(Q, Z)
        P = directions.orthonormal([add_(system.backend, z, column, P) for z, column in zip(Z, back.T, strict=True)])
    system.residuals(columns)
    reached = (system.norms[columns] <= goals).all()
    return Outcome("converged" if reached else "limit" if P else "rounding", steps)


class _Directions:
    """Small matrices of inner products between lists of vectors, and orthonormal bases of their spans."""

    def __init__(self, system: Equations, count: int) -> None:
        self.system = system
        self.backend = system.backend
        self._basis: Basis = self.backend.allocate(system.A.domain, count, count) if count > 1 else None

    def products(self, left: list[Array], right: list[Array]) -> Floats:
        """Return the inner products of all vectors on the left with all on the right."""
        pairs = [self.backend.dot(x, y) for x in left for y in right]
        return self.system.scalars(*pairs).reshape(len(left), len(right))

    def orthonormal(self, vectors: list[Array]) -> list[Array]:
        """Return an orthonormal basis of the span of vectors, which are consumed."""
        lengths = self.system.scalars(*(self.backend.norm(vector) for vector in vectors))
        units = [
            self.backend.scale_(vector, 1.0 / length)
            for vector, length in zip(vectors, lengths, strict=True)
            if length > 0
        ]
        if len(vectors) == 1:
            return units
        rows, smallest = 0, 100 * self.system.A.domain.epsilon
        for unit in units:
            unit, _, _, beta = self.backend.orthogonalize_(unit, self._basis, rows, ())
            # What is left after much was removed needs a second pass.
            unit, _, _, again = self.backend.orthogonalize_(unit, self._basis, rows, ())
            first, left = self.system.scalars(beta, again)
            if min(first, left) > smallest:
                self._basis = self.backend.set_row_(self._basis, rows, unit, 1.0 / left)
                rows += 1
        return [self.backend.row(self._basis, i) for i in range(rows)]
