"""newton: minimize a smooth function by Newton steps, damped where it is not convex."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from specop.arrays.backend import Array, backend_of, lengths_of, numbers_of
from specop.errors import NonFiniteError, NotConvergedError
from specop.operators.identity import identity_like
from specop.operators.operator import LinearOperator
from specop.results.solve import SolveResult
from specop.solvers.solve import solve

__all__ = ["Minimum", "newton"]

# Steps tried from one point, each with more damping: the last is shorter than rounding.
_TRIES = 40
# A step is taken if it reduces the function by this share of what its model promised.
_ENOUGH = 1e-4


@dataclass(frozen=True)
class Minimum:
    """Where Newton's method ended, and what it took.

    Attributes
    ----------
    x : native vector
    value : float
    gradient_norms : tuple of float
        At the start and after each step.
    matvecs, gradients, values : int
        Products with second derivatives, gradients and function values.
    converged : bool
        Whether the last gradient is as small as was asked for.
    message : str
        Why the iteration stopped.
    """

    x: Array
    value: float
    gradient_norms: tuple[float, ...]
    matvecs: int
    gradients: int
    values: int
    converged: bool
    message: str


def newton(
    value: Callable[[Array], float],
    gradient: Callable[[Array], Array],
    hessian: Callable[[Array], LinearOperator],
    start: Array,
    *,
    gtol: float,
    max_steps: int,
    rtol: float,
    max_matvecs: int | None = None,
    seed: int = 0,
) -> Minimum:
    r"""Minimize a function until its gradient is small.

    .. math:: x \leftarrow x + p, \quad (\nabla^2 f(x) + \sigma I) \, p = -\nabla f(x)

    with the solve by `specop.solve`. :math:`\sigma` is zero as long as the second derivatives are positive definite and
    the function falls as its quadratic model says; it grows with the most negative curvature seen and where the model
    fails, and is given up again where it holds (Levenberg and Marquardt [1]_). Close to the minimum, where rounding of
    function values hides their fall, a step counts if it makes the gradient shorter.

    Parameters
    ----------
    value : callable
        ``value(x)``, the function at a native vector, as a float.
    gradient : callable
        ``gradient(x)``, its gradient there, as a native vector in fresh storage.
    hessian : callable
        ``hessian(x)``, a symmetric operator: the second derivatives there, or what stands for them.
    start : native vector
        Vector to begin with.
    gtol : float
        Norm of the gradient to reach.
    max_steps : int
        Largest number of steps.
    rtol : float
        Goal for the residual of each step's solve, relative to the norm of the gradient.
    max_matvecs : int, optional
        Limit on all products with second derivatives; without one each solve has the default limit of `solve`.
    seed : int
        Seed of the random vectors that a solve needs after a breakdown.

    Returns
    -------
    Minimum

    References
    ----------
    .. [1] J. Nocedal and S. J. Wright, Numerical Optimization (2006), section 10.3 and chapter 7.
    """
    run = _Run(value, gradient, hessian, backend_of(start).copy(start), rtol, max_matvecs, seed)
    message = f"the limit of {max_steps} steps is reached"
    for _ in range(max_steps):
        if run.norms[-1] <= gtol:
            break
        if not run.step(gtol):
            message = (
                f"the limit of {max_matvecs} products is reached"
                if run.is_spent
                else (
                    f"no step makes the function smaller or its gradient shorter: rounding in {run.layout.dtype}, or a "
                    f"function that is not smooth, allows no less"
                )
            )
            break
    is_small = run.norms[-1] <= gtol
    return Minimum(
        x=run.x,
        value=run.level,
        gradient_norms=tuple(run.norms),
        matvecs=run.matvecs,
        gradients=run.gradients,
        values=run.values,
        converged=is_small,
        message="converged" if is_small else message,
    )


@dataclass
class _Run:
    """The present point, what is known there, and the costs so far."""

    value: Callable[[Array], float]
    gradient: Callable[[Array], Array]
    hessian: Callable[[Array], LinearOperator]
    x: Array
    rtol: float
    max_matvecs: int | None
    seed: int
    shift: float = 0.0
    matvecs: int = 0
    gradients: int = 0
    values: int = 0

    def __post_init__(self) -> None:
        self.backend = backend_of(self.x)
        self.layout = self.backend.layout(self.x)
        self.level = self._value_at(self.x)
        if not np.isfinite(self.level):
            raise NonFiniteError("the function is not finite at the start.")
        self.slope, norm = self._gradient_at(self.x)
        self.norms = [norm]

    @property
    def is_spent(self) -> bool:
        """Whether too few products are left for a solve."""
        return self.max_matvecs is not None and self.max_matvecs - self.matvecs < 2

    def step(self, gtol: float) -> bool:
        """Move to a better point; return whether there was one."""
        backend, layout = self.backend, self.layout
        hessian = self.hessian(self.x)
        rhs = backend.scale_(backend.copy(self.slope), -1.0)
        rtol = min(0.5, max(self.rtol, 0.3 * gtol / self.norms[-1]))
        noise = 10 * max(hessian.precision, layout.epsilon) * abs(self.level)
        for _ in range(_TRIES):
            if self.is_spent:
                return False
            found = self._solve(hessian, rhs, rtol)
            p = found.solution
            downhill, length = numbers_of(backend, backend.dot(rhs, p), backend.norm(p))
            if found.curvature is not None or not downhill > 0:
                self._stiffen(max(-2.0 * (found.curvature or 0.0), self._scale(length)))
                continue
            # The residual of a Galerkin solution is orthogonal to it, so that p'(H + shift) p = p'b.
            promised = 0.5 * (downhill + self.shift * length**2)
            trial = backend.axpy_(backend.copy(p), 1.0, self.x)
            level = self._value_at(trial)
            fall = self.level - level
            if promised > noise and fall < _ENOUGH * promised:
                self._stiffen(downhill / length**2)
                continue
            slope, norm = self._gradient_at(trial)
            if promised <= noise and not norm < self.norms[-1]:
                return False
            if fall > 0.75 * promised or promised <= noise:
                # Given up for good once it is small beside the curvature along the step.
                self.shift = 0.0 if self.shift < 1e-3 * downhill / length**2 else 0.1 * self.shift
            elif fall < 0.25 * promised:
                self._stiffen(0.1 * downhill / length**2)
            self.x, self.level, self.slope = trial, level, slope
            self.norms.append(norm)
            return True
        return False

    def _solve(self, hessian: LinearOperator, rhs: Array, rtol: float) -> SolveResult:
        operator = hessian + self.shift * identity_like(hessian) if self.shift else hessian
        left = None if self.max_matvecs is None else self.max_matvecs - self.matvecs
        try:
            result = solve(operator, rhs, rtol=rtol, max_matvecs=left, seed=self.seed, raise_on_failure=True)
        except NotConvergedError as error:
            # An inexact step is a step: what it is worth shows in the function.
            result = error.result
        self.matvecs += result.matvecs
        return result

    def _stiffen(self, least: float) -> None:
        self.shift = max(4.0 * self.shift, least)

    def _scale(self, length: float) -> float:
        """Return a shift that is small beside the curvature behind the last step, but not beside its rounding."""
        return self.layout.epsilon**0.5 * self.norms[-1] / length if length > 0 else self.layout.epsilon**0.5

    def _value_at(self, x: Array) -> float:
        self.values += 1
        try:
            return self.value(x)
        except NonFiniteError:
            # Too long a step; a shorter one is tried.
            return float("inf")

    def _gradient_at(self, x: Array) -> tuple[Array, float]:
        self.gradients += 1
        gradient = self.gradient(x)
        (norm,) = lengths_of(self.backend, gradient)
        if not np.isfinite(norm):
            raise NonFiniteError("the gradient holds NaN or infinity. Check the data, and the loss for log(0).")
        return gradient, norm
