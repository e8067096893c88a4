"""inertia: how many eigenvalues are negative, zero and positive."""

from __future__ import annotations

from typing import Any

from specop.krylov.run import Run
from specop.results.inertia import InertiaResult
from specop.spectral.counting import PRODUCTS, signs_of_spectrum
from specop.statistics.estimate import check_confidence

__all__ = ["inertia"]


def inertia(
    A: Any,
    threshold: float | None = None,
    *,
    max_matvecs: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> InertiaResult:
    r"""Find how many eigenvalues of a symmetric operator are negative, zero and positive.

    As in `rank` all eigenvalues that are not zero are counted, with a certificate that none was missed, where the
    products and a gigabyte of memory suffice; otherwise their numbers are estimated by `spectral_density`, each with an
    interval. At a minimum of a loss none is negative; one that is shows a way down.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Symmetric, n x n.
    threshold : float, optional
        Eigenvalues up to this size count as zero. By default it is put into the widest gap, relative to its place, that
        begins below the square root of machine epsilon times the largest eigenvalue, or at the rounding error.
    max_matvecs : int, optional
        Limit on all products; default 3000. If it is below n, half of it is for counting.
    confidence : float
        Probability with which the certificate of a count, or the interval of an estimate, is right.
    seed : int
        Seed of the random vectors. The same seed gives the same bits.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.
    raise_on_failure : bool
        Whether to raise NotConvergedError, with the estimate, instead of warning where counting takes too much.

    Returns
    -------
    InertiaResult
        ``negative``, ``zero`` and ``positive``, each with ``estimate``, ``standard_error`` and ``interval``.

    Raises
    ------
    InvalidInputError, AsymmetryError, NondeterministicError, NonFiniteError
    NotConvergedError
        Only with ``raise_on_failure``.

    Examples
    --------
    >>> import numpy as np, specop
    >>> found = specop.inertia(np.diag([3.0, 3.0, -1.0, 0.0, 1e-12]))
    >>> found.negative.estimate, found.zero.estimate, found.positive.estimate
    (1.0, 2.0, 2.0)
    """
    run = Run(
        A,
        "inertia",
        symmetric=True,
        limit=PRODUCTS if max_matvecs is None else max_matvecs,
        seed=seed,
        progress=progress,
        raise_on_failure=raise_on_failure,
    )
    check_confidence(confidence)
    with run:
        found = signs_of_spectrum(run, threshold, confidence)
    return run.result(
        InertiaResult,
        negative=found.negative,
        zero=found.zero,
        positive=found.positive,
        threshold=found.threshold,
        gap=found.gap,
        method="exact" if found.is_counted else "quadrature",
        n=run.n,
        converged=found.is_counted,
        message=found.message,
    )
