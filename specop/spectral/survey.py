"""survey: both ends of a spectrum, the trace and the density from one Krylov space and one set of probes."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from specop.arrays.backend import Array
from specop.errors import checked_count, checked_number
from specop.krylov.projected import Ritz
from specop.krylov.run import Run
from specop.krylov.space import KrylovSpace
from specop.results.eigen import EigenResult
from specop.results.spectral_density import SpectralDensity
from specop.results.structure import Structure
from specop.results.trace import TraceResult
from specop.spectral.check import CHECK_ROWS, Check
from specop.spectral.complement_rules import complement_rules
from specop.spectral.ends import End
from specop.spectral.fitting import default_limit, rows_that_fit
from specop.spectral.search import Search
from specop.spectral.spectral_density import quadrature_fields
from specop.statistics.numbers import Floats
from specop.statistics.transport import transport_errors

__all__ = ["Survey", "survey"]

_CONFIDENCE = 0.95
_LARGEST_FREE_BASIS = 10_000_000


class Survey(NamedTuple):
    """What `survey` finds; their products add up to all that were made.

    Attributes
    ----------
    largest : EigenResult
        Checked for missed copies, as that of `specop.eigsh`.
    smallest : EigenResult or None
        Ritz pairs at the lower end of the same Krylov space; None if none were asked for.
    trace : TraceResult
    density : SpectralDensity
        With the largest eigenvalues as known ones.
    """

    largest: EigenResult
    smallest: EigenResult | None
    trace: TraceResult
    density: SpectralDensity


class _LowEnd(NamedTuple):
    """Ritz pairs at the lower end: ascending values, vectors, residuals, and what these should be below."""

    values: Floats
    rows: list[Array]
    residuals: Floats
    goal: float


def survey(
    A: Any,
    k: int,
    k_low: int,
    *,
    tol: float,
    trace_rtol: float,
    steps: int,
    probes: int,
    seed: int = 0,
    progress: bool = False,
) -> Survey:
    r"""Find both ends of a symmetric operator's spectrum, its trace and its density, each product for all of them.

    One Lanczos run from a random vector finds the k largest eigenpairs to a relative residual of `tol`. At the lower
    end, where a bulk of small eigenvalues would take hundreds of products to be told apart, pairs have converged at a
    residual of `tol` times the size of the largest: an eigenvalue lies within that of each, and need not be the
    smallest.

    What is left of the start vector in the complement of the k eigenvectors is itself a random vector there, and the
    rest of its Gauss rule that of the rest of the spectrum: it is the first probe of density and trace. More probes of
    as many steps serve both, and single products more serve the trace, at least eight in all, until its standard error
    is what was asked for.

    Parameters
    ----------
    A : LinearOperator
        Symmetric operator, n x n.
    k, k_low : int
        Numbers of largest and smallest eigenvalues; none of the latter for 0.
    tol : float
        Residual of the eigenpairs: relative to each of the largest, and to the largest in size for the smallest.
    trace_rtol : float
        Relative standard error of the trace; it stops at 1000 further products, or when these span the whole space.
    steps, probes : int
        Lanczos steps for each random vector of the density, and their number.
    seed : int
        Seed of the random vectors.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.

    Raises
    ------
    InvalidInputError, AsymmetryError, NonFiniteError

    Warns
    -----
    ConvergenceWarning
        If the largest eigenvalues or the trace did not converge.

    Notes
    -----
    On the demo's network of 3,466 parameters 10 and 5 eigenvalues, 3 probes of 40 steps and a trace to 2 % take 129
    products; `eigsh` for each end, `trace` and `spectral_density` by themselves take 482, of which the lower end to a
    residual relative to each of its eigenvalues takes 321.
    """
    run = Run(A, "survey", symmetric=True, limit=default_limit(k), seed=seed, progress=progress)
    n = run.n
    checked_count("k", k, n)
    if k_low:
        checked_count("k_low", k_low, n)
    checked_number("tol", tol, positive=True)
    steps = min(steps, n)
    began = time.perf_counter()
    with run:
        free = n if n <= 400 else min(_LARGEST_FREE_BASIS // n, 5 * k + 100)
        wished = min(n, max(2 * k + 40, steps, free) + CHECK_ROWS)
        space = KrylovSpace(run, rows_that_fit(run, wished, k + k_low + CHECK_ROWS), k)
        space.start()
        while (
            space.has_room_for(1)
            and not space.is_closed
            and (space.steps < steps or not _has_converged(space, k, k_low, tol))
        ):
            space.expand()
            run.update("both ends")
        ritz = space.ritz()
        rule = space.rule(ritz) if _has_converged(space, k, k_low, tol) else None
        low = _low_end(space, ritz, k_low, tol)
        ends = [End((1,), k)]
        search = Search(space, ends, tol, Check(space, ends, tol, 0.99))
        while search.step():
            run.update(search.note)
        every = space.ritz().values if space.is_exhausted else None
        found = search.fields()
        largest = run.result(
            EigenResult,
            **found,
            which="LA",
            converged=search.failure is None,
            message=search.failure or "converged",
        )
        smallest = _smallest(run, low, tol) if k_low else None
        ended, at = time.perf_counter(), run.products
        beyond = complement_rules(run, largest, rule, every, steps, probes, trace_rtol)
    known = largest.eigenvalues if every is None else every
    rules, samples, mean = beyond.rules, beyond.samples, beyond.trace
    goal = trace_rtol * abs(mean.estimate)
    enough = not mean.standard_error > goal
    trace = run.result(
        TraceResult,
        estimate=mean.estimate,
        standard_error=mean.standard_error,
        interval=mean.interval,
        confidence=mean.confidence,
        method=beyond.method,
        estimates=samples,
        converged=enough,
        message="converged"
        if enough
        else f"the trace has a standard error of {mean.standard_error:.2g} after {len(samples)} probes, above "
        f"{goal:.2g}, which is {trace_rtol:g} of it. Raise its tolerance.",
    )
    density = run.result(
        SpectralDensity,
        **quadrature_fields(rules, known, n),
        n=n,
        rounding=beyond.floor,
        steps=max((len(one.nodes) for one in rules), default=n),
        error=sum(transport_errors(rules, known, n - len(known))),
        confidence=_CONFIDENCE,
        orthogonal=beyond.orthogonal,
        converged=True,
        message=f"{len(rules)} probe(s)" if rules else "all eigenvalues are known",
    )
    # Single products are the trace's own; the probes behind them serve both.
    single = max(0, len(samples) - len(rules))
    whole = time.perf_counter() - ended
    part = whole * single / max(1, run.products - at)
    return Survey(
        replace(largest, matvecs=at, seconds=ended - began),
        None if smallest is None else replace(smallest, matvecs=0, seconds=0.0),
        replace(trace, matvecs=single, seconds=part),
        replace(density, matvecs=run.products - at - single, seconds=whole - part),
    )


def _has_converged(space: KrylovSpace, k: int, k_low: int, tol: float) -> bool:
    """Whether the Ritz pairs at both ends have; a space that holds all directions has them all."""
    ritz = space.ritz()
    if space.is_exhausted:
        return True
    if len(ritz.values) < k + k_low:
        return False
    are_large = ritz.residuals[-k:] <= space.tolerances(ritz.values[-k:], tol)
    return bool(are_large.all() and (ritz.residuals[:k_low] <= _lower_goal(space, ritz, tol)).all())


def _low_end(space: KrylovSpace, ritz: Ritz, count: int, tol: float) -> _LowEnd:
    """Return the first Ritz pairs of a space, which stays as it is."""
    count = min(count, len(ritz.values))
    rows = []
    for i in range(count):
        coordinates = np.zeros(space.size)
        coordinates[ritz.rows] = ritz.coefficients[:, i]
        rows.append(space.combine(coordinates))
    floor, goal = space.error_floor, _lower_goal(space, ritz, tol)
    return _LowEnd(ritz.values[:count], rows, np.hypot(ritz.residuals[:count], floor), float(np.hypot(goal, floor)))


def _lower_goal(space: KrylovSpace, ritz: Ritz, tol: float) -> float:
    """Return the residual at which a pair at the lower end has converged."""
    return max(tol * float(np.abs(ritz.values).max()), space.noise_floor)


def _smallest(run: Run, low: _LowEnd, tol: float) -> EigenResult:
    """Return the lower end as a result."""
    goals = np.full(len(low.values), low.goal)
    is_small = bool((low.residuals <= goals).all())
    return run.result(
        EigenResult,
        eigenvalues=low.values,
        rows=run.backend.stack(low.rows),
        residuals=low.residuals,
        bounds=low.residuals,
        check_matvecs=0,
        which="SA",
        tol=tol,
        structure=Structure(run.A.parameter_shapes, run.A.unflatten),
        goals=goals,
        converged=is_small,
        message="residuals are relative to the largest eigenvalue, and copies were not looked for"
        if is_small
        else f"the lower end has residuals up to {low.residuals.max():.1e}, above {low.goal:.1e}, in the space that "
        f"the largest eigenvalues took. For these by themselves see eigsh(A, which='SA').",
    )
