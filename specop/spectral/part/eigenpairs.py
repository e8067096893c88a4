"""Eigenpairs of a mean over all samples from a part of them, as many samples as the goal takes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from specop.arrays.backend import Array
from specop.errors import InvalidInputError, NotConvergedError, checked_number
from specop.krylov.run import Run
from specop.results.eigen import EigenResult
from specop.results.structure import Structure
from specop.spectral.part.enclosure import End, enclosed_by
from specop.spectral.part.part import Part, part_of
from specop.spectral.part.sampled_mean import SIZE, SampledMean, first_count, halves_of, next_count, samples_of
from specop.statistics.estimate import Estimate
from specop.statistics.numbers import Floats, Integers

__all__ = ["LOOSEST", "Asked", "check_part", "result_of_part"]

LOOSEST = 2e-3
"""Relative residual of pairs of parts, at most.

On eigenvalues five percent apart, 16 of 100 runs with 0.05 returned the one below in place of the last, 4 with 0.005.
"""

_PRODUCTS = 1000


@dataclass(frozen=True)
class Asked:
    """What is asked for.

    Attributes
    ----------
    k, which, confidence
        As in `eigsh`.
    rtol : float
        Goal for the standard error of each eigenvalue, relative to it.
    solve : callable
        `eigsh` with its other arguments, for each half.
    """

    k: int
    which: str
    rtol: float
    confidence: float
    solve: Callable[..., EigenResult]


@dataclass(frozen=True)
class PartPairs:
    """What a part of the data says of eigenpairs, eigenvalues ascending.

    Attributes
    ----------
    values : list of Estimate
        Each with an interval from what is too small to what is too large, with the chance of both.
    sampling_errors : ndarray (k,)
        Standard error of both sides from the choice of samples.
    rows : native array (k, n)
        Eigenvectors of one half.
    residuals : ndarray (k,)
        Theirs on the other half.
    bounds : ndarray (k,)
        What eigenvalues of the halves may be off by.
    check_matvecs : int
    samples_used : int
    missed : set of int
        Halves of which another eigenvalue is the outermost.
    is_limited : bool
        Whether products ran out.
    """

    values: list[Estimate]
    sampling_errors: Floats
    rows: Array
    residuals: Floats
    bounds: Floats
    check_matvecs: int
    samples_used: int
    missed: set[int]
    is_limited: bool = False

    def accepts(self, rtol: float) -> bool:
        """Whether all standard errors are within the goal."""
        return all(one.standard_error <= rtol * abs(one.estimate) for one in self.values)


def check_part(which: str, rtol: float | None, callback: object, checkpoint: object) -> None:
    """Refuse arguments that mean nothing for a part of the data."""
    if rtol is not None:
        checked_number("rtol", rtol, positive=True)
    if which == "SM":
        raise InvalidInputError("which='SM' finds eigenvalues that parts of the data do not enclose: leave data= out.")
    if callback is not None or checkpoint is not None:
        raise InvalidInputError("callback= and checkpoint= are for a search with all data: leave them or data= out.")


def result_of_part(run: Run, asked: Asked, v0: Array | EigenResult | None) -> EigenResult:
    """Return the eigenpairs of a part, with what they say of all data.

    Raises
    ------
    InvalidInputError
        If the limit on products ends before anything is found.
    """
    with run:
        found = _found(run, asked, v0)
    if found is None:
        raise InvalidInputError(
            f"max_matvecs={run.limit} ran out before two parts of the {run.samples} samples had {asked.k} eigenpairs "
            f"each. Raise it or tol, or leave data= out."
        )
    intervals = np.array([one.interval for one in found.values])
    values, errors = (np.array([getattr(one, name) for one in found.values]) for name in ("estimate", "standard_error"))
    converged = not found.is_limited and found.accepts(asked.rtol)
    message = "converged"
    if not converged:
        message = (
            f"eigsh stopped after {run.products} products on {found.samples_used} of {run.samples} samples, with "
            f"standard errors of up to {np.max(errors / np.abs(values)):.1e} relative to the eigenvalues, above "
            f"rtol={asked.rtol:g}. Raise max_matvecs or rtol, ask for fewer eigenvalues, or leave data= out."
        )
    return run.result(
        EigenResult,
        eigenvalues=values,
        rows=found.rows,
        residuals=found.residuals,
        bounds=np.abs(intervals - values[:, None]).max(axis=1),
        check_matvecs=found.check_matvecs,
        which=asked.which,
        tol=asked.rtol,
        structure=Structure(run.A.parameter_shapes, run.A.unflatten),
        intervals=intervals,
        standard_errors=errors,
        sampling_errors=found.sampling_errors,
        confidence=asked.confidence,
        samples_used=found.samples_used,
        converged=converged,
        message=message,
    )


def _found(run: Run, asked: Asked, v0: Array | EigenResult | None) -> PartPairs | None:
    """Return the outermost eigenpairs of the mean over all samples; None if products run out before any are found."""
    part = part_of(run, run.seed, size=SIZE)
    count = first_count(part)
    starts: list[Array | EigenResult | None] = [v0, v0]
    found: PartPairs | None = None
    while True:
        halves = halves_of(part, count)
        eigen = [
            _solved(part, half, asked, start, asked.which, asked.k, number)
            for number, (half, start) in enumerate(zip(halves, starts, strict=False))
        ]
        pairs = [one for one in eigen if one is not None]
        if len(pairs) < len(halves):
            return found and replace(found, is_limited=True)
        made = _enclosed(part, halves, pairs, asked)
        if made is None:
            return found and replace(found, is_limited=True)
        found = made
        worst = max(one.standard_error / abs(one.estimate) if one.estimate else np.inf for one in found.values)
        run.update(f"{len(found.values)} eigenvalues to {worst:.1e}, {found.samples_used} samples")
        if found.missed:
            # Again, from what was missed.
            starts = [pairs[1 - i] if i in found.missed else one for i, one in enumerate(pairs)]
            continue
        if len(halves) == 1 or found.accepts(asked.rtol):
            return found
        starts, count = list(pairs), next_count(count, worst / asked.rtol)


def _solved(
    part: Part, half: SampledMean, asked: Asked, start: Array | EigenResult | None, which: str, k: int, number: int
) -> EigenResult | None:
    """Return eigenpairs of a half, or None where products ran out."""
    if half.affordable <= k:
        return None
    limit, seed = min(half.affordable, max(_PRODUCTS, 50 * k)), (part.run.seed + number) % 2**64
    solve = asked.solve
    if k == 1 and start is None and not half.is_whole:
        # Copies of one eigenvalue change nothing, and a larger one that a random start missed shows on the other half.
        solve = functools.partial(solve, check_multiplicity=False)
    try:
        return solve(half, k, which=which, v0=start, max_matvecs=limit, seed=seed, raise_on_failure=True)
    except NotConvergedError:
        return None


def _wanted(eigen: EigenResult, sign: float, asked: Asked) -> Integers:
    """Return the places of the eigenvalues that were found for one end, the outermost first."""
    order = np.argsort(-sign * eigen.eigenvalues, kind="stable")
    if asked.which == "LM":
        return order[(sign * eigen.eigenvalues[order] > 0) | ((sign > 0) & (eigen.eigenvalues[order] == 0))]
    largest = {"LA": asked.k, "SA": 0, "BE": asked.k - asked.k // 2}[asked.which]
    return order[: largest if sign > 0 else asked.k - largest]


def _end(
    part: Part, half: SampledMean, asked: Asked, eigen: EigenResult, sign: float, count: int, number: int
) -> End | None:
    """Return so many eigenpairs of one end, of which most are known; None where products ran out."""
    chosen, known = _wanted(eigen, sign, asked), eigen
    if len(chosen) < count:
        # Halves may disagree about how many of the largest in size are negative.
        more = _solved(part, half, asked, eigen, "LA" if sign > 0 else "SA", count, number)
        if more is None:
            return None
        chosen, known = np.argsort(-sign * more.eigenvalues, kind="stable"), more
    rows = half.backend.stack([known.eigenvector(int(i)) for i in chosen])
    return End(sign, sign * known.eigenvalues[chosen], known.bounds[chosen], rows)


def _enclosed(part: Part, halves: list[SampledMean], pairs: list[EigenResult], asked: Asked) -> PartPairs | None:
    """Return what lies between both sides for each eigenvalue; None where products ran out."""
    used, sides = samples_of(halves), []
    for sign in (1.0, -1.0):
        count = max(len(_wanted(one, sign, asked)) for one in pairs)
        if not count:
            continue
        ends = [
            _end(part, half, asked, one, sign, count, number)
            for number, (half, one) in enumerate(zip(halves, pairs, strict=True))
        ]
        if any(end is None for end in ends) or any(half.affordable < count for half in halves):
            return None
        sides.append(enclosed_by(part.run, halves, [end for end in ends if end is not None], asked.confidence))
    values = [value for side in sides for value in side.values]
    # Of the largest in size there may be more than k at both ends together.
    order = sorted(range(len(values)), key=lambda i: -abs(values[i].estimate))[: asked.k]
    order = sorted(order, key=lambda i: values[i].estimate)
    rows = [half for side in sides for half in side.rows]
    return PartPairs(
        [values[i] for i in order],
        np.concatenate([side.sampling_errors for side in sides])[order],
        halves[0].backend.stack([rows[i] for i in order]),
        np.concatenate([side.residuals for side in sides])[order],
        np.concatenate([side.bounds for side in sides])[order],
        sum(one.check_matvecs for one in pairs),
        used,
        {i for side in sides for i in side.missed},
    )
