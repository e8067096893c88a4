"""apply_function: f(A) v from one Krylov space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from specop.arrays.backend import Array, lengths_of, numbers_of
from specop.errors import InvalidInputError
from specop.krylov.known import checked_deflation
from specop.krylov.run import Run
from specop.krylov.space import KrylovSpace
from specop.results.eigen import EigenResult
from specop.results.function import FunctionResult
from specop.spectral.fitting import rows_that_fit
from specop.spectral.goals import Goal, checked_goal
from specop.spectral.scalar_functions import (
    Progress,
    SpectralFunction,
    changed_by_rounding,
    sensitivity,
    spectral_function,
)
from specop.statistics.numbers import Floats

__all__ = ["apply_function"]

_PRODUCTS = 500
# The host squares coordinates of v in float64.
_LONGEST = 1e140
# Relative error by rounding above which a result is not what was asked for in any dtype.
_MOST_ROUNDING = 0.1


def apply_function(
    A: Any,
    f: str | Callable[[Floats], Any],
    v: Array,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    max_matvecs: int | None = None,
    deflate: EigenResult | None = None,
    seed: int = 0,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> FunctionResult:
    r"""Compute a function of a symmetric operator times a vector, f(A) v.

    Lanczos approximation [1]_ :math:`\|v\| V f(T) e_1` from one Krylov space, exact for polynomials of a degree below
    the number of steps. It stops when the error, judged by what the last two quarters of the steps changed, is below
    the goal, or below rounding. For "sign" and "step" also that part of v counts as error which the run so far
    leaves undecided between both sides of the jump.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Symmetric, n x n.
    f : callable or {"sqrt", "inverse_sqrt", "exp", "log", "sign", "step"}
        A callable takes an array of eigenvalues and returns as many values, all finite. "step" is 1 above zero and 0
        elsewhere; for it, "sign" and "sqrt", eigenvalues within rounding of zero are zero.
    v : native vector (n,)
        What f(A) is multiplied by.
    rtol : float, optional
        Goal for the norm of the error, relative to that of the result: at most ``max(atol, rtol |x|)``. With neither,
        ``rtol = 1e-6``.
    atol : float, optional
        Goal for the norm of the error in units of the result.
    max_matvecs : int, optional
        Limit on all products, and so on memory: each takes one row of length n until the end. Default 500. A
        function that needs more, such as "sign" with eigenvalues on both sides near zero, takes fewer with `deflate`.
    deflate : EigenResult, optional
        Known eigenpairs of A, for which f is applied directly. One product shows whether they belong to A; those of
        another matrix are refused.
    seed : int
        Seed of the random vectors that symmetry is checked with; nothing else is random.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.
    raise_on_failure : bool
        Whether to raise NotConvergedError, with the result so far, instead of warning.

    Returns
    -------
    FunctionResult
        ``x`` is the vector, ``error`` its estimated error norm.

    Raises
    ------
    DomainError
        If f is not defined at an eigenvalue that shows: for "log" and "inverse_sqrt" one that is not positive.
    InvalidInputError, AsymmetryError, NondeterministicError, NonFiniteError
    NotConvergedError
        Only with ``raise_on_failure``.

    References
    ----------
    .. [1] Y. Saad, Analysis of some Krylov subspace approximations to the matrix exponential operator, SIAM J. Numer.
       Anal. 29 (1992), 209-228.

    Examples
    --------
    >>> import numpy as np, specop
    >>> A, v = np.diag([1.0, 4.0, 9.0]), np.ones(3)
    >>> specop.apply_function(A, "sqrt", v).x.round(6)
    array([1., 2., 3.])
    """
    limit = _PRODUCTS if max_matvecs is None else max_matvecs
    run = Run(
        A,
        "apply_function",
        symmetric=True,
        limit=limit,
        seed=seed,
        progress=progress,
        raise_on_failure=raise_on_failure,
    )
    function, goal = spectral_function(f), checked_goal(rtol, atol, None, 1e-6)
    with run:
        run.backend.check_vector(v, run.A.domain, "v")
        vectors, known = checked_deflation(run, deflate)
        space = KrylovSpace(run, rows_that_fit(run, min(run.n, len(known) + run.left), len(known) + 8))
        along, rest, length = _split(run, vectors, v)
        if deflate is not None:
            space.hold(vectors, known, deflate.residuals)
        held = along * (function(known, space.error_floor, run.A) if len(known) else known)
        approximation = _Approximation(space, function, length, goal, float(np.linalg.norm(held)))
        if length:
            space.start(rest)
            while not approximation.is_accurate and not space.is_closed and run.left and space.has_room_for(1):
                space.expand()
                run.update(f"error {approximation.error:.1e}")
                approximation.look()
        fixed = sensitivity(function, known, along, np.zeros(0) if deflate is None else deflate.residuals)
        x = space.combine(np.concatenate([held, approximation.found]))
        run.warn_of_noise()
    error = float(np.hypot(np.hypot(approximation.error, approximation.rounding), fixed))
    converged, message = approximation.is_accurate, "converged"
    if converged and error > max(approximation.allowed, _MOST_ROUNDING * approximation.norm):
        converged = False
        message = (
            f"rounding of the products, {space.error_floor:.1e} in eigenvalues, changes f(A) v by about {error:.1e} at "
            f"a norm of {approximation.norm:.3g}: {function.name} has a pole, a jump or an edge at an eigenvalue. "
            f"Shift A so that none is there, such as by A + s * identity_like(A), or raise atol if that is meant."
        )
    elif not converged:
        message = (
            f"apply_function stopped after {run.products} products with an error of about {approximation.error:.1e}, "
            f"where {approximation.allowed:.1e} is asked for. Raise max_matvecs={limit}, rtol or atol, or pass "
            f"deflate= with the eigenpairs next to where f is not smooth."
        )
    return run.result(
        FunctionResult,
        x=x,
        error=error,
        converged=converged,
        message=message,
    )


@dataclass
class _Approximation:
    """The coordinates of f(A) w in the Krylov space of w, and how much they still change."""

    space: KrylovSpace
    function: SpectralFunction
    length: float
    goal: Goal
    known: float
    rounding: float = 0.0

    def __post_init__(self) -> None:
        self.first = self.space.size
        self.found = np.zeros(0)
        self.error = np.inf if self.length else 0.0
        self._progress = Progress()

    @property
    def allowed(self) -> float:
        """Error that is accepted of the whole result, of which eigenpairs gave a part of the norm `known`."""
        return self.goal.tolerance(self.norm)

    @property
    def norm(self) -> float:
        """Norm of the whole result."""
        return float(np.hypot(self.known, np.linalg.norm(self.found)))

    @property
    def is_accurate(self) -> bool:
        """Whether the change is within the goal, or within rounding."""
        return self.error <= max(self.allowed, self.rounding)

    def look(self) -> None:
        """Compute the coordinates and their error anew, if enough has been added since."""
        space = self.space
        closed, steps = space.is_closed, space.steps - self.first
        if not (self._progress.is_due(steps) or space.run.left == 0 or not space.has_room_for(1) or closed):
            return
        ritz = space.ritz(self.first)
        weights = self.length * ritz.coefficients[0]
        values = self.function(ritz.values, space.error_floor, space.run.A)
        self.found = ritz.coefficients @ (values * weights)
        shifted = changed_by_rounding(self.function, ritz.values, weights, space.noise_floor, space.error_floor)
        rounding = steps**0.5 * space.run.A.domain.epsilon * float(np.linalg.norm(self.found))
        self.rounding = float(np.hypot(shifted, rounding))
        self.error = self._progress.error_after(steps, self.found)
        if closed:
            self.error = 0.0
        else:
            open_share = self.function.undecided(space.rule(ritz), space.noise_floor)
            self.error += 2.0 * self.length * open_share**0.5


def _split(run: Run, vectors: list[Array], v: Array) -> tuple[Floats, Array, float]:
    """Return the coordinates of v along orthonormal vectors, what is left of it, and the norm of that, 0 if noise."""
    backend, rest, along = run.backend, run.backend.copy(v), []
    (whole,) = lengths_of(backend, v)
    if not (whole == 0 or 1.0 / _LONGEST < whole < _LONGEST):
        raise InvalidInputError(
            f"v must be finite and of a length that can be squared, but its norm is {whole:.3g}. f(A) v is "
            f"linear in v: divide v by its norm."
        )
    for vector in vectors:
        (overlap,) = numbers_of(backend, backend.dot(vector, rest))
        along.append(overlap)
        rest = backend.axpy_(rest, -overlap, vector)
    (length,) = lengths_of(backend, rest)
    return np.array(along), rest, length if length > 10 * run.A.domain.epsilon * whole else 0.0
