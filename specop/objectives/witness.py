"""Whether products are what differences say: what a framework differentiates, against what it evaluates.

A derivative is not believed because a framework returned it: compiled code, custom operations, detached parts
and a few of the frameworks' own operations leave some of it out without a word. What can be told apart from rounding is
held against central differences, on a few samples, in float64 where the model runs there: Hessians against those of the
gradient, Jacobians against those of the outputs, what stands between two Jacobians against those of the criterion's
gradient in the outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specop.arrays import probes
from specop.arrays.backend import Array
from specop.arrays.memory import free_host_memory, in_bytes
from specop.errors import InvalidInputError, SpecopError
from specop.objectives.autodiff import Autodiff, Matrix
from specop.objectives.point import Point
from specop.objectives.slope import remark_on_slope
from specop.objectives.trained import some_samples

__all__ = ["Verdict", "compare", "verify"]

Vector = NDArray[np.float64]

# Steps relative to the point's length: in float64 small ones first, because kinks are crossed by large ones, and in
# the end large ones, for models that compute in single precision inside.
_WIDE_STEPS = (1e-7, 1e-6, 1e-8, 1e-5, 1e-4, 1e-3)
_NARROW_STEPS = (1e-3, 1e-2, 3e-4, 3e-3)
# How far to go, relative to the point's length, where a derivative jumps.
_BESIDE = 1e-2
# Two differences are neighbours up to this ratio of their steps.
_NEIGHBOURS = 12.0
# Where steps are rounded alike, a larger one comes so much nearer to a right product.
_NEARER = 0.1
# Index of the random vector, far from those of other probes.
_PROBE = 1 << 34
# A deviation that no right product shows, and one that no wrong product of use shows.
_WRONG, _RIGHT = 1e-3, 1e-4
# What is off by more confirms nothing, however coarse the precision.
_VAGUE = 1e-2

_JACOBIAN = Matrix("jacobian")
# Vectors in float64 that differences take at their peak: 10 GiB for a network of 124 million parameters.
_HELD = 12
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


@dataclass(frozen=True)
class Verdict:
    """What differences say of a product.

    Attributes
    ----------
    deviation : float
        From the differences, relative to the larger of both; NaN where nothing can be said.
    reason : str
        Why nothing can be said; empty where the product is confirmed or contradicted.
    wrong : str
        What a product that is contradicted leaves out.
    remarks : tuple of str
        What the user should know of a product that is confirmed.
    """

    deviation: float = np.nan
    reason: str = ""
    wrong: str = ""
    remarks: tuple[str, ...] = ()


def verify(point: Point, batch: Any, multiply: Callable[[Array], Array] | None, matrix: Matrix) -> Verdict:
    """Compare a matrix's product with a random vector with differences, on one batch, or raise.

    Parameters
    ----------
    point : Point
    batch : batch
        One of the data's, on the device. A few of its samples are looked at where the adapter says so.
    multiply : callable or None
        Products with the batch's matrix, where it is linearized.
    matrix : Matrix

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
    if matrix.kind in _ONLY_JACOBIAN:
        matrix, multiply = _JACOBIAN, None
    # Not the vector that is multiplied: a unit vector, say, would show one column only.
    if matrix.kind == "transposed jacobian":
        vector = probes.normal(backend, backend.layout(own.outputs(point.theta, some)), 0, _PROBE)
    else:
        vector = own.moving(probes.normal(backend, own.layout, 0, _PROBE))
    if multiply is not None and some is batch:
        found = multiply(vector)
    else:
        found = own.product(point.theta, some, vector, matrix)
    theta = own.point() if point.theta is None else point.theta
    try:
        with own.in_float64(some, point.budget.total // 10) as (wide, samples):
            at, along, image = (backend.cast(one, np.dtype(np.float64)) for one in (theta, vector, found))
            verdict = _judge(_Differences(wide, at, samples, matrix, along), image, own)
            if matrix.kind == "hessian":
                remarks += (remark_on_slope(wide, at, samples, along),)
    except Exception as error:  # of the user's code, where nobody has promised that it runs
        verdict = _in_own_precision(_Differences(own, theta, some, matrix, vector), found, error)
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


def _judge(seen: _Differences, image: Array, own: Autodiff) -> Verdict:
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


def _in_own_precision(seen: _Differences, image: Array, error: Exception) -> Verdict:
    """Return whether differences in the model's own precision confirm a product; kinks may contradict right ones."""
    why = str(error) if isinstance(error, SpecopError) else f"in float64 it stops with {type(error).__name__}: {error}"
    try:
        verdict = compare(seen.told(image), seen.measure, seen.autodiff.precision, _NARROW_STEPS)
    except SpecopError:
        verdict = Verdict(reason=why)
    return Verdict(reason=" ".join(why.split())[:100]) if verdict.wrong or verdict.reason else verdict


class _Differences:
    r"""What differences of gradients, or of outputs and the criterion's gradient in them, say of a product.

    .. math:: F'(x) v \approx \frac{1}{2h} (F(x + h v) - F(x - h v))

    Parameters
    ----------
    autodiff : Autodiff
    theta : native vector (n,)
        Where.
    batch : batch
    matrix : Matrix
    vector : native vector
        What is multiplied.
    """

    def __init__(self, autodiff: Autodiff, theta: Array, batch: Any, matrix: Matrix, vector: Array) -> None:
        self.autodiff, self.theta, self.batch, self.matrix, self.vector = autodiff, theta, batch, matrix, vector
        self.along = vector
        if matrix.kind == "transposed jacobian":
            self.along = autodiff.moving(probes.normal(autodiff.backend, autodiff.layout, 0, _PROBE + 1))

    def beside(self) -> _Differences:
        """Return the same a little away from the point."""
        backend = self.autodiff.backend
        shift = self.autodiff.moving(probes.normal(backend, self.autodiff.layout, 0, _PROBE + 2))
        theta = backend.axpy_(backend.copy(self.theta), self._step(shift, _BESIDE), shift)
        return _Differences(self.autodiff, theta, self.batch, self.matrix, self.vector)

    def again(self) -> Vector:
        """Return what a new product says."""
        return self.told(self.autodiff.product(self.theta, self.batch, self.vector, self.matrix))

    def told(self, image: Array) -> Vector:
        """Return what a product says of that which is measured: its entries, or its product with a vector."""
        found = self._host(image)
        return found if self.matrix.kind in ("hessian", "jacobian") else np.array([found @ self._host(self.along)])

    def measure(self, ratio: float) -> tuple[Vector, float]:
        """Return the same by differences, and what rounding or chance may make of it.

        Parameters
        ----------
        ratio : float
            Of the step to the point's length.
        """
        moved, noise, step = self._slope(self.along, ratio)
        if self.matrix.kind in ("hessian", "jacobian"):
            return moved, noise
        if self.matrix.kind == "transposed jacobian":
            # w'(J'u) = u'(J w), which is small by chance.
            u = self._host(self.vector)
            return np.array([u @ moved]), float(np.linalg.norm(u)) * max(noise, _length(moved) / len(u) ** 0.5)
        if self.matrix.kind == "empirical fisher of samples":
            # v'(J'M J v) with a block r r' for each sample.
            r = self._output_gradient(0.0 * moved)
            parts = (r * moved).reshape(self.autodiff.count(self.batch), -1).sum(axis=1)
            return np.array([parts @ parts]), 2.0 * _length(parts) * _length(r) * noise
        bent, rounding = _central(lambda h: self._output_gradient(h * moved), step, self.autodiff.precision)
        return np.array([moved @ bent]), _length(moved) * rounding + _length(bent) * noise

    def where(self, deviation: float) -> Verdict:
        """Return the verdict on a wrong product with the parameters whose columns are off.

        Parameters
        ----------
        deviation : float
            That of the whole.
        """
        autodiff, ends = self.autodiff, np.cumsum(self.autodiff.sizes)
        matrix = self.matrix if self.matrix.kind == "hessian" else _JACOBIAN
        along, off, moving = self._host(self.along), [], 0.0
        for name, size, end in zip(autodiff.names, autodiff.sizes, ends, strict=True):
            part = np.zeros(autodiff.layout.n)
            part[end - size : end] = along[end - size : end]
            vector = autodiff.backend.from_host(part, autodiff.layout)
            told = self._host(autodiff.product(self.theta, self.batch, vector, matrix))
            found = self._slope(vector, _WIDE_STEPS[1])[0]
            if told.any() and not found.any():
                return Verdict(reason=f"what depends on {name!r} is rounded coarsely inside of the model")
            off.append(_length(told - found))
            moving = max(moving, _length(found))
        if max(off) <= _WRONG * moving:
            return Verdict(deviation, wrong="in what the criterion adds")
        order = [int(i) for i in np.argsort(off)[:-4:-1] if off[i] > 0.1 * max(off)]
        return Verdict(deviation, wrong=f"in the columns of {', '.join(repr(autodiff.names[i]) for i in order)}")

    def jump(self) -> float:
        """Return by how much the derivative differs between both sides of the point, relative to itself."""
        here, step = self._field(self.along, 0.0), self._step(self.along, _WIDE_STEPS[1])
        (wide, across), (narrow, _) = (self._bend(here, h) for h in (step, step / 10.0))
        # What does not fall with the step is a value that is wrong at the very point.
        return 2.0 * wide / across if narrow < 0.5 * wide and across else 0.0

    def _bend(self, here: Vector, h: float) -> tuple[float, float]:
        behind, ahead = self._field(self.along, -h), self._field(self.along, h)
        return _length(ahead - 2.0 * here + behind), _length(ahead - behind)

    def _slope(self, along: Array, ratio: float) -> tuple[Vector, float, float]:
        """Return the derivative of the gradient, or else of the outputs, along a vector, its rounding, and the step."""
        step = self._step(along, ratio)
        return *_central(lambda h: self._field(along, h), step, self.autodiff.precision), step

    def _field(self, along: Array, h: float) -> Vector:
        at = self.autodiff.backend.axpy_(self.autodiff.backend.copy(self.theta), h, along)
        if self.matrix.kind == "hessian":
            return self._host(self.autodiff.gradient(at, self.batch)[1])
        return self._host(self.autodiff.outputs(at, self.batch))

    def _step(self, along: Array, ratio: float) -> float:
        return ratio * (_length(self._host(self.theta)) or 1.0) / (_length(self._host(along)) or 1.0)

    def _output_gradient(self, shift: Vector) -> Vector:
        moved = self.autodiff.backend.from_host(shift, self.autodiff.layout.of_length(len(shift)))
        return self._host(self.autodiff.output_gradient(self.theta, self.batch, moved))

    def _host(self, vector: Array) -> Vector:
        return np.asarray(self.autodiff.backend.to_numpy(vector), dtype=np.float64)


def _central(field: Callable[[float], Vector], step: float, precision: float) -> tuple[Vector, float]:
    ahead, behind = field(step), field(-step)
    return (ahead - behind) / (2.0 * step), precision * max(_length(ahead), _length(behind)) / step


def compare(
    told: Vector, measure: Callable[[float], tuple[Vector, float]], precision: float, ratios: tuple[float, ...]
) -> Verdict:
    """Compare what a product says with differences at several steps.

    The first difference that agrees with the product settles it. A product is wrong only where two neighbouring steps
    agree with each other better than with it, and no other step comes ten times nearer; a kink or a model that rounds
    to single precision inside shows differences that agree with nothing. Where samples are fitted to a loss of 1e-12,
    logits of 30 are rounded in the same way at several small steps, and larger ones come nearer and nearer.

    Parameters
    ----------
    told : array
        What the product says.
    measure : callable
        From a step to what differences say, and the least deviation that is not rounding or chance, as a length.
    precision : float
        Relative rounding error of the product.
    ratios : tuple of float
        Steps, in the order in which they are tried.
    """
    tolerance, enough = max(_WRONG, 100.0 * precision), max(_RIGHT, min(10.0 * precision, _VAGUE))
    tried: list[tuple[float, Vector]] = []
    deviations, wrong = [], 0.0
    for ratio in ratios:
        found, least = measure(ratio)
        # What is rounded to 16 bit stands still at small steps.
        if not np.isfinite(found).all() or (told.any() and not found.any()):
            continue
        scale = max(_length(told), _length(found), least, np.finfo(np.float64).tiny)
        deviation = _length(found - told) / scale
        if deviation <= enough:
            return Verdict(deviation)
        for known, earlier in tried:
            if 1.0 / _NEIGHBOURS < known / ratio < _NEIGHBOURS:
                disagreement = _length(found - earlier) / scale
                if deviation > max(tolerance, 10.0 * disagreement):
                    wrong = max(wrong, deviation)
                if max(deviation, disagreement) <= min(tolerance, _VAGUE):
                    return Verdict(deviation)
        deviations.append(deviation)
        tried.append((ratio, found))
    if wrong and min(deviations) > _NEARER * wrong:
        return Verdict(wrong, wrong="somewhere")
    if wrong:
        return Verdict(reason="differences by small steps are rounded: the gradient is made of numbers far above it")
    return Verdict(reason="no two differences agree: the function has kinks here, or rounds too much")


def _length(vector: Vector) -> float:
    return float(np.linalg.norm(vector))
