"""solve_shifted: one Krylov space for the systems of all dampings."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from specop.arrays.backend import Array
from specop.errors import InvalidInputError
from specop.krylov.run import Run
from specop.krylov.space import KrylovSpace
from specop.results.shifted import ShiftedResult
from specop.solvers.operands import checked_accuracy, checked_operands

__all__ = ["solve_shifted"]

_PRODUCTS = 500


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
    shifts : array_like of float
        Such as ``np.geomspace(1e-3, 1, 10)``, to choose a damping.
    rtol, atol : float
        Goal for every residual: the larger of ``rtol |b|`` and ``atol``.
    max_matvecs : int, optional
        Limit on products, and so on memory: each takes one row of length n until the end. Default ``min(n, 500)``.
    seed : int
        Kept with the result.
    progress, raise_on_failure : bool
        As in `eigsh`.

    Returns
    -------
    ShiftedResult
        ``x`` has a column for each shift. Shifts that leave A + s I indefinite are named by ``negative``.

    Raises
    ------
    InvalidInputError, AsymmetryError, NondeterministicError, NonFiniteError, NotConvergedError

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
    values = np.asarray(shifts, dtype=float)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise InvalidInputError(f"shifts must be a non-empty one-dimensional array of finite numbers, got {shifts!r}.")
    if max_matvecs is not None and max_matvecs < 2:
        raise InvalidInputError(f"max_matvecs must be at least 2, one of them for the check, got {max_matvecs!r}.")
    limit = min(run.n, _PRODUCTS if max_matvecs is None else int(max_matvecs) - 1)
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
        coordinates = _coordinates(space, values, length)
        x = [space.combine(column) for column in coordinates.T]
        sizes = np.linalg.norm(coordinates, axis=0)
        residuals = _residuals(space, coordinates, values, length)
        if length:
            # Rounding adds in proportion to x: what it does to the longest one, it does to the others.
            residuals = np.hypot(residuals, sizes * _rounding(space, operands.columns[0], x, values, sizes, residuals))
        run.warn_of_noise()
    failed = np.flatnonzero(residuals > goal)
    message = "converged"
    if len(failed):
        worst = failed[np.argmax(residuals[failed])]
        message = (
            f"solve_shifted stopped after {run.products} products with a residual of {residuals[worst]:.2e} at the "
            f"shift {values[worst]:g}, where {goal:.2e} is asked for; {len(failed)} of {len(values)} shifts failed. "
            f"Raise max_matvecs={limit + 1}, or leave out the smallest shifts."
        )
        if pivots.residuals[worst] <= goal and not space.is_closed:
            message = (
                f"solve_shifted ended at a residual of {residuals[worst]:.2e} at the shift {values[worst]:g}, where "
                f"{goal:.2e} is asked for: rounding in {run.A.dtype} allows no less. Use float64 or solve, which "
                f"refines its solutions, or raise rtol={rtol:g}; {len(failed)} of {len(values)} shifts failed."
            )
        if space.is_closed:
            message = (
                f"A + s I is singular for the shift {values[worst]:g}, and b is not in its range: the residual is "
                f"{residuals[worst]:.2e}, where {goal:.2e} is asked for. Use a larger shift."
            )
    return run.result(
        ShiftedResult,
        solution=run.backend.stack_columns(x),
        shifts=values,
        residuals=residuals,
        goal=goal,
        negative=pivots.negative,
        rtol=float(rtol),
        atol=float(atol),
        converged=not len(failed),
        message=message,
    )


class _Pivots:
    """Pivots of T + s I for all shifts, and the residuals that follow from them.

    The last entry of (T + s I)^-1 e_1 is the product of the couplings over that of the pivots, and as many eigenvalues
    of T + s I are negative as pivots are.
    """

    def __init__(self, shifts: NDArray[np.float64], length: float) -> None:
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


def _coordinates(space: KrylovSpace, shifts: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    """Return the solutions' coordinates along the rows, a column for each shift."""
    m, T = space.steps, space.projected()
    if m == 0:
        return np.zeros((0, len(shifts)))
    diagonal, beside = np.diagonal(T)[:m], np.diagonal(T, 1)[: m - 1]
    values, vectors = scipy.linalg.eigh_tridiagonal(diagonal, beside, check_finite=False)
    sums = values[:, None] + shifts
    # Eigenvalues that rounding hides are zero, and b has nothing along them unless the residual says so.
    inverse = np.divide(1.0, sums, out=np.zeros_like(sums), where=np.abs(sums) > space.noise_floor)
    return np.asarray(length * (vectors @ (inverse * vectors[0][:, None])))


def _residuals(
    space: KrylovSpace, coordinates: NDArray[np.float64], shifts: NDArray[np.float64], length: float
) -> NDArray[np.float64]:
    """Return the norms of b - (A + s I) x, from what lies along the rows that were multiplied and the next one."""
    m, T = len(coordinates), space.projected()
    inside = -T[:m, :m] @ coordinates - coordinates * shifts
    inside[:1] += length
    beside = T[m:, :m] @ coordinates
    return np.asarray(np.hypot(np.linalg.norm(inside, axis=0), np.linalg.norm(beside, axis=0)))


def _rounding(
    space: KrylovSpace,
    b: Array,
    x: list[Array],
    shifts: NDArray[np.float64],
    sizes: NDArray[np.float64],
    residuals: NDArray[np.float64],
) -> float:
    """Spend one product on what no recurrence shows: return what rounding adds to a residual, for a unit x."""
    run, backend = space.run, space.backend
    longest = int(np.argmax(sizes))
    rest = backend.axpy_(run.multiply(x[longest]), float(shifts[longest]), x[longest])
    (true,) = run.to_host(backend.norm(backend.axpy_(rest, -1.0, b)))
    return float(max(0.0, float(true) ** 2 - residuals[longest] ** 2) ** 0.5 / sizes[longest])
