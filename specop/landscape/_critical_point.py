"""critical_point: whether a point is one, and of which kind."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from specop.arrays.backend import Array
from specop.errors import checked_number
from specop.krylov.run import Run
from specop.landscape._point import point_of
from specop.landscape._surroundings import Surroundings
from specop.results.critical_point import CriticalPointResult
from specop.results.structure import Structure
from specop.spectral.below import count_below
from specop.spectral.counting import widest_gap
from specop.spectral.edges import Edges, edges_of_spectrum
from specop.statistics.estimate import Estimate, check_confidence, exact

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["critical_point"]

_PRODUCTS = 1000
# Products that counting a few negative eigenvalues may take.
_COUNTING = 200
# Rounding of parameters and of what is computed from them, in roundings of a number.
_ROUNDINGS = 10.0


def critical_point(
    objective: Objective,
    *,
    rtol: float = 1e-3,
    atol: float = 0.0,
    resolution: float = 1e-3,
    threshold: float | None = None,
    theta: Array | None = None,
    max_matvecs: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> CriticalPointResult:
    r"""Tell whether the gradient of the loss is zero for all that counts, and what kind of point that makes.

    With eigenvalues :math:`h_i` and eigenvectors :math:`v_i` of the Hessian, gradient g and threshold t, the quadratic
    model has its critical point in the span of the larger eigenvalues at a loss that differs by half of

    .. math:: d_+ = \sum_{h_i > t} \frac{(g^T v_i)^2}{h_i}, \qquad d_- = \sum_{h_i < -t} \frac{(g^T v_i)^2}{h_i},

    the positive and the negative part of the Newton decrement :math:`g^T H^{-1} g`. The gradient's rest :math:`g_0`
    lies along smaller eigenvalues and would gain at least :math:`|g_0|^2 / (2 t)`. The point is critical if none of
    :math:`d_+/2`, :math:`|d_-|/2` and :math:`|g_0|^2 / (2 t)` exceeds ``max(atol, rtol |L|)``, or what rounding of the
    parameters makes of the loss. Then it is

    - "plateau" if neither slope nor curvature counts: :math:`|g| \rho + |H| \rho^2 / 2` is at most ``max(atol, rtol
      |L|)`` for :math:`\rho = \max(|\theta|, 1)`, and the loss itself stays as close, a tenth of that away in random
      directions, as with saturated units;
    - "saddle" if the smallest eigenvalue is below zero by more than its bound; one above minus `resolution` times the
      largest size counts only if the loss falls along its eigenvector by more than the decrement: where a point is
      critical only nearly, eigenvalues that are zero at the critical point are not;
    - "minimum" if the smallest eigenvalue, less its bound, is above zero;
    - "degenerate" otherwise: no eigenvalue is below minus `resolution` times the largest size, with the given
      confidence, and some cannot be told from zero. Second derivatives do not decide then. The loss is looked at along
      a few of these directions: where it falls, as from a monkey saddle, `drop` tells.

    Parameters
    ----------
    objective : Objective
        The model is left as it is.
    rtol : float
        Part of the loss that counts as zero.
    atol : float
        Amount of the loss that counts as zero; for losses that are near zero themselves.
    resolution : float
        How far beyond the smallest and the largest eigenvalue found another one may lie, relative to the largest size.
        It takes about :math:`\ln(1.65 \sqrt n / 0.05) / (2 \sqrt{resolution})` products at 95 % [1]_: for n = 129,000
        150 at 1e-3, 470 at 1e-4 and 4,700 at 1e-6.
    threshold : float, optional
        Eigenvalues up to this size count as zero, in units of the Hessian. Default: `resolution` times the largest
        size, or rounding where all eigenvalues are found; at a degenerate point with negative ones that do not count a
        gap above their size.
    theta : native vector (n,), optional
        Parameters at which it is computed; default: the model's current ones.
    max_matvecs : int, optional
        Limit on products; default 1000. Where it is at least n all eigenvalues are found by n products, and the numbers
        of negative, zero and positive ones are counted; otherwise up to 30 negative ones are counted, by at most 200
        products, with a certificate that none was missed, and all other numbers have intervals.
    confidence : float
        Probability with which each bound holds.
    seed : int
        Seed of the random vectors. The same seed gives the same bits.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.
    raise_on_failure : bool
        Whether to raise NotConvergedError, with the result, instead of warning where `resolution` was not reached.

    Returns
    -------
    CriticalPointResult
        With `kind`, `negative`, `smallest`, `largest`, `direction`, `drop` and `decrement`; `plot` draws the loss along
        the direction.

    Raises
    ------
    NonFiniteError
        If parameters, loss, gradient or a product are not finite.
    InvalidInputError, AsymmetryError, NondeterministicError
    NotConvergedError
        Only with ``raise_on_failure``.

    Notes
    -----
    Beside the products it takes a gradient and, unless the point is a minimum, 20 to 100 losses along lines. A row of n
    entries is held for each product. Where a loss has kinks, as with ReLU, it may rise along a negative eigenvalue.

    References
    ----------
    .. [1] J. Kuczynski and H. Wozniakowski, Estimating the largest eigenvalue by the power and Lanczos algorithms with
       a random start, SIAM J. Matrix Anal. Appl. 13 (1992), 1094-1122.

    Examples
    --------
    >>> import torch, specop
    >>> def loss(params, batch):
    ...     x, y = params["w"]
    ...     return x**2 - y**2 + y**4
    >>> objective = specop.objective(loss, params={"w": torch.zeros(2, dtype=torch.float64)}, data=torch.zeros(1, 1))
    >>> found = specop.landscape.critical_point(objective)
    >>> found.kind, found.negative.estimate, round(found.smallest.estimate, 9), round(found.drop, 6)
    ('saddle', 1.0, -2.0, 0.25)
    """
    run = Run(
        objective.hessian(theta),
        "critical_point",
        symmetric=True,
        limit=_PRODUCTS if max_matvecs is None else max_matvecs,
        seed=seed,
        progress=progress,
        raise_on_failure=raise_on_failure,
    )
    rtol, atol = checked_number("rtol", rtol), checked_number("atol", atol)
    resolution = checked_number("resolution", resolution, positive=True)
    check_confidence(confidence)
    given = None if threshold is None else checked_number("threshold", threshold)
    point = point_of(objective, theta)
    with run:
        edges = edges_of_spectrum(run, resolution, confidence)
        zero = _size_of_zero(edges, resolution) if given is None else given
        rounding = edges.size * (_ROUNDINGS * point.epsilon * point.length) ** 2
        allowed = max(atol, rtol * abs(point.loss), rounding)
        around = Surroundings(objective, point, edges, resolution, zero, given or 0.0, allowed, rounding)
        parts = around.parts(run)
        kind, direction, descent = around.kind(parts)
        low, high = edges.smallest.interval
        if kind == "degenerate" and given is None and edges.is_whole and high < 0:
            # What does not count as negative is hardly more positive than that: zeros end at a gap.
            sizes = np.sort(np.abs(edges.ritz.values))
            zero = math.sqrt(math.prod(widest_gap(sizes, -low, resolution * edges.size)))
            parts = replace(around, zero=zero).parts(run)
        slack = edges.rounding if given is not None or not edges.is_whole else 0.0
        negative, zeros, positive = _counted(run, edges, zero, slack)
    reached = max(edges.below, edges.above) <= resolution * edges.size
    return run.result(
        CriticalPointResult,
        kind=kind,
        loss=point.loss,
        gradient_norm=point.slope,
        negative=negative,
        zero=zeros,
        positive=positive,
        smallest=edges.smallest,
        largest=edges.largest,
        resolution=max(edges.below, edges.rounding),
        threshold=zero,
        decrement=parts.positive - parts.negative,
        positive_part=parts.positive,
        negative_part=parts.negative,
        outside=parts.outside,
        decrement_error=parts.error,
        allowed=around.allowed,
        direction=direction,
        drop=descent.drop,
        distance=descent.distance,
        turns=descent.turns,
        coordinates=descent.coordinates,
        losses=descent.losses,
        slope=around.slope_along(direction),
        method="exact" if edges.is_whole else "quadrature",
        confidence=confidence,
        n=objective.n,
        structure=Structure(objective.shapes, objective.unflatten),
        converged=reached,
        message="converged"
        if reached
        else f"critical_point resolved {max(edges.below, edges.above) / edges.size:.1e} of the largest eigenvalue by "
        f"{edges.steps} products, where resolution={resolution:g} was asked for. Raise max_matvecs={run.limit} or "
        f"resolution.",
    )


def _size_of_zero(edges: Edges, resolution: float) -> float:
    """Return the size up to which eigenvalues count as zero: what was asked for, or what could be had."""
    wanted = 0.0 if edges.is_whole else resolution * edges.size
    return max(edges.below, edges.rounding, wanted)


def _counted(run: Run, edges: Edges, zero: float, slack: float) -> tuple[Estimate, Estimate, Estimate]:
    """Return the numbers of negative, zero and positive eigenvalues; a few negative ones are counted."""
    negative, zeros, positive = edges.count(zero, slack)
    if negative.interval[0] == negative.interval[1]:
        return negative, zeros, positive
    found = count_below(run, -zero, edges.confidence, _COUNTING)
    if found is None:
        return negative, zeros, positive
    negative = exact(float(found), edges.confidence)
    rest = edges.space.n - found
    limits = (max(rest - positive.interval[1], 0.0), rest - positive.interval[0])
    zeros = Estimate(max(rest - positive.estimate, 0.0), positive.standard_error, limits, edges.confidence)
    return negative, zeros, positive
