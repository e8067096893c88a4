r"""The trace of a mean over all samples as that of its outputs' part and the rest.

.. math:: \operatorname{tr} H = \operatorname{tr} J^\top M J + \operatorname{tr} (H - J^\top M J)

The first one is a sum over samples that each sample's gradient tells, the second one is small or zero where the network
is nearly linear in its parameters. Both are added up from samples in strata, and each is given the samples that lessen
the error of the sum most.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from specop.errors import InvalidInputError
from specop.krylov.run import Run
from specop.operators.sample_mean import Split
from specop.spectral.goals import Goal
from specop.spectral.part.gradients import Gradients
from specop.spectral.part.part import Part, PartEstimate, error_to_reach, of_samples
from specop.spectral.part.remainder import Apart, Remainder
from specop.statistics.group_sums import added_up

__all__ = ["trace_of_split"]

Term = Gradients | Remainder

# Strata of the rest, whose values are vaguer. The first look at it takes eight groups of each, half of all samples.
_STRATA, _SIZE, _FRACTION = 4, 16, 128


def trace_of_split(run: Run, split: Split, part: Part, goal: Goal, confidence: float) -> PartEstimate | None:
    """Return the trace of a mean over all samples, or None where it is to be found in another way.

    That is so where samples have no gradients of their own, and where the limit on products is too low for a first look
    at both parts.

    Parameters
    ----------
    run : Run
    split : Split
    part : Part
        Which has not been looked at.
    goal : Goal
    confidence : float
    """
    terms: list[Term] = [Gradients(run, split, part)]
    if split.rest is not None:
        terms.append(Remainder(run, _part_of_rest(split, part, 1)))
    first = [term.first() for term in terms]
    if sum(term.cost * sum(counts) for term, counts in zip(terms, first, strict=True)) > run.samples_left:
        return None
    looked = [term.part for term in terms]
    try:
        terms[0].take(first[0])
    except InvalidInputError:
        # Groups of samples can be multiplied where single ones have no gradients; or they say what is wrong.
        return None
    for term, counts in zip(terms[1:], first[1:], strict=True):
        term.take(counts)
    is_apart = len(split.parts) == 1
    while True:
        value, sampling_error = added_up([term.total for term in terms], confidence)
        used = len(np.unique(np.concatenate([one.numbers for one in looked])))
        run.update(f"{value.estimate:.5g} +- {value.standard_error:.2g}, {used} samples")
        wished = error_to_reach(value, goal)
        if wished is None:
            break
        allowed = _allowed(run, terms, wished)
        if not is_apart and len(terms) > 1:
            is_apart = True
            other = Apart(run, _part_of_rest(split, part, 2), split.parts)
            if _is_worth_a_look(run, terms[1], other, allowed[1]):
                other.take(other.first())
                looked.append(other.part)
                terms[1] = min(terms[1], other, key=_effort)
                continue
        if not _take_more(run, terms, allowed):
            break
    shown = [term.total.shown() for term in terms]
    count = sum(map(len, shown))
    estimates = np.concatenate([values * (count / len(values)) for values in shown])
    return PartEstimate(value, sampling_error, used, estimates, "gradients")


def _part_of_rest(split: Split, part: Part, number: int) -> Part:
    assert split.rest is not None
    size = min(_SIZE, split.rest.samples // _FRACTION)
    # Drawn independently of what else is drawn.
    return of_samples(part.run, split.rest, part.weights, part.run.seed ^ number << 32, _STRATA, size)


def _effort(term: Term) -> float:
    """Return the standard error of a term times the root of the products that it took."""
    return float(term.total.scatter().sum()) * term.cost**0.5


def _allowed(run: Run, terms: Sequence[Term], wished: float) -> list[float]:
    """Return the standard error that each term may have, for as few products as can be or as many as there may be."""
    # With values of variance s^2 and cost c, s / root of c of them each leave the least variance for the same products.
    efforts = [_effort(term) for term in terms]
    spent = sum(term.cost * sum(map(len, term.total.values)) for term in terms)
    reachable = sum(efforts) / (spent + run.samples_left) ** 0.5
    return [max(wished, reachable) * (effort / sum(efforts)) ** 0.5 for effort in efforts]


def _is_worth_a_look(run: Run, term: Term, other: Term, allowed: float) -> bool:
    """Whether a first look in another way takes fewer products than are still needed in the one."""
    price = other.cost * sum(other.first())
    spent = term.cost * sum(map(len, term.total.values))
    return price <= run.samples_left and _effort(term) ** 2 > (spent + price) * allowed**2


def _take_more(run: Run, terms: Sequence[Term], allowed: Sequence[float]) -> bool:
    """Look at as many samples as the errors take; return whether there were any."""
    has_taken = False
    for term, error in zip(terms, allowed, strict=True):
        if term.total.moments.variance <= error**2:
            continue
        have = list(map(len, term.total.values))
        counts = _within_limit(term, term.total.wanted(error), run.samples_left)
        has_taken = has_taken or counts != have
        term.take(counts)
    return has_taken


def _within_limit(term: Term, counts: Sequence[int], samples: int) -> list[int]:
    """Return how many values each stratum is to have, fewer where they would take more than so many samples."""
    found, left = [], samples / term.cost
    for i, (one, values, count) in enumerate(zip(term.total.strata, term.total.values, counts, strict=True)):
        have, unit = len(values), term.unit(i)
        more = min(-(-(count - have) // unit), int(left // unit)) * unit
        if have + more > len(one):
            # Whole rounds only.
            more = max(0, more - (have + more) % len(one))
        found.append(have + more)
        left -= more
    return found
