"""n products with unit vectors, which leave nothing to chance, and when they are fewer than an estimate takes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from specop.arrays.backend import Array
from specop.errors import InvalidInputError
from specop.krylov.run import Run
from specop.spectral.goals import STAGE, Goal

__all__ = ["begins_exact", "turns_exact", "unit_products"]


def unit_products(run: Run) -> Iterator[tuple[Array, Array]]:
    """Yield each unit vector e with A e.

    Raises
    ------
    InvalidInputError
        If the limit does not allow so many products.
    """
    if run.n > run.left:
        raise InvalidInputError(f"method='exact' takes n={run.n} products, above max_matvecs={run.limit}.")
    domain = run.A.domain
    for i in range(run.n):
        entries = np.zeros(run.n, dtype=domain.dtype)
        entries[i] = 1.0
        unit = run.backend.from_host(entries, domain)
        yield unit, run.multiply(unit)
        run.update()


def begins_exact(run: Run, goal: Goal, method: str, stage: int = STAGE) -> bool:
    """Whether to multiply n unit vectors at once.

    That is so where it is asked for, where probes would take about as many products, and where a first stage of probes
    would leave too few for it.
    """
    enough = goal.is_budget or run.n <= 2 * STAGE or run.left < run.n + stage
    return method == "exact" or (method == "auto" and run.n <= run.left and enough)


def turns_exact(run: Run, needed: float, ahead: int) -> bool:
    """Whether to multiply n unit vectors from here on, because probes would take more products.

    The first probes say little, and a sketch that grows may still save most of the others: it waits until an eighth of
    n products has been spent, unless too few would be left by the next time that it is asked.

    Parameters
    ----------
    run : Run
        Of the estimate.
    needed : float
        How many more products probes would take.
    ahead : int
        Products until the next look.
    """
    late = 8 * run.products >= run.n or run.left - ahead < run.n
    return run.left >= run.n and needed > run.n and late
