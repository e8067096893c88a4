"""Randomized estimates of what a matrix sums to: the trace."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specop import probes
from specop.backend import Array
from specop.errors import ConvergenceWarning, InvalidInputError, NonFiniteError, NotConvergedError
from specop.exchange import eigenvectors_for
from specop.operators.base import LinearOperator
from specop.operators.interop import aslinearoperator
from specop.progress import progress_bar
from specop.results import EigenResult, Estimate, TraceResult, estimate_from_samples, versions

__all__ = ["checked_deflation", "trace"]

_STAGE = 8
_METHODS = ("auto", "hutchinson", "exact")


def trace(
    A: Any,
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
) -> TraceResult:
    r"""Estimate the trace of a square operator, with a confidence interval.

    Hutchinson's estimator [1]_ with Rademacher probes,

    .. math:: \operatorname{tr} A \approx \frac1s \sum_{i=1}^s z_i^\top A z_i,

    whose variance per probe is :math:`2(\|A\|_F^2 - \sum_i a_{ii}^2)` for a symmetric A. Probes are drawn in stages
    of eight until the standard error, not the running mean, is small enough.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Square, n x n.
    method : {"auto", "hutchinson", "exact"}
        "exact" multiplies n unit vectors. "auto" does so where that takes no more products than one stage.
    rtol, atol : float, optional
        Stop when the standard error is at most ``max(atol, rtol |estimate|)``. With neither, ``rtol = 0.02``, or the
        whole of `max_matvecs` if that is given.
    max_matvecs : int, optional
        Limit on products; default 1000.
    deflate : EigenResult, optional
        Known eigenpairs of A, from whatever framework or file. Their eigenvalues enter exactly, and only the rest is
        estimated, whose variance is much smaller if they are the largest.
    confidence : float
        Of the interval.
    seed : int
        Of the probes.
    progress, raise_on_failure : bool
        As in `eigsh`.

    Returns
    -------
    TraceResult

    Raises
    ------
    InvalidInputError, NonFiniteError, NotConvergedError

    References
    ----------
    .. [1] M. F. Hutchinson, A stochastic estimator of the trace of the influence matrix for Laplacian smoothing
       splines, Commun. Stat. Simul. Comput. 18 (1989), 1059-1076.

    Examples
    --------
    >>> import numpy as np, specop
    >>> rng = np.random.default_rng(0)
    >>> G = rng.normal(size=(200, 200)) / 200**0.5
    >>> result = specop.trace(G @ G.T, rtol=0.05)
    >>> low, high = result.interval
    >>> low < np.trace(G @ G.T) < high
    True
    """
    started = time.perf_counter()
    operator = aslinearoperator(A)
    if operator.shape[0] != operator.shape[1]:
        raise InvalidInputError(f"only a square operator has a trace, got shape {operator.shape}.")
    probes.check_seed(seed)
    known = checked_deflation(operator, deflate)
    accept, limit = _stopping_rule(rtol, atol, max_matvecs)
    if not 0 < confidence < 1:
        raise InvalidInputError(f"confidence must lie between 0 and 1, got {confidence!r}.")
    if method not in _METHODS:
        raise InvalidInputError(f"method must be one of {', '.join(_METHODS)}, got {method!r}.")
    n = operator.shape[0]
    exact = method == "exact" or (method == "auto" and n <= _STAGE and n <= limit)
    if exact and n > limit:
        raise InvalidInputError(f"method='exact' takes n={n} products, above max_matvecs={limit}.")

    with operator.session(), progress_bar(progress, "trace", n if exact else None) as update:
        if exact:
            # The mean of n times the diagonal is the trace; there is nothing random about it.
            diagonal = _samples(operator, range(n), lambda i: _unit_vector(operator, i), known)
            samples, total = n * diagonal + known[1].sum(), float(diagonal.sum() + known[1].sum())
            value, message = Estimate(total, 0.0, (total, total), confidence), "exact"
            update(n, "")
        else:
            samples, value, message = _hutchinson(operator, known, seed, confidence, accept, limit, update)
    result = TraceResult(
        estimate=value.estimate,
        standard_error=value.standard_error,
        interval=value.interval,
        confidence=confidence,
        method="exact" if exact else "hutchinson",
        probes=samples,
        matvecs=len(samples),
        converged=accept is None or exact or accept(value),
        message=message,
        samples=operator.samples,
        seed=seed,
        seconds=time.perf_counter() - started,
        versions=versions(operator.backend.name),
    )
    if not result.converged:
        if raise_on_failure:
            raise NotConvergedError(message, result)
        warnings.warn(message, ConvergenceWarning, stacklevel=2)
    return result


def checked_deflation(operator: LinearOperator, deflate: EigenResult | None) -> tuple[list[Array], NDArray[np.float64]]:
    """Return the known eigenvectors and eigenvalues after a look at whether they belong to this operator."""
    if deflate is None:
        return [], np.zeros(0)
    if not isinstance(deflate, EigenResult):
        raise InvalidInputError(f"deflate must be an EigenResult of the same operator, got {type(deflate).__name__}.")
    return eigenvectors_for(deflate, operator.backend, operator.domain, "deflate"), deflate.eigenvalues


def _stopping_rule(
    rtol: float | None, atol: float | None, max_matvecs: int | None
) -> tuple[Callable[[Estimate], bool] | None, int]:
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None and not value >= 0:
            raise InvalidInputError(f"{name} must be a number >= 0, got {value!r}.")
    if max_matvecs is not None and max_matvecs < 1:
        raise InvalidInputError(f"max_matvecs must be positive, got {max_matvecs!r}.")
    if rtol is None and atol is None:
        if max_matvecs is not None:
            return None, int(max_matvecs)
        rtol = 0.02
    relative, absolute = rtol or 0.0, atol or 0.0

    def accept(value: Estimate) -> bool:
        return value.standard_error <= max(absolute, relative * abs(value.estimate))

    return accept, 1000 if max_matvecs is None else int(max_matvecs)


def _hutchinson(
    operator: LinearOperator,
    known: tuple[list[Array], NDArray[np.float64]],
    seed: int,
    confidence: float,
    accept: Callable[[Estimate], bool] | None,
    limit: int,
    update: Callable[[int, str], None],
) -> tuple[NDArray[np.float64], Estimate, str]:
    samples = np.zeros(0)
    while True:
        stage = range(len(samples), min(len(samples) + _STAGE, limit))
        drawn = _samples(
            operator, stage, lambda i: probes.rademacher(operator.backend, operator.domain, seed, i), known
        )
        samples = np.concatenate([samples, drawn + known[1].sum()])
        value = estimate_from_samples(samples, confidence)
        update(len(samples), f"{value.estimate:.5g} +- {value.standard_error:.2g}")
        if accept is not None and len(samples) >= _STAGE and accept(value):
            return samples, value, "the standard error is within tolerance"
        if len(samples) >= limit:
            if accept is None:
                return samples, value, f"used the {limit} products it was given"
            return (
                samples,
                value,
                (
                    f"trace stopped after {limit} products with a standard error of {value.standard_error:.3g} at "
                    f"{value.estimate:.6g}. Raise max_matvecs or rtol, or pass deflate=specop.eigsh(A) to take the "
                    f"largest eigenvalues out."
                ),
            )


def _samples(
    operator: LinearOperator,
    indices: range,
    draw: Callable[[int], Array],
    known: tuple[list[Array], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Return z'(I - UU') A (I - UU') z for each probe z, with one transfer for all."""
    backend, values = operator.backend, []
    for i in indices:
        probe = draw(i)
        for vector in known[0]:
            (overlap,) = backend.to_host(backend.dot(vector, probe))
            probe = backend.axpy_(probe, -float(overlap), vector)
        values.append(backend.dot(probe, operator._matvec(probe)))
    found = np.array([float(value) for value in backend.to_host(*values)])
    if not np.isfinite(found).all():
        first = indices[int(np.flatnonzero(~np.isfinite(found))[0])]
        raise NonFiniteError(
            f"product {first + 1} with {operator!r} holds NaN or infinity. Check the parameters and the data for NaN, "
            f"and the loss for overflow."
        )
    return found


def _unit_vector(operator: LinearOperator, i: int) -> Array:
    entries = np.zeros(operator.shape[0], dtype=operator.dtype)
    entries[i] = 1.0
    return operator.backend.from_host(entries, operator.domain)
