"""rank: how many eigenvalues are not zero, counted where that can be done and estimated where it cannot."""

from __future__ import annotations

from typing import Any

import numpy as np

from specop.krylov.run import Run
from specop.results.rank import RankResult
from specop.spectral.counting import PRODUCTS, signs_of_spectrum
from specop.statistics.estimate import check_confidence

__all__ = ["rank"]


def rank(
    A: Any,
    threshold: float | None = None,
    *,
    max_matvecs: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> RankResult:
    r"""Find how many eigenvalues of a symmetric operator are not zero.

    First all eigenvalues above zero are counted, multiplicity and all: a Lanczos run goes on until what is left over
    is small; further ones from random vectors orthogonal to everything found bring further copies, until one finds
    nothing. Its Christoffel numbers then tell, with the given confidence, that nothing above the gap was missed. A
    matrix of rank r takes about r products, plus a few for each copy of a multiple eigenvalue; where hardly an
    eigenvalue is zero, n.

    If the products or a gigabyte do not suffice, the number is estimated by `spectral_density`.

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
    RankResult
        ``rank``, ``interval``, ``gap``, ``nullity`` and ``method``; `plot` shows the gap.

    Raises
    ------
    InvalidInputError, AsymmetryError, NondeterministicError, NonFiniteError
    NotConvergedError
        Only with ``raise_on_failure``.

    Examples
    --------
    >>> import numpy as np, specop
    >>> specop.rank(np.diag([3.0, 3.0, 1.0, 0.0, 1e-12])).rank
    3.0
    """
    run = Run(
        A,
        "rank",
        symmetric=True,
        instead="For others pass A.T @ A and threshold=t**2: those below sqrt(epsilon) of the largest are lost.",
        limit=PRODUCTS if max_matvecs is None else max_matvecs,
        seed=seed,
        progress=progress,
        raise_on_failure=raise_on_failure,
    )
    check_confidence(confidence)
    with run:
        found = signs_of_spectrum(run, threshold, confidence)
    low, high = found.zero.interval
    return run.result(
        RankResult,
        estimate=run.n - found.zero.estimate,
        standard_error=found.zero.standard_error,
        interval=(run.n - high, run.n - low),
        threshold=found.threshold,
        gap=found.gap,
        method="exact" if found.is_counted else "quadrature",
        confidence=confidence,
        n=run.n,
        sizes=np.abs(found.values),
        weights=found.weights,
        converged=found.is_counted,
        message=found.message,
    )
