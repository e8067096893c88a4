"""descent: minimize a smooth function by gradient steps whose length follows the curvature that they meet."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from specop.arrays.backend import Array, backend_of, lengths_of, numbers_of
from specop.errors import NonFiniteError
from specop.solvers.newton import Minimum

__all__ = ["descent"]

# A step counts if the value falls, by this share of what the slope promises, below the worst of so many before.
_ENOUGH, _MEMORY = 1e-4, 8
_HALVINGS = 30


def descent(
    value_and_gradient: Callable[[Array], tuple[float, Array]],
    start: Array,
    *,
    first_step: float,
    gtol: float,
    max_steps: int,
) -> Minimum:
    r"""Minimize a function until its gradient is small, with nothing but values and gradients.

    .. math:: x \leftarrow x - \frac{s^T s}{s^T y} \nabla f(x)

    for the last step s and the change y of the gradient along it [1]_, safeguarded by a line search that lets the
    value rise for a few steps [2]_.

    Parameters
    ----------
    value_and_gradient : callable
        Returns the function at a native vector as a float, and its gradient there in fresh storage.
    start : native vector
        Vector to begin with.
    first_step : float
        Length of the first step.
    gtol : float
        Norm of the gradient to reach, as a share of the largest one seen.
    max_steps : int
        Largest number of steps.

    Returns
    -------
    Minimum

    References
    ----------
    .. [1] J. Barzilai and J. M. Borwein, Two-point step size gradient methods, IMA J. Numerical Analysis 8 (1988).
    .. [2] M. Raydan, The Barzilai and Borwein gradient method for the large scale unconstrained minimization problem,
       SIAM J. Optimization 7 (1997).
    """
    backend = backend_of(start)
    x = backend.copy(start)
    level, slope = value_and_gradient(x)
    (norm,) = lengths_of(backend, slope)
    if not np.isfinite([level, norm]).all():
        raise NonFiniteError("the function or its gradient is not finite at the start.")
    levels, norms, evaluations = [level], [norm], 1
    rate = first_step / norm if norm > 0 else 0.0
    message = f"the limit of {max_steps} steps is reached"
    for _ in range(max_steps):
        if norm <= gtol * max(norms):
            break
        for _ in range(_HALVINGS):
            trial = backend.axpy_(backend.copy(x), -rate, slope)
            evaluations += 1
            try:
                level, new = value_and_gradient(trial)
            except NonFiniteError:
                # Too long a step; a shorter one is tried.
                level = float("nan")
            if level <= max(levels[-_MEMORY:]) - _ENOUGH * rate * norm**2:
                break
            rate *= 0.25
        else:
            message = (
                "no step along the gradient makes the function smaller: rounding, or a function that is not smooth"
            )
            break
        change = backend.axpy_(backend.copy(new), -1.0, slope)
        across, length = numbers_of(backend, backend.dot(slope, change), backend.norm(new))
        # With s = -rate * slope: s's / s'y = -rate * slope'slope / slope'y.
        rate = -rate * norm**2 / across if across < 0 else 4.0 * rate
        x, slope, norm = trial, new, length
        levels.append(level)
        norms.append(norm)
    if norm <= gtol * max(norms):
        message = "converged"
    return Minimum(
        x=x,
        value=levels[-1],
        gradient_norms=tuple(norms),
        matvecs=0,
        gradients=evaluations,
        values=evaluations,
        converged=message == "converged",
        message=message,
    )
