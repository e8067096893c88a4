"""lissa: a product with an inverse by Neumann's series, from mini-batches; and the plain series, for `solve`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array, Backend, add_, lengths_of
from specop.errors import DomainError, InvalidInputError, NonFiniteError, checked_count, checked_number
from specop.krylov.task import Task
from specop.operators.operator import LinearOperator
from specop.operators.scipy import aslinearoperator
from specop.results.lissa import LissaResult
from specop.solvers.equations import Equations, Outcome
from specop.solvers.operands import checked_operands
from specop.spectral.eigsh import eigsh
from specop.statistics.numbers import Floats, Integers

__all__ = ["lissa", "neumann_series"]

# Random numbers that choose batches come from streams of their own, one for each repeat.
_FIRST_STREAM = 1 << 33
# Relative residual of the largest eigenvalue; its error is about the square of that.
_TOL = 0.1
# Steps between looks at whether a run diverges, each of which waits for the device.
_LOOKS = 10


def lissa(
    operators: LinearOperator | Sequence[LinearOperator],
    b: Any,
    *,
    damping: float,
    scale: float | None = None,
    steps: int = 1000,
    repeats: int = 1,
    weights: Sequence[float] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> LissaResult:
    r"""Estimate (H + damping I)^-1 b by Neumann's series with one mini-batch in each step (LiSSA).

    It is here to be compared with: published influence functions use it, and it takes scale / damping steps and more
    where `solve` takes the square root of that. From x = b it iterates [1]_ [2]_

    .. math:: x \leftarrow b + (I - (H_i + \mathtt{damping} \, I) / \mathtt{scale}) \, x

    with the matrix :math:`H_i` of a batch drawn at random, and returns the mean of x / scale over the repeats, which
    estimates the solution for the mean H of all batches. The damping is in units of H, as everywhere in specop; where
    a publication adds one to H / scale, pass scale times as much.

    It converges only if :math:`0 < h + \mathtt{damping} < 2 \, \mathtt{scale}` for the eigenvalues h of every batch.
    The largest are estimated before it runs, by a few products with each, and a scale that is too small is refused.

    Parameters
    ----------
    operators : LinearOperator or sequence of LinearOperator
        H, or those of the mini-batches, such as ``[part.hessian() for part in objective.batches()]``. With a single
        one nothing is random: it is the plain series.
    b : native vector (n,) or parameter structure
        The right-hand side.
    damping : float
        Positive number that is added to the diagonal of H.
    scale : float, optional
        Divides the matrix, so that the series converges. Default: the largest eigenvalue seen in any batch, with its
        error bound, plus the damping.
    steps : int
        Number of products in each run.
    repeats : int
        Number of independent runs that are averaged.
    weights : sequence of float, optional
        Share of each batch in H; default: the operators' numbers of samples, where they have any, otherwise equal. A
        batch is drawn with a probability proportional to it. Where the loss counts something else than samples, such
        as tokens, pass that.
    seed : int
        Seed of the draws, and of the vectors that the estimates of eigenvalues begin with.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.

    Returns
    -------
    LissaResult
        With the standard error over repeats, and the true residual, by one pass over all batches.

    Raises
    ------
    InvalidInputError
        For a scale with which it cannot converge; the text has one that works.
    DomainError
        If a run diverges because a batch has an eigenvalue below ``-damping``.

    References
    ----------
    .. [1] N. Agarwal, B. Bullins and E. Hazan, Second-order stochastic optimization for machine learning in linear
       time, JMLR 18 (2017).
    .. [2] P. W. Koh and P. Liang, Understanding black-box predictions via influence functions, ICML (2017).

    Examples
    --------
    >>> import numpy as np, specop
    >>> H = specop.aslinearoperator(np.diag([1.0, 4.0]))
    >>> specop.lissa(H, np.ones(2), damping=1.0).x.round(6)
    array([0.5, 0.2])
    """
    parts = _alike(operators)
    backend, counts = parts[0].backend, [part.samples for part in parts]
    known = [count for count in counts if count is not None]
    task = Task(
        "lissa",
        backend,
        parts[0].processes,
        seed=seed,
        samples=None if None in counts else sum(known),
        progress=progress,
        operators=parts,
    )
    shares = _checked_shares(
        len(parts), ([1.0] * len(parts) if None in counts else known) if weights is None else weights
    )
    damping = checked_number("damping", damping, positive=True)
    steps, repeats = checked_count("steps", steps), checked_count("repeats", repeats)
    operands = checked_operands(parts[0], b)
    if operands.is_block:
        raise InvalidInputError("lissa takes one right-hand side, a vector or a parameter structure.")
    (rhs,) = operands.columns
    with task:
        scale = _checked_scale(_largest(parts, task.seed), damping, scale)
        runs = []
        for repeat in range(repeats):
            x = backend.copy(rhs)
            for step, chosen in enumerate(_draws(shares, steps, task.seed, repeat), start=1):
                product = task.multiply_by(parts[chosen], x)
                x = backend.axpy_(backend.scale_(x, 1.0 - damping / scale), -1.0 / scale, product)
                x = backend.axpy_(x, 1.0, rhs)
                task.update(f"repeat {repeat + 1}")
                if step % _LOOKS == 0 or step == steps:
                    (length,) = lengths_of(backend, x)
                    _check_bounded(length / scale, float(operands.lengths[0]) / damping, damping, parts[0])
            runs.append(backend.scale_(x, 1.0 / scale))
        lengths = np.array(lengths_of(backend, *runs))
        mean, standard_error = _mean(runs, backend)
        rest = backend.axpy_(backend.copy(rhs), -damping, mean)
        rest = add_(backend, rest, -shares, (task.multiply_by(part, mean) for part in parts))
        (residual,) = lengths_of(backend, rest)
    return task.result(
        LissaResult,
        solution=mean,
        standard_error=standard_error,
        residual=residual,
        lengths=lengths,
        damping=damping,
        scale=scale,
        steps=steps,
        repeats=repeats,
        converged=True,
        message="all steps were taken",
        structure=operands.structure,
    )


def neumann_series(system: Equations, column: int, allowance: int) -> Outcome:
    r"""Improve a column's solution by :math:`x \leftarrow x + (b - A x) / \lambda_{max}`, Neumann's series.

    For a positive semidefinite A the residual never grows. Where it does, rounding is all that is left of it, or
    there is an eigenvalue that is not positive, and the residual has become a direction of such curvature.

    Parameters
    ----------
    system : Equations
        Equation whose solution is improved in place.
    column : int
        Number of the right-hand side.
    allowance : int
        Largest number of products.
    """
    run, backend = system.run, system.backend
    last = run.products + allowance
    goal = float(system.goals[column])
    estimate = eigsh(system.A, 1, which="LA", tol=_TOL, max_matvecs=max(1, min(allowance - 1, 100)), seed=run.seed)
    scale, steps = float(estimate.eigenvalues[0] + estimate.residuals[0]), 0
    residual = system.residual(column)
    norm = previous = float(system.norms[column])
    while norm > goal and run.products < last:
        if scale <= 0 or norm > (1 + 1e3 * system.A.precision) * previous:
            unit = backend.scale_(residual, 1.0 / norm)
            (curvature,) = system.scalars(backend.dot(unit, run.multiply(unit)))
            if curvature > 100 * system.A.precision * scale:
                return Outcome("rounding", steps)
            return Outcome("curvature", steps, float(curvature), unit)
        system.move(column, 1.0 / scale, residual)
        steps += 1
        previous = norm
        residual = system.residual(column)
        norm = float(system.norms[column])
        system.report(system.norms[[column]], system.goals[[column]])
    return Outcome("converged" if norm <= goal else "limit", steps)


def _alike(operators: Any) -> list[LinearOperator]:
    parts = [aslinearoperator(part) for part in (operators if isinstance(operators, (list, tuple)) else [operators])]
    if not parts:
        raise InvalidInputError("operators is empty: pass one for each mini-batch.")
    for part in parts:
        if part.domain != parts[0].domain or part.shape != parts[0].shape or part.is_symmetric is False:
            raise InvalidInputError(f"all operators must be symmetric and alike: {parts[0]!r} and {part!r} are not.")
    return parts


def _checked_shares(count: int, weights: Sequence[float]) -> Floats:
    shares = np.asarray(weights, dtype=float)
    if shares.shape != (count,) or not (np.isfinite(shares).all() and (shares > 0).all()):
        raise InvalidInputError(f"weights must be {count} positive numbers, one for each operator, got {weights!r}.")
    return shares / shares.sum()


def _largest(parts: list[LinearOperator], seed: int) -> float:
    """Return an upper estimate of the largest eigenvalue of any batch."""
    found = [eigsh(part, 1, which="LA", tol=_TOL, seed=seed, check_multiplicity=False) for part in parts]
    return max(0.0, *(float(one.eigenvalues[0] + one.residuals[0]) for one in found))


def _checked_scale(largest: float, damping: float, scale: float | None) -> float:
    # With it all of (h + damping) / scale lies in (0, 1]; from one on, batches that differ make the series noisier.
    enough = largest + damping
    if scale is None:
        return enough
    scale = checked_number("scale", scale, positive=True)
    if enough >= 2 * scale:
        raise InvalidInputError(
            f"the series diverges: the largest eigenvalue of a batch is about {largest:.4g}, and with scale={scale:g} "
            f"and damping={damping:g} (h + damping) / scale reaches {enough / scale:.4g}, where it must stay below 2. "
            f"Use scale={1.05 * enough:.3g}."
        )
    return scale


def _draws(shares: Floats, steps: int, seed: int, repeat: int) -> Integers:
    uniform = probes.sample_uniforms(seed, _FIRST_STREAM + repeat, range(steps), 1)[:, 0]
    return np.minimum(np.searchsorted(np.cumsum(shares), uniform, side="right"), len(shares) - 1)


def _check_bounded(length: float, bound: float, damping: float, part: LinearOperator) -> None:
    """Raise if x is longer than b over the damping, which it cannot be if no batch has negative curvature."""
    if not np.isfinite(length):
        raise NonFiniteError(
            f"the series with {part!r} holds NaN or infinity. Check the parameters and the data for NaN."
        )
    if length > 2 * bound:
        raise DomainError(
            f"the series diverged: |x| is {length:.3g}, where |b| / damping = {bound:.3g} bounds it unless a batch has "
            f"an eigenvalue below -damping = {-damping:.3g}. Raise damping, or use a positive semidefinite matrix such "
            f"as objective.ggn()."
        )


def _mean(runs: list[Array], backend: Backend) -> tuple[Array, float]:
    """Return the mean over runs and its standard error, NaN for a single one."""
    count = len(runs)
    mean = backend.scale_(add_(backend, backend.copy(runs[0]), [1.0] * (count - 1), runs[1:]), 1.0 / count)
    if count == 1:
        return mean, float("nan")
    spreads = np.array(lengths_of(backend, *(backend.axpy_(x, -1.0, mean) for x in runs)))
    return mean, float(((spreads**2).sum() / (count * (count - 1))) ** 0.5)
