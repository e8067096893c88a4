"""Minimal residuals (MINRES) for symmetric systems that need not be definite."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from specop.arrays.backend import Array
from specop.errors import InvalidInputError
from specop.solvers.equations import Equations, Outcome
from specop.solvers.least_squares import judged

__all__ = ["minimal_residuals"]

# Multiples of the square root of a rounding; see _stationary.
_STATIONARY = 10.0
# By which factor A r has grown when it is over with a solution that is getting better.
_RISE = 100.0


def minimal_residuals(system: Equations, column: int, allowance: int) -> Outcome:
    r"""Improve the solution of one column until its true residual is small.

    The Lanczos vectors of the residual are combined so that :math:`\|b - A x\|` is least [1]_, with a preconditioner
    in the norm that belongs to it. Beside x the residual itself is carried along,
    :math:`r_k = s_k^2 r_{k-1} - c_k \bar\varphi_k v_{k+1}`, so that the test is of its Euclidean norm with any
    preconditioner. When the recurrence has reached its goal the residual is computed anew, and the run begins again
    from there as long as that helps.

    Parameters
    ----------
    system : Equations
    column : int
    allowance : int
        Largest number of products.

    Returns
    -------
    Outcome
        "least squares" if A is singular and b not in its range: no x has a smaller residual.

    References
    ----------
    .. [1] C. C. Paige and M. A. Saunders, Solution of sparse indefinite systems of linear equations, SIAM J. Numer.
       Anal. 12 (1975), 617-629.
    """
    # One product for the residual at the end, one for A times it.
    run, last = system.run, system.run.products + allowance - 2
    residual, goal = system.begin(column), float(system.goals[column])
    norm, steps = float(system.norms[column]), 0
    while norm > goal:
        if run.products >= last:
            if norm > system.lengths[column]:
                system.forget(column)
            return Outcome("limit", steps)
        previous = norm
        recurrence = _Recurrence(system, residual, norm)
        recurrence.reduce(goal, last)
        system.move(column, 1.0, recurrence.x)
        steps += recurrence.steps
        residual = system.residual(column)
        norm = float(system.norms[column])
        system.check_symmetry(column, residual, recurrence.vector, recurrence.image)
        has_ended = recurrence.is_finished or recurrence.norm <= goal
        if norm > goal and (recurrence.is_stationary or (has_ended and norm > 0.5 * previous)):
            # A solution that is worse than none is not returned.
            residual = residual if norm <= system.lengths[column] else system.forget(column)
            return _judged(system, column, residual, recurrence, steps, last)
    return Outcome("converged", steps)


def _judged(system: Equations, column: int, residual: Array, recurrence: _Recurrence, steps: int, last: int) -> Outcome:
    """Tell why a residual stays; of a least-squares solution, make the one of least norm.

    Where A times the residual is not quite zero, the way there has brought a part of the range back into the residual.
    It is removed by another run, whose vectors have nothing along the null vector.
    """
    backend, z = system.backend, system.backend.copy(residual)
    reason = judged(system, range(column, column + 1), [residual], recurrence.scale, _stationary(system))
    if reason == "least squares" and system.preconditioner is None and system.run.products + 2 < last:
        rest = system.residual(column)
        along, square = system.scalars(backend.dot(z, rest), backend.dot(z, z))
        rest = backend.axpy_(rest, -along / square, z)
        (left,) = system.scalars(backend.norm(rest))
        if left > system.goals[column]:
            again = _Recurrence(system, rest, left)
            again.reduce(float(system.goals[column]), last)
            system.move(column, 1.0, again.x)
            steps += again.steps
            system.residual(column)
    return Outcome(reason, steps)


def _stationary(system: Equations) -> float:
    """Return the length of A r, relative to that of A and r, that rounding leaves of zero at a least-squares solution.

    The recurrence takes it down to about the square root of a rounding, and then up again.
    """
    return float(_STATIONARY * system.A.precision**0.5)


@dataclass(frozen=True)
class _Turn:
    """Where A r was shortest beside r, in a run whose residual cannot become zero.

    Attributes
    ----------
    stationarity : float
        Length of A r over those of A and r.
    norm : float
        Norm of r.
    x : native vector
    length : float
        Length of x.
    """

    stationarity: float
    norm: float
    x: Array
    length: float


class _Recurrence:
    """The Lanczos recurrence from one residual, with the rotations that minimize its norm.

    Attributes
    ----------
    x : native vector
        What has to be added to the solution. Its own length tells what rounding adds to the residual, so that a later
        run gets closer to the solution than the first one.
    norm : float
        Norm of the residual, as the recurrence has it.
    scale : float
        About the norm of A, or of A with its preconditioner.
    is_stationary : bool
        Whether A times the residual is zero to rounding, although the residual is not; `x` is then put back to where
        it was shortest.
    is_finished : bool
        Whether there is nothing more to gain.
    vector, image : native vectors
        The latest Lanczos vector, and A times it.
    """

    def __init__(self, system: Equations, residual: Array, norm: float) -> None:
        backend = system.backend
        self.system = system
        self.x = backend.zeros(system.A.domain)
        self.norm = norm
        self.scale = 0.0
        self.steps = 0
        self.is_finished = self.is_stationary = False
        self.vector = self.image = residual
        self._residual = backend.copy(residual)
        self._before, self._dual = backend.zeros(system.A.domain), backend.copy(residual)
        self._primal, self._beta = self._preconditioned(self._dual)
        self._old_beta = 0.0
        self._rest = self._beta
        self._cosine, self._sine = -1.0, 0.0
        self._below = self._corner = 0.0
        self._older, self._w = (backend.zeros(system.A.domain) for _ in range(2))
        self._turn: _Turn | None = None
        self._length = 0.0

    def reduce(self, goal: float, last: int) -> None:
        """Take steps until the residual is small, there is nothing more to gain, or the last product was made."""
        while not self.is_finished and self.norm > goal and self.system.run.products < last:
            self.step()
            self.system.report(np.array([self.norm]), np.array([goal]))

    def step(self) -> None:
        """Take one product, and move the solution."""
        system, backend = self.system, self.system.backend
        self.steps += 1
        v = backend.scale_(self._primal, 1.0 / self._beta)
        image = system.run.multiply(v)
        self.vector, self.image = v, backend.copy(image)
        if self.steps > 1:
            image = backend.axpy_(image, -self._beta / self._old_beta, self._before)
        (alpha,) = system.scalars(backend.dot(v, image))
        image = backend.axpy_(image, -alpha / self._beta, self._dual)
        self._before, self._dual, self._old_beta = self._dual, image, self._beta
        self._primal, self._beta = self._preconditioned(self._dual)
        self.scale = max(self.scale, math.hypot(self._old_beta * (self.steps > 1), alpha, self._beta))

        old_corner = self._corner
        delta = self._cosine * self._below + self._sine * alpha
        diagonal = self._sine * self._below - self._cosine * alpha
        self._corner = self._sine * self._beta
        self._below = -self._cosine * self._beta
        gamma = float(np.hypot(diagonal, self._beta))
        zero = 10 * (1 + self.steps**0.5) * system.A.precision * self.scale
        # A r of the residual so far has this length over that of r.
        slope = float(np.hypot(diagonal, self._below))
        if slope <= zero or gamma <= zero:
            self.is_finished = self.is_stationary = True
            return
        self._look_back(slope / self.scale)
        if self.is_finished:
            return
        self._cosine, self._sine = diagonal / gamma, self._beta / gamma
        advance, self._rest = self._cosine * self._rest, self._sine * self._rest

        w = backend.axpy_(backend.copy(v), -delta, self._w)
        w = backend.scale_(backend.axpy_(w, -old_corner, self._older), 1.0 / gamma)
        self._older, self._w = self._w, w
        self.x = backend.axpy_(self.x, advance, w)
        self._residual = backend.scale_(self._residual, self._sine**2)
        if self._beta > 10 * system.A.domain.epsilon * self.scale:
            self._residual = backend.axpy_(self._residual, -self._cosine * self._rest / self._beta, self._dual)
        else:
            # The Krylov space is exhausted, and with it what can be gained.
            self.is_finished = True
        self.norm, self._length = system.scalars(backend.norm(self._residual), backend.norm(self.x))
        # In a singular system x grows along what A maps to zero, and a step may claim that it has solved what no x
        # solves; that x has become longer than its digits are many shows that it has not.
        turn, rounding = self._turn, system.A.precision * self._length
        if turn is not None and rounding > max(system.A.precision**0.5 * turn.length, 0.1 * turn.norm / self.scale):
            self._return_to(turn)

    def _look_back(self, stationarity: float) -> None:
        """Keep the point where A r is shortest, and go back there when A r grows again while r stays as it is."""
        turn = self._turn
        if stationarity <= _stationary(self.system) and (turn is None or stationarity < 0.5 * turn.stationarity):
            x = self.system.backend.copy(self.x)
            self._turn = _Turn(stationarity, self.norm, x, self._length)
        elif turn is not None and stationarity > _RISE * turn.stationarity and self.norm > 0.99 * turn.norm:
            self._return_to(turn)

    def _return_to(self, turn: _Turn) -> None:
        self.x = turn.x
        self.norm = turn.norm
        self.is_finished = self.is_stationary = True

    def _preconditioned(self, dual: Array) -> tuple[Array, float]:
        """Return M times a vector, and the length of the vector in the norm of M."""
        system = self.system
        primal = system.precondition(dual)
        if system.preconditioner is None:
            (length,) = system.scalars(system.backend.norm(dual))
            return primal, length
        (square,) = system.scalars(system.backend.dot(dual, primal))
        if square < 0 or (square == 0 and self.steps == 0):
            raise InvalidInputError(
                f"the preconditioner {system.preconditioner!r} is not positive definite: r'M r = {square:.3g} after "
                f"{system.run.products} products. MINRES needs one that is; for known eigenpairs "
                f"specop.eigen_preconditioner makes one."
            )
        return primal, float(square**0.5)
