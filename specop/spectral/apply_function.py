"""apply_function: f(A) v from one Krylov space."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specop.arrays.backend import Array
from specop.errors import InvalidInputError
from specop.krylov.gauss import gauss_rule
from specop.krylov.known import checked_deflation
from specop.krylov.progress import progress_bar
from specop.krylov.run import Run
from specop.krylov.space import KrylovSpace
from specop.operators.operator import LinearOperator
from specop.operators.scipy import aslinearoperator
from specop.results.eigen import EigenResult
from specop.results.function import FunctionResult
from specop.results.result import delivered, versions
from specop.spectral.scalar_functions import Progress, SpectralFunction, sensitivity, spectral_function

__all__ = ["apply_function"]

_PRODUCTS = 500
# The host squares coordinates of v in float64.
_LONGEST = 1e140


def apply_function(
    A: Any,
    f: str | Callable[[NDArray[np.float64]], Any],
    v: Array,
    *,
    tol: float = 1e-6,
    max_matvecs: int | None = None,
    deflate: EigenResult | None = None,
    seed: int = 0,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> FunctionResult:
    r"""Compute a function of a symmetric operator times a vector, f(A) v.

    Lanczos approximation [1]_ :math:`\|v\| V f(T) e_1` from one Krylov space, exact for polynomials of a degree below
    the number of steps. It stops when the error, judged by what the last two quarters of the steps changed, is below
    ``tol`` relative, or below rounding. For "sign" and "step" also that part of v counts as error which the run so far
    leaves undecided between both sides of the jump.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Symmetric, n x n.
    f : callable or {"sqrt", "inverse_sqrt", "exp", "log", "sign", "step"}
        A callable takes an array of eigenvalues and returns as many values, all finite. "step" is 1 above zero and 0
        elsewhere; for it, "sign" and "sqrt", eigenvalues within rounding of zero are zero.
    v : native vector (n,)
    tol : float
        Error relative to the norm of the result.
    max_matvecs : int, optional
        Limit on products, and so on memory: each takes one row of length n until the end. Default ``min(n, 500)``. A
        function that needs more, such as "sign" with eigenvalues on both sides near zero, takes fewer with `deflate`.
    deflate : EigenResult, optional
        Known eigenpairs of A, for which f is applied directly. Checked as in `trace`.
    seed : int
        Of nothing but a breakdown; kept with the result.
    progress, raise_on_failure : bool
        As in `eigsh`.

    Returns
    -------
    FunctionResult
        ``x`` is the vector, ``error`` its estimated error norm.

    Raises
    ------
    DomainError
        If f is not defined at an eigenvalue that shows: for "log" and "inverse_sqrt" one that is not positive.
    InvalidInputError, AsymmetryError, NondeterministicError, NonFiniteError, NotConvergedError

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
    started = time.perf_counter()
    operator, function = aslinearoperator(A), spectral_function(f)
    n, backend = operator.shape[0], operator.backend
    if operator.shape[1] != n or operator.is_symmetric is False:
        raise InvalidInputError(f"apply_function needs a symmetric operator, got {operator!r}.")
    backend.check_vector(v, operator.domain, "v")
    if not tol > 0:
        raise InvalidInputError(f"tol must be positive, got {tol!r}.")
    if max_matvecs is not None and max_matvecs < 1:
        raise InvalidInputError(f"max_matvecs must be positive, got {max_matvecs!r}.")
    limit = min(n, _PRODUCTS if max_matvecs is None else int(max_matvecs))
    with Run(operator, "deflate") as checking:
        vectors, known = checked_deflation(checking, deflate)
    spent = checking.products

    with operator.session(), progress_bar(progress, f"{function.name}(A) v") as update:
        space = KrylovSpace(operator, len(known) + limit, 1, seed)
        along, rest, length = _split(operator, vectors, v)
        if deflate is not None:
            space.append_eigenvectors(vectors, known, deflate.residuals)
        values = function(known, space.error_floor, operator) if len(known) else known
        run = _Run(space, function, length)
        if length:
            space.start(rest)
            while not run.is_accurate(tol, values * along) and len(space.frontier) and space.products < limit:
                space.expand(int(space.frontier[-1]))
                update(space.products, f"error {run.error:.1e}")
                run.look(space.products == limit)
        fixed = sensitivity(function, known, along, np.zeros(0) if deflate is None else deflate.residuals)
        size = float(np.hypot(np.linalg.norm(values * along), np.linalg.norm(run.found)))
        converged = run.is_accurate(tol, values * along)
        x = _combined(space, np.concatenate([values * along, run.found]))
        space.warn_of_noise()
    message = "converged"
    if not converged:
        message = (
            f"apply_function stopped after {space.products} products with an error of about {run.error:.1e}, where "
            f"tol={tol:g} allows {tol * size:.1e}. Raise max_matvecs={limit} or tol, or pass deflate= with the "
            f"eigenpairs next to where f is not smooth."
        )
    result = FunctionResult(
        x=x,
        error=float(np.hypot(np.hypot(run.error, run.rounding), fixed)),
        tol=tol,
        matvecs=space.products + spent,
        converged=converged,
        message=message,
        samples=operator.samples,
        seed=seed,
        seconds=time.perf_counter() - started,
        versions=versions(backend.name),
    )
    return delivered(result, raise_on_failure)


class _Run:
    """The coordinates of f(A) w in the Krylov space of w, and how much they still change."""

    def __init__(self, space: KrylovSpace, function: SpectralFunction, length: float) -> None:
        self.space = space
        self.function = function
        self.length = length
        self.first = space.rows
        self.found = np.zeros(0)
        self.error = np.inf if length else 0.0
        self.rounding = 0.0
        self._progress = Progress()

    def look(self, last: bool) -> None:
        """Compute the coordinates and their error anew, if enough has been added since."""
        space = self.space
        closed = len(space.frontier) == 0
        steps = space.rows - self.first - (not closed)
        if not (self._progress.is_due(steps) or last or closed):
            return
        ritz = space.ritz(self.first)
        weights = self.length * ritz.coefficients[0]
        values = self.function(ritz.values, space.noise_floor, space.A)
        self.found = ritz.coefficients @ (values * weights)
        shifts = np.full(steps, space.noise_floor)
        rounding = steps**0.5 * space.A.domain.epsilon * float(np.linalg.norm(self.found))
        self.rounding = float(np.hypot(sensitivity(self.function, ritz.values, weights, shifts), rounding))
        self.error = self._progress.error_after(steps, self.found)
        if closed:
            self.error = 0.0
        else:
            open_share = self.function.undecided(gauss_rule(space, ritz), space.noise_floor)
            self.error += 2.0 * self.length * open_share**0.5

    def is_accurate(self, tol: float, known: NDArray[np.float64]) -> bool:
        """Whether the change is within tolerance of the whole result, or within rounding."""
        size = float(np.hypot(np.linalg.norm(known), np.linalg.norm(self.found)))
        return self.error <= max(tol * size, self.rounding)


def _split(operator: LinearOperator, vectors: list[Array], v: Array) -> tuple[NDArray[np.float64], Array, float]:
    """Return the coordinates of v along orthonormal vectors, what is left of it, and the norm of that, 0 if noise."""
    backend, rest, along = operator.backend, operator.backend.copy(v), []
    (whole,) = backend.to_host(backend.norm(v))
    if not (whole == 0 or 1.0 / _LONGEST < whole < _LONGEST):
        raise InvalidInputError(
            f"v must be finite and of a length that can be squared, but its norm is {float(whole):.3g}. f(A) v is "
            f"linear in v: divide v by its norm."
        )
    for vector in vectors:
        (overlap,) = backend.to_host(backend.dot(vector, rest))
        along.append(float(overlap))
        rest = backend.axpy_(rest, -float(overlap), vector)
    (length,) = backend.to_host(backend.norm(rest))
    if length <= 10 * operator.domain.epsilon * whole:
        length = np.zeros(())
    return np.array(along, dtype=np.float64), rest, float(length)


def _combined(space: KrylovSpace, coordinates: NDArray[np.float64]) -> Array:
    """Return the sum of the rows with these coordinates, and give up the space."""
    if len(coordinates) == 0:
        return space.backend.zeros(space.A.domain)
    basis = space.backend.combine_(space.basis, coordinates[:, None], 0)
    return space.backend.index(space.backend.take(basis, 1), 0)
