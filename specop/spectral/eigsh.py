"""eigsh, EigshState: thick-restart Lanczos, tested for convergence at every step and for missed copies at the end."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from specop.arrays.backend import Array
from specop.errors import InvalidInputError, check_choice, checked_limit, checked_number
from specop.krylov.beginning import begin
from specop.krylov.checkpoint import Checkpoint, Part
from specop.krylov.run import Run
from specop.krylov.space import KrylovSpace
from specop.results.eigen import EigenResult
from specop.spectral.check import CHECK_ROWS, Check
from specop.spectral.ends import ends_of
from specop.spectral.fitting import LEAST_BESIDE, FittedBasis, default_limit, default_ncv
from specop.spectral.part.eigenpairs import check_part, result_of_part
from specop.spectral.part.ends import Asked
from specop.spectral.part.part import DATA
from specop.spectral.search import Search
from specop.statistics.estimate import check_confidence
from specop.statistics.numbers import Floats

__all__ = ["EigshState", "eigsh"]

# How many eigenvalues nobody asks for by number, as in SciPy.
_COUNT = 6


class EigshState(NamedTuple):
    """What a callback of `eigsh` sees.

    Attributes
    ----------
    eigenvalues : ndarray
        The wanted Ritz values, ascending; fewer than k at first.
    residuals : ndarray
        Estimated norms of A x - lambda x.
    matvecs : int
        Products so far.
    """

    eigenvalues: Floats
    residuals: Floats
    matvecs: int


def eigsh(
    A: Any,
    k: int | None = None,
    *,
    which: str = "LM",
    v0: Array | EigenResult | None = None,
    ncv: int | None = None,
    tol: float = 1e-3,
    max_matvecs: int | None = None,
    confidence: float = 0.99,
    seed: int = 0,
    check_multiplicity: bool = True,
    block_size: int = 1,
    callback: Callable[[EigshState], object] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    data: str = "all",
    rtol: float | None = None,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> EigenResult:
    r"""Compute k eigenvalues and eigenvectors of a symmetric operator.

    Thick-restart Lanczos [1]_ with two Gram-Schmidt passes. A pair :math:`(\theta, x)` has converged when

    .. math:: \|A x - \theta x\| \le \mathtt{tol} \cdot \max(\epsilon^{2/3} \|A\|, |\theta|),

    or when that falls below the rounding error of the products. The eigenvalue's error is about the square of
    that relative to its gap: at the default tolerance usually 1e-9 to 1e-5 relative.

    A Krylov space shows one copy of a multiple eigenvalue. After convergence a second one is therefore grown from
    a random vector orthogonal to what was found, until it shows that nothing was missed, or what.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Symmetric, n x n. Asymmetry is noticed while it is multiplied.
    k : int, optional
        Number of eigenvalues, from 1 to n; default: 6, or all of fewer.
    which : {"LM", "LA", "SA", "BE", "SM"}
        Largest in magnitude, largest, smallest, both ends (k // 2 from the low one), smallest in magnitude. "SM"
        finds eigenvalues inside the spectrum and is slow; where many lie at zero, as for most networks, they have
        no individual meaning, and the search runs out of products. The largest alone, in the fewest products, is
        ``k=1, which="LA"``.
    v0 : native vector (n,) or EigenResult, optional
        Start vector. Of an earlier result, from whatever framework or file, all eigenvectors are used, which saves
        products when the matrix has changed little: k products if they still fit within `tol`, about two thirds of a
        fresh start's after a change of one percent. Nothing in it is believed without a product.
    ncv : int, optional
        Largest number of basis vectors held, k < ncv <= n, and one more; default ``2 k + 40``, more where n is small.
        Where so many do not fit into the memory that is free on the device, it is as many as fit beside the products,
        at least k + 6: restarts come earlier and cost products, and the result says so. Memory is taken as vectors
        are needed. Where not even those fit, ``eigsh(on_host(A))`` holds them in host memory.
    tol : float
        Relative residual at which a pair has converged.
    max_matvecs : int, optional
        Limit on products, checks included; default ``max(1000, 100 k)``.
    confidence : float
        Probability with which the check finds an eigenvalue that was missed.
    seed : int
        Seed of the random start vector and of the multiplicity check. The same seed gives the same bits.
    check_multiplicity : bool
        Whether to look for missed copies; 4 to 6 products where the k-th eigenvalue stands apart, more in a bulk.
    block_size : int
        Number of vectors that start together. A block shows as many copies of a multiple eigenvalue without the check,
        and takes more products; they are made one by one.
    callback : callable, optional
        Called with an `EigshState` after every product or sweep of a block. If it returns True, eigsh stops and
        returns what there is; the result says so. Of several processes that make the call together each calls its
        own, and the first one's decides.
    checkpoint : path, optional
        An npz file to which the run is saved twice a minute, or more rarely where that takes longer than a twentieth of
        the time. The same call goes on from it after a crash, with the same result bit for bit where products are
        reproducible. A file of another call or matrix is refused, and one that another run holds at the time. It is
        deleted when the run has converged, and kept otherwise, so that the same call with a larger `max_matvecs` goes
        on. Costs one product for each start.
    data : {"all", "part"}
        Whether every product is to be that of all data samples. "part" is for an A that is a mean over samples, as
        ``objective.hessian()``, ``ggn()`` and ``fisher()`` are. Two parts are drawn, the samples of most curvature
        first, as in `specop.trace`. Eigenvectors of each, on the other one, enclose each eigenvalue of A between a
        number that is too small on average and one that is too large. Samples beside both parts, along the eigenvectors
        alone, lessen the chance of both numbers, and parts grow where their distance is what is left, until `rtol` is
        met. The result has `intervals` for the eigenvalues of A on all samples, with the
        probability `confidence` for each, `sampling_errors`, and `samples_used`. Products with a part count as that.
        `tol` counts where all samples are taken; pairs of parts have residuals of a tenth of `rtol` and 2e-3 at most,
        above which near eigenvalues are taken for each other. Of a single eigenvalue no copies are looked for in parts.
        Parts of less than about 800 samples are not looked at, and 5 k vectors are held beside the basis.
    rtol : float, optional
        Goal for the standard error of each eigenvalue, relative to it, with ``data="part"`` alone; default 0.05.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.
    raise_on_failure : bool
        Whether to raise NotConvergedError, with the partial result, instead of warning.

    Returns
    -------
    EigenResult
        Eigenvalues in ascending order for every ``which``, eigenvectors, residuals and error bounds.

    Raises
    ------
    InvalidInputError
        For an operator that is not square or known not to be symmetric, or an argument out of range.
    NotEnoughMemoryError
        If the vectors that k or `ncv` takes do not fit on the device, before any of them is made; or after the first
        product, where that has taken the memory. It names what is needed, what is free and what to do.
    AsymmetryError, NondeterministicError, NonFiniteError
        If a product shows it.
    NotConvergedError
        Only with ``raise_on_failure``.

    References
    ----------
    .. [1] K. Wu and H. Simon, Thick-restart Lanczos method for large symmetric eigenvalue problems, SIAM J. Floats
       Anal. Appl. 22 (2000), 602-616.

    Examples
    --------
    >>> import numpy as np, specop
    >>> result = specop.eigsh(np.diag(np.arange(100.0)), k=3)
    >>> result.eigenvalues.round(3)
    array([97., 98., 99.])

    Singular values: A and A.T as the blocks of a symmetric operator, whose largest eigenvalues they are. The square
    roots of the eigenvalues of ``A.T @ A`` have half of the digits.

    >>> A = np.array([[3.0, 0.0], [4.0, 0.0], [0.0, 1e-9]])
    >>> m, n = A.shape
    >>> both = specop.FunctionOperator(
    ...     lambda x: np.concatenate([A.T @ x[n:], A @ x[:n]]), (m + n, m + n), like=A, is_symmetric=True
    ... )
    >>> specop.eigsh(both, k=2, which="LA").eigenvalues.round(12)
    array([1.e-09, 5.e+00])
    """
    run = Run(
        A,
        "eigsh",
        symmetric=True,
        instead=(
            "Its singular values are the square roots of the eigenvalues of A.T @ A, where those below sqrt(epsilon) "
            "times the largest are lost; help(specop.eigsh) shows an operator that keeps them."
        ),
        seed=seed,
        progress=progress,
        raise_on_failure=raise_on_failure,
    )
    check_choice("data", data, DATA)
    k = min(_COUNT, run.n) if k is None else k
    ends = ends_of(run.n, k, which)
    capacity = _checked_capacity(run.n, k, ncv, block_size)
    run.limit = _checked_limits(k, tol, max_matvecs)
    if data == "part":
        check_part(which, rtol, callback, checkpoint)
        goal = 0.05 if rtol is None else rtol
        solve = functools.partial(
            eigsh,
            ncv=ncv,
            block_size=block_size,
            confidence=confidence,
            check_multiplicity=check_multiplicity,
        )
        return result_of_part(run, Asked(k, which, tol, goal, check_confidence(confidence), solve), v0)
    if rtol is not None:
        raise InvalidInputError("rtol= is for data='part': with all data tol= is the goal for residuals.")
    call = {"k": k, "which": which, "tol": tol, "seed": seed, "ncv": capacity}
    call |= {"block_size": block_size, "check_multiplicity": check_multiplicity, "confidence": confidence}
    with run, contextlib.ExitStack() as held:
        fitted = FittedBasis(run, capacity, k + max(2 * block_size, LEAST_BESIDE), None if ncv is None else f"{ncv=}")
        space = KrylovSpace(run, capacity, k)
        fitted.fit(space)
        check = Check(space, ends, tol, check_confidence(confidence)) if check_multiplicity else None
        search = Search(space, ends, tol, check)
        parts: dict[str, Part] = {"space": space, "search": search}
        if check is not None:
            parts["check"] = check
        file = None if checkpoint is None else held.enter_context(Checkpoint(checkpoint, run, call, parts))
        if file is not None and file.resume():
            fitted.keep(space)
        else:
            begin(space, v0, k, block_size, tol)
        stopped = _take_steps(search, fitted, file, callback)
        fitted.tell(space)
        found = search.fields()
    return run.result(
        EigenResult,
        **found,
        which=which,
        converged=not stopped and search.failure is None,
        stopped=stopped,
        message="stopped by the callback" if stopped else search.failure or "converged",
    )


def _take_steps(
    search: Search, fitted: FittedBasis, file: Checkpoint | None, callback: Callable[[EigshState], object] | None
) -> bool:
    """Take all steps of a search; return whether the callback stopped it."""
    run, stopped = search.run, False
    while not stopped and search.step():
        fitted.fit(search.space)
        run.update(search.note)
        if file is not None:
            file.save_if_due()
        if callback is not None:
            values, residuals = search.best()
            with run.processes.together():
                stopped = callback(EigshState(values, residuals, run.products)) is True
            stopped = run.processes.of_first(stopped)
    if file is not None and (stopped or search.failure is not None):
        file.save()
    elif file is not None:
        file.remove()
    return stopped


def _checked_capacity(n: int, k: int, ncv: int | None, block_size: int) -> int:
    if isinstance(block_size, bool) or not isinstance(block_size, (int, np.integer)) or not 1 <= block_size <= n:
        raise InvalidInputError(f"block_size must be an integer from 1 to n={n}, got {block_size!r}.")
    if ncv is None:
        return default_ncv(n, k, block_size)
    if not k < ncv <= n and not k == ncv == n:
        raise InvalidInputError(f"ncv must lie above k={k} and not above n={n}, got {ncv!r}.")
    # A restart leaves room for a sweep of the block; the check needs some for a few vectors beside the k found.
    return min(n, max(int(ncv), k + 2 * int(block_size), k + CHECK_ROWS))


def _checked_limits(k: int, tol: float, max_matvecs: int | None) -> int:
    checked_number("tol", tol)
    return default_limit(k) if max_matvecs is None else checked_limit(max_matvecs, k, ", the number of eigenpairs")
