"""trace_function, logdet and effective_dimension: sums of a function over the spectrum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from specop.errors import check_choice, checked_number
from specop.krylov.run import Run
from specop.operators.scipy import aslinearoperator
from specop.results.eigen import EigenResult
from specop.results.quadrature import QuadratureResult
from specop.spectral.goals import checked_goal
from specop.spectral.quadrature import sum_over_spectrum
from specop.spectral.scalar_functions import SpectralFunction, spectral_function
from specop.statistics.estimate import check_confidence
from specop.statistics.numbers import Floats

__all__ = ["effective_dimension", "logdet", "trace_function"]

_PRODUCTS = 2000
_METHODS = ("auto", "quadrature", "exact")


def trace_function(
    A: Any,
    f: str | Callable[[Floats], Any] | SpectralFunction,
    *,
    method: str = "auto",
    rtol: float | None = None,
    atol: float | None = None,
    max_matvecs: int | None = None,
    deflate: EigenResult | None = None,
    stored_basis: bool | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> QuadratureResult:
    r"""Estimate trace(f(A)), the sum of a function over the eigenvalues of a symmetric operator.

    Stochastic Lanczos quadrature [1]_: for a random v on the sphere of radius :math:`\sqrt n`, :math:`v^\top f(A) v`
    has the mean trace(f(A)) and is integrated by the Gauss rule of a Lanczos run from v. Each run goes on until its
    last two quarters changed little; runs are added in stages of eight until the standard error is small enough. It has
    an allowance for skewness where one value of f dominates, as that of `trace` has.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Symmetric, n x n.
    f : callable or {"sqrt", "inverse_sqrt", "exp", "log", "sign", "step"}
        What to sum. A callable takes an array of eigenvalues and returns as many values, all finite. "step" is 1 above
        zero and 0 elsewhere; for it, "sign" and "sqrt", eigenvalues within rounding of zero are zero.
    method : {"auto", "quadrature", "exact"}
        "exact" finds all eigenvalues by n products and a basis of n rows. "auto" does so for n up to 200, and where
        the probes show that quadrature would take more products or would leave too few for it.
    rtol : float, optional
        Goal for standard error and quadrature error together, relative to the estimate: at most
        ``max(atol, rtol |estimate|)``. With neither, ``rtol = 0.02``.
    atol : float, optional
        Goal for both errors in units of the sum; what a sum near zero needs.
    max_matvecs : int, optional
        Limit on all products; default 2000.
    deflate : EigenResult, optional
        Known eigenpairs of A, which enter exactly. One product shows whether they belong to A; those of another matrix
        are refused.
    stored_basis : bool, optional
        Whether to hold a vector for each step of a run, or three in all. Default: whether they fit into the memory that
        is free on the device; the result says where they did not. Three take somewhat more products, know eigenvalues
        less exactly, which enters the error, and refuse what that leaves open: "sign", "step", "exact", and "log" next
        to zero.
    confidence : float
        Probability with which the interval covers the sum.
    seed : int
        Seed of the probes. The same seed gives the same bits.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.
    raise_on_failure : bool
        Whether to raise NotConvergedError, with the result so far, instead of warning.

    Returns
    -------
    QuadratureResult

    Raises
    ------
    DomainError
        If f is not defined at an eigenvalue that shows.
    InvalidInputError, AsymmetryError, NondeterministicError, NonFiniteError
    NotConvergedError
        Only with ``raise_on_failure``.

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
    # What "exact" takes is known beforehand.
    limit = _PRODUCTS if max_matvecs is None and method != "exact" else max_matvecs
    run = Run(
        A,
        "trace_function",
        symmetric=True,
        limit=limit,
        seed=seed,
        progress=progress,
        raise_on_failure=raise_on_failure,
    )
    check_choice("method", method, _METHODS)
    check_confidence(confidence)
    function, goal = spectral_function(f), checked_goal(rtol, atol, None, 0.02)
    with run:
        sums = sum_over_spectrum(run, function, goal, method, deflate, stored_basis, confidence)
        run.warn_of_noise()
    low, high = sums.value.interval
    converged, message = goal.accepts(sums.value.estimate, sums.value.standard_error + sums.error), sums.message
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
        interval=(low - sums.error, high + sums.error),
        confidence=confidence,
        method=sums.method,
        estimates=sums.samples,
        steps=sums.steps,
        converged=converged,
        message=message,
    )


def logdet(
    A: Any,
    *,
    method: str = "auto",
    rtol: float | None = None,
    atol: float | None = None,
    max_matvecs: int | None = None,
    deflate: EigenResult | None = None,
    stored_basis: bool | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> QuadratureResult:
    """Estimate the logarithm of the determinant of a positive definite operator, trace(log(A)).

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Symmetric positive definite, such as ``H + damping * identity_like(H)``.
    method : {"auto", "quadrature", "exact"}
        "exact" finds all eigenvalues by n products and a basis of n rows. "auto" does so for n up to 200, and where
        the probes show that quadrature would take more products or would leave too few for it.
    rtol : float, optional
        Goal for standard error and quadrature error together, relative to the estimate: at most
        ``max(atol, rtol |estimate|)``. With neither, ``rtol = 0.02``.
    atol : float, optional
        Goal for both errors in units of the sum; what a sum near zero needs.
    max_matvecs : int, optional
        Limit on all products; default 2000.
    deflate : EigenResult, optional
        Known eigenpairs of A, which enter exactly. One product shows whether they belong to A; those of another matrix
        are refused.
    stored_basis : bool, optional
        Whether to hold a vector for each step of a run, or three in all. Default: whether they fit into the memory that
        is free on the device; the result says where they did not. Three take somewhat more products, know eigenvalues
        less exactly, which enters the error, and refuse what that leaves open: "sign", "step", "exact", and "log" next
        to zero.
    confidence : float
        Probability with which the interval covers the sum.
    seed : int
        Seed of the probes. The same seed gives the same bits.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.
    raise_on_failure : bool
        Whether to raise NotConvergedError, with the result so far, instead of warning.

    Returns
    -------
    QuadratureResult

    Raises
    ------
    DomainError
        If a negative or zero eigenvalue shows.
    InvalidInputError, AsymmetryError, NondeterministicError, NonFiniteError
    NotConvergedError
        Only with ``raise_on_failure``.

    Examples
    --------
    >>> import numpy as np, specop
    >>> round(specop.logdet(np.diag([1.0, 2.0, 4.0])).estimate, 6)
    2.079442
    """
    return trace_function(
        A,
        "log",
        method=method,
        rtol=rtol,
        atol=atol,
        max_matvecs=max_matvecs,
        deflate=deflate,
        stored_basis=stored_basis,
        confidence=confidence,
        seed=seed,
        progress=progress,
        raise_on_failure=raise_on_failure,
    )


def effective_dimension(
    A: Any,
    *,
    damping: float,
    method: str = "auto",
    rtol: float | None = None,
    atol: float | None = None,
    max_matvecs: int | None = None,
    deflate: EigenResult | None = None,
    stored_basis: bool | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> QuadratureResult:
    r"""Estimate :math:`\operatorname{tr} A (A + d I)^{-1}`: how many directions have a curvature above the damping d.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Symmetric; no eigenvalue may be at or below ``-damping``.
    damping : float
        Positive number in units of A that is added to it.
    method : {"auto", "quadrature", "exact"}
        "exact" finds all eigenvalues by n products and a basis of n rows. "auto" does so for n up to 200, and where
        the probes show that quadrature would take more products or would leave too few for it.
    rtol : float, optional
        Goal for standard error and quadrature error together, relative to the estimate: at most
        ``max(atol, rtol |estimate|)``. With neither, ``rtol = 0.02``.
    atol : float, optional
        Goal for both errors in units of the sum; what a sum near zero needs.
    max_matvecs : int, optional
        Limit on all products; default 2000.
    deflate : EigenResult, optional
        Known eigenpairs of A, which enter exactly. One product shows whether they belong to A; those of another matrix
        are refused.
    stored_basis : bool, optional
        Whether to hold a vector for each step of a run, or three in all. Default: whether they fit into the memory that
        is free on the device; the result says where they did not. Three take somewhat more products, know eigenvalues
        less exactly, which enters the error, and refuse what that leaves open: "sign", "step", "exact", and "log" next
        to zero.
    confidence : float
        Probability with which the interval covers the sum.
    seed : int
        Seed of the probes. The same seed gives the same bits.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.
    raise_on_failure : bool
        Whether to raise NotConvergedError, with the result so far, instead of warning.

    Returns
    -------
    QuadratureResult

    Raises
    ------
    DomainError
        If an eigenvalue at or below ``-damping`` shows.
    InvalidInputError, AsymmetryError, NondeterministicError, NonFiniteError
    NotConvergedError
        Only with ``raise_on_failure``.

    Examples
    --------
    >>> import numpy as np, specop
    >>> round(specop.effective_dimension(np.diag([0.0, 1.0, 3.0]), damping=1.0).estimate, 9)
    1.25
    """
    operator = aslinearoperator(A)
    operator.processes.agree()
    damping = checked_number("damping", damping, positive=True)
    damped = SpectralFunction(f"x / (x + {damping:g})", lambda x: x / (x + damping), "positive", -damping)
    return trace_function(
        operator,
        damped,
        method=method,
        rtol=rtol,
        atol=atol,
        max_matvecs=max_matvecs,
        deflate=deflate,
        stored_basis=stored_basis,
        confidence=confidence,
        seed=seed,
        progress=progress,
        raise_on_failure=raise_on_failure,
    )
