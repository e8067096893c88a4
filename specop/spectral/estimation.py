"""Estimation: the state of one estimate of a trace, from samples of its probes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from specop.arrays.backend import Array
from specop.krylov.known import Complement
from specop.spectral.goals import STAGE, Goal, turns_exact
from specop.spectral.jackknife import sketch_error
from specop.spectral.orthogonal import OrthogonalProbes, may_hold_all
from specop.spectral.sketch import Sketch
from specop.statistics.estimate import (
    Estimate,
    agree_by_chance,
    effective_count,
    estimate_from_samples,
    skewed,
    unknown,
)
from specop.statistics.numbers import Floats

__all__ = ["Estimation"]

_NONE = np.zeros(0)


@dataclass
class Estimation:
    """The state of one estimate.

    Parameters
    ----------
    space : Complement
        Subspace that probes are drawn from.
    goal : Goal
        Standard error at which to stop.
    confidence : float
        Probability with which the interval covers.
    may_turn : bool
        Whether n exact products may take the place of probes.

    Attributes
    ----------
    samples : ndarray
        What each probe gave.
    is_exact : bool
        Whether nothing is left to chance.
    orthogonal : OrthogonalProbes or None
        What the latest samples belong to, if these are of directions orthogonal to each other.
    """

    space: Complement
    goal: Goal
    confidence: float
    may_turn: bool
    samples: Floats = field(default_factory=lambda: _NONE)
    is_exact: bool = False
    orthogonal: OrthogonalProbes | None = None

    fewest: ClassVar[int] = STAGE

    def __post_init__(self) -> None:
        self.run = self.space.run
        self.value = Estimate(np.nan, np.nan, (-np.inf, np.inf), self.confidence)
        # The standard error without what is added for skewness, which falls faster.
        self._scatter = np.nan

    @property
    def accepted(self) -> bool:
        """Whether the estimate is as accurate as it was asked to be."""
        value, enough = self.value, len(self.samples) >= self.fewest
        return self.is_exact or (enough and self.goal.accepts(value.estimate, value.standard_error))

    def turns_exact(self, ahead: int = STAGE) -> bool:
        """Whether the tolerance would take more than n further probes; `ahead` products come before the next look.

        Orthogonal ones never do.
        """
        if self.orthogonal is not None:
            return False
        value = self.value
        needed = self.goal.probes_needed(len(self.samples), value.estimate, self._scatter)
        return self.may_turn and turns_exact(self.run, needed, ahead)

    def may_span(self, beside: int) -> bool:
        """Whether probes may be made orthogonal until they span everything, held beside so many other vectors.

        What couples known eigenvectors to the rest, as their residuals allow, would be missed without a word.
        """
        has_all = self.space.dimension == self.run.n
        return self.may_turn and has_all and not self.goal.is_budget and may_hold_all(self.run, beside, self.run.left)

    def goes_on(self) -> bool:
        """Whether more probes are to be multiplied."""
        return self.run.left > 0 and not self.accepted and not self.turns_exact()

    @property
    def spans(self) -> bool:
        """Whether the latest samples are of all directions, so that nothing is left to chance."""
        return self.orthogonal is not None and self.orthogonal.left == 0

    @property
    def spanned(self) -> tuple[int, int]:
        """How many samples are of orthogonal directions, and how many of these there are."""
        return (self.orthogonal.count, self.orthogonal.dimension) if self.orthogonal else (0, 1)

    def look(
        self, samples: Floats, error: float | None = None, rounding: float = 0.0, concentration: float = 0.0
    ) -> bool:
        """Take these as all samples so far; return whether they suffice.

        Parameters
        ----------
        samples : ndarray
        error : float, optional
            Standard error of their mean where they are not independent.
        rounding : float
            Error that all samples have in common.
        concentration : float
            How much of what they sample is one eigenvalue's, 1 for all of it; see `specop.statistics.estimate.skewed`.
        """
        self.run.check_size(float(np.abs(samples).max()))
        self.samples = samples + self.space.known
        value = estimate_from_samples(self.samples, self.confidence, *self.spanned)
        if self.spans:
            self.settle(value.estimate, "")
            return True
        self._scatter = value.standard_error if error is None else error
        if error is None and not rounding and self.agree_by_chance(samples):
            value = unknown(value.estimate, -np.inf, self.confidence)
        elif len(samples) > 1:
            error = float(np.hypot(value.standard_error if error is None else error, rounding))
            value = skewed(value, error, len(samples), concentration, self.goal.looks)
        self.value = value
        self.run.update(f"{value.estimate:.5g} +- {value.standard_error:.2g}")
        return self.accepted

    def agree_by_chance(self, samples: Floats) -> bool:
        """Whether these are the same to rounding, and too few to say that they are so for any signs."""
        rounding = self.run.n**0.5 * self.run.A.domain.epsilon
        return agree_by_chance(samples, self.confidence, rounding)

    def measure(self, probe: Array) -> Array:
        """Return what a single vector of random signs gives, z'Bz."""
        return self.run.backend.dot(probe, self.space.multiply(probe))

    def settle(self, total: float, message: str) -> tuple[str, str]:
        """Take a trace that has no random part."""
        self.samples = _NONE
        self.value = Estimate(total, 0.0, (total, total), self.confidence)
        self.is_exact = True
        return "exact", message

    def complete(self, rows: int, message: str) -> str:
        """Take what so many rows gave as exact if they are all there are; return the message."""
        if rows == self.space.dimension:
            self.settle(self.value.estimate, message)
        return message

    def look_at(self, sketch: Sketch, single: Floats) -> bool:
        """Take all samples that a sketch and single probes of its rest give."""
        if self.spans:
            return self.look(single)
        left_out, fresh = sketch.left_out(), np.concatenate([sketch.fresh(), single])
        p, f = len(left_out), len(fresh)
        if p == 0:
            return self.look(fresh, rounding=sketch.rounding(), concentration=sketch.concentration())
        # Given the sketch, fresh probes know nothing of the ones in it: the two means are uncorrelated.
        error = p * sketch_error(sketch)
        beyond = effective_count(f, *self.spanned)
        if f:
            error = np.hypot(error, beyond**0.5 * float(np.std(fresh if f > 1 else left_out, ddof=1)))
        return self.look(np.concatenate([left_out, fresh]), float(error) / (p + beyond), sketch.rounding())
