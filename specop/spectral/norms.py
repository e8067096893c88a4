"""spectral_norm and condition_number, from the outermost eigenvalues and their bounds."""

from __future__ import annotations

from typing import Any

import numpy as np

from specop.errors import InvalidInputError
from specop.krylov.ranges import check_size
from specop.operators.scipy import aslinearoperator
from specop.results.eigen import EigenResult
from specop.results.norm import NormResult
from specop.spectral.eigsh import eigsh
from specop.spectral.frobenius_norm import frobenius_norm
from specop.spectral.search import CHECK_CONFIDENCE

__all__ = ["condition_number", "spectral_norm"]


def spectral_norm(
    A: Any, *, tol: float = 1e-3, max_matvecs: int | None = None, seed: int = 0, progress: bool = False
) -> NormResult:
    """Compute the largest singular value of an operator: for a symmetric one the largest size of an eigenvalue.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Of any shape; unless it is known to be symmetric it is used as ``A.T @ A``, so a product counts twice as much.
    tol : float
        Relative residual of the eigenvalue, whose error is about the square of that.
    max_matvecs, seed, progress
        As in `eigsh`.

    Returns
    -------
    NormResult
        The interval comes from the eigenvalue's bounds, with the confidence of the check in `eigsh`.

    Examples
    --------
    >>> import numpy as np, specop
    >>> round(specop.spectral_norm(np.array([[3.0, 0.0], [4.0, 0.0]])).estimate, 9)
    5.0
    """
    operator = aslinearoperator(A)
    symmetric = bool(operator.is_symmetric)
    used = operator if symmetric else operator.T @ operator
    eigen = eigsh(
        used, 1, which="LM" if symmetric else "LA", tol=tol, max_matvecs=max_matvecs, seed=seed, progress=progress
    )
    value, error = abs(float(eigen.eigenvalues[0])), float(eigen.bounds[0])
    if value == 0 and not symmetric:
        # A.T @ A vanishes where A is zero, or so small that its squares are.
        size = frobenius_norm(operator, method="hutchinson", max_matvecs=1, seed=seed).estimate
        check_size(size, operator, squared=True)
    low, high = max(0.0, value - error), value + error
    if not symmetric:
        value, low, high = (float(np.sqrt(max(0.0, x))) for x in (value, low, high))
    return _result("spectral norm", value, (low, high), eigen, 1 if symmetric else 2)


def condition_number(
    A: Any, *, tol: float = 1e-3, max_matvecs: int | None = None, seed: int = 0, progress: bool = False
) -> NormResult:
    """Compute the ratio of the largest to the smallest eigenvalue of a definite operator.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Symmetric and definite. For others ``condition_number(A.T @ A)`` is the square of what is asked for.
    tol : float
        Relative residual of both eigenvalues.
    max_matvecs, seed, progress
        As in `eigsh`.

    Returns
    -------
    NormResult
        Infinite if the smallest eigenvalue is zero up to rounding; its interval is open above if it may be.

    Raises
    ------
    InvalidInputError
        If eigenvalues of both signs show: the smallest in size then lies inside the spectrum.

    Examples
    --------
    >>> import numpy as np, specop
    >>> round(specop.condition_number(np.diag([1.0, 2.0, 10.0])).estimate, 9)
    10.0
    """
    operator = aslinearoperator(A)
    k = min(2, operator.shape[0])
    eigen = eigsh(operator, k, which="BE", tol=tol, max_matvecs=max_matvecs, seed=seed, progress=progress)
    first, last = float(eigen.eigenvalues[0]), float(eigen.eigenvalues[-1])
    bounds = eigen.bounds
    if first < -bounds[0] and last > bounds[-1]:
        raise InvalidInputError(
            f"{operator!r} is indefinite, with eigenvalues {first:.6g} and {last:.6g}. Its condition number needs the "
            f"smallest in size: take the square root of condition_number(A @ A), or add damping."
        )
    order = np.argsort(np.abs(eigen.eigenvalues))
    small, large = np.abs(eigen.eigenvalues)[order[[0, -1]]]
    below, above = bounds[order[[0, -1]]]
    rounding = float(operator.domain.epsilon * large)
    if large == 0:
        raise InvalidInputError(f"{operator!r} is zero and has no condition number.")
    estimate = float(large / small) if small > max(below, rounding) else np.inf
    lowest = float((large - above) / (small + below)) if small + below > 0 else np.inf
    highest = float((large + above) / (small - below)) if small > max(below, rounding) else np.inf
    return _result("condition number", estimate, (max(1.0, lowest), highest), eigen, 1)


def _result(
    quantity: str, value: float, interval: tuple[float, float], eigen: EigenResult, products: int
) -> NormResult:
    return NormResult(
        quantity=quantity,
        estimate=value,
        standard_error=0.0,
        interval=interval,
        confidence=CHECK_CONFIDENCE,
        method="eigenvalues",
        estimates=np.zeros(0),
        matvecs=products * eigen.matvecs,
        converged=eigen.converged,
        message=eigen.message,
        samples=eigen.samples,
        seed=eigen.seed,
        seconds=eigen.seconds,
        versions=eigen.versions,
    )
