"""How the products of an estimate of a diagonal are spent: on single probes, on a sketch, or on unit vectors."""

from __future__ import annotations

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array
from specop.errors import InvalidInputError
from specop.krylov.known import Complement
from specop.krylov.run import Run
from specop.spectral.goals import STAGE, Goal, exact_diagonal, turns_exact
from specop.spectral.sketch import Sketch
from specop.statistics.numbers import Floats

__all__ = ["Moments", "estimated", "exact_entries", "probes_together"]

# Entries that a sketch may hold where nobody asked for one.
_LARGEST_FREE_SKETCH = 100_000_000
# The scatter of estimates that leave out each probe in turn was 0.75 to 1.0 of their mean's error on all spectra tried,
# because they depend on each other.
_DEPENDENCE = 4 / 3
# Each entry of z * (A z) is linear in random signs, and unless it is the same for all it takes one value with a
# probability of at most 1/2: fewer that agree do not tell, at 95 percent, that their error is zero.
_AGREEING = 6


class Moments:
    """A known part of the diagonal, and sum and squares of random vectors whose mean is the rest."""

    def __init__(self, space: Complement, base: Array, *, inflation: float = 1.0, agreeing: int = _AGREEING) -> None:
        self.space = space
        self.inflation = inflation
        self.agreeing = agreeing
        self.backend = space.backend
        self.base = base
        self.count = 0
        self.total = 0.0
        self.sum, self.squares = (self.backend.zeros(space.layout) for _ in range(2))
        self.measure()

    def add(self, vectors: list[Array]) -> None:
        """Add random vectors, and compute the norms of mean and error."""
        lengths = self.space.run.scalars([self.backend.norm(vector) for vector in vectors])
        self.space.run.check_size(float(lengths.max(initial=0.0)), squared=True)
        for vector in vectors:
            self.squares = self.backend.axpy_(self.squares, 1.0, self.backend.multiply(vector, vector))
            self.sum = self.backend.axpy_(self.sum, 1.0, vector)
        self.count += len(vectors)
        self.total += float(np.sum(lengths**2))
        self.measure()

    def measure(self) -> None:
        """Compute the norms of mean and error."""
        length, norm = self.space.run.to_host(self.backend.norm(self.sum), self.backend.norm(self.mean()))
        self.norm, s = float(norm), self.count
        self.error = 0.0 if s == 0 else float("nan")
        if s > 1:
            variance = self._spread(np.array(self.total / s), np.array(float(length / s) ** 2))
            self.error = self.inflation * float(variance / (s - 1)) ** 0.5

    def satisfy(self, goal: Goal) -> bool:
        """Whether there are enough vectors for a small enough error."""
        return self.count >= STAGE and goal.accepts(self.norm, self.error)

    def turn_exact(self, goal: Goal, each: int, ahead: int) -> bool:
        """Whether probes of `each` products would take more than n further ones; `ahead` come before the next look."""
        needed = each * goal.probes_needed(self.count, self.norm, self.error) if self.count >= STAGE else 0.0
        return turns_exact(self.space.run, needed, ahead)

    def mean(self) -> Array:
        """Return the known part and the mean of the vectors."""
        return self.backend.axpy_(self.backend.copy(self.base), 1.0 / max(1, self.count), self.sum)

    def standard_errors(self) -> Array:
        """Return the standard error of each entry; NaN where a single vector, or a few that agree, tell of none."""
        s, layout = self.count, self.space.layout
        if s == 0:
            return self.backend.zeros(layout)
        if s == 1:
            return self.backend.from_host(np.full(layout.n, np.nan), layout)
        mean, squares = (self.backend.to_numpy(vector) / s for vector in (self.sum, self.squares))
        errors = self.inflation * np.sqrt(self._spread(squares, mean**2) / (s - 1))
        return self.backend.from_host(errors, layout)

    def _spread(self, squares: Floats, squared: Floats) -> Floats:
        """Return the mean of squares less the square of the mean; NaN for a few vectors that agree to rounding."""
        spread = np.maximum(0.0, squares - squared)
        if self.count < self.agreeing:
            # Of the difference, and of the products.
            rounding = 4.0 * max(self.space.layout.epsilon, 4.0 * self.space.run.A.precision**2)
            spread = np.where(spread <= rounding * squares, np.nan, spread)
        return spread


def exact_entries(run: Run) -> Array:
    """Return the diagonal by unit vectors."""
    return run.backend.from_host(exact_diagonal(run), run.A.domain)


def estimated(space: Complement, goal: Goal, method: str) -> tuple[Moments, str]:
    """Return an estimate of the diagonal by a method, and the name of the one that was taken."""
    run, may_turn = space.run, method == "auto"
    if method == "xdiag" and run.left < 2:
        raise InvalidInputError(f"method='xdiag' takes at least two products, got max_matvecs={run.left}.")
    capacity = min(run.left // 2, space.dimension)
    if may_turn:
        capacity = min(capacity, _LARGEST_FREE_SKETCH // (5 * run.n), run.room().rows // 5)
    moments, sketch = Moments(space, space.known_diagonal()), None
    if method == "xdiag" or (may_turn and capacity >= STAGE):
        sketch = Sketch(space, capacity, signs=True)
    if may_turn and sketch:
        sketch.draw(STAGE)
        if not _pays(sketch, goal):
            moments.add(_products_of(sketch))
            sketch = None
    moments = _xdiag(sketch, goal, may_turn) if sketch else _bekas(space, goal, moments, may_turn)
    if may_turn and moments.turn_exact(goal, 2 if sketch else 1, run.left):
        return Moments(space, exact_entries(run)), "exact"
    return moments, "xdiag" if sketch else "bekas"


def _bekas(space: Complement, goal: Goal, moments: Moments, may_turn: bool) -> Moments:
    run = space.run
    # One transfer for all that fit.
    together = probes_together(run.room().rows)
    while run.left > 0 and not moments.satisfy(goal):
        if may_turn and moments.turn_exact(goal, 1, STAGE):
            break
        ahead = range(moments.count, moments.count + min(STAGE, run.left))
        for first in range(ahead.start, ahead.stop, together):
            found = []
            for i in range(first, min(first + together, ahead.stop)):
                probe = probes.rademacher(space.backend, space.layout, run.seed, i)
                found.append(space.backend.multiply(probe, space.multiply(probe)))
            moments.add(found)
        run.update(f"norm {moments.norm:.5g} +- {moments.error:.2g}")
    return moments


def _xdiag(sketch: Sketch, goal: Goal, may_turn: bool) -> Moments:
    space = sketch.space
    transposed: list[Array] = []
    while True:
        size = sketch.capacity
        if not goal.is_budget:
            size = min(size, 2 * sketch.drawn if transposed else STAGE)
        sketch.draw(size - sketch.drawn)
        while len(transposed) < sketch.drawn:
            transposed.append(space.multiply_transposed(space.backend.row(sketch.Q, len(transposed))))
        moments = _left_out(sketch, transposed)
        space.run.update(f"norm {moments.norm:.5g} +- {moments.error:.2g}")
        if sketch.drawn == sketch.capacity or moments.satisfy(goal):
            return moments
        if may_turn and moments.turn_exact(goal, 2, 2 * sketch.drawn):
            return moments


def _left_out(sketch: Sketch, transposed: list[Array]) -> Moments:
    r"""Return the diagonal of QQ'A and what each probe changes of it, left out and probing the rest.

    Without probe i, whose direction in Q is s, the known part loses :math:`Qs \circ A^\top Qs`; the probe adds
    :math:`\omega \circ Qs\,(s^\top R_i)`.
    """
    space, backend, p = sketch.space, sketch.space.backend, sketch.drawn
    base = space.known_diagonal()
    left, right = (backend.allocate(space.layout, p, 0) for _ in range(2))
    for i, product in enumerate(transposed):
        row = backend.row(sketch.Q, i)
        base = backend.axpy_(base, 1.0, backend.multiply(row, product))
        left, right = backend.set_row_(left, i, row, 1.0), backend.set_row_(right, i, product, 1.0)
    S = sketch.directions(p)
    left, right = backend.combine_(left, S, 0), backend.combine_(right, S, 0)
    found = []
    moments = Moments(space, base, inflation=_DEPENDENCE, agreeing=0)
    for i, weight in enumerate(np.sum(S * sketch.R[:p, :p], axis=0) * (not sketch.is_zero)):
        row = backend.row(left, i)
        lost = backend.multiply(row, backend.row(right, i))
        seen = backend.multiply(row, backend.row(sketch.Omega, i))
        found.append(backend.axpy_(backend.scale_(lost, -1.0), float(weight), seen))
    moments.add(found)
    return moments


def _pays(sketch: Sketch, goal: Goal) -> bool:
    """Whether each row of a sketch would save more than a probe, judged by the first ones."""
    if goal.is_budget:
        return 2.0 * sketch.gain() * (sketch.space.run.left + sketch.drawn) > sketch.variance()
    # All that is known of the diagonal's norm yet is that its mean entry bounds it from below.
    norm = abs(sketch.mean_eigenvalue()) * sketch.space.dimension**0.5
    return sketch.gain() > goal.tolerance(norm) ** 2


def _products_of(sketch: Sketch) -> list[Array]:
    """Return z * (A z) for the probes of a sketch, whose rows are given up: the products are combinations of them."""
    backend, p = sketch.space.backend, sketch.drawn
    coefficients = sketch.R[:p, :p] * (not sketch.is_zero)
    basis = backend.combine_(sketch.Q, coefficients, 0)
    return [backend.multiply(backend.row(basis, i), backend.row(sketch.Omega, i)) for i in range(p)]


def probes_together(rows: int) -> int:
    """Return how many probes without a sketch are kept until the next look, where so many vectors fit."""
    return max(1, min(STAGE, rows - 3))
