"""How a broken law is reported: who broke it, which law, and by how much."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from specop.statistics.numbers import Floats

__all__ = ["require", "require_close", "require_near", "require_same"]


def require(holds: Any, who: str, law: str, numbers: str = "") -> None:
    """Raise AssertionError unless the law holds. An explicit raise: ``assert`` vanishes under ``python -O``."""
    if not holds:
        raise AssertionError(f"{who}: {law}" + (f" ({numbers})" if numbers else "") + ".")


def require_close(found: ArrayLike, expected: ArrayLike, atol: float, who: str, law: str) -> None:
    """Require the same shape, and entries that differ by at most `atol`."""
    found, expected = _same_shape(found, expected, who, law)
    error = np.abs(found - expected).max(initial=0.0)
    # Written so that NaN fails.
    require(error <= atol, who, law, f"off by {error:.1e}, allowed {atol:.1e}; {_worst(found, expected)}")


def require_near(found: ArrayLike, expected: ArrayLike, allowed: float, who: str, law: str) -> None:
    """Require the same shape, and that the norm of the difference is allowed."""
    found, expected = _same_shape(found, expected, who, law)
    error, size = float(np.linalg.norm(found - expected)), float(np.linalg.norm(expected))
    require(error <= allowed, who, law, f"off by {error:.1e} where the norm is {size:.1e}, allowed {allowed:.1e}")


def require_same(found: ArrayLike, expected: ArrayLike, who: str, law: str) -> None:
    """Require the same shape and the same entries; NaN equals NaN."""
    found, expected = _same_shape(found, expected, who, law)
    require(np.array_equal(found, expected, equal_nan=True), who, law, _worst(found, expected))


def _same_shape(found: ArrayLike, expected: ArrayLike, who: str, law: str) -> tuple[Floats, Floats]:
    found, expected = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    require(found.shape == expected.shape, who, law, f"shape {found.shape}, expected {expected.shape}")
    return found, expected


def _worst(found: Floats, expected: Floats) -> str:
    if found.size == 0:
        return "no entries"
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(found - expected))
    worst = np.unravel_index(np.argmax(np.where(np.isnan(gap), np.inf, gap)), found.shape)
    place = f"entry {tuple(map(int, worst))}: " if found.ndim else ""
    return f"{place}got {float(found[worst])!r}, expected {float(expected[worst])!r}"
