"""Eigenpairs of a mean over all samples from a part of them, as many samples as the goal takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from specop.arrays.backend import Array, Backend
from specop.errors import InvalidInputError, checked_number
from specop.krylov.run import Run
from specop.results.eigen import EigenResult
from specop.results.structure import Structure
from specop.spectral.part.enclosure import Enclosure, Side, whole_side
from specop.spectral.part.ends import Asked, around, ends_of, solved
from specop.spectral.part.part import Part, part_of
from specop.spectral.part.sampled_mean import SIZE, SampledMean, first_count, grown, halves_of
from specop.statistics.estimate import Estimate
from specop.statistics.numbers import Floats

__all__ = ["PartPairs", "check_part", "pairs_of_part", "result_of_part"]


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
    growth : float
        How much larger halves have to be for the goal; 0 if they need not be.
    more : float
        How many times as many samples are to be looked at along the eigenvectors for the goal; 0 if no more.
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
    growth: float = 0.0
    more: float = 0.0
    is_limited: bool = False

    @property
    def worst(self) -> float:
        """The largest standard error relative to its eigenvalue."""
        return max(one.standard_error / abs(one.estimate) if one.estimate else np.inf for one in self.values)


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
        found = pairs_of_part(run, asked, v0)
    if found is None:
        raise InvalidInputError(
            f"max_matvecs={run.limit} ran out before two parts of the {run.samples} samples had {asked.k} eigenpairs "
            f"each. Raise it or tol, or leave data= out."
        )
    intervals = np.array([one.interval for one in found.values])
    values, errors = (np.array([getattr(one, name) for one in found.values]) for name in ("estimate", "standard_error"))
    converged = not found.is_limited and found.worst <= asked.rtol
    message = "converged"
    if not converged:
        message = (
            f"eigsh stopped after {run.products} products on {found.samples_used} of {run.samples} samples, with "
            f"standard errors of up to {found.worst:.1e} relative to the eigenvalues, above "
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


def pairs_of_part(run: Run, asked: Asked, v0: Array | EigenResult | None = None) -> PartPairs | None:
    """Return the outermost eigenpairs of the mean over all samples; None if products run out before any are found."""
    part = part_of(run, run.seed, size=SIZE)
    count = first_count(part)
    known: list[EigenResult | None] = [None, None]
    found: PartPairs | None = None
    while True:
        halves = halves_of(part, count)
        pairs = _searched(run, halves, asked, v0, known, found.missed if found else set())
        made = None if pairs is None else _enclosed(part, halves, pairs, asked)
        if pairs is None or made is None:
            return found and replace(found, is_limited=True)
        found = made
        if found.missed:
            known = [pairs[1 - i] if i in found.missed else one for i, one in enumerate(pairs)]
            continue
        if not found.growth or found.is_limited:
            return found
        known, count = list(pairs), grown(count, found.growth)


def _searched(
    run: Run,
    halves: list[SampledMean],
    asked: Asked,
    v0: Array | EigenResult | None,
    known: list[EigenResult | None],
    missed: set[int],
) -> list[EigenResult] | None:
    """Return eigenpairs of each half, searched from what is known of them; None where products ran out."""
    pairs: list[EigenResult] = []
    for number, half in enumerate(halves):
        near = known[number] or (pairs[0] if pairs and asked.k == 1 else None)
        # What a half missed it is to start from itself.
        checks = v0 is not None or half.grouping.is_whole or asked.k > 1 or number in missed
        start = v0 if near is None else near if checks else around(run, near)
        eigen = solved(half, asked, start, asked.which, asked.k, run.seed + number, checks=checks)
        if eigen is None:
            return None
        pairs.append(eigen)
    return pairs


def _enclosed(part: Part, halves: list[SampledMean], pairs: list[EigenResult], asked: Asked) -> PartPairs | None:
    """Return what lies between both sides for each eigenvalue; None where products ran out."""
    ends, checked = ends_of(halves, pairs, asked), sum(one.check_matvecs for one in pairs)
    if ends is None:
        return None
    if len(halves) == 1:
        sides = [whole_side(halves[0].backend, end, asked.confidence) for (end,) in ends]
        return _pairs(halves[0].backend, sides, asked, halves[0].size, checked)
    grouping = halves[0].grouping
    enclosures = [Enclosure(part.run, grouping, one, asked.confidence) for one in ends]
    vectors = sum(one.count for one in enclosures)
    if sum(half.size for half in halves) * vectors > part.left:
        return None
    # Eigenvectors of one half are looked at along the other.
    for number, half in enumerate(halves[::-1]):
        for i, weight, group in half.groups():
            for one in enclosures:
                one.measure(i, weight, group, number)
    counts = grouping.least
    while True:
        made = _pairs(
            halves[0].backend, [one.side() for one in enclosures], asked, grouping.samples_of(counts), checked
        )
        part.run.update(f"{len(made.values)} eigenvalues to {made.worst:.1e}, {made.samples_used} samples")
        if made.missed or made.growth or not made.more:
            return made
        wanted = grouping.more(counts, made.more)
        if wanted == counts:
            return replace(made, growth=made.more)
        places, counts = grouping.beside(counts, wanted), wanted
        if grouping.samples(places) * vectors > part.left:
            return replace(made, is_limited=True)
        for i, weight, group in grouping.groups(places):
            if vectors > 1:
                group.expect()
            for one in enclosures:
                one.measure(i, weight, group, 0)


def _pairs(backend: Backend, sides: list[Side], asked: Asked, used: int, checked: int) -> PartPairs:
    """Return the eigenpairs that were asked for, of those of both ends."""
    places = [(side, i) for side in sides for i in range(len(side.values))]
    # Of the largest in size there may be more than k at both ends together.
    places = sorted(places, key=lambda place: -abs(place[0].values[place[1]].estimate))[: asked.k]
    places = sorted(places, key=lambda place: place[0].values[place[1]].estimate)
    growth, more = zip(*(side.plan(i, asked.rtol) for side, i in places), strict=True)
    return PartPairs(
        [side.values[i] for side, i in places],
        np.array([side.sampling_errors[i] for side, i in places]),
        backend.stack([side.rows[i] for side, i in places]),
        np.array([side.residuals[i] for side, i in places]),
        np.array([side.bounds[i] for side, i in places]),
        checked,
        used,
        {i for side in sides for i in side.missed},
        max(growth),
        max(more),
    )
