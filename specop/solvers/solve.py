"""solve: a linear system with a symmetric operator, by the method that fits it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from specop.errors import InvalidInputError, check_choice, checked_limit
from specop.krylov.run import Run
from specop.operators.operator import LinearOperator
from specop.operators.scipy import aslinearoperator
from specop.results.solve import SolveResult
from specop.solvers.conjugate_gradients import conjugate_gradients
from specop.solvers.equations import Equations, Outcome
from specop.solvers.galerkin import columns_at_once, galerkin
from specop.solvers.minimal_residuals import minimal_residuals
from specop.solvers.neumann import neumann_series
from specop.solvers.operands import checked_accuracy, checked_operands, checked_start

__all__ = ["solve"]

_METHODS = ("auto", "lanczos", "cg", "minres", "neumann")
_PRODUCTS = 10_000
# Columns that share their directions: eight take half of the products, and more take as much memory.
_GROUP = 8


def solve(
    A: Any,
    b: Any,
    *,
    method: str = "auto",
    rtol: float = 1e-5,
    atol: float = 0.0,
    max_matvecs: int | None = None,
    preconditioner: Any = None,
    x0: Any = None,
    seed: int = 0,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> SolveResult:
    r"""Solve A x = b for a symmetric operator.

    A column has converged when its true residual, computed by a product of its own at the end, is small:

    .. math:: \|b - A x\| \le \max(\mathtt{rtol} \, \|b\|, \mathtt{atol}).

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Symmetric, n x n.
    b : native array (n,) or (n, k), or parameter structure
        Right-hand sides. Up to eight columns at a time share their search directions: together they take about half
        of the products that they take one by one.
    method : {"auto", "lanczos", "cg", "minres", "neumann"}
        "lanczos" solves in a Krylov basis that it keeps orthogonal, for any symmetric A: it takes the fewest products,
        and memory for at most 40 million entries. "cg", conjugate gradients for a positive definite A, and "minres",
        minimal residuals for any symmetric one, hold a few vectors. "auto" is "lanczos" up to a million unknowns, and
        beyond that, or with a preconditioner, "cg", which goes on as "minres" where a direction shows that A is not
        positive definite. "neumann" is the series :math:`x \leftarrow x + (b - A x) / \lambda_{max}` for positive
        definite A, whose largest eigenvalue it estimates first; where the condition number is c it takes c steps, the
        others its square root.
    rtol : float
        Goal for the norm of each column's residual, relative to the norm of that column of b; below 1.
    atol : float
        Goal for the norm of each column's residual, in units of b. The larger of the two goals counts.
    max_matvecs : int, optional
        Limit on all products with A in this call, those for residuals included; at least 2 for each column. Columns
        that are solved one after another have equal shares of what is left. Default: ``min(10 n, 10_000)``, at least
        20, times the number of columns that are not zero; for "neumann" 10,000 times that number.
    preconditioner : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator, optional
        An approximation of the inverse of A, symmetric positive definite: see `eigen_preconditioner` and
        `nystrom_preconditioner`. Products with it are not counted.
    x0 : like b, optional
        Solution to start from, such as the solution of a similar system. It costs one product for each column.
    seed : int
        Seed of the random vectors, of which there are few: "neumann" begins its estimate of the largest eigenvalue
        with one, and "lanczos" multiplies one where rounding might be taken for asymmetry.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.
    raise_on_failure : bool
        Whether to raise NotConvergedError, instead of a warning, if a column does not reach its goal.

    Returns
    -------
    SolveResult
        With `x` in the form of b, and the norms of all residuals. Where A is found not to be positive definite, it has
        a direction that shows it and the curvature along that.

    Raises
    ------
    InvalidInputError
        For an operator that is not square or known not to be symmetric, or an argument that does not fit.
    AsymmetryError, NonFiniteError
        If a product shows it.
    NotConvergedError
        With ``raise_on_failure``, if a column does not reach its goal; the result is its attribute `result`.

    References
    ----------
    M. R. Hestenes and E. Stiefel, Methods of conjugate gradients for solving linear systems, J. Res. Nat. Bur.
    Standards 49 (1952), 409-436. The others stand with the methods.

    Examples
    --------
    >>> import numpy as np, specop
    >>> A, b = np.diag([1.0, 2.0, 4.0]), np.ones(3)
    >>> specop.solve(A, b).x.round(6)
    array([1.  , 0.5 , 0.25])
    >>> specop.solve(A - 3 * np.eye(3), b).curvature < 0
    True
    """
    run = Run(
        A,
        "solve",
        symmetric=True,
        instead="For others solve A.T A x = A.T b, or use scipy.sparse.linalg.lsmr(A.to_scipy(), b).",
        seed=seed,
        progress=progress,
        raise_on_failure=raise_on_failure,
    )
    operands = checked_operands(run.A, b)
    M = checked_preconditioner(run.A, preconditioner, method)
    checked_accuracy(rtol, atol)
    run.limit = _checked_limit(max_matvecs, run.n, int(np.count_nonzero(operands.lengths)), method)
    in_basis = method == "lanczos" or (method == "auto" and M is None)
    at_once = columns_at_once(run.n, run.room().rows - 2 * len(operands.lengths)) if in_basis else 0
    goals = np.maximum(rtol * operands.lengths, atol)
    start = None if x0 is None else checked_start(operands, x0)
    with run, nullcontext() if M is None else Run(M, "the preconditioner") as preconditioning:
        system = Equations(run, operands, goals, start, preconditioning)
        outcome, used = _solve(system, method, max(at_once, method == "lanczos"))
    return run.result(
        SolveResult,
        solution=operands.joined(system.x),
        residuals=system.norms,
        goals=goals,
        method=used,
        steps=outcome.steps,
        curvature=outcome.curvature,
        direction=outcome.direction,
        system="A x = b",
        damping=0.0,
        rtol=float(rtol),
        atol=float(atol),
        converged=outcome.reason == "converged",
        message=_message(system, outcome, used, rtol),
        structure=operands.structure,
    )


def checked_preconditioner(A: LinearOperator, preconditioner: Any, method: str) -> LinearOperator | None:
    """Return a preconditioner as an operator, or raise InvalidInputError if it does not fit the operator or method."""
    check_choice("method", method, _METHODS)
    if preconditioner is None:
        return None
    if method in ("lanczos", "neumann"):
        raise InvalidInputError(f"method={method!r} takes no preconditioner; use method='cg' or 'minres' with it.")
    M = aslinearoperator(preconditioner)
    same = M.backend is A.backend and M.domain == A.domain and M.codomain == A.domain
    if not same or M.is_symmetric is False:
        raise InvalidInputError(f"the preconditioner must be a symmetric operator on the vectors of {A!r}, got {M!r}.")
    return M


def _checked_limit(max_matvecs: int | None, n: int, columns: int, method: str) -> int:
    if max_matvecs is None:
        return columns * (_PRODUCTS if method == "neumann" else max(20, min(10 * n, _PRODUCTS)))
    return checked_limit(max_matvecs, 2 * columns, ", two for each column, one of them for its residual")


def _solve(system: Equations, method: str, at_once: int) -> tuple[Outcome, str]:
    """Solve for all columns that are not zero; return how that ended and by which method.

    `at_once` is how many columns share a Krylov basis, zero if there is none.
    """
    run, outcome = system.run, Outcome("converged", 0)
    used = ["lanczos" if at_once else "cg" if method == "auto" else method]
    waiting = int(np.count_nonzero(system.lengths))
    for first in range(0, len(system.x), at_once or _GROUP):
        group = range(first, min(first + (at_once or _GROUP), len(system.x)))
        wanted = [j for j in group if system.lengths[j] > 0]
        if wanted:
            # Each column has the same share of the products that are left.
            end = run.products + run.left * len(wanted) // waiting
            waiting -= len(wanted)
            latest, by = _solve_group(system, group, wanted, method, at_once > 0, end)
            outcome = _joined(outcome, latest)
            used.append(by)
    return outcome, "minres" if "minres" in used else used[-1]


def _solve_group(
    system: Equations, group: range, wanted: list[int], method: str, in_basis: bool, end: int
) -> tuple[Outcome, str]:
    """Solve for the columns of one group, by one method after another where one says so."""
    run, outcome = system.run, Outcome("converged", 0)
    if in_basis:
        latest = galerkin(system, group, end - run.products, may_leave=method == "auto")
        if latest.reason not in ("dear", "full"):
            return latest, "lanczos"
        outcome = replace(latest, reason="converged")
        method = "auto" if latest.reason == "dear" else "minres"
    if method in ("auto", "cg"):
        latest = conjugate_gradients(system, group, end - run.products)
        if latest.reason != "curvature":
            return _joined(outcome, latest), "cg"
        if method == "cg":
            system.residuals(group)
            for j in wanted:
                # Where A is singular, the last steps lead far away.
                if system.norms[j] > system.lengths[j]:
                    system.forget(j)
            return latest, "cg"
        outcome = _joined(outcome, replace(latest, reason="converged"))
    one = neumann_series if method == "neumann" else minimal_residuals
    for position, j in enumerate(wanted):
        share = (end - run.products) // (len(wanted) - position)
        outcome = _joined(outcome, one(system, j, share))
    return outcome, "neumann" if method == "neumann" else "minres"


def _joined(first: Outcome, second: Outcome) -> Outcome:
    """Return what is to be said of two runs together: the first failure, and the most negative curvature."""
    reason = second.reason if first.reason == "converged" else first.reason
    lower = first
    if second.curvature is not None and (first.curvature is None or second.curvature < first.curvature):
        lower = second
    return Outcome(reason, first.steps + second.steps, lower.curvature, lower.direction)


def _message(system: Equations, outcome: Outcome, used: str, rtol: float) -> str:
    run, operator, curvature = system.run, system.run.A, outcome.curvature
    worst = int(np.argmax(system.norms - system.goals))
    left = f"a residual of {system.norms[worst]:.2e}, where {system.goals[worst]:.2e} is asked for"
    indefinite = ""
    if curvature is not None:
        kind = "not positive definite" if curvature < 0 else "singular to rounding"
        indefinite = f"{operator!r} is {kind}: a direction of curvature {curvature:.3g} was found"
    if outcome.reason == "converged":
        return "converged" + (f" by {used}; {indefinite}" if indefinite else "")
    if outcome.reason == "curvature":
        above = f"above {-curvature:.3g} " if curvature is not None and curvature < 0 else ""
        return (
            f"{indefinite} after {run.products} products, and left {left}. Add damping {above}to A, such as "
            f"A + d * identity_like(A), or use method='minres'."
        )
    if outcome.reason == "least squares":
        kind = "the least-squares solution of least norm"
        if system.preconditioner is not None:
            kind = "a solution whose residual is least in the norm of the preconditioner"
        elif system.has_start:
            kind = "a least-squares solution"
        return (
            f"{operator!r} is singular and b is not in its range: {used} ended at {left}, and A times that residual is "
            f"next to nothing. x is {kind}. Add damping, or project b onto the range of A."
        )
    if outcome.reason == "rounding":
        return (
            f"{used} ended at {left}: products in {operator.dtype} with a relative error of {operator.precision:.0e} "
            f"allow no less. Use float64, add damping, or raise rtol={rtol:g}. {indefinite}".rstrip()
        )
    remedy = "add damping, or pass a preconditioner such as specop.nystrom_preconditioner(A, damping)"
    if used == "neumann":
        remedy = "use method='auto', which takes far fewer"
    return (
        f"{used} stopped after {run.products} products (max_matvecs={run.limit}) with {left}. Raise "
        f"max_matvecs, or {remedy}. {indefinite}"
    ).rstrip()
