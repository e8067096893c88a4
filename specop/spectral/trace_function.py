"""trace_function, logdet and effective_dimension: sums of a function over the spectrum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specop.arrays import probes as probe_vectors
from specop.errors import InvalidInputError
from specop.krylov.known import checked_deflation
from specop.krylov.run import Run
from specop.krylov.space import LARGEST_BASIS, KrylovSpace
from specop.results.eigen import EigenResult
from specop.results.quadrature import QuadratureResult
from specop.spectral.scalar_functions import Progress, SpectralFunction, sensitivity, spectral_function
from specop.statistics.estimate import Estimate, estimate_from_samples

__all__ = ["effective_dimension", "logdet", "trace_function"]

_STAGE = 8
_PRODUCTS = 2000
_METHODS = ("auto", "quadrature", "exact")
# Quadrature may be off by this share of the standard error that is asked for.
_QUADRATURE_SHARE = 0.25


def trace_function(
    A: Any,
    f: str | Callable[[NDArray[np.float64]], Any] | SpectralFunction,
    *,
    method: str = "auto",
    rtol: float | None = None,
    atol: float | None = None,
    max_matvecs: int | None = None,
    deflate: EigenResult | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> QuadratureResult:
    r"""Estimate trace(f(A)), the sum of a function over the eigenvalues of a symmetric operator.

    Stochastic Lanczos quadrature [1]_: for a random v on the sphere of radius :math:`\sqrt n`, :math:`v^\top f(A) v`
    has the mean trace(f(A)) and is integrated by the Gauss rule of a Lanczos run from v. Each run goes on until its
    last two quarters changed little; runs are added in stages of eight until the standard error is small enough.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Symmetric, n x n.
    f : callable or {"sqrt", "inverse_sqrt", "exp", "log", "sign", "step"}
        As in `apply_function`.
    method : {"auto", "quadrature", "exact"}
        "exact" finds all eigenvalues by n products and a basis of n rows. "auto" does so where the first stage shows
        that quadrature would take more products, and for n up to 200 at once.
    rtol, atol : float, optional
        Stop when standard error and quadrature error together are at most ``max(atol, rtol |estimate|)``. With neither,
        ``rtol = 0.02``.
    max_matvecs : int, optional
        Limit on products; default 2000.
    deflate : EigenResult, optional
        Known eigenpairs of A, which enter exactly. Checked as in `trace`.
    confidence : float
        Of the interval.
    seed : int
        Of the probes.
    progress, raise_on_failure : bool
        As in `eigsh`.

    Returns
    -------
    QuadratureResult

    Raises
    ------
    DomainError
        If f is not defined at an eigenvalue that shows.
    InvalidInputError, AsymmetryError, NondeterministicError, NonFiniteError, NotConvergedError

    References
    ----------
    .. [1] S. Ubaru, J. Chen and Y. Saad, Fast estimation of tr(f(A)) via stochastic Lanczos quadrature, SIAM J. Matrix
       Anal. Appl. 38 (2017), 1075-1099.

    Examples
    --------
    >>> import numpy as np, specop
    >>> round(specop.trace_function(np.diag([1.0, 4.0, 9.0]), "sqrt").estimate, 9)
    6.0
    """
    run = Run(A, "trace_function", symmetric=True, seed=seed, progress=progress, raise_on_failure=raise_on_failure)
    n, function = run.n, spectral_function(f)
    if method not in _METHODS:
        raise InvalidInputError(f"method must be one of {', '.join(_METHODS)}, got {method!r}.")
    if not 0 < confidence < 1:
        raise InvalidInputError(f"confidence must lie between 0 and 1, got {confidence!r}.")
    tolerance = _Tolerance.checked(rtol, atol)
    limit = _checked_limit(method, n, max_matvecs)

    with run:
        vectors, known = checked_deflation(run, deflate)
        if method == "exact" or (method == "auto" and n <= min(_STAGE * 25, limit)):
            sums = _exact(run, function, confidence)
        else:
            run.limit = run.products + limit
            space = KrylovSpace(run, len(known) + min(n, limit))
            if deflate is not None:
                space.hold(vectors, known, deflate.residuals)
            sums = _quadrature(space, function, known, tolerance, confidence, method == "auto")
            run.warn_of_noise()
    converged, message = tolerance.accepts(sums.value, sums.error), sums.message
    if not converged and sums.method == "exact":
        message = (
            f"all eigenvalues were found, but their rounding leaves an error of {sums.error:.1e} at "
            f"{sums.value.estimate:.6g}, above what rtol and atol allow. Pass an atol; a sum near zero has no digits."
        )
    return run.result(
        QuadratureResult,
        quantity=f"trace {function.name}",
        estimate=sums.value.estimate,
        standard_error=sums.value.standard_error,
        quadrature_error=sums.error,
        interval=(sums.value.interval[0] - sums.error, sums.value.interval[1] + sums.error),
        confidence=confidence,
        method=sums.method,
        estimates=sums.samples,
        steps=sums.steps,
        converged=converged,
        message=message,
    )


def logdet(A: Any, **options: Any) -> QuadratureResult:
    """Estimate the logarithm of the determinant of a positive definite operator, trace(log(A)).

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Symmetric positive definite, such as ``H + damping * identity_like(H)``.
    **options
        Those of `trace_function`. The logarithm may be near zero: then `atol` says what is wanted.

    Returns
    -------
    QuadratureResult

    Raises
    ------
    DomainError
        If a negative or zero eigenvalue shows.

    Examples
    --------
    >>> import numpy as np, specop
    >>> round(specop.logdet(np.diag([1.0, 2.0, 4.0])).estimate, 6)
    2.079442
    """
    return trace_function(A, "log", **options)


def effective_dimension(A: Any, damping: float, **options: Any) -> QuadratureResult:
    r"""Estimate :math:`\operatorname{tr} A (A + d I)^{-1}`: how many directions have a curvature above the damping d.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Symmetric; no eigenvalue may be at or below ``-damping``.
    damping : float
        Positive.
    **options
        Those of `trace_function`.

    Returns
    -------
    QuadratureResult

    Raises
    ------
    DomainError
        If an eigenvalue at or below ``-damping`` shows.

    Examples
    --------
    >>> import numpy as np, specop
    >>> round(specop.effective_dimension(np.diag([0.0, 1.0, 3.0]), damping=1.0).estimate, 9)
    1.25
    """
    if not 0 < damping < np.inf:
        raise InvalidInputError(f"damping must be positive and finite, got {damping!r}.")
    damped = SpectralFunction(f"x / (x + {damping:g})", lambda x: x / (x + damping), "positive", -damping)
    return trace_function(A, damped, **options)


@dataclass(frozen=True)
class _Tolerance:
    """What standard error and quadrature error may add up to."""

    relative: float
    absolute: float

    @classmethod
    def checked(cls, rtol: float | None, atol: float | None) -> _Tolerance:
        for name, value in (("rtol", rtol), ("atol", atol)):
            if value is not None and not value >= 0:
                raise InvalidInputError(f"{name} must be a number >= 0, got {value!r}.")
        return cls(0.02 if rtol is None and atol is None else rtol or 0.0, atol or 0.0)

    def at(self, estimate: float) -> float:
        return max(self.absolute, self.relative * abs(estimate))

    def accepts(self, value: Estimate, quadrature_error: float) -> bool:
        return value.standard_error + quadrature_error <= self.at(value.estimate)


@dataclass(frozen=True)
class _Sums:
    value: Estimate
    error: float
    samples: NDArray[np.float64]
    steps: int
    method: str
    message: str


def _checked_limit(method: str, n: int, max_matvecs: int | None) -> int:
    if max_matvecs is not None and max_matvecs < 1:
        raise InvalidInputError(f"max_matvecs must be positive, got {max_matvecs!r}.")
    if method == "exact" and max_matvecs is not None and max_matvecs < n:
        raise InvalidInputError(f"method='exact' takes n={n} products, above max_matvecs={max_matvecs}.")
    if method == "exact" and n * n > LARGEST_BASIS:
        raise InvalidInputError(f"method='exact' holds n={n} vectors; that is too much. Use method='quadrature'.")
    return _PRODUCTS if max_matvecs is None else int(max_matvecs)


def _exact(run: Run, function: SpectralFunction, confidence: float) -> _Sums:
    n = run.n
    space = KrylovSpace(run, n)
    values = space.complete()
    run.warn_of_noise()
    total = float(function(values, space.error_floor, run.A).sum())
    error = sensitivity(function, values, np.full(n, 1.0), np.full(n, space.noise_floor))
    value = Estimate(total, 0.0, (total, total), confidence)
    return _Sums(value, error, np.zeros(0), n, "exact", "all eigenvalues were found")


def _quadrature(
    space: KrylovSpace,
    function: SpectralFunction,
    known: NDArray[np.float64],
    tolerance: _Tolerance,
    confidence: float,
    may_turn_exact: bool,
) -> _Sums:
    run, n = space.run, space.n
    certain = float(function(known, space.error_floor, run.A).sum())
    samples, errors, longest = np.zeros(0), np.zeros(0), 0
    if len(known) == n:
        value = Estimate(certain, 0.0, (certain, certain), confidence)
        return _Sums(value, 0.0, samples, 0, "exact", "all eigenvalues were given")
    most, begun = max(1, run.left // _STAGE), run.products
    while True:
        one = _Probe(space, function, certain, n - len(known), tolerance, min(most, run.left))
        vector = probe_vectors.sphere(run.backend, run.A.domain, run.seed, len(samples))
        rule = space.probe(vector, one.is_accurate)
        longest = max(longest, len(rule.nodes))
        samples, errors = np.append(samples, one.estimate), np.append(errors, one.error)
        value, error = estimate_from_samples(samples, confidence), float(errors.mean())
        run.update(f"{value.estimate:.5g} +- {value.standard_error:.2g}")
        complete = len(samples) % _STAGE == 0
        if complete and tolerance.accepts(value, error):
            message = "standard error and quadrature error are within tolerance"
            break
        if complete and may_turn_exact and n * n <= LARGEST_BASIS and n <= run.left:
            spread = value.standard_error / max(tolerance.at(value.estimate), 1e-300)
            if (run.products - begun) * (spread**2 - 1.0) > n:
                return _exact(run, function, confidence)
        if longest > run.left or run.left == 0:
            message = (
                f"trace_function stopped after {run.products} products with a standard error of "
                f"{value.standard_error:.3g} and a quadrature error of about {error:.2g} at {value.estimate:.6g}. "
                f"Raise max_matvecs={run.limit}, rtol or atol, or pass deflate=specop.eigsh(A) to take the largest "
                f"eigenvalues out."
            )
            break
    return _Sums(value, error, samples, longest, "quadrature", message)


class _Probe:
    """What the Gauss rule of a growing Lanczos run gives for the sum, and how much that still changes."""

    def __init__(
        self,
        space: KrylovSpace,
        function: SpectralFunction,
        certain: float,
        dimension: int,
        tolerance: _Tolerance,
        most: int,
    ) -> None:
        self.space = space
        self.function = function
        self.certain = certain
        self.dimension = dimension
        self.tolerance = tolerance
        self.most = most
        self.first = space.size
        self.estimate = np.nan
        self.error = np.inf
        self._progress = Progress()

    def is_accurate(self, steps: int) -> bool:
        """Take the sum after this many steps; whether it may be the last."""
        space = self.space
        closed = space.is_closed
        if not (self._progress.is_due(steps) or steps >= self.most or closed):
            return False
        rule = space.rule(space.ritz(self.first))
        values = self.function(rule.nodes, space.noise_floor, space.run.A)
        self.estimate = self.certain + self.dimension * float(rule.weights @ values)
        self.error = self._progress.error_after(steps, np.array([self.estimate]))
        self.error += 2.0 * self.dimension * self.function.undecided(rule, space.noise_floor)
        if closed:
            self.error = 0.0
        shifts = np.full(len(values), space.noise_floor)
        rounding = sensitivity(self.function, rule.nodes, self.dimension * rule.weights, shifts)
        allowed = _QUADRATURE_SHARE * self.tolerance.at(self.estimate)
        return self.error <= max(allowed, rounding) or steps >= self.most
