"""The second derivative of a loss along a line, from its values alone, and what a product is worth beside it."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from specop.errors import SpecopError

__all__ = ["Noted", "Truth", "curvature", "directions", "noting", "verdict"]

_RIGHT = 1e-5


@dataclass(frozen=True)
class Truth:
    """Second derivatives along a few directions, and how well they are known."""

    values: np.ndarray
    error: float
    scale: float


def directions(n: int, count: int = 3) -> list[np.ndarray]:
    """Return a few directions with entries of either sign near one."""
    rng = np.random.default_rng(0)
    return [rng.choice([-1.0, 1.0], n) * rng.uniform(0.5, 1.5, n) for _ in range(count)]


def curvature(loss: Callable[[np.ndarray], float], theta: np.ndarray) -> Truth | None:
    r"""Return :math:`v'Hv` for the directions, by central second differences that are extrapolated twice.

    No derivative of any framework enters. Steps go down from a tenth until two neighbours agree. There is no second
    derivative where none do within 1e-3, and where it jumps, which leaves one-sided differences apart.
    """
    center, found, errors, scale = loss(theta), [], [], 1e-12
    jumps = False
    for v in directions(len(theta)):
        line = _Line(loss, theta, v)
        estimates = [line.extrapolated(0.1 / 2**i) for i in range(9)]
        gaps = [abs(a - b) for a, b in itertools.pairwise(estimates)]
        best = int(np.nanargmin(gaps)) if np.isfinite(gaps).any() else 0
        found.append(estimates[best + 1])
        errors.append(gaps[best])
        slope = (line(1e-6) - line(-1e-6)) / 2e-6
        scale = max(scale, abs(found[-1]), 1e-6 * abs(slope), 1e-9 * abs(center))
        wide, narrow = line.jump(1e-3), line.jump(5e-4)
        jumps |= abs(narrow) > max(1e-3 * scale, 0.75 * abs(wide))
    error = max(errors)
    is_known = np.isfinite(found).all() and error <= 1e-3 * scale and not jumps
    return Truth(np.array(found), error, scale) if is_known else None


class _Line:
    """A loss along a line."""

    def __init__(self, loss: Callable[[np.ndarray], float], theta: np.ndarray, v: np.ndarray) -> None:
        self._loss, self._theta, self._v = loss, theta, v
        self._values: dict[float, float] = {}

    def __call__(self, t: float) -> float:
        if t not in self._values:
            self._values[t] = self._loss(self._theta + t * self._v)
        return self._values[t]

    def second(self, t: float, h: float) -> float:
        """Return the second difference of width h around t."""
        return (self(t + h) - 2 * self(t) + self(t - h)) / h**2

    def extrapolated(self, h: float) -> float:
        """Return the second derivative at zero up to an error of order six."""
        a, b, c = (self.second(0.0, h / 2**i) for i in range(3))
        return (16 * (4 * c - b) / 3 - (4 * b - a) / 3) / 15

    def jump(self, h: float) -> float:
        """Return by how much the second differences on both sides of zero differ."""
        return self.second(h, h) - self.second(-h, h)


class Noted(UserWarning):
    """What a result says of its products."""


def noting(hessian: Any, image: np.ndarray) -> np.ndarray:
    """Return a product, and warn of what results of its operator would say."""
    for note in hessian.notes:
        warnings.warn(note, Noted, stacklevel=2)
    return image


def verdict(products: Callable[[np.ndarray], np.ndarray], n: int, truth: Truth | None) -> str:
    """Return in a word what products with H are worth: "right", how far off, or how they failed.

    Parameters
    ----------
    products : callable
        Maps v to H v, and warns of what is `Noted` beside it.
    n : int
        Length of v.
    truth : Truth or None
    """
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", Noted)
            found = np.array([v @ np.asarray(products(v), dtype=float) for v in directions(n)])
    except SpecopError as error:
        return f"refused: {type(error).__name__}"
    except Exception as error:  # what any library may raise is a row of the table
        return f"error: {type(error).__name__}"
    if not np.isfinite(found).all():
        return "not finite"
    if truth is None:
        return "a value"
    off = float(np.abs(found - truth.values).max()) / truth.scale
    if off <= max(_RIGHT, 10 * truth.error / truth.scale):
        return "right"
    is_noted = any(issubclass(one.category, Noted) for one in said)
    return f"{'noted' if is_noted else 'wrong'}: {min(off, 99.99):.1%}"
