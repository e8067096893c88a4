"""The minimum of a quadratic function of which some unknowns are zero, from the inverse of its matrix."""

from __future__ import annotations

import numpy as np

from specop.arrays.backend import Array
from specop.krylov.run import Run
from specop.operators.operator import LinearOperator
from specop.operators.restrict import restrict
from specop.solvers.solve import solve
from specop.statistics.numbers import Floats, Integers

__all__ = ["with_zeros", "zeroing_cost"]


def with_zeros(inverse: LinearOperator, x: Array, chosen: Integers) -> tuple[Array, float]:
    r"""Return the minimum of a quadratic function where chosen entries are zero, and its rise above the one at x.

    The rest moves to where it makes up best for all chosen entries together. That is one update with the inverse of
    their whole block,

    .. math:: x - A^{-1}_{:Q} \, ([A^{-1}]_{QQ})^{-1} x_Q,

    not a sum of updates for single entries, each of which would bring the others back.

    Parameters
    ----------
    inverse : LinearOperator
        :math:`A^{-1}`, the inverse of the function's matrix of second derivatives.
    x : native vector (n,)
        Point at which the function has its minimum.
    chosen : ndarray of int
        Numbers Q of the entries.
    """
    backend, domain = inverse.backend, inverse.domain
    gone = backend.gather(x, chosen)
    rtol = max(domain.epsilon**0.75, 30 * inverse.precision)
    with Run(inverse, "the update") as run:
        # Products with the block are the solve's own business: those of another operator.
        multipliers = solve(restrict(inverse, chosen), gone, rtol=rtol, raise_on_failure=True).x
        change = run.multiply(backend.scatter(multipliers, chosen, domain))
        (twice,) = run.to_host(backend.dot(gone, multipliers))
    moved = backend.axpy_(change, -1.0, x)
    # Zero by construction: the difference leaves rounding.
    left = np.setdiff1d(np.arange(domain.n), chosen)
    return backend.scatter(backend.scale_(backend.gather(moved, left), -1.0), left, domain), float(twice) / 2


def zeroing_cost(inverse: LinearOperator, x: Array, group: Integers) -> tuple[float, Floats]:
    r"""Return that rise for a small group, and the multipliers :math:`([A^{-1}]_{QQ})^{-1} x_Q` behind it."""
    backend = inverse.backend
    unit = np.zeros((inverse.domain.n, len(group)))
    unit[group, np.arange(len(group))] = 1.0
    native = backend.from_host(unit, inverse.domain)
    gone, columns = backend.to_host(backend.gather(x, group), inverse @ native)
    multipliers: Floats = np.asarray(np.linalg.solve(columns[group], gone), dtype=np.float64)
    return float(gone @ multipliers) / 2, multipliers
