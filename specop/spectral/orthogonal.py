"""OrthogonalProbes: random directions, each orthogonal to all before, of which n leave nothing to chance."""

from __future__ import annotations

from collections.abc import Callable

from specop.arrays import probes
from specop.arrays.backend import Array, lengths_of
from specop.krylov.run import Run
from specop.krylov.space import LARGEST_BASIS

__all__ = ["OrthogonalProbes", "may_hold_all"]

# Part of a random vector below which another one is drawn, and the index of the first of these.
_SHORT, _SPARE = 1e-4, 1 << 33


class OrthogonalProbes:
    """Vectors that are random but for being orthogonal to each other.

    Quadratic forms of m of them have a mean like that of m numbers drawn without replacement from n: its variance is
    (n - m) / (n - 1) of that of independent ones, and all n give the trace.

    Parameters
    ----------
    run : Run
        Run whose operator the vectors belong to.
    dimension : int
        Dimension of the space that they are drawn from, and their largest number.
    project : callable
        Returns the part of a vector, which is consumed, in that space.
    """

    def __init__(self, run: Run, dimension: int, project: Callable[[Array], Array]) -> None:
        self.dimension = dimension
        self.count = 0
        self._run = run
        self._backend = run.backend
        self._project = project
        self._basis = self._backend.allocate(run.A.domain, dimension, 0)

    @property
    def left(self) -> int:
        """How many more there are."""
        return self.dimension - self.count

    def draw(self, vector: Array) -> Array:
        """Return what a random vector, which is consumed, has outside of those before it, of length sqrt(dimension)."""
        vector, length = self._outside(vector)
        if length < _SHORT * self.dimension**0.5:
            # Few signs may lie in the span of others.
            run = self._run
            vector, length = self._outside(probes.sphere(self._backend, run.A.domain, run.seed, _SPARE + self.count))
        if length < 0.5 * self.dimension**0.5:
            # What lies along the others mostly: one pass leaves rounding of the whole vector.
            vector, length = self._outside(self._backend.scale_(vector, 1.0 / length))
        self._basis = self._backend.set_row_(self._basis, self.count, vector, 1.0 / length)
        self.count += 1
        return self._backend.scale_(vector, self.dimension**0.5 / length)

    def _outside(self, vector: Array) -> tuple[Array, float]:
        vector = self._project(self._backend.orthogonalize_(vector, self._basis, self.count, ())[0])
        return vector, lengths_of(self._backend, vector)[0]


def may_hold_all(run: Run, beside: int, products: int) -> bool:
    """Whether so many products are enough for all of n directions, and these fit beside so many other vectors."""
    return run.n <= products and run.n**2 <= LARGEST_BASIS and run.n + beside <= run.room().rows
