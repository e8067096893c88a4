"""largest_near: the largest eigenvalue once more, from an eigenvector of a matrix of shortly before."""

from __future__ import annotations

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array
from specop.krylov.run import Run
from specop.krylov.space import KrylovSpace
from specop.operators.operator import LinearOperator
from specop.results.eigen import EigenResult
from specop.results.structure import Structure
from specop.spectral.fitting import rows_that_fit
from specop.statistics.measure import is_ruled_out

__all__ = ["largest_near"]

_ROWS = 60
# In so few dimensions the two halves may cancel.
_FEW = 8
# Multiples of the value up to which something larger may be hidden; until the last one is cleared the search goes on.
_LEVELS = 1.0 + np.geomspace(0.01, 9.0, 60)


def largest_near(
    A: LinearOperator, near: Array, *, tol: float, confidence: float = 0.99, seed: int = 0, draw: int = 0
) -> EigenResult:
    r"""Find the largest eigenvalue from a vector near its eigenvector, in fewer products than from a random one.

    Half of the start is random, in the sense of squared lengths. That costs nothing, as a random vector has next to no
    part along any one eigenvector. But an eigenvector that `near` has no part of shows after some steps: its weight in
    the start is at least as likely large as that of the random half, which is chi-square over n, and it is at most the
    Christoffel number of the Lanczos run. So ``bounds`` say up to where, with the confidence asked for, something
    larger may be. A fresh start of `specop.eigsh` goes on until that is within `tol` of the value, which takes most of
    its products.

    Parameters
    ----------
    A : LinearOperator
        Symmetric operator, n x n.
    near : native vector (n,)
        A vector of length one, near the wanted eigenvector.
    tol : float
        Relative residual at which the pair has converged.
    confidence : float
        Probability with which the eigenvalue is no larger than the bound says.
    seed, draw : int
        Seed and number of the random half.
    """
    with Run(A, "largest_near", symmetric=True, limit=1000, seed=seed) as run:
        backend, n = run.backend, run.n
        space = KrylovSpace(run, rows_that_fit(run, min(n, _ROWS), 8), 1)
        start = probes.sphere(backend, run.A.domain, seed, draw)
        if n > _FEW:
            start = backend.axpy_(backend.scale_(start, n**-0.5), 1.0, near)
        space.start(start)
        while True:
            space.expand()
            ritz = space.ritz()
            value, residual = float(ritz.values[-1]), float(ritz.residuals[-1])
            has_converged = residual <= float(space.tolerances(value, tol))
            levels = value + abs(value) * (_LEVELS - 1.0) + space.error_floor
            # Half of the squared length is random, as if it were drawn from twice as many dimensions.
            hidden = ~is_ruled_out(space.rule(ritz), levels, 2 * n, confidence)
            is_over = space.is_closed or not run.left or not space.has_room_for(1)
            if is_over or (has_converged and not hidden[-1]):
                break
        above = np.flatnonzero(hidden)
        bound = float(levels[min(above[-1] + 1 if len(above) else 0, len(levels) - 1)]) - value
        if space.is_exhausted:
            bound = 0.0
        failed = not has_converged or bool(hidden[-1] and not space.is_closed)
        rows = space.extract(ritz, np.array([len(ritz.values) - 1]))
        floor = space.error_floor
    return run.result(
        EigenResult,
        eigenvalues=np.array([value]),
        rows=rows,
        residuals=np.array([float(np.hypot(residual, floor))]),
        bounds=np.array([float(np.hypot(bound, floor)) if not failed else np.inf]),
        check_matvecs=0,
        which="LA",
        tol=tol,
        structure=Structure(A.parameter_shapes, A.unflatten),
        converged=not failed,
        stopped=failed,
        message="converged" if not failed else f"stopped after {run.products} products: start afresh by eigsh",
    )
