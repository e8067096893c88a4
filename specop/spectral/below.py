"""count_below: how many eigenvalues lie below a value, counted with a certificate where they are few."""

from __future__ import annotations

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array
from specop.krylov.projected import Ritz
from specop.krylov.run import Run
from specop.krylov.space import KrylovSpace
from specop.statistics.measure import is_ruled_out

__all__ = ["count_below"]

_MOST = 30
# Apart from the vectors that other searches with the same seed begin with.
_START = 1 << 39
_FEWEST_STEPS = 4
# A Ritz value is an eigenvalue on its side of the value where its residual is below this share of the distance. What
# couples its vector to the others then moves those by the square of it.
_CONVERGED = 1e-3


def count_below(run: Run, value: float, confidence: float, allowance: int) -> int | None:
    """Return the number of eigenvalues below a value, copies included; None where that takes too much.

    A Lanczos run from a random vector goes on until all of its Ritz values below the value have converged. The next one
    starts from another vector, orthogonal to all that were found, and shows further ones, or copies. The last one shows
    none, and rules out that there is one: its Christoffel number at the value is too small for that.

    Parameters
    ----------
    run : Run
        Run of a symmetric operator; it makes the products.
    value : float
        Such as minus the size up to which eigenvalues count as zero.
    confidence : float
        Probability with which the certificate holds.
    allowance : int
        Largest number of products.
    """
    end = run.products + min(allowance, run.left)
    found = _Found(run)
    while found.count <= min(_MOST, run.n - 1) and run.products < end:
        space, chain = found.space(end)
        is_certain = False
        while run.products < end and not space.is_closed:
            space.expand()
            run.update()
            steps = space.steps - chain
            if not space.is_closed and (steps < _FEWEST_STEPS or steps % max(1, steps // 10)):
                continue
            ritz = space.ritz(chain)
            below = np.flatnonzero(ritz.values < value - space.error_floor)
            if found.count + len(below) > _MOST:
                return None
            if not len(below):
                is_certain = bool(is_ruled_out(space.rule(ritz), value, run.n - chain, confidence))
                if is_certain:
                    break
            elif (ritz.inner_residuals[below] <= _CONVERGED * (value - ritz.values[below])).all():
                break
        ritz = space.ritz(chain)
        below = np.flatnonzero(ritz.values < value - space.error_floor)
        if not len(below):
            return found.count if is_certain or space.is_closed else None
        if (ritz.inner_residuals[below] > _CONVERGED * (value - ritz.values[below])).any():
            return None
        found.take(space, ritz, [int(place) for place in below])
    return None


class _Found:
    """The eigenpairs that were found below the value.

    Parameters
    ----------
    run : Run
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.vectors: list[Array] = []
        self.values: list[float] = []
        self.residuals: list[float] = []
        self._chains = 0

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.vectors)

    def space(self, end: int) -> tuple[KrylovSpace, int]:
        """Return a space that holds them, with another random vector ahead, and the number of rows before that."""
        run, known = self.run, self.count
        space = KrylovSpace(run, min(run.n, known + end - run.products))
        space.hold(self.vectors, np.array(self.values), np.array(self.residuals))
        space.start(probes.normal(run.backend, run.A.domain, run.seed, _START + self._chains))
        self._chains += 1
        return space, known

    def take(self, space: KrylovSpace, ritz: Ritz, places: list[int]) -> None:
        """Add Ritz pairs."""
        for place in places:
            coordinates = np.zeros(space.size)
            coordinates[ritz.rows] = ritz.coefficients[:, place]
            self.vectors.append(space.combine(coordinates))
            self.values.append(float(ritz.values[place]))
            self.residuals.append(float(ritz.residuals[place]))
