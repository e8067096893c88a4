"""How the products of a trace estimate are spent: on single probes, on a sketch, or on both."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from specop.errors import InvalidInputError
from specop.krylov.known import Complement
from specop.krylov.ranges import check_size
from specop.spectral.goals import Goal
from specop.spectral.jackknife import sketch_error
from specop.spectral.nystrom import nystrom_estimates
from specop.spectral.sketch import Sketch
from specop.statistics.estimate import Estimate, estimate_from_samples, with_error

__all__ = ["STAGE", "Run", "adaptive", "exact", "hutch_plus_plus", "hutchinson", "xnystrace", "xtrace"]

STAGE = 8
"""Probes before the first look at the error: with fewer an interval covers less often than it says."""

# Entries that a sketch may hold where nobody asked for one: 400 MB in float32.
_LARGEST_FREE_SKETCH = 100_000_000
_NONE = np.zeros(0)


class Run:
    """The state of one estimate.

    Parameters
    ----------
    space : Complement
    goal : Goal
    confidence : float
    update : callable
        Told the number of products and a note.
    """

    def __init__(self, space: Complement, goal: Goal, confidence: float, update: Callable[[int, str], None]) -> None:
        self.space = space
        self.goal = goal
        self.confidence = confidence
        self.update = update
        self.samples = np.zeros(0)
        self.value = Estimate(np.nan, np.nan, (-np.inf, np.inf), confidence)
        self.is_exact = False

    @property
    def left(self) -> int:
        """Products that may still be taken."""
        return self.goal.limit - self.space.products

    @property
    def accepted(self) -> bool:
        """Whether the estimate is as accurate as it was asked to be."""
        value, enough = self.value, len(self.samples) >= STAGE
        return self.is_exact or (enough and self.goal.accepts(value.estimate, value.standard_error))

    def look(self, samples: NDArray[np.float64], error: float | None = None, rounding: float = 0.0) -> bool:
        """Take these as all samples so far; return whether they suffice.

        Parameters
        ----------
        samples : ndarray
        error : float, optional
            Standard error of their mean where they are not independent.
        rounding : float
            Error that all samples have in common.
        """
        check_size(float(np.abs(samples).max()), self.space.operator)
        self.samples = samples + self.space.known
        value = estimate_from_samples(self.samples, self.confidence)
        if len(samples) > 1:
            error = float(np.hypot(value.standard_error if error is None else error, rounding))
            value = with_error(value, error, len(samples) - 1)
        self.value = value
        self.update(self.space.products, f"{value.estimate:.5g} +- {value.standard_error:.2g}")
        return self.accepted

    def look_at(self, sketch: Sketch, single: NDArray[np.float64]) -> bool:
        """Take all samples that a sketch and single probes of its rest give."""
        left_out, fresh = sketch.left_out(), np.concatenate([sketch.fresh(), single])
        p, f = len(left_out), len(fresh)
        if p == 0:
            return self.look(fresh, rounding=sketch.rounding())
        # Given the sketch, fresh probes know nothing of the ones in it: the two means are uncorrelated.
        error = p * sketch_error(sketch)
        if f > 1:
            error = np.hypot(error, f**0.5 * float(np.std(fresh, ddof=1)))
        elif f == 1:
            error = np.hypot(error, float(np.std(left_out, ddof=1)))
        return self.look(np.concatenate([left_out, fresh]), float(error) / (p + f), sketch.rounding())


def exact(run: Run) -> tuple[str, str]:
    """Take the diagonal, one unit vector after the other."""
    space, backend = run.space, run.space.backend
    entries = []
    for i in range(space.operator.shape[0]):
        unit = space.unit(i)
        entries.append(backend.dot(unit, space.multiply(unit)))
        run.update(space.products, "")
    diagonal = space.checked(entries)
    total = float(diagonal.sum()) + space.known
    # The mean of n times the diagonal is the trace; there is nothing random about it.
    run.samples = len(diagonal) * diagonal + space.known
    run.value = Estimate(total, 0.0, (total, total), run.confidence)
    run.is_exact = True
    return "exact", "the sum of the diagonal"


def hutchinson(run: Run) -> tuple[str, str]:
    """Average z'Bz over vectors of random signs."""
    space, backend = run.space, run.space.backend
    samples = np.zeros(0)
    while run.left > 0 and not run.accepted:
        found = []
        for i in range(len(samples), len(samples) + min(STAGE, run.left)):
            probe = space.rademacher(i)
            found.append(backend.dot(probe, space.multiply(probe)))
        samples = np.concatenate([samples, space.checked(found)])
        run.look(samples)
    return "hutchinson", f"{len(samples)} probes"


def xtrace(run: Run) -> tuple[str, str]:
    """Put half of the products into a sketch and half on its rows; leave each probe out in turn."""
    if run.left < 2:
        raise InvalidInputError(f"method='xtrace' takes at least two products, got max_matvecs={run.left}.")
    sketch = Sketch(run.space, run.left // 2)
    while sketch.multiplied < sketch.capacity and not run.accepted:
        _grow(sketch, sketch.capacity if run.goal.is_budget else STAGE + sketch.drawn * 5 // 4)
        sketch.multiply(sketch.drawn - sketch.multiplied)
        run.look_at(sketch, _NONE)
    run.is_exact = sketch.multiplied == run.space.dimension
    return "xtrace", f"a sketch of {sketch.multiplied} products, each left out in turn"


def xnystrace(run: Run) -> tuple[str, str]:
    """Put every product into the Nystrom approximation of a positive semidefinite operator."""
    sketch = Sketch(run.space, run.left, nystrom=True)
    while sketch.drawn < sketch.capacity and not run.accepted:
        _grow(sketch, sketch.capacity if run.goal.is_budget else STAGE + sketch.drawn * 5 // 4)
        samples, error = nystrom_estimates(sketch)
        # The rounding of H, which the shift lifts above zero, adds up over the probes.
        run.look(samples, error, 0.1 * sketch.drawn * sketch.shift * run.space.dimension)
    run.is_exact = sketch.drawn == run.space.dimension
    return "xnystrace", f"a Nystrom approximation by {sketch.drawn} products, each left out in turn"


def hutch_plus_plus(run: Run) -> tuple[str, str]:
    """Spend a third of the products each on a sketch, on its rows, and on probes of the rest."""
    if run.left < 3:
        raise InvalidInputError(f"method='hutch++' takes at least three products, got max_matvecs={run.left}.")
    largest = min(run.left // 3, run.space.dimension - 1)
    sketch = Sketch(run.space, min(run.left, run.space.dimension))
    goal = largest if run.goal.is_budget else min(2 * STAGE, largest)
    _grow(sketch, goal)
    while not run.accepted:
        # Probes of the rest become part of the next sketch, so that none is lost.
        sketch.multiply(min(goal, sketch.drawn) - sketch.multiplied)
        if goal == largest:
            break
        _grow(sketch, min(2 * goal, sketch.drawn + run.left))
        run.look(sketch.fresh(), rounding=sketch.rounding())
        goal = min(2 * goal, largest)
    _sample_rest(
        run, sketch, lambda single: run.look(np.concatenate([sketch.fresh(), single]), None, sketch.rounding())
    )
    return "hutch++", f"a sketch of {sketch.multiplied} products and {len(run.samples)} probes of the rest"


def adaptive(run: Run) -> tuple[str, str]:
    """Grow a sketch while that pays, then sample what it leaves.

    A further row costs one product and lowers the variance of every probe by what it takes from the squared norm of
    the rest. With N products left that pays while the sum N * (gain) exceeds the variance; with a tolerance, while it
    saves more probes than it costs.
    """
    space, n = run.space, run.space.operator.shape[0]
    if n <= (run.goal.limit if run.goal.is_budget else min(STAGE, run.goal.limit)):
        method, _ = exact(run)
        return method, f"n={n} products give the trace exactly"
    held = 2 if space.operator.is_symmetric else 3
    capacity = min(_LARGEST_FREE_SKETCH // (held * n), run.left, space.dimension)
    if capacity < 2 * STAGE:
        method, message = hutchinson(run)
        return method, f"{message}; n={n} leaves room for a sketch of {capacity} vectors only"
    sketch = Sketch(space, capacity)
    _grow(sketch, min(STAGE, run.left))
    run.look_at(sketch, _NONE)
    reason = "their standard error is within tolerance"
    while not run.accepted and run.left > 0:
        if 8 * space.products >= n and _probes_needed(run) > n and run.left >= n:
            method, _ = exact(run)
            return method, f"the tolerance would take more than n={n} probes"
        if sketch.drawn == sketch.multiplied or not _pays(run, sketch):
            reason = "another vector in a sketch would save less than one probe"
            break
        sketch.multiply(min(sketch.drawn - sketch.multiplied, run.left))
        if run.look_at(sketch, _NONE):
            break
        _grow(sketch, sketch.drawn + min(max(STAGE, sketch.drawn // 4), (run.left + 1) // 2))
        if sketch.drawn == sketch.multiplied:
            reason = f"a sketch of {sketch.drawn} vectors is as large as it may be"
            break
        run.look_at(sketch, _NONE)
    if sketch.multiplied == space.dimension:
        run.is_exact = True
        return "xtrace", "the sketch spans the whole space"
    _sample_rest(run, sketch, lambda single: run.look_at(sketch, single))
    p, f = sketch.multiplied, len(run.samples) - sketch.multiplied
    if p == 0:
        return "hutchinson", f"{f} probes: {reason}"
    if f == 0:
        return "xtrace", f"a sketch of {p} products, each left out in turn: the spectrum decays"
    return (
        "xtrace+hutchinson",
        f"a sketch of {p} products, each left out in turn, then {f} probes of the rest: {reason}",
    )


def _grow(sketch: Sketch, size: int) -> None:
    sketch.draw(min(size, sketch.capacity) - sketch.drawn)


def _sample_rest(run: Run, sketch: Sketch, look: Callable[[NDArray[np.float64]], bool]) -> None:
    """Spend what is left on single probes of what lies beyond the sketch."""
    single = _NONE
    while run.left > 0 and not run.accepted:
        indices = range(sketch.drawn + len(single), sketch.drawn + len(single) + min(STAGE, run.left))
        single = np.concatenate([single, [sketch.sample(i) for i in indices]])
        look(single)


def _pays(run: Run, sketch: Sketch) -> bool:
    saved = 2.0 * sketch.gain()
    if run.goal.is_budget:
        return saved * (run.goal.limit - sketch.multiplied) > sketch.variance()
    allowed = run.goal.tolerance(run.value.estimate) ** 2
    return saved > allowed and sketch.variance() > allowed * (len(run.samples) + STAGE)


def _probes_needed(run: Run) -> float:
    """Estimate how many more probes the tolerance takes."""
    if run.goal.is_budget:
        return 0.0
    allowed = run.goal.tolerance(run.value.estimate)
    count = len(run.samples)
    return count * (run.value.standard_error / allowed) ** 2 - count if allowed > 0 else np.inf
