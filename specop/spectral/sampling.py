"""How the products of a trace estimate are spent: on single probes, on a sketch, or on both."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from specop.arrays.memory import in_bytes
from specop.errors import InvalidInputError
from specop.krylov.run import Run
from specop.spectral.estimation import Estimation
from specop.spectral.goals import STAGE, exact_diagonal
from specop.spectral.nystrom import nystrom_estimates
from specop.spectral.orthogonal import OrthogonalProbes
from specop.spectral.sketch import Sketch
from specop.statistics.numbers import Floats

__all__ = ["LARGEST_SKETCH", "adaptive", "exact", "hutch_plus_plus", "hutchinson", "xnystrace", "xtrace"]

LARGEST_SKETCH = 100_000_000
"""Entries that a sketch may hold where nobody asked for one: 400 MB in float32."""

_NONE = np.zeros(0)


def exact(estimation: Estimation) -> tuple[str, str]:
    """Sum the diagonal, one unit vector after the other; what is known of eigenvalues need not be exact."""
    return estimation.settle(float(exact_diagonal(estimation.run).sum()), "the sum of the diagonal")


def hutchinson(estimation: Estimation) -> tuple[str, str]:
    """Average what vectors of random signs give."""
    run, space, samples = estimation.run, estimation.space, _NONE
    may_span, orthogonal = estimation.may_span(0), None
    while estimation.goes_on():
        stage = min(STAGE if len(samples) else estimation.fewest, run.left)
        if orthogonal:
            stage = min(stage, orthogonal.left)
        indices = range(len(samples), len(samples) + stage)
        signs = (space.rademacher(i) for i in indices)
        # Made orthogonal, they still prefer no direction: any change of signs or order leaves their law as it is.
        drawn = map(orthogonal.draw, signs) if orthogonal else signs
        samples = np.concatenate([samples, run.scalars([estimation.measure(probe) for probe in drawn])])
        # Nothing is known of the eigenvalues.
        estimation.look(samples, concentration=1.0)
        if may_span and not orthogonal and not estimation.accepted:
            orthogonal = estimation.orthogonal = OrthogonalProbes(run, space.dimension, space.project)
    return _told(estimation, "hutchinson", f"{len(samples)} probes")


def vectors_a_probe(run: Run, *, nystrom: bool = False) -> int:
    """Return how many vectors a sketch holds for each probe."""
    return 2 if nystrom or run.A.is_symmetric else 3


def xtrace(estimation: Estimation) -> tuple[str, str]:
    """Put half of the products into a sketch and half on its rows; leave each probe out in turn."""
    if estimation.run.left < 2:
        raise InvalidInputError(f"method='xtrace' takes at least two products, got max_matvecs={estimation.run.left}.")
    sketch = Sketch(estimation.space, _fitting(estimation, estimation.run.left // 2))
    while sketch.multiplied < sketch.capacity and not estimation.accepted:
        _grow(sketch, sketch.capacity if estimation.goal.is_budget else STAGE + sketch.drawn * 5 // 4)
        sketch.multiply(sketch.drawn - sketch.multiplied)
        estimation.look_at(sketch, _NONE)
    message = f"a sketch of {sketch.multiplied} products, each left out in turn"
    return "xtrace", estimation.complete(sketch.multiplied, message)


def xnystrace(estimation: Estimation) -> tuple[str, str]:
    """Put every product into the Nystrom approximation of a positive semidefinite operator."""
    sketch = Sketch(estimation.space, _fitting(estimation, estimation.run.left, nystrom=True), nystrom=True)
    while sketch.drawn < sketch.capacity and not estimation.accepted:
        _grow(sketch, sketch.capacity if estimation.goal.is_budget else STAGE + sketch.drawn * 5 // 4)
        samples, error = nystrom_estimates(sketch)
        # The rounding of H, which the shift lifts above zero, adds up over the probes.
        estimation.look(samples, error, 0.1 * sketch.drawn * sketch.shift * estimation.space.dimension)
    message = f"a Nystrom approximation by {sketch.drawn} products, each left out in turn"
    return "xnystrace", estimation.complete(sketch.drawn, message)


def hutch_plus_plus(estimation: Estimation) -> tuple[str, str]:
    """Spend a third of the products each on a sketch, on its rows, and on probes of the rest."""
    space, left = estimation.space, estimation.run.left
    if left < 3:
        raise InvalidInputError(f"method='hutch++' takes at least three products, got max_matvecs={left}.")
    largest = min(left // 3, space.dimension - 1)
    wished = largest if estimation.goal.is_budget else min(left, space.dimension)
    sketch = Sketch(space, _fitting(estimation, wished))
    largest = min(largest, sketch.capacity)
    goal = largest if estimation.goal.is_budget else min(2 * STAGE, largest)
    _grow(sketch, goal)
    while not estimation.accepted:
        # Probes of the rest become part of the next sketch, so that none is lost.
        sketch.multiply(min(goal, sketch.drawn) - sketch.multiplied)
        if goal == largest:
            break
        _grow(sketch, min(2 * goal, sketch.drawn + estimation.run.left))
        estimation.look(sketch.fresh(), rounding=sketch.rounding())
        goal = min(2 * goal, largest)

    def look(single: Floats) -> bool:
        return estimation.look(np.concatenate([sketch.fresh(), single]), rounding=sketch.rounding())

    _sample_rest(estimation, sketch, look)
    return "hutch++", f"a sketch of {sketch.multiplied} products and {len(estimation.samples)} probes of the rest"


def adaptive(estimation: Estimation) -> tuple[str, str]:
    """Grow a sketch while that pays, then sample what it leaves.

    A further row costs one product and lowers the variance of every probe by what it takes from the squared norm of
    the rest. With N products left that pays while the sum N * (gain) exceeds the variance; with a tolerance, while it
    saves more probes than it costs.
    """
    space, run = estimation.space, estimation.run
    if estimation.goal.begins_exact(run, "auto"):
        return exact(estimation)[0], f"n={run.n} products give the trace exactly"
    held, room = vectors_a_probe(run), run.room()
    largest, fitting = LARGEST_SKETCH // (held * run.n), room.rows // held
    wished = min(largest, run.left, space.dimension)
    capacity = min(wished, fitting)
    if capacity < 2 * STAGE:
        method, message = hutchinson(estimation)
        message += f"; n={run.n} leaves room for a sketch of {capacity} vectors only"
        # Too few products, or dimensions, are no matter of room.
        if min(largest, fitting) < 2 * STAGE:
            limit = f"{in_bytes(room.free)} that are free" if fitting < largest else "its largest size of 1e8 numbers"
            run.note(
                f"no sketch was kept, for {room.told(2 * STAGE * held)} are too much for {limit}: where eigenvalues "
                f"decay that costs products, which deflate=specop.eigsh(A) saves"
            )
    else:
        sketch = Sketch(space, capacity)
        method, message = _sketched(estimation, sketch)
        if sketch.drawn == capacity < wished:
            run.note(
                f"the sketch was as large as fits: {room.told(held * capacity)}, of {in_bytes(room.free)} that were "
                f"free; a larger one may cost fewer products"
            )
    if estimation.turns_exact():
        return exact(estimation)[0], f"the tolerance would take more than n={run.n} probes"
    return method, message


def _fitting(estimation: Estimation, capacity: int, *, nystrom: bool = False) -> int:
    """Return the capacity of a sketch that was asked for: all of it, or what fits where a tolerance may be met before.

    Raises
    ------
    NotEnoughMemoryError
        If the products of a budget need a sketch that does not fit, or if nothing does.
    """
    run = estimation.run
    held, room = vectors_a_probe(run, nystrom=nystrom), run.room()
    capacity = min(capacity, estimation.space.dimension)
    least = capacity if estimation.goal.is_budget else min(capacity, 2 * STAGE)
    room.check(
        held * least,
        f"a sketch of {least} probes",
        "Take method='auto', which keeps what fits, or method='hutchinson', which keeps no vectors.",
    )
    return max(least, min(capacity, room.most // held))


def _sketched(estimation: Estimation, sketch: Sketch) -> tuple[str, str]:
    space, run = estimation.space, estimation.run
    may_span = estimation.may_span(vectors_a_probe(run) * sketch.capacity)
    reason = _grow_while_it_pays(estimation, sketch, may_span)
    if may_span and not estimation.accepted and sketch.multiplied < space.dimension:
        estimation.orthogonal = OrthogonalProbes(run, space.dimension - sketch.multiplied, sketch.beyond)
    _sample_rest(estimation, sketch, lambda single: estimation.look_at(sketch, single))
    p, f = sketch.multiplied, len(estimation.samples) - sketch.multiplied
    if p == sketch.space.dimension:
        estimation.is_exact = True
        return "xtrace", "the sketch spans the whole space"
    if p == 0:
        return _told(estimation, "hutchinson", f"{f} probes: {reason}")
    if f == 0:
        return "xtrace", f"a sketch of {p} products, each left out in turn: the spectrum decays"
    message = f"a sketch of {p} products, each left out in turn, then {f} probes of the rest: {reason}"
    return _told(estimation, "xtrace+hutchinson", message)


def _told(estimation: Estimation, method: str, message: str) -> tuple[str, str]:
    """Return method and message of an estimate whose last probes may be orthogonal to each other."""
    orthogonal = estimation.orthogonal
    if orthogonal is None:
        return method, message
    if estimation.spans:
        return "exact", f"{orthogonal.count} orthogonal probes span the whole space"
    told = f"{message}; the last {orthogonal.count} are orthogonal, of {orthogonal.dimension} that leave no error"
    return method.replace("hutchinson", "orthogonal"), told


def _grow_while_it_pays(estimation: Estimation, sketch: Sketch, may_span: bool) -> str:
    """Return why the sketch was not grown any further."""
    run = estimation.run
    _grow(sketch, min(STAGE, estimation.run.left))
    estimation.look_at(sketch, _NONE)
    while not estimation.accepted and run.left > 0:
        ahead, step = sketch.drawn - sketch.multiplied, max(STAGE, sketch.drawn // 4)
        turns = not may_span and estimation.turns_exact(ahead + step)
        if ahead == 0 or turns or not _pays(estimation, sketch, may_span):
            return "another vector in a sketch would save less than one probe"
        sketch.multiply(min(ahead, run.left))
        if estimation.look_at(sketch, _NONE):
            break
        # A multiplied row is one of the directions that probes are to span; what is drawn is spent beside these.
        spare = run.left - (sketch.space.dimension - sketch.multiplied) if may_span else (run.left + 1) // 2
        _grow(sketch, sketch.drawn + min(step, spare))
        if sketch.drawn == sketch.multiplied:
            return f"a sketch of {sketch.drawn} vectors is as large as it may be"
        estimation.look_at(sketch, _NONE)
    return "their standard error is within tolerance"


def _grow(sketch: Sketch, size: int) -> None:
    sketch.draw(min(size, sketch.capacity) - sketch.drawn)


def _sample_rest(estimation: Estimation, sketch: Sketch, look: Callable[[Floats], bool]) -> None:
    """Spend what is left on single probes of what lies beyond the sketch."""
    single, orthogonal = _NONE, estimation.orthogonal
    while sketch.multiplied < sketch.space.dimension and estimation.goes_on():
        stage = min(STAGE, estimation.run.left, orthogonal.left if orthogonal else STAGE)
        indices = range(sketch.drawn + len(single), sketch.drawn + len(single) + stage)
        single = np.concatenate([single, [sketch.sample(i, orthogonal) for i in indices]])
        look(single)


def _pays(estimation: Estimation, sketch: Sketch, may_span: bool) -> bool:
    run, saved, variance = estimation.run, 2.0 * sketch.gain(), sketch.variance()
    if estimation.goal.is_budget:
        return saved * (run.left + sketch.drawn) > variance
    allowed = estimation.goal.tolerance(estimation.value.estimate) ** 2
    if may_span and 8 * run.products >= run.n:
        # Where M independent probes would do, M d / (M + d) orthogonal ones of d do, and each of M is worth less.
        enough = allowed * (sketch.space.dimension - sketch.multiplied)
        saved *= (enough / (enough + variance)) ** 2 if enough > 0.0 else 0.0
    return saved > allowed and variance > allowed * (len(estimation.samples) + STAGE)
