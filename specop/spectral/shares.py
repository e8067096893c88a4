"""Parts: a vector's share in a symmetric operator's positive, negative and small eigenvalues, and g'H^-1 g on each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from specop.arrays.backend import Array, lengths_of
from specop.krylov.run import Run
from specop.krylov.space import LARGEST_BASIS, KrylovSpace
from specop.spectral.fitting import rows_that_fit
from specop.spectral.scalar_functions import Progress
from specop.statistics.numbers import Floats

__all__ = ["Parts", "parts_by_sign", "parts_of"]

_FEWEST_ROWS, _MOST_ROWS = 40, 300
# Accuracy that is always enough.
_SHARE = 0.02


@dataclass(frozen=True)
class Parts:
    """The inverse's quadratic form of a vector g, sign by sign.

    Attributes
    ----------
    positive : float
        Sum of (g'v)^2 / h over eigenvalues h above the threshold.
    negative : float
        Sum of (g'v)^2 / h over eigenvalues h below minus the threshold; at most zero.
    outside : float
        Norm of what g has along all others.
    error : float
        How far each of the first two may be off, by quadrature.
    """

    positive: float
    negative: float
    outside: float
    error: float


def parts_of(values: Floats, squares: Floats, threshold: float, error: float = 0.0) -> Parts:
    """Return the parts of a vector with these squared coordinates along eigenvectors, or at the nodes of a rule."""
    up, down = values > threshold, values < -threshold
    outside = float(np.sqrt(squares[~up & ~down].sum()))
    return Parts(float((squares[up] / values[up]).sum()), float((squares[down] / values[down]).sum()), outside, error)


def parts_by_sign(run: Run, vector: Array, threshold: float, goal: float) -> Parts:
    r"""Compute the parts from the vector's own Krylov space.

    The m steps of a Lanczos run from g give the Gauss rule of the measure that g puts on the spectrum; sums over its
    nodes on either side of the threshold are the parts. The run ends when they change by less than the goal.

    Parameters
    ----------
    run : Run
        Makes the products, at most 300.
    vector : native vector (n,)
        The vector g.
    threshold : float
        Eigenvalues up to this size are left out.
    goal : float
        How far the parts may be off.
    """
    (length,) = lengths_of(run.backend, vector)
    if length == 0 or not run.left:
        return Parts(0.0, 0.0, length, 0.0 if length == 0 else float("inf"))
    rows = rows_that_fit(run, min(run.n, run.left, _MOST_ROWS, max(_FEWEST_ROWS, LARGEST_BASIS // run.n)), 8)
    space, progress = KrylovSpace(run, rows), (Progress(), Progress())
    space.start(vector)
    found = Parts(0.0, 0.0, length, float("inf"))
    while space.steps < rows and not space.is_closed:
        space.expand()
        run.update()
        is_last = space.steps == rows or space.is_closed
        if not (is_last or progress[0].is_due(space.steps)):
            continue
        rule = space.rule(space.ritz())
        found = parts_of(rule.nodes, length**2 * rule.weights, threshold)
        sizes = np.array([found.positive, -found.negative])
        errors = [one.error_after(space.steps, size[None]) for one, size in zip(progress, sizes, strict=True)]
        errors = [0.0, 0.0] if space.is_closed else errors
        found = Parts(found.positive, found.negative, found.outside, max(errors))
        if (errors <= np.maximum(goal, _SHARE * sizes)).all():
            break
    return found
