"""power_iteration: with deflation and momentum, the method of the textbooks, with honest residuals."""

from __future__ import annotations

from typing import Any

import numpy as np

from specop.errors import checked_count, checked_limit, checked_number
from specop.krylov.run import Run
from specop.krylov.space import KrylovSpace
from specop.results.eigen import EigenResult
from specop.results.structure import Structure

__all__ = ["power_iteration"]

# Pairs share their residuals in the final projection; each is iterated to this part of the tolerance.
_MARGIN = 0.5


def power_iteration(
    A: Any,
    k: int = 1,
    *,
    tol: float = 1e-3,
    max_matvecs: int | None = None,
    momentum: float = 0.0,
    seed: int = 0,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> EigenResult:
    r"""Compute the k eigenvalues largest in magnitude by power iteration, one after the other.

    It holds k + 3 vectors, and is simple enough to compare with; `eigsh` needs a tenth to a half of its products, and
    the largest eigenvalue alone is cheapest by ``eigsh(A, k=1, which="LA")``. With momentum [1]_ the iteration is

    .. math:: x_{t+1} = A x_t - \beta x_{t-1},

    which converges fastest for :math:`\beta = \lambda_{k+1}^2 / 4`. Rayleigh quotient and residual are those of the
    normalized iterate, to which A has just been applied: the momentum term does not enter them. Every iterate is
    orthogonal to what was found before, and a projection on all vectors ends the run.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Symmetric, n x n.
    k : int
        Number of eigenvalues, from 1 to n.
    tol : float
        Relative residual at which a pair has converged, as in `eigsh`.
    max_matvecs : int, optional
        Limit on products; default ``1000 k``. When it is reached, the result holds the pairs that were begun.
    momentum : float
        :math:`\beta`, in units of A squared. Above a quarter of the square of the eigenvalue sought, nothing converges.
    seed : int
        Seed of the start vectors.
    progress, raise_on_failure : bool
        Whether to show a progress bar, and whether to raise NotConvergedError instead of warning.

    Returns
    -------
    EigenResult
        The eigenpairs, whose bounds are the residuals. Two eigenvalues of the same magnitude and different sign are not
        separated; the result then says that it did not converge.

    Raises
    ------
    InvalidInputError, NonFiniteError, NotConvergedError

    References
    ----------
    .. [1] C. De Sa, B. He, I. Mitliagkas, C. Re and P. Xu, Accelerated stochastic power iteration, Proc. AISTATS 84
       (2018), 58-67.

    Examples
    --------
    >>> import numpy as np, specop
    >>> result = specop.power_iteration(np.diag([1.0, 2.0, 5.0]), k=2)
    >>> result.eigenvalues.round(3)
    array([2., 5.])
    """
    run = Run(A, "power_iteration", symmetric=True, seed=seed, progress=progress, raise_on_failure=raise_on_failure)
    k, tol, momentum = checked_count("k", k, run.n), checked_number("tol", tol), checked_number("momentum", momentum)
    run.limit = 1000 * k if max_matvecs is None else checked_limit(max_matvecs, k, ", the number of eigenpairs")

    with run:
        space = KrylovSpace(run, k, k)
        found = 0
        while found < k and run.left and _iterate(space, tol, momentum):
            found += 1
        ritz = space.ritz()
        run.warn_of_noise()
        every = np.arange(len(ritz.values))
        unseen = np.hypot(space.error_floor, space.noise_of(ritz, every))
        residuals = np.hypot(ritz.residuals, unseen)
        goals = np.hypot(space.tolerances(ritz.values, tol), unseen)
        rows = space.extract(ritz, every)
    message = "converged"
    if found < k:
        message = (
            f"power_iteration stopped after {run.products} products (max_matvecs={run.limit}) with {found} of {k} "
            f"eigenvalues converged to tol={tol:g}. Use eigsh, which takes far fewer products, or raise max_matvecs; "
            f"two eigenvalues of equal magnitude and different sign never separate."
        )
    return run.result(
        EigenResult,
        eigenvalues=ritz.values,
        rows=rows,
        residuals=residuals,
        bounds=residuals.copy(),
        goals=goals,
        check_matvecs=0,
        which="LM",
        tol=tol,
        structure=Structure(run.A.parameter_shapes, run.A.unflatten),
        converged=found == k,
        message=message,
    )


def _iterate(space: KrylovSpace, tol: float, momentum: float) -> bool:
    """Append the next eigenvector to the space's rows; return whether it converged."""
    run, backend, found = space.run, space.backend, space.size
    previous, growth = backend.zeros(run.A.domain), 1.0
    space.start()
    while True:
        space.expand(found)
        # The product is `value` times the iterate, `rest` times the row after it, and what lies along earlier rows.
        value, rest = float(space.projected([found], [found])[0, 0]), space.coupling
        run.update(f"{found} found, {value:.5g} +- {rest:.1g}")
        converged = rest <= space.tolerances(value, _MARGIN * tol)
        if converged or run.left == 0:
            # Products of earlier pairs have no more along this vector than what was given up of them.
            along = float(np.abs(space.projected(slice(found), [found])).max(initial=0.0))
            if along > space.lost:
                run.note_asymmetry((along - space.lost) / space.scale)
            if not space.is_closed:
                space.neglect()
            return converged
        image = space.combine(np.array([0.0] * found + [value, rest]))
        if momentum:
            # In units of the current iterate's length, which normalization took away.
            image = backend.axpy_(image, -momentum / growth, previous)
            previous = space.combine(np.array([0.0] * found + [1.0]))
            (length,) = run.to_host(backend.norm(image))
            growth = float(length)
        space.truncate(found)
        space.start(image)
