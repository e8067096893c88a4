"""Whether products are what differences say: what a framework differentiates, against what it evaluates.

A derivative is not believed because a framework returned it: compiled code, custom operations, detached parts
and a few of the frameworks' own operations leave some of it out without a word. What can be told apart from rounding is
held against central differences, on a few samples, in float64 where the model runs there: Hessians against those of the
gradient, Jacobians against those of the outputs, what stands between two Jacobians against those of the criterion's
gradient in the outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array
from specop.arrays.memory import free_host_memory, in_bytes
from specop.errors import InvalidInputError, SpecopError
from specop.objectives.agreement import Verdict, compare
from specop.objectives.autodiff import Autodiff, Matrix
from specop.objectives.central_differences import PROBE, CentralDifferences
from specop.objectives.point import Point
from specop.objectives.slope import remark_on_slope
from specop.objectives.trained import fewer_samples, some_samples

__all__ = ["verify"]

# Steps relative to the point's length: in float64 small ones first, because kinks are crossed by large ones, and in
# the end large ones, for models that compute in single precision inside.
_WIDE_STEPS = (1e-7, 1e-6, 1e-8, 1e-5, 1e-4, 1e-3)
_NARROW_STEPS = (1e-3, 1e-2, 3e-4, 3e-3)
# Vectors in float64 that differences take at their peak: 10 GiB for a network of 124 million parameters.
_HELD = 12
# Differences hold several times in float64 what the linearization of their samples holds: of fewer samples, where that
# of a batch is large, so many bytes.
_SMALL = 1 << 24
# Their middle is made of labels and of weights that the likelihood's own check has read off the criterion.
_ONLY_JACOBIAN = ("sampled fisher", "empirical fisher of terms")
_NAMES = {
    "hessian": "Hessian",
    "ggn": "Gauss-Newton matrix",
    "fisher": "Fisher matrix",
    "empirical fisher of samples": "empirical Fisher matrix",
    "jacobian": "Jacobian",
    "transposed jacobian": "transposed Jacobian",
}


def verify(
    point: Point, batch: Any, multiply: Callable[[Array], Array] | None, matrix: Matrix, held: int = 0
) -> Verdict:
    """Compare a matrix's product with a random vector with differences, on one batch, or raise.

    Parameters
    ----------
    point : Point
    batch : batch
        One of the data's, on the device. A few of its samples are looked at where the adapter says so.
    multiply : callable or None
        Products with the batch's matrix, where it is linearized.
    matrix : Matrix
    held : int
        Bytes that the batch's linearization takes; 0 for unknown.

    Raises
    ------
    InvalidInputError
        If the product is off, naming the parameters that it concerns.
    """
    own, backend = point.autodiff, point.backend
    remarks = own.constant_parts()
    if own.accepts_stopped_gradients:
        return Verdict(reason="stopped gradients are accepted")
    needed, free = _HELD * 8 * own.layout.n, free_host_memory()
    # What one process of those that hold vectors together leaves out, the others must not wait for.
    if backend.processes(own.layout).any(needed > free):
        return Verdict(reason=f"its differences take {in_bytes(needed)} of memory, and {in_bytes(free)} are free")
    some = some_samples(point, batch)
    if held > own.witness_bytes:
        some = fewer_samples(point, some, own.count(batch) * _SMALL / held)
    if matrix.kind in _ONLY_JACOBIAN:
        matrix, multiply = Matrix("jacobian"), None
    # Not the vector that is multiplied: a unit vector, say, would show one column only.
    if matrix.kind == "transposed jacobian":
        vector = probes.normal(backend, backend.layout(own.outputs(point.theta, some)), 0, PROBE)
    else:
        vector = own.moving(probes.normal(backend, own.layout, 0, PROBE))
    if multiply is not None and some is batch:
        found = multiply(vector)
    else:
        found = own.product(point.theta, some, vector, matrix)
    theta = own.point() if point.theta is None else point.theta
    try:
        with own.in_float64(some, point.budget.total // 10) as (wide, samples):
            at, along, image = (backend.cast(one, np.dtype(np.float64)) for one in (theta, vector, found))
            verdict = _judge(CentralDifferences(wide, at, samples, matrix, along), image, own)
            if matrix.kind == "hessian":
                remarks += (remark_on_slope(wide, at, samples, along),)
    except Exception as error:  # of the user's code, where nobody has promised that it runs
        verdict = _in_own_precision(CentralDifferences(own, theta, some, matrix, vector), found, error)
    if not verdict.wrong:
        return replace(verdict, remarks=tuple(filter(None, remarks)))
    # A model that moved meanwhile says nothing about its derivatives.
    if point.has_moved():
        return Verdict(reason="the model changed during the product")
    raise _contradicted(matrix.kind, verdict)


def _contradicted(kind: str, verdict: Verdict) -> InvalidInputError:
    is_hessian = kind == "hessian"
    of = "the derivative of the gradient" if is_hessian else "made of the derivatives of the outputs and the criterion"
    seen = "the gradient" if is_hessian else "these"
    return InvalidInputError(
        f"products with the {_NAMES[kind]} are not {of}: differences of {seen} along the same vector are off by "
        f"{100 * verdict.deviation:.2g} % of the product, {verdict.wrong}. An operation there has no right derivative: "
        f"compiled code, a custom operation whose backward is detached, a layer that updates itself in training mode, "
        f"a function at a kink, or a stopped gradient that depends on the parameters. Replace it, call model.eval(),"
        f"{' take finite_difference_hessian(),' * is_hessian} or pass objective(..., accept_stopped_gradients=True) "
        f"if that part is meant to count as a constant."
    )


def _judge(seen: CentralDifferences, image: Array, own: Autodiff) -> Verdict:
    """Return the verdict in float64; what rounding alone takes away from a product is not called wrong."""
    wide = seen.autodiff
    verdict = compare(seen.told(image), seen.measure, own.precision, _WIDE_STEPS)
    if verdict.wrong and 2.0 * seen.jump() > verdict.deviation:
        # A unit that is exactly zero, as where biases and pixels are: any derivative between both sides' is right.
        seen = seen.beside()
        verdict = compare(seen.again(), seen.measure, wide.precision, _WIDE_STEPS)
    elif verdict.wrong and wide is not own:
        exact = compare(seen.again(), seen.measure, wide.precision, _WIDE_STEPS)
        if not exact.wrong:
            rounded = Verdict(reason=f"rounding in {own.layout.dtype} changes products by {verdict.deviation:.1%}")
            return exact if exact.reason else rounded
        verdict = exact
    return seen.where(verdict.deviation) if verdict.wrong else verdict


def _in_own_precision(seen: CentralDifferences, image: Array, error: Exception) -> Verdict:
    """Return whether differences in the model's own precision confirm a product; kinks may contradict right ones."""
    why = str(error) if isinstance(error, SpecopError) else f"in float64 it stops with {type(error).__name__}: {error}"
    try:
        verdict = compare(seen.told(image), seen.measure, seen.autodiff.precision, _NARROW_STEPS)
    except SpecopError:
        verdict = Verdict(reason=why)
    return Verdict(reason=" ".join(why.split())[:100]) if verdict.wrong or verdict.reason else verdict
