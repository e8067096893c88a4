"""All eigenvalues of a matrix small enough to hold a basis of the whole space."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from specop.krylov.space import KrylovSpace

__all__ = ["LARGEST_BASIS", "all_eigenvalues", "projected_eigenvalues"]

LARGEST_BASIS = 2**27
"""Entries of the largest basis that is taken without being asked for: a gigabyte in float64."""


def all_eigenvalues(space: KrylovSpace, update: Callable[[int, str], None]) -> NDArray[np.float64]:
    """Multiply every direction of a space as large as its dimension; multiple eigenvalues come as often as due."""
    while not space.is_exhausted:
        if len(space.frontier) == 0:
            space.start()
        space.expand(int(space.frontier[0]))
        update(space.products, "")
    return projected_eigenvalues(space, space.rows)


def projected_eigenvalues(space: KrylovSpace, rows: int) -> NDArray[np.float64]:
    """Return the eigenvalues of the matrix projected on the first rows."""
    return np.asarray(scipy.linalg.eigvalsh(space.G[:rows, :rows], check_finite=False), dtype=np.float64)
