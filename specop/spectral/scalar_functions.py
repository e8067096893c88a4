"""Functions of eigenvalues: the named ones, and the check that each is defined where it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from specop.errors import DomainError, InvalidInputError, real_values
from specop.operators.operator import LinearOperator
from specop.statistics.measure import GaussRule, christoffel
from specop.statistics.numbers import Floats

__all__ = ["Progress", "SpectralFunction", "changed_by_rounding", "sensitivity", "spectral_function"]

# While outliers are found one after the other, errors stand still for a few steps.
_SHORTEST_LAG = 4
# By how much more than in proportion a result may change with its eigenvalues before there is a jump or a pole.
_STEEP = 4.0
# Looks at a function within an interval, and how often the interval is made as much shorter: 1e-12 of it in the end.
_LOOKS, _CLOSER = 9, 20


@dataclass(frozen=True)
class SpectralFunction:
    """A function on the eigenvalues of an operator.

    Attributes
    ----------
    name : str
    function : callable
        Takes an array of values and returns as many.
    domain : {"all", "sharp", "nonnegative", "positive"}
        Which values it takes, measured from `edge`: all; all, but the edge itself must be told from its neighbours; all
        from the edge on; those above it.
    edge : float
    """

    name: str
    function: Callable[[Floats], ArrayLike]
    domain: str = "all"
    edge: float = 0.0

    def __call__(self, values: Floats, rounding: float, operator: LinearOperator) -> Floats:
        """Return the function of Ritz values, or raise DomainError.

        Values within rounding of the edge count as the edge, except where any value will do.
        """
        if self.domain != "all" and len(values):
            values = np.where(np.abs(values - self.edge) <= rounding, self.edge, values)
            smallest = float(values.min())
            if smallest < self.edge and self.domain in ("nonnegative", "positive"):
                raise DomainError(
                    f"{self.name} is not defined for {operator!r}: its smallest eigenvalue is at most {smallest:.6g}, "
                    f"below {self.edge:g}. Pass a positive semidefinite matrix such as a Gauss-Newton matrix, or "
                    f"A + s * identity_like(A) with s above {self.edge - smallest:.2g}."
                )
            if smallest == self.edge and self.domain == "positive":
                raise DomainError(
                    f"{self.name} is not defined for {operator!r}: it has an eigenvalue that is {self.edge:g} up to "
                    f"the rounding error {rounding:.1e}. Pass A + s * identity_like(A) with a positive s."
                )
        with np.errstate(all="ignore"):
            found = real_values(self.name, self.function(values))
        if found.shape != values.shape:
            raise InvalidInputError(
                f"{self.name} must return one value for each of the {len(values)} it is given, got {found.shape}."
            )
        if not np.isfinite(found).all():
            bad = int(np.flatnonzero(~np.isfinite(found))[0])
            raise DomainError(
                f"{self.name} is {found[bad]} at {values[bad]:.6g}, a Ritz value of {operator!r} with "
                f"rounding error {rounding:.1e}. The function must be finite on the whole spectrum: shift the "
                f"operator, or give a function that is."
            )
        return found

    def undecided(self, rule: GaussRule, rounding: float) -> float:
        """Return how much of a vector's measure may lie on either side of a jump; 0 if there is none."""
        if self.domain != "sharp":
            return 0.0
        return float(christoffel(rule, [self.edge - 4.0 * rounding, self.edge + 4.0 * rounding]).sum())


def spectral_function(f: str | Callable[[Floats], Any] | SpectralFunction) -> SpectralFunction:
    """Return the function of that name, or a callable as one."""
    if isinstance(f, SpectralFunction):
        return f
    if callable(f):
        return SpectralFunction(getattr(f, "__name__", repr(f)), f)
    if not isinstance(f, str) or f not in _NAMED:
        raise InvalidInputError(f"f must be a callable on eigenvalues or one of {', '.join(_NAMED)}, got {f!r}.")
    return _NAMED[f]


class Progress:
    """How far the approximations of a growing Krylov space still are from where they go.

    The error is what the last quarter of the steps changed, or more if that was not much less than the change in the
    quarter before: then it is the sum of the geometric series that both begin.
    """

    def __init__(self) -> None:
        self._seen: list[Floats] = []
        self._steps: list[int] = []

    def is_due(self, steps: int) -> bool:
        """Whether enough has been added for another look, whose cost grows with the steps."""
        return steps % max(1, steps // 10) == 0

    def error_after(self, steps: int, found: Floats) -> float:
        """Take note of an approximation, coordinates in an orthonormal basis that grows, and return its error."""
        self._seen.append(found)
        self._steps.append(steps)
        quarter = max(_SHORTEST_LAG, steps // 4)
        later = self._last_until(steps - quarter)
        earlier = self._last_until(steps - 2 * quarter)
        if later is None or earlier is None:
            return float("inf")
        change, before = _distance(found, later), _distance(later, earlier)
        if change == 0:
            return 0.0
        ratio = min(change / before, 0.95) if before > 0 else 0.95
        return change * max(1.0, ratio / (1.0 - ratio))

    def _last_until(self, steps: int) -> Floats | None:
        taken = [found for found, count in zip(self._seen, self._steps, strict=True) if count <= steps]
        return taken[-1] if taken else None


def _distance(longer: Floats, shorter: Floats) -> float:
    change = longer.copy()
    change[: len(shorter)] -= shorter
    return float(np.linalg.norm(change))


def changed_by_rounding(
    function: SpectralFunction, values: Floats, weights: Floats, typical: float, most: float
) -> float:
    """Return by how much a result changes with rounding of each value.

    That is its typical error, or if f has a jump or a pole beyond that, as far as rounding can reach at most, that one.
    """
    usual, worst = (sensitivity(function, values, weights, np.full(len(values), shift)) for shift in (typical, most))
    return worst if worst * typical > _STEEP * most * usual else usual


def sensitivity(function: SpectralFunction, values: Floats, weights: Floats, shifts: Floats) -> float:
    """Return by how much the result changes if each value is off by its shift; where f is undefined, by nothing.

    Within the shifts f is looked at more and more closely where it changes most: an eigenvalue that rounding does not
    tell from a pole has any value, and the change is infinite, or as good as that.
    """
    # What rounding does not tell from a jump at the edge counts as the edge.
    counts = (weights != 0) & ((function.domain != "sharp") | (np.abs(values - function.edge) > shifts))
    values, weights, shifts = values[counts], weights[counts], shifts[counts]
    if not len(values):
        return 0.0
    worst = np.zeros(len(values))
    low, high = values - shifts, values + shifts
    fractions = np.linspace(0.0, 1.0, _LOOKS)[:, None]
    with np.errstate(all="ignore"):
        center = np.asarray(function.function(values), dtype=np.float64)
        for _ in range(_CLOSER):
            points = low + (high - low) * fractions
            found = np.asarray(function.function(points.ravel()), dtype=np.float64).reshape(points.shape)
            changes = np.nan_to_num(np.abs(found - center), nan=0.0, posinf=np.inf)
            worst = np.maximum(worst, changes.max(axis=0))
            at = points[changes.argmax(axis=0), np.arange(len(values))]
            step = (high - low) / (_LOOKS - 1)
            low, high = np.maximum(low, at - step), np.minimum(high, at + step)
        return float(np.linalg.norm(worst * weights))


_NAMED = {
    function.name: function
    for function in (
        SpectralFunction("sqrt", np.sqrt, "nonnegative"),
        SpectralFunction("inverse_sqrt", lambda x: 1.0 / np.sqrt(x), "positive"),
        SpectralFunction("exp", np.exp),
        SpectralFunction("log", np.log, "positive"),
        SpectralFunction("sign", np.sign, "sharp"),
        SpectralFunction("step", lambda x: np.heaviside(x, 0.0), "sharp"),
    )
}
