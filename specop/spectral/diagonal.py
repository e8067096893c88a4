"""diagonal: the entries on the diagonal of a square operator, all at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from specop.errors import InvalidInputError, check_choice
from specop.krylov.known import Complement
from specop.krylov.run import Run
from specop.results.diagonal import DiagonalResult
from specop.results.eigen import EigenResult
from specop.spectral.entries import Moments, estimated, exact_entries
from specop.spectral.goals import PRODUCTS, STAGE, Goal, checked_goal
from specop.spectral.part.diagonal import diagonal_of_part
from specop.spectral.part.part import DATA

__all__ = ["diagonal"]

_METHODS = ("auto", "bekas", "xdiag", "exact")


def diagonal(
    A: Any,
    *,
    method: str = "auto",
    rtol: float | None = None,
    atol: float | None = None,
    max_matvecs: int | None = None,
    deflate: EigenResult | None = None,
    data: str = "all",
    seed: int = 0,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> DiagonalResult:
    r"""Estimate the diagonal of a square operator, with a standard error for each entry.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Square, n x n.
    method : {"auto", "bekas", "xdiag", "exact"}
        - "bekas" [1]_: the mean of :math:`z \circ A z` over vectors z of random signs. An entry's variance for each
          probe is the sum of the squares beside it in its row. Holds two vectors.
        - "xdiag" [2]_: half of the m products make a sketch Q of the range, the others multiply it by A.T; the diagonal
          of :math:`Q Q^\top A` is then known, and each probe in turn is left out and probes the rest. Far better where
          eigenvalues decay. Holds up to 5/2 m vectors.
        - "exact": n unit vectors.
        - "auto": reads the diagonal of an array, a SciPy sparse matrix or a `DiagonalOperator`, without a product, if
          a tolerance or nothing is given. Otherwise "exact" for n up to 16, where the limit allows that and there is
          no tolerance, and where estimates would take more products; otherwise "xdiag" if the first eight products show
          that a sketch pays, and takes at most 1e8 entries; else "bekas".
    rtol : float, optional
        Goal for the standard error of the whole diagonal in the Euclidean norm, relative to the diagonal's norm. With
        neither `rtol` nor `atol` it is 0.1, or the whole of `max_matvecs` is used if that is given.
    atol : float, optional
        Goal for the same standard error in units of the diagonal; the larger of both goals counts.
    max_matvecs : int, optional
        Limit on all products; default 1000.
    deflate : EigenResult, optional
        Known eigenpairs of a symmetric A; their part of the diagonal is not estimated. Errors of the
        eigenvectors enter the diagonal as they are, so `tol` of `eigsh` should be smaller than `rtol` here.
        One product shows whether they belong to A; those of another matrix are refused.
    data : {"all", "part"}
        Whether every product is to be that of all data samples. "part" is for an A that is a mean over samples, as
        ``objective.hessian()``, ``ggn()`` and ``fisher()`` are: groups of samples are drawn as in `specop.trace`, each
        is multiplied by a random vector of its own, and errors hold both kinds of chance; the result's
        `sampling_error` is the part of `error_norm` that the choice of samples has, told apart by the first groups of
        each stratum, which are multiplied twice. Groups count as their part of a product, `method` is "bekas", and
        about 30 vectors are held, fewer where they do not fit. Eigenpairs in `deflate` may be those of any similar
        matrix, and errors in them do not enter.
    seed : int
        Seed of the probes. The same seed gives the same bits.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.
    raise_on_failure : bool
        Whether to raise NotConvergedError, with the result so far, instead of warning.

    Returns
    -------
    DiagonalResult

    Raises
    ------
    InvalidInputError, NonFiniteError
    NotConvergedError
        Only with ``raise_on_failure``.
    MissingTransposeError
        By "xdiag", if A has no transposed product.

    References
    ----------
    .. [1] C. Bekas, E. Kokiopoulou and Y. Saad, An estimator for the diagonal of a matrix, Appl. Numer. Math. 57
       (2007), 1214-1229.
    .. [2] E. N. Epperly, J. A. Tropp and R. J. Webber, XTrace: Making the most of every sample in stochastic trace
       estimation, SIAM J. Matrix Anal. Appl. 45 (2024), 1-23.

    Examples
    --------
    >>> import numpy as np, specop
    >>> specop.diagonal(np.diag([1.0, 2.0, 3.0])).x
    array([1., 2., 3.])
    """
    limit = PRODUCTS if max_matvecs is None else max_matvecs
    run = Run(A, "diagonal", square=True, limit=limit, seed=seed, progress=progress, raise_on_failure=raise_on_failure)
    check_choice("method", method, _METHODS)
    check_choice("data", data, DATA)
    if data == "part" and method not in ("auto", "bekas"):
        raise InvalidInputError(
            f"data='part' multiplies groups of samples by probes of their own: method={method!r} "
            f"needs products with all data. Leave one of both out."
        )
    goal = checked_goal(rtol, atol, max_matvecs, 0.1)
    with run:
        if data == "part":
            return _of_part(run, goal, deflate)
        entries = run.A.read_diagonal() if goal.may_read(method, deflate) else None
        space = Complement(run, deflate)
        if entries is not None and np.isfinite(entries).all():
            read = run.backend.from_host(entries.astype(run.A.dtype), run.A.domain)
            moments, used = Moments(space, read), "exact"
        elif space.dimension == 0:
            moments, used = Moments(space, space.known_diagonal()), "exact"
        elif goal.begins_exact(run, method, 2 * STAGE):
            moments, used = Moments(space, exact_entries(run)), "exact"
        else:
            moments, used = estimated(space, goal, method)
    converged = goal.is_budget or used == "exact" or moments.satisfy(goal)
    message = used
    if not converged:
        message = (
            f"diagonal stopped after {run.products} products with a standard error of {moments.error:.3g} at a norm "
            f"of {moments.norm:.6g}. Raise max_matvecs or rtol, or pass deflate=specop.eigsh(A) to take the largest "
            f"eigenvalues out."
        )
    return run.result(
        DiagonalResult,
        x=moments.mean(),
        standard_errors=moments.standard_errors(),
        norm=moments.norm,
        error_norm=moments.error,
        method=used,
        converged=converged,
        message=message,
    )


def _of_part(run: Run, goal: Goal, deflate: EigenResult | None) -> DiagonalResult:
    found = diagonal_of_part(run, goal, deflate)
    converged = goal.is_budget or goal.accepts(found.norm, found.error_norm)
    message = f"{found.samples_used} of {run.samples} samples, {found.probes} probes"
    if not converged:
        message = (
            f"diagonal stopped after {run.products} products with a standard error of {found.error_norm:.3g} at a norm "
            f"of {found.norm:.6g} ({message}). Raise max_matvecs or rtol, or pass deflate=specop.eigsh(A) of a smaller "
            f"objective to take the largest eigenvalues out."
        )
    return run.result(
        DiagonalResult,
        x=found.x,
        standard_errors=found.standard_errors,
        norm=found.norm,
        error_norm=found.error_norm,
        method="bekas",
        sampling_error=found.sampling_error,
        samples_used=found.samples_used,
        converged=converged,
        message=message,
    )
