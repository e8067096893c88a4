"""Whether products are what differences say: the framework's second derivatives against its first ones.

A second derivative is not believed because a framework returned it: compiled code, custom operations, detached parts
and a few of the frameworks' own operations leave some of it out without a word. What can be told apart from rounding is
held against central differences of the gradient, on a few samples, in float64 where the model runs there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array, Backend
from specop.errors import InvalidInputError
from specop.objectives.autodiff import HESSIAN
from specop.objectives.point import Point
from specop.objectives.trained import some_samples

__all__ = ["Deviation", "Unverified", "Verified", "compare_with_differences", "verify_hessian"]

# Steps relative to the point's length: in float64 small ones first, because kinks are crossed by large ones, and in
# the end large ones, for models that compute in single precision inside.
_WIDE_STEPS = (1e-7, 1e-6, 1e-8, 1e-5, 1e-4, 1e-3)
_NARROW_STEPS = (1e-3, 1e-2, 3e-4, 3e-3)
# Two differences are neighbours up to this ratio of their steps.
_NEIGHBOURS = 12.0
# Index of the random vector, far from those of other probes.
_PROBE = 1 << 34
# A deviation that no right product shows, and one that no wrong product of use shows.
_WRONG, _RIGHT = 1e-3, 1e-4


def verify_hessian(point: Point, batch: Any, multiply: Callable[[Array], Array] | None) -> Verified | Unverified:
    """Compare a Hessian's product with a random vector with differences of the gradient, on one batch, or raise.

    Parameters
    ----------
    point : Point
    batch : batch
        One of the data's, on the device. A few of its samples are looked at where the adapter says so.
    multiply : callable or None
        Products with the batch's Hessian, where it is linearized.

    Raises
    ------
    InvalidInputError
        If the product is off, naming the parameters in whose rows it is.
    """
    autodiff, backend = point.autodiff, point.backend
    if autodiff.accepts_stopped_gradients:
        return Unverified("stopped gradients are accepted")
    theta = autodiff.point() if point.theta is None else point.theta
    # Not the vector that is multiplied: a unit vector, say, would show one column only.
    vector = autodiff.moving(probes.normal(backend, autodiff.layout, 0, _PROBE))
    some = some_samples(point, batch)
    wide = autodiff.in_float64(theta, some, vector, point.budget.total // 10)
    if wide is None:
        return Unverified("the model was not run in float64, and in its own precision differences cross kinks")
    found = (
        autodiff.product(theta, some, vector, HESSIAN) if multiply is None or some is not batch else multiply(vector)
    )
    product = backend.cast(found, np.dtype(np.float64))
    verdict = compare_with_differences(
        wide.gradient,
        wide.theta,
        wide.vector,
        product,
        backend=backend,
        precision=autodiff.precision,
        wide=True,
    )
    if not isinstance(verdict, Deviation):
        return verdict
    # A model that moved meanwhile says nothing about its derivatives.
    if point.has_moved():
        return Unverified("the model changed during the product")
    rows = _rows_that_deviate(point, verdict)
    raise InvalidInputError(
        f"products with the Hessian are not the derivative of the gradient: differences of the gradient along the same "
        f"vector are off by {100 * verdict.deviation:.2g} % of the product's norm, in the rows of {rows}. An operation "
        f"there has no right second derivative: compiled code, a custom operation whose backward is detached, a layer "
        f"that updates itself in training mode, a function at a kink, or a stopped gradient that depends on the "
        f"parameters. Replace it, call model.eval(), take finite_difference_hessian(), or pass "
        f"objective(..., accept_stopped_gradients=True) if that part is meant to count as a constant."
    )


def _rows_that_deviate(point: Point, found: Deviation) -> str:
    """Return the names of the parameters with the largest deviations."""
    backend, autodiff = point.backend, point.autodiff
    rest = backend.to_numpy(backend.axpy_(backend.copy(found.product), -1.0, found.difference))
    parts = np.split(rest, np.cumsum(autodiff.sizes)[:-1])
    sizes = np.array([float(np.linalg.norm(part)) for part in parts])
    order = [int(i) for i in np.argsort(-sizes, kind="stable")[:3] if sizes[i] > 0.1 * sizes.max()]
    return ", ".join(repr(autodiff.names[i]) for i in order)


@dataclass(frozen=True)
class Verified:
    """A product that differences confirm.

    Attributes
    ----------
    deviation : float
        From the difference, relative to the product.
    """

    deviation: float


@dataclass(frozen=True)
class Unverified:
    """A product of which differences say nothing.

    Attributes
    ----------
    reason : str
    """

    reason: str


@dataclass(frozen=True)
class Deviation:
    """A product that differences contradict.

    Attributes
    ----------
    deviation : float
        Relative to the larger of both.
    product, difference : native vector
        What was compared.
    """

    deviation: float
    product: Array
    difference: Array


def compare_with_differences(
    field: Callable[[Array], Array],
    at: Array,
    along: Array,
    product: Array,
    *,
    backend: Backend,
    precision: float,
    wide: bool,
) -> Verified | Unverified | Deviation:
    r"""Compare a product J v with differences of the field whose Jacobian J is, at a point.

    .. math:: J v \approx \frac{1}{2h} (F(\theta + h v) - F(\theta - h v)),
              \qquad h = r \, |\theta| / |v|

    for ratios r between 1e-8 and 1e-3 in float64. The first difference that agrees with the product settles it. A
    product is wrong only where two neighbouring steps agree with each other better than with it; a kink or a model that
    rounds to single precision inside shows differences that agree with nothing.

    Parameters
    ----------
    field : callable
        F, such as the gradient; takes and returns native vectors.
    at, along, product : native vectors
        The point, v and J v, in the precision of the field.
    backend : Backend
    precision : float
        Relative rounding error of the product.
    wide : bool
        Whether the field is computed in float64.

    Returns
    -------
    Verified, Unverified or Deviation
    """
    length, width, size = map(float, backend.to_host(backend.norm(at), backend.norm(along), backend.norm(product)))
    if width == 0:
        return Unverified("the vector is zero")
    tolerance = max(_WRONG, 100.0 * precision)
    enough = max(_RIGHT, 10.0 * precision)
    tried: list[tuple[float, Array]] = []
    for ratio in _WIDE_STEPS if wide else _NARROW_STEPS:
        step = ratio * (length or 1.0) / width
        ahead = field(backend.axpy_(backend.copy(at), step, along))
        behind = field(backend.axpy_(backend.copy(at), -step, along))
        slope, extent = backend.norm(ahead), backend.norm(behind)
        difference = backend.scale_(backend.axpy_(ahead, -1.0, behind), 0.5 / step)
        found, values, other = map(float, backend.to_host(backend.norm(difference), slope, extent))
        if not np.isfinite(found):
            continue
        # What rounding makes of a difference of zero.
        rounding = (np.finfo(np.float64).eps if wide else precision) * max(values, other) / step
        scale = max(size, found, rounding, np.finfo(np.float64).tiny)
        deviation = _distance(backend, difference, product) / scale
        if deviation <= enough:
            return Verified(deviation)
        for known, earlier in tried:
            if 1.0 / _NEIGHBOURS < known / ratio < _NEIGHBOURS:
                disagreement = _distance(backend, difference, earlier) / scale
                if deviation > max(tolerance, 10.0 * disagreement):
                    return Deviation(deviation, product, difference)
                if deviation <= tolerance and disagreement <= tolerance:
                    return Verified(deviation)
        tried.append((ratio, difference))
    return Unverified("no two differences of the gradient agree: the function has kinks here, or rounds too much")


def _distance(backend: Backend, one: Array, other: Array) -> float:
    (found,) = backend.to_host(backend.norm(backend.axpy_(backend.copy(one), -1.0, other)))
    return float(found)
