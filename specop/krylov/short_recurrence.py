"""ShortRecurrence: the Lanczos recurrence with two rows, for what needs its Gauss rule only."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import scipy.linalg

from specop.arrays.backend import Array, add_, lengths_of
from specop.krylov.run import Run
from specop.krylov.space import KrylovSpace
from specop.statistics.copies import NEXT_TO_NOTHING, without_copies
from specop.statistics.measure import GaussRule
from specop.statistics.numbers import Floats

__all__ = ["ShortRecurrence"]

# What is left of a product is orthogonal to the last rows after a second pass, however short it is, and after the first
# one up to a few roundings where it is no shorter than this share.
_MOST_PASSES = 2
_LARGE_SHARE = 0.1


class ShortRecurrence:
    """A Lanczos run that keeps its last two rows: three vectors in all, whatever the number of steps.

    No row is made orthogonal to earlier ones, and eigenvalues that have converged are found again: `without_copies`
    puts them together. It gives the rule of a `KrylovSpace` within rounding until the first eigenvalue has converged,
    and then somewhat less for the same number of steps, as copies take some of them. There are no Ritz vectors, no
    restarts and no second run outside of the first.

    Parameters
    ----------
    run : Run
        Makes and counts the products, and watches their symmetry.
    vectors : sequence of native vectors
        Orthonormal eigenvectors that are known, and left out.
    values : ndarray
        Eigenvalue of each vector.

    Attributes
    ----------
    n : int
        Length of a row.
    size : int
        Number of known eigenvectors.
    scale : float
        Norm of the largest product so far, those of known eigenvectors included.
    moved : float
        Weight of the rule that may stand at another eigenvalue than its own, as copies on their way were given away.
    """

    def __init__(self, run: Run, vectors: list[Array], values: Floats) -> None:
        self.run = run
        self.backend = run.backend
        self.n = run.n
        self.size = len(vectors)
        self.scale = float(np.abs(values).max(initial=0.0))
        self.moved = 0.0
        self._outside: Callable[[Array], Array] = functools.partial(_without, run, vectors)
        self._layout = run.A.domain
        self._rows = self.backend.allocate(self._layout, 2, 2)
        self._diagonal: list[float] = []
        self._beside: list[float] = []

    @classmethod
    def of_chain(cls, space: KrylovSpace, first: int) -> Self:
        """Return the newest run of a space, which goes on here; the space keeps the rows before it.

        Parameters
        ----------
        space : KrylovSpace
            Space whose last row belongs to the run and has not been multiplied.
        first : int
            The row that the run began with; it has been multiplied.
        """
        made, end = cls(space.run, [], np.zeros(0)), space.size
        made.scale = space.scale
        for row in sorted((end - 2, end - 1), key=lambda row: (row - first) % 2):
            made._rows = made.backend.set_row_(made._rows, (row - first) % 2, space.row(row), 1.0)
        known = space.projected(slice(first, end), slice(first, end))
        made._diagonal, made._beside = np.diagonal(known)[:-1].tolist(), np.diagonal(known, 1).tolist()
        space.truncate(first)
        made.avoid(space)
        return made

    def avoid(self, space: KrylovSpace) -> None:
        """Leave out what products have along the rows of a space, which go on to be those that there are now."""
        self.size, self._outside = space.size, space.outside

    @property
    def steps(self) -> int:
        """Number of products of the newest run, and of known eigenvectors, as in `KrylovSpace`."""
        return self.size + len(self._diagonal)

    @property
    def is_closed(self) -> bool:
        """Whether a product had nothing outside of the last rows: the rule is exact, but for rounding."""
        return bool(self._beside) and self._beside[-1] <= self._negligible

    @property
    def noise_floor(self) -> float:
        """Rounding error of the rule's nodes, which are made by rows that are not orthogonal any more."""
        return 4.0 * (1.0 + len(self._diagonal) ** 0.5) * self._layout.epsilon * self.scale

    @property
    def error_floor(self) -> float:
        """What rounding does to nodes at most: also how far apart copies of one eigenvalue are taken to be."""
        return 2.0 * self.noise_floor

    def start(self, vector: Array) -> None:
        """Begin a new run from a vector, without what it has along known eigenvectors."""
        self._diagonal, self._beside = [], []
        unit = self._outside(self.backend.copy(vector))
        (length,) = lengths_of(self.backend, unit)
        self._rows = self.backend.set_row_(self._rows, 0, unit, 1.0 / length)

    def truncate(self, size: int) -> None:
        """Forget the newest run, so that another one may start; there are no rows to be given up."""

    def expand(self) -> None:
        """Multiply the newest row."""
        run, steps = self.run, len(self._diagonal)
        newest, older = steps % 2, (steps + 1) % 2
        product = run.multiply(self.backend.row(self._rows, newest))
        rest, coefficients, beta = self._remainder(product, [older, newest] if steps else [newest])
        with np.errstate(over="ignore"):
            self.scale = max(self.scale, float(np.linalg.norm(np.append(coefficients, beta))))
        run.check_size(self.scale)
        if steps and self.scale > 0:
            # What rounding left in a row that was short before it was divided by its length shows here, too.
            seen, rounding = abs(float(coefficients[0]) - self._beside[-1]), self._layout.epsilon * self.scale**2
            asymmetry = max(0.0, seen - 30.0 * rounding / self._beside[-1]) / self.scale
            run.note_asymmetry(asymmetry, self.backend.row(self._rows, newest))
        self._diagonal.append(float(coefficients[-1]))
        self._beside.append(beta)
        if not self.is_closed:
            self._rows = self.backend.set_row_(self._rows, older, rest, 1.0 / beta)

    def _remainder(self, product: Array, near: list[int]) -> tuple[Array, Floats, float]:
        """Return what a product has outside of the last rows and of what is left out, its coefficients, and the norm.

        What is left out comes last, for what a row has there would be carried on: by the recurrence of a matrix that is
        zero there, whose solutions grow without limit if zero lies outside of the other eigenvalues.
        """
        backend, coefficients, before = self.backend, np.zeros(len(near)), self.backend.norm(product)
        for _ in range(_MOST_PASSES):
            product, along, *_ = backend.orthogonalize_(product, self._rows, 0, near)
            product = self._outside(product)
            removed, whole, left = self.run.to_host(along, before, backend.norm(product))
            coefficients += removed
            if left >= _LARGE_SHARE * whole:
                break
        return product, coefficients, float(left)

    def gauss_rule(self, first: int) -> GaussRule:
        """Return the Gauss rule of the newest run, copies put together; `first` is the number of known eigenvectors."""
        found = scipy.linalg.eigh_tridiagonal(self._diagonal, self._beside[:-1], check_finite=False)
        values, vectors = (np.asarray(part, dtype=np.float64) for part in found)
        signs = np.where(vectors[0] < 0, -1.0, 1.0)
        beyond = 0.0 if self.is_closed else self._beside[-1]
        couplings: Floats = signs * vectors[-1] * beyond
        dimension = self.n - first
        rule = without_copies(GaussRule(values, vectors[0] ** 2, couplings), dimension, self.error_floor)
        self.moved = (len(values) - len(rule.nodes)) * NEXT_TO_NOTHING / dimension
        return rule

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs: plain values, and functions that copy one row each to the host."""
        rows = {f"row{i}": lambda i=i: self.backend.to_numpy(self.backend.row(self._rows, i)) for i in range(2)}
        return {"diagonal": self._diagonal, "beside": self._beside, "scale": self.scale} | rows

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._diagonal, self._beside, self.scale = state["diagonal"], state["beside"], state["scale"]
        for i in range(2):
            self._rows = self.backend.set_row_(
                self._rows, i, self.backend.from_host(state[f"row{i}"], self._layout), 1.0
            )

    @property
    def _negligible(self) -> float:
        return max(10, len(self._diagonal)) * self._layout.epsilon * self.scale


def _without(run: Run, vectors: list[Array], vector: Array) -> Array:
    """Return a vector without what it has along others, which are orthonormal; it is consumed."""
    if not vectors:
        return vector
    overlaps = run.backend.to_host(*(run.backend.dot(known, vector) for known in vectors))
    return add_(run.backend, vector, (-float(overlap) for overlap in overlaps), vectors)
