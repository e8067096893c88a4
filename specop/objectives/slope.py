"""Whether a gradient is that of the loss's own values: some frameworks' are not, where a loss is cut off."""

from __future__ import annotations

from typing import Any

from specop.arrays.backend import Array, numbers_of
from specop.objectives.autodiff import Autodiff

__all__ = ["remark_on_slope"]

# Steps relative to the point's length. Large ones, for models that compute in single precision inside, are tried only
# where the first one is off.
_STEPS = (1e-5, 1e-4, 1e-3)
# Relative to the slope, and in units of rounding, what no right gradient is off by.
_OFF, _ROUNDING = 1e-3, 1e3


def remark_on_slope(autodiff: Autodiff, theta: Array, batch: Any, along: Array) -> str:
    r"""Return a remark if the gradient's slope along a vector is not that of the loss; "" otherwise.

    .. math:: \frac{L(\theta + h v) - L(\theta - h v)}{2 h} \approx
       \frac12 \bigl(g(\theta + h v) + g(\theta - h v)\bigr)^\top v

    which holds at a kink of the loss, too.

    Parameters
    ----------
    autodiff : Autodiff
        Derivatives of the loss in float64.
    theta, along : native vector (n,)
        Parameters, and the direction v.
    batch : batch
        Batch that lies on the device.
    """
    found = []
    for ratio in _STEPS:
        found.append(_deviation(autodiff, theta, batch, along, ratio))
        if not abs(found[-1]) > _OFF:
            return ""
    # What rounding or a bend does changes with the step.
    least, most = min(found, key=abs), max(found, key=abs)
    if not abs(most - least) < 0.1 * abs(least):
        return ""
    return (
        f"the gradient is not that of the loss: along a random vector it is off by {100 * abs(least):.2g} %, and "
        f"products are the derivatives of that gradient"
    )


def _deviation(autodiff: Autodiff, theta: Array, batch: Any, along: Array, ratio: float) -> float:
    """Return by how much the slope of values exceeds that of gradients, relative to the larger; 0 for rounding."""
    backend = autodiff.backend
    length, extent = numbers_of(backend, backend.norm(theta), backend.norm(along))
    h = ratio * (length or 1.0) / (extent or 1.0)
    losses, slopes = [], []
    for step in (h, -h):
        loss, gradient = autodiff.gradient(backend.axpy_(backend.copy(theta), step, along), batch)
        one, slope = numbers_of(backend, loss, backend.dot(gradient, along))
        losses.append(one)
        slopes.append(slope)
    by_values, by_gradients = (losses[0] - losses[1]) / (2 * h), sum(slopes) / 2
    size = max(abs(by_values), abs(by_gradients))
    # Logarithms of probabilities close to one are rounded to the precision of one.
    rounding = _ROUNDING * autodiff.precision * max(1.0, *map(abs, losses)) / h
    return (by_values - by_gradients) / size if size > rounding else 0.0
