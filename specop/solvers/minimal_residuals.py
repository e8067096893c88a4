"""Minimal residuals (MINRES) for symmetric systems that need not be definite."""

from __future__ import annotations

import numpy as np

from specop.backend import Array
from specop.errors import InvalidInputError
from specop.solvers.equations import Equations, Outcome

__all__ = ["minimal_residuals"]


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
        Most products.

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
    last = system.products + allowance - 2
    only, goal = range(column, column + 1), float(system.goals[column])
    residual = system.begin(column)
    norm = float(system.norms[column])
    steps, previous, run = 0, np.inf, None
    while norm > goal:
        if norm > 0.5 * previous or (run is not None and run.is_stationary):
            # A solution that is worse than none is not returned.
            residual = system.begin(column)
            return Outcome(_judged(system, column, residual, run), steps)
        if system.products >= last:
            return Outcome("limit", steps)
        previous = norm
        run = _Run(system, column, residual, norm)
        while not run.is_finished and run.norm > goal and system.products < last:
            run.step()
            system.report(np.array([run.norm]), np.array([goal]))
        steps += run.steps
        (residual,) = system.residuals(only)
        norm = float(system.norms[column])
        system.check_symmetry(column, residual, run.vector, run.image)
    return Outcome("converged", steps)


def _judged(system: Equations, column: int, residual: Array, run: _Run | None) -> str:
    """Tell whether a residual that stays is the least one, or what rounding leaves of zero."""
    (image,) = system.scalars(system.backend.norm(system.multiply(residual)))
    scale = (0.0 if run is None else run.scale) * float(system.norms[column])
    return "least squares" if image <= system.operator.precision**0.5 * scale else "rounding"


class _Run:
    """The Lanczos recurrence from one residual, with the rotations that minimize its norm.

    Attributes
    ----------
    norm : float
        Of the residual, as the recurrence has it.
    scale : float
        About the norm of A, or of A with its preconditioner.
    is_stationary : bool
        Whether A times the residual is zero to rounding, although the residual is not.
    is_finished : bool
        Whether there is nothing more to gain.
    vector, image : native vectors
        The latest Lanczos vector, and A times it.
    """

    def __init__(self, system: Equations, column: int, residual: Array, norm: float) -> None:
        backend = system.backend
        self.system = system
        self.column = column
        self.norm = norm
        self.scale = 0.0
        self.steps = 0
        self.is_finished = self.is_stationary = False
        self.vector = self.image = residual
        self._residual = backend.copy(residual)
        self._before, self._dual = backend.zeros(system.operator.domain), backend.copy(residual)
        self._primal, self._beta = self._preconditioned(self._dual)
        self._old_beta = 0.0
        self._rest = self._beta
        self._cosine, self._sine = -1.0, 0.0
        self._below = self._corner = 0.0
        self._older, self._w = (backend.zeros(system.operator.domain) for _ in range(2))

    def step(self) -> None:
        """Take one product, and move the solution."""
        system, backend = self.system, self.system.backend
        self.steps += 1
        v = backend.scale_(self._primal, 1.0 / self._beta)
        image = system.multiply(v)
        self.vector, self.image = v, backend.copy(image)
        if self.steps > 1:
            image = backend.axpy_(image, -self._beta / self._old_beta, self._before)
        (alpha,) = system.scalars(backend.dot(v, image))
        image = backend.axpy_(image, -alpha / self._beta, self._dual)
        self._before, self._dual, self._old_beta = self._dual, image, self._beta
        self._primal, self._beta = self._preconditioned(self._dual)
        self.scale = max(self.scale, float(np.linalg.norm([self._old_beta * (self.steps > 1), alpha, self._beta])))

        old_corner = self._corner
        delta = self._cosine * self._below + self._sine * alpha
        diagonal = self._sine * self._below - self._cosine * alpha
        self._corner = self._sine * self._beta
        self._below = -self._cosine * self._beta
        # A r of the residual so far has this length over that of r.
        gamma = float(np.hypot(diagonal, self._beta))
        zero = 10 * (1 + self.steps**0.5) * system.operator.precision * self.scale
        if np.hypot(diagonal, self._below) <= zero or gamma <= zero:
            self.is_finished = self.is_stationary = True
            return
        self._cosine, self._sine = diagonal / gamma, self._beta / gamma
        advance, self._rest = self._cosine * self._rest, self._sine * self._rest

        w = backend.axpy_(backend.copy(v), -delta, self._w)
        w = backend.scale_(backend.axpy_(w, -old_corner, self._older), 1.0 / gamma)
        self._older, self._w = self._w, w
        system.move(self.column, advance, w)
        self._residual = backend.scale_(self._residual, self._sine**2)
        if self._beta > 10 * system.operator.domain.epsilon * self.scale:
            self._residual = backend.axpy_(self._residual, -self._cosine * self._rest / self._beta, self._dual)
        else:
            # The Krylov space is exhausted, and with it what can be gained.
            self.is_finished = True
        self.norm, length = system.scalars(backend.norm(self._residual), backend.norm(system.x[self.column]))
        # In a singular system x grows along what A maps to zero, until its rounding is all that is left.
        if system.preconditioner is None and system.operator.precision * self.scale * length > 10 * self.norm:
            self.is_finished = True

    def _preconditioned(self, dual: Array) -> tuple[Array, float]:
        """Return M times a vector, and the length of the vector in the norm of M."""
        system = self.system
        primal = system.precondition(dual)
        (square,) = system.scalars(system.backend.dot(dual, primal))
        if square < 0 or (square == 0 and self.steps == 0):
            raise InvalidInputError(
                f"the preconditioner {system.preconditioner!r} is not positive definite: r'M r = {square:.3g} after "
                f"{system.products} products. MINRES needs one that is; for known eigenpairs "
                f"specop.eigen_preconditioner makes one."
            )
        return primal, float(square**0.5)
