"""Whether a quadratic model at a minimum describes the loss: its gradient, and what removals really cost."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from specop.arrays.backend import Array, Backend
from specop.errors import QuadraticModelWarning
from specop.krylov.task import level_of_user
from specop.statistics.numbers import Booleans, Floats

__all__ = ["FAR", "far_behind", "row_norms", "warn_of_slope"]

# Multiple of what was expected; measured in docs/design/analysis.md.
FAR = 20.0
# Share of the loss that counts as expected in any case.
_FLOOR = 0.01


def far_behind(measured: Floats | float, expected: Floats | float, loss: float, factor: float = FAR) -> Booleans:
    """Return where changes of the loss leave those that were expected far behind."""
    reach = factor * (np.abs(expected) + _FLOOR * abs(loss))
    return np.asarray(np.asarray(measured) - expected > reach)


def warn_of_slope(gradient: float, norms: Floats, samples: int, sizes: Any = 1) -> None:
    """Warn if a gradient is longer than the chance in the data explains: then no minimum is near.

    Parameters
    ----------
    gradient : float
        Norm of the gradient that a minimum makes zero.
    norms : ndarray (k,)
        Norms of the gradients of some samples, or of the mean gradients of groups of them.
    samples : int
        Number of samples in all.
    sizes : int or ndarray (k,) of int
        Number of samples in each group.
    """
    error = float(np.sqrt(np.mean(sizes * norms**2) / samples))
    if gradient > error:
        warnings.warn(
            f"the gradient has the norm {gradient:.2g}, which is more than its standard error over {samples} samples, "
            f"{error:.2g}: this point is no minimum, and what is predicted from one may be far off. Train on to a "
            f"minimum, such as by specop.analysis.retrain(objective, damping=...), with the damping as weight decay. A "
            f"model that was trained with weight decay is at a minimum with that penalty: where samples are left out, "
            f"pass it as damping=; what pruning expects has the gradient's part in it.",
            QuadraticModelWarning,
            stacklevel=level_of_user(),
        )


def row_norms(backend: Backend, rows: Array) -> Floats:
    """Return the norms of the rows of a native block."""
    layout = backend.layout(rows)
    ones = backend.from_host(np.ones(layout.n), layout)
    (squares,) = backend.to_host(backend.apply_rows(backend.multiply(rows, rows), ones))
    return np.sqrt(squares)
