"""solve_shifted: the systems of all dampings in one Krylov space."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike

from specop.arrays.backend import Array
from specop.errors import InvalidInputError, check_unmasked, checked_limit
from specop.krylov.run import Run
from specop.krylov.space import KrylovSpace
from specop.results.shifted import ShiftedResult
from specop.solvers.operands import checked_accuracy, checked_operands
from specop.statistics.numbers import Booleans, Floats

__all__ = ["solve_shifted"]

_PRODUCTS = 500
# Roundings beside the norm of A + s I below which its eigenvalues cannot be told from zero.
_HIDDEN = 30


def solve_shifted(
    A: Any,
    b: Array,
    shifts: ArrayLike,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    max_matvecs: int | None = None,
    seed: int = 0,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> ShiftedResult:
    r"""Solve (A + s I) x = b for many shifts s by the products of the hardest one.

    All these matrices have the Krylov spaces of A. With the Lanczos basis V and the tridiagonal T of m products,
    :math:`x_s = \|b\| V (T + s I)^{-1} e_1`, whose residual is known without a product:

    .. math:: \|b - (A + s I) x_s\| = \beta_m \, |e_m^\top (T + s I)^{-1} e_1| \, \|b\|.

    These are the iterates of conjugate gradients for each shift [1]_, with a basis that is kept orthogonal: where the
    largest eigenvalues stand apart, that takes fewer products in float32 than `solve` does.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Symmetric, n x n.
    b : native vector (n,)
        The right-hand side.
    shifts : array_like of float, (k,)
        Multiples s of the identity, such as ``np.geomspace(1e-3, 1, 10)`` to choose a damping.
    rtol : float
        Goal for the norm of every residual, relative to the norm of b; below 1.
    atol : float
        Goal for the norm of every residual, in units of b. The larger of the two goals counts.
    max_matvecs : int, optional
        Limit on all products, one of them for a check, and so on memory: each of the others takes a row of length n
        until the end. Default: ``min(n, 500)`` and the check.
    seed : int
        Seed of a random vector that is multiplied where rounding might be taken for asymmetry.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.
    raise_on_failure : bool
        Whether to raise NotConvergedError, instead of a warning, if a shift does not reach its goal.

    Returns
    -------
    ShiftedResult
        `x` has a column for each shift. Shifts that leave A + s I indefinite are named by `negative`; where it is
        singular and b not in its range, the column is the least-squares solution of least norm.

    Raises
    ------
    InvalidInputError
        For an operator that is not square or known not to be symmetric, or an argument that does not fit.
    AsymmetryError, NondeterministicError, NonFiniteError
        If a product shows it.
    NotConvergedError
        With ``raise_on_failure``, if a shift does not reach its goal; the result is its attribute `result`.

    References
    ----------
    .. [1] A. Frommer and P. Maass, Fast CG-based methods for Tikhonov-Phillips regularization, SIAM J. Sci. Comput. 20
       (1999), 1831-1850.

    Examples
    --------
    >>> import numpy as np, specop
    >>> specop.solve_shifted(np.diag([1.0, 3.0]), np.ones(2), [0.0, 1.0]).x.round(6)
    array([[1.      , 0.5     ],
           [0.333333, 0.25    ]])
    """
    run = Run(A, "solve_shifted", symmetric=True, seed=seed, progress=progress, raise_on_failure=raise_on_failure)
    operands = checked_operands(run.A, b)
    if operands.is_block or operands.is_structure:
        raise InvalidInputError("solve_shifted takes one right-hand side, a native vector; use solve for several.")
    checked_accuracy(rtol, atol)
    check_unmasked("shifts", shifts)
    values = np.asarray(shifts, dtype=float)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise InvalidInputError(f"shifts must be a non-empty one-dimensional array of finite numbers, got {shifts!r}.")
    allowed = _PRODUCTS if max_matvecs is None else checked_limit(max_matvecs, 2, ", one of them for the check") - 1
    limit = min(run.n, allowed)
    length = float(operands.lengths[0])
    goal = max(rtol * length, atol)

    with run:
        space = KrylovSpace(run, limit)
        pivots = _Pivots(values, length)
        if length:
            space.start(operands.columns[0])
            while (pivots.residuals > goal).any() and not space.is_closed and space.steps < limit:
                space.expand()
                pivots.append(space)
                run.update(f"residual {pivots.residuals.max():.1e}, goal {goal:.1e}")
        coordinates, residuals, is_singular = _solutions(space, values, length)
        x = [space.combine(column) for column in coordinates.T]
        if length:
            # Rounding adds in proportion to x: what it does to the longest one, it does to the others.
            sizes = np.linalg.norm(coordinates, axis=0)
            longest = int(np.argmax(sizes))
            true = _true_residual(run, x[longest], values[longest], operands.columns[0])
            added = max(0.0, true**2 - residuals[longest] ** 2) ** 0.5
            residuals = np.hypot(residuals, sizes * added / (sizes[longest] or 1.0))
        run.warn_of_noise()
    return run.result(
        ShiftedResult,
        solution=run.backend.stack_columns(x),
        shifts=values,
        residuals=residuals,
        goal=goal,
        negative=pivots.negative,
        rtol=float(rtol),
        atol=float(atol),
        converged=bool((residuals <= goal).all()),
        message=_message(space, pivots, residuals, is_singular, values, goal),
    )


class _Pivots:
    """Pivots of T + s I for all shifts, and the residuals that follow from them.

    The last entry of (T + s I)^-1 e_1 is the product of the couplings over that of the pivots, and as many eigenvalues
    of T + s I are negative as pivots are.
    """

    def __init__(self, shifts: Floats, length: float) -> None:
        self.residuals = np.full(len(shifts), length)
        self.negative = np.zeros(len(shifts), dtype=np.int64)
        self._shifts = shifts
        self._pivots = np.ones(len(shifts))
        self._beta = 0.0

    def append(self, space: KrylovSpace) -> None:
        """Take in the latest product."""
        row = space.steps - 1
        pivots = space.projected([row], [row])[0, 0] + self._shifts - self._beta**2 / self._pivots
        # A pivot of zero is no solution at this step, and none is taken from it.
        self._pivots = np.where(np.abs(pivots) > 1e-300, pivots, 1e-300)
        self.negative += self._pivots < 0
        self._beta = space.coupling
        self.residuals = self.residuals * self._beta / np.abs(self._pivots)


def _solutions(space: KrylovSpace, shifts: Floats, length: float) -> tuple[Floats, Floats, Booleans]:
    """Return the solutions' coordinates along the rows, the norms of their residuals, and where A + s I is singular."""
    m, T = space.steps, space.projected()
    if m == 0:
        return np.zeros((0, len(shifts))), np.zeros(len(shifts)), np.zeros(len(shifts), dtype=bool)
    ritz = space.ritz()
    sums = ritz.values[:, None] + shifts
    # Eigenvalues that rounding hides are zero, and b has nothing along them unless the residual says so.
    is_hidden = np.abs(sums) <= _HIDDEN * space.run.A.precision * np.maximum(space.scale, np.abs(shifts))
    inverse = np.divide(1.0, sums, out=np.zeros_like(sums), where=~is_hidden)
    coordinates = np.zeros((space.size, len(shifts)))
    coordinates[:m] = length * ritz.coefficients @ (inverse * ritz.coefficients[0][:, None])
    b = np.zeros((space.size, 1))
    b[0] = length
    residuals = np.linalg.norm(b - T @ coordinates - coordinates * shifts, axis=0)
    # Next to an eigenvalue in a space that is not closed; the least residual is not longer than b.
    for j in np.flatnonzero(residuals > length):
        shifted = T[:, :m] + shifts[j] * np.eye(space.size, m)
        coordinates[:m, j] = scipy.linalg.lstsq(shifted, b[:, 0], check_finite=False)[0]
        residuals[j] = np.linalg.norm(b[:, 0] - shifted @ coordinates[:m, j])
    return coordinates, residuals, np.asarray(is_hidden.any(axis=0))


def _true_residual(run: Run, x: Array, shift: float, b: Array) -> float:
    rest = run.backend.axpy_(run.multiply(x), shift, x)
    return float(run.to_host(run.backend.norm(run.backend.axpy_(rest, -1.0, b)))[0])


def _message(
    space: KrylovSpace,
    pivots: _Pivots,
    residuals: Floats,
    is_singular: Booleans,
    shifts: Floats,
    goal: float,
) -> str:
    failed = np.flatnonzero(residuals > goal)
    if not len(failed):
        return "converged"
    run, worst = space.run, failed[np.argmax(residuals[failed])]
    left = f"a residual of {residuals[worst]:.2e} at the shift {shifts[worst]:g}, where {goal:.2e} is asked for"
    share = f"{len(failed)} of {len(shifts)} shifts failed"
    if is_singular[worst]:
        return (
            f"A + s I is singular for the shift {shifts[worst]:g}, and b is not in its range: solve_shifted ended at "
            f"{left}. x is the least-squares solution of least norm there. Use a larger shift; {share}."
        )
    if pivots.residuals[worst] <= goal:
        return (
            f"solve_shifted ended at {left}: rounding in {run.A.dtype} allows no less. Use float64 or solve, which "
            f"refines its solutions, or raise rtol; {share}."
        )
    return (
        f"solve_shifted stopped after {run.products} products with {left}; {share}. Raise max_matvecs="
        f"{space.capacity}, or leave out the smallest shifts."
    )
