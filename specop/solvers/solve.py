"""solve: a linear system with a symmetric operator, by the method that fits it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from specop.arrays import probes
from specop.errors import InvalidInputError
from specop.krylov.progress import progress_bar
from specop.operators.operator import LinearOperator
from specop.operators.scipy import aslinearoperator
from specop.results.result import delivered, versions
from specop.results.solve import SolveResult
from specop.solvers.conjugate_gradients import conjugate_gradients
from specop.solvers.equations import Equations, Outcome
from specop.solvers.galerkin import ProjectedSystem, columns_at_once
from specop.solvers.minimal_residuals import minimal_residuals
from specop.solvers.neumann import neumann_series
from specop.solvers.operands import Operands, checked_accuracy, checked_operands, checked_start

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
    rtol, atol : float
        Goal for the residual.
    max_matvecs : int, optional
        Limit on products for each column; default ``min(10 n, 10_000)``, at least 20; for "neumann" always
        10,000.
    preconditioner : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator, optional
        An approximation of the inverse of A, symmetric positive definite: see `eigen_preconditioner` and
        `nystrom_preconditioner`.
    x0 : like b, optional
        Where to start, such as the solution of a similar system. It costs one product for each column.
    seed : int
        Of nothing but a breakdown of the Krylov space; kept with the result.
    progress, raise_on_failure : bool
        As in `eigsh`.

    Returns
    -------
    SolveResult
        With `x` in the form of b, and all residuals. Where A is found not to be positive definite, it has a direction
        and its curvature.

    Raises
    ------
    InvalidInputError
        For an operator that is not square or known not to be symmetric, or an argument that does not fit.
    AsymmetryError, NonFiniteError
        If a product shows it.
    NotConvergedError
        Only with ``raise_on_failure``.

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
    started = time.perf_counter()
    operator = aslinearoperator(A)
    n, backend = operator.shape[0], operator.backend
    operands = checked_operands(operator, b, "solve")
    if method not in _METHODS:
        raise InvalidInputError(f"method must be one of {', '.join(_METHODS)}, got {method!r}.")
    checked_accuracy(rtol, atol)
    most = _PRODUCTS if method == "neumann" else max(20, min(10 * n, _PRODUCTS))
    limit = most if max_matvecs is None else int(max_matvecs)
    if limit < 2:
        raise InvalidInputError(f"max_matvecs must be at least 2, one of them for the residual, got {max_matvecs!r}.")
    known = _checked_preconditioner(operator, preconditioner, method)
    if method == "lanczos" and known is not None:
        raise InvalidInputError("method='lanczos' takes no preconditioner; use method='cg' or 'minres' with it.")
    if method == "auto" and known is None and columns_at_once(n):
        method = "lanczos"
    seed = probes.check_seed(seed)
    goals = np.maximum(rtol * operands.lengths, atol)
    start = None if x0 is None else checked_start(operator, x0, operands)

    with operator.session(), progress_bar(progress, f"solve {method}") as update:
        system = Equations(operator, known, operands.columns, operands.lengths, start, goals, update)
        outcome, used = _run(system, operands, method, limit, seed)
    message = _message(system, outcome, used, limit, rtol)
    solution = system.x[0] if operands.is_single else backend.stack_columns(system.x)
    result = SolveResult(
        solution=solution,
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
        matvecs=system.products,
        converged=outcome.reason == "converged",
        message=message,
        samples=operator.samples,
        seed=seed,
        seconds=time.perf_counter() - started,
        versions=versions(backend.name),
        unflatten=operator.unflatten if operands.is_structure else None,
    )
    return delivered(result, raise_on_failure)


def _checked_preconditioner(operator: LinearOperator, preconditioner: Any, method: str) -> LinearOperator | None:
    if preconditioner is None:
        return None
    if method == "neumann":
        raise InvalidInputError("method='neumann' takes no preconditioner; use method='cg' with it.")
    known = aslinearoperator(preconditioner)
    same = known.backend is operator.backend and known.domain == operator.domain and known.codomain == operator.domain
    if not same or known.is_symmetric is False:
        raise InvalidInputError(
            f"the preconditioner must be a symmetric operator on the vectors of {operator!r}, got {known!r}."
        )
    return known


def _run(system: Equations, operands: Operands, method: str, limit: int, seed: int) -> tuple[Outcome, str]:
    """Solve for all columns that are not zero; return how that ended and by which method."""
    system.norms[operands.lengths == 0] = 0.0
    outcome, used = Outcome("converged", 0), "cg" if method == "auto" else method
    size = max(1, columns_at_once(system.operator.shape[0])) if method == "lanczos" else _GROUP
    for first in range(0, len(system.x), size):
        group = range(first, min(first + size, len(system.x)))
        wanted = [j for j in group if operands.lengths[j] > 0]
        end = system.products + limit * len(wanted)
        if not wanted:
            continue
        if method in ("auto", "cg", "lanczos"):
            latest = _definite_first(system, group, method, end - system.products, seed)
            outcome = _joined(outcome, latest)
            if latest.reason not in ("curvature", "full"):
                continue
            if method == "cg":
                system.residuals(group)
                continue
            used = "minres"
            outcome = replace(outcome, reason="converged")
        one = neumann_series if method == "neumann" else minimal_residuals
        for position, j in enumerate(wanted):
            share = (end - system.products) // (len(wanted) - position)
            outcome = _joined(outcome, one(system, j, share))
    return outcome, used


def _definite_first(system: Equations, group: range, method: str, allowance: int, seed: int) -> Outcome:
    """Run a method that is made for positive definite systems, and says if it found something else."""
    if method != "lanczos":
        return conjugate_gradients(system, group, allowance)
    projected = ProjectedSystem(system, group, seed)
    outcome = projected.solve(allowance)
    projected.run.warn_of_noise()
    return outcome


def _joined(first: Outcome, second: Outcome) -> Outcome:
    """Return what is to be said of two runs together: the first failure, and the most negative curvature."""
    reason = second.reason if first.reason == "converged" else first.reason
    lower = first
    if second.curvature is not None and (first.curvature is None or second.curvature < first.curvature):
        lower = second
    return Outcome(reason, first.steps + second.steps, lower.curvature, lower.direction)


def _message(system: Equations, outcome: Outcome, used: str, limit: int, rtol: float) -> str:
    operator, curvature = system.operator, outcome.curvature
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
            f"{indefinite} after {system.products} products, and left {left}. Add damping {above}to A, such as "
            f"A + d * identity_like(A), or use method='minres'."
        )
    if outcome.reason == "least squares":
        return (
            f"{operator!r} is singular and b is not in its range: {used} ended at {left}, and A times that residual is "
            f"next to nothing. x is a least-squares solution. Add damping, or project b onto the range of A."
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
        f"{used} stopped after {system.products} products (max_matvecs={limit} for each column) with {left}. Raise "
        f"max_matvecs, or {remedy}. {indefinite}"
    ).rstrip()
