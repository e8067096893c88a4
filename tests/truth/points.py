"""Points at which rows are tried."""

from __future__ import annotations

__all__ = [
    "ABOVE_ONE",
    "EQUAL",
    "FAR",
    "INSIDE",
    "ORDINARY",
    "POSITIVE",
    "SINGULAR",
    "SQUARE",
    "TIES",
    "ZERO",
    "ZEROS",
    "points",
]

ORDINARY = [0.3, -0.7, 1.2, -1.6, 0.8, 2.1]
INSIDE = [0.3, -0.7, 0.2, -0.4, 0.6, 0.1]
POSITIVE = [0.3, 0.7, 1.2, 1.6, 0.8, 2.1]
ABOVE_ONE = [1.3, 1.7, 1.2, 1.6, 2.8, 2.1]
ZERO = [0.0, 0.3, 0.0, -0.7, 0.0, 0.9]
ZEROS = [0.0] * 6
TIES = [0.5, 0.5, 0.5, -0.2, -0.2, 0.1]
EQUAL = [0.1, 0.2, 0.3, 0.1, 0.2, 0.3]
FAR = [40.0, -40.0, 120.0, -120.0, 0.3, -0.4]
SQUARE = [2.0, 0.3, -0.4, 0.1, 3.0, 0.5, -0.2, 0.6, 4.0]
SINGULAR = [1.0, 2.0, 3.0, 2.0, 4.0, 6.0, 0.3, -0.5, 0.8]


def points(ordinary: list[float] = ORDINARY, **special: list[float]) -> dict[str, list[float]]:
    """Return points by name; an underscore in a name stands for a space."""
    return {"ordinary": ordinary, **{name.replace("_", " "): point for name, point in special.items()}}
