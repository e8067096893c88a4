"""spectral_norm and condition_number, from the outermost eigenvalues and their bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from specop.arrays.backend import Array
from specop.errors import InvalidInputError, NotConvergedError, check_choice, checked_number
from specop.krylov.run import Run
from specop.operators.operator import Composite
from specop.results.eigen import EigenResult
from specop.results.norm import NormResult
from specop.spectral.eigsh import eigsh
from specop.spectral.frobenius_norm import frobenius_norm
from specop.spectral.part.eigenpairs import pairs_of_part
from specop.spectral.part.ends import Asked
from specop.spectral.part.part import DATA
from specop.statistics.estimate import Estimate, check_confidence

__all__ = ["condition_number", "spectral_norm"]


def spectral_norm(
    A: Any,
    *,
    tol: float = 1e-3,
    rtol: float | None = None,
    data: str = "all",
    max_matvecs: int | None = None,
    confidence: float = 0.99,
    seed: int = 0,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> NormResult:
    r"""Compute the largest singular value of an operator: for a symmetric one the largest size of an eigenvalue.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Operator of any shape. Unless it is known to be symmetric, A.T @ A is used, each of whose products counts two.
    tol : float
        Relative residual of the eigenvalue, whose error is about the square of that.
    rtol : float, optional
        Goal for the standard error, relative to the norm, with ``data="part"`` alone; default 0.02.
    data : {"all", "part"}
        Whether every product is to be that of all data samples. "part" is for an A that is a mean over samples, as
        ``objective.hessian()``, ``ggn()`` and ``fisher()`` are: for the Hessian near a minimum the norm is its largest
        eigenvalue. Two parts A and B are drawn, the samples of most curvature first, as in `specop.trace`. For a unit
        vector v that does not depend on B

        .. math:: |v^\top H v| \le \|H\| \le E \|H_A\|, \quad v^\top H v = E[v^\top H_B v],

        so that the eigenvectors of each part on the other, and the norms of both, enclose the norm of H on average.
        Samples beside both parts, along the eigenvectors alone, lessen the chance of both, and parts grow where their
        distance is what is left, until the goal is met. The interval is one for the norm of H on all samples,
        `confidence` its probability, and `sampling_error` the chance of the choice. `tol` counts where all samples are
        taken; parts of less than about 800 samples are not looked at.
    max_matvecs : int, optional
        Limit on products with A and A.T; default 1000 with a symmetric A, else 2000.
    confidence : float
        Probability with which the check notices an eigenvalue that is larger than the one found.
    seed : int
        Seed of the random vectors. The same seed gives the same bits.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.
    raise_on_failure : bool
        Whether to raise NotConvergedError, with the result so far, instead of warning.

    Returns
    -------
    NormResult
        The norm, whose interval comes from the bound of the eigenvalue; nothing in it is random but the check.

    Raises
    ------
    InvalidInputError, AsymmetryError, NondeterministicError, NonFiniteError
    NotConvergedError
        Only with ``raise_on_failure``.

    Examples
    --------
    >>> import numpy as np, specop
    >>> round(specop.spectral_norm(np.array([[3.0, 0.0], [4.0, 0.0]])).estimate, 9)
    5.0
    """
    run = Run(A, "spectral_norm", limit=max_matvecs, seed=seed, progress=progress, raise_on_failure=raise_on_failure)
    check_choice("data", data, DATA)
    check_confidence(confidence)
    if data == "part":
        return _of_part(run, 0.02 if rtol is None else rtol, tol, confidence)
    if rtol is not None:
        raise InvalidInputError("rtol= is for data='part': with all data the error of the norm is about tol**2.")
    with run:
        symmetric = bool(run.A.is_symmetric)
        limit = None if max_matvecs is None else max_matvecs if symmetric else max_matvecs // 2
        eigen = _outermost(
            run.A if symmetric else _Gram(run), 1, "LM" if symmetric else "LA", tol, limit, confidence, seed
        )
        value, above = abs(float(eigen.eigenvalues[0])), float(eigen.bounds[0])
        below = min(above, float(eigen.residuals[0]))
        if value == 0 and not symmetric:
            # A.T @ A vanishes where A is zero, or so small that its squares are.
            size = frobenius_norm(run.A, method="hutchinson", max_matvecs=1, seed=seed).estimate
            run.check_size(size, squared=True)
    found = np.array([value, max(0.0, value - below), value + above])
    value, low, high = (float(x) for x in (found if symmetric else np.sqrt(found)))
    return _result(run, "spectral norm", value, (low, high), eigen, confidence)


def _of_part(run: Run, rtol: float, tol: float, confidence: float) -> NormResult:
    checked_number("rtol", rtol, positive=True)
    asked = Asked(1, "LM", tol, rtol, confidence, eigsh)
    with run:
        if run.A.sample_mean is not None and not run.A.is_symmetric:
            raise InvalidInputError(f"data='part' needs a symmetric mean over samples, got {run.A!r}.")
        found = pairs_of_part(run, asked)
    if found is None:
        value, sampling_error, used = Estimate(float("nan"), float("nan"), (0.0, np.inf), confidence), float("nan"), 0
    else:
        value, sampling_error, used = _size(found.values[0]), float(found.sampling_errors[0]), found.samples_used
    converged = found is not None and not found.is_limited and found.worst <= rtol
    message = f"{used} of {run.samples} samples"
    if not converged:
        message = (
            f"spectral_norm stopped after {run.products} products with a standard error of {value.standard_error:.3g} "
            f"at {value.estimate:.6g} ({message}). Raise max_matvecs or rtol, lower tol, or leave data= out."
        )
    return run.result(
        NormResult,
        quantity="spectral norm",
        **vars(value),
        method="eigenvalues",
        estimates=np.zeros(0),
        sampling_error=sampling_error,
        samples_used=used,
        converged=converged,
        message=message,
    )


def _size(value: Estimate) -> Estimate:
    """Return the size of an eigenvalue."""
    low, high = value.interval if value.estimate >= 0 else (-value.interval[1], -value.interval[0])
    return replace(value, estimate=abs(value.estimate), interval=(max(0.0, low), high))


def condition_number(
    A: Any,
    *,
    tol: float = 1e-3,
    max_matvecs: int | None = None,
    confidence: float = 0.99,
    seed: int = 0,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> NormResult:
    """Compute the ratio of the largest to the smallest eigenvalue of a definite operator.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Symmetric and definite. For others ``condition_number(A.T @ A)`` is the square of what is asked for, as long as
        that is below 1 / epsilon.
    tol : float
        Relative residual of both eigenvalues.
    max_matvecs : int, optional
        Limit on products; default 1000.
    confidence : float
        Probability with which the check notices an eigenvalue outside of the two found.
    seed : int
        Seed of the random vectors. The same seed gives the same bits.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.
    raise_on_failure : bool
        Whether to raise NotConvergedError, with the result so far, instead of warning.

    Returns
    -------
    NormResult
        Infinite if the smallest eigenvalue is zero up to rounding; its interval is open above if it may be.

    Raises
    ------
    InvalidInputError
        If A is known not to be symmetric, or eigenvalues of both signs show: the smallest in size then lies inside the
        spectrum.
    AsymmetryError, NondeterministicError, NonFiniteError
    NotConvergedError
        Only with ``raise_on_failure``.

    Examples
    --------
    >>> import numpy as np, specop
    >>> round(specop.condition_number(np.diag([1.0, 2.0, 10.0])).estimate, 9)
    10.0
    """
    with Run(
        A,
        "condition_number",
        symmetric=True,
        instead="Of A.T @ A it is the square of what is asked for, as long as that is below 1 / epsilon.",
        limit=max_matvecs,
        seed=seed,
        progress=progress,
        raise_on_failure=raise_on_failure,
    ) as run:
        eigen = _outermost(run.A, min(2, run.n), "BE", tol, max_matvecs, confidence, seed)
    first, last = float(eigen.eigenvalues[0]), float(eigen.eigenvalues[-1])
    # Some eigenvalue lies so near, and the outermost one not inside of that.
    near = np.minimum(eigen.bounds, eigen.residuals)
    if first < -near[0] and last > near[-1]:
        raise InvalidInputError(
            f"{run.A!r} is indefinite, with eigenvalues {first:.6g} and {last:.6g}. Its condition number needs the "
            f"smallest in size: take the square root of condition_number(A @ A), or add damping."
        )
    sizes = np.abs(eigen.eigenvalues)
    order = np.argsort(sizes)[[0, -1]]
    (small, large), (above_small, below_large) = sizes[order], near[order]
    below_small, above_large = eigen.bounds[order]
    if large == 0:
        raise InvalidInputError(f"{run.A!r} is zero and has no condition number.")
    is_apart = small > max(above_small, float(run.A.domain.epsilon * large))
    estimate = float(large / small) if is_apart else np.inf
    lowest = float((large - below_large) / (small + above_small)) if small + above_small > 0 else np.inf
    highest = float((large + above_large) / (small - below_small)) if is_apart and small > below_small else np.inf
    return _result(run, "condition number", estimate, (max(1.0, lowest), highest), eigen, confidence)


class _Gram(Composite):
    """A.T @ A, whose products a run of A counts as two."""

    def __init__(self, run: Run) -> None:
        super().__init__((run.A,), run.A.domain, run.A.domain, is_symmetric=True, is_psd=True)
        self._run = run

    def _matvec(self, x: Array) -> Array:
        return self._run.multiply_transposed(self._run.multiply(x))


def _outermost(
    A: Any, k: int, which: str, tol: float, max_matvecs: int | None, confidence: float, seed: int
) -> EigenResult:
    """Return the pairs found so far, converged or not: what that means is said once, of the result made from them."""
    options: dict[str, Any] = {"tol": tol, "max_matvecs": max_matvecs, "confidence": confidence, "seed": seed}
    try:
        return eigsh(A, k, which=which, raise_on_failure=True, **options)
    except NotConvergedError as error:
        found: EigenResult = error.result
        return found


def _result(
    run: Run, quantity: str, value: float, interval: tuple[float, float], eigen: EigenResult, confidence: float
) -> NormResult:
    return run.result(
        NormResult,
        quantity=quantity,
        estimate=value,
        standard_error=0.0,
        interval=interval,
        confidence=confidence,
        method="eigenvalues",
        estimates=np.zeros(0),
        converged=eigen.converged,
        message=eigen.message,
    )
