"""The measures of flatness, each by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from specop.arrays import probes as probe_vectors
from specop.arrays.backend import Array
from specop.landscape._average_case import isotropic, level_of_rise, proportional, rises
from specop.landscape._ends import bounded, outermost
from specop.landscape._layers import fisher_rao, relative_flatness
from specop.landscape._point import PointOfLoss
from specop.landscape._sums import density_of, increasing_sum, root_of, sum_of, top_of
from specop.landscape._worst_case import Region, largest_rise, sizes_of
from specop.operators.explicit import DiagonalOperator
from specop.operators.operator import LinearOperator
from specop.results.eigen import EigenResult
from specop.results.flatness import Measure
from specop.results.spectral_density import SpectralDensity
from specop.statistics.estimate import Estimate, estimate_from_samples, exact
from specop.statistics.numbers import Floats

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["MEASURES", "Maker"]

# Random corners of the box that an ascent begins at, beside those of the gradient and of the largest eigenvector.
_CORNERS, _FIRST_CORNER = 3, 1 << 38
# Products for the largest eigenvalues; where they do not suffice, what there is bounds the largest from below.
_PRODUCTS = 300


@dataclass(eq=False)
class Maker:
    """What the measures of one point share: the largest eigenpairs and the density, made when they are asked for."""

    objective: Objective
    point: PointOfLoss
    hessian: LinearOperator
    numbers: dict[str, float]
    layer: str | None
    filter_axis: int | None
    draws: int
    probes: int
    confidence: float
    seed: int
    told: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    _top: EigenResult | None = None
    _density: SpectralDensity | None = None
    _is_blurred: bool = False
    _rounded: list[str] = field(default_factory=list)

    @property
    def top(self) -> EigenResult:
        """The largest eigenpairs, as far as the products went."""
        if self._top is None:
            self._top = self._largest(self.hessian, top_of(self.objective.n))
        return self._top

    @property
    def density(self) -> SpectralDensity:
        """The spectrum."""
        if self._density is None:
            self._density = density_of(self.hessian, self.top, self.probes, self.confidence, self.seed)
        return self._density

    def largest_eigenvalue(self) -> Measure:
        found = bounded(self.top, -1, self.confidence)
        return _measure(found, kind="exact" if self.top.converged else "lower bound")

    def trace(self) -> Measure:
        return self._sum(1)

    def mean_eigenvalue(self) -> Measure:
        return self.trace().scaled(1.0 / self.objective.n)

    def frobenius_norm(self) -> Measure:
        squares = self._sum(2)
        return _measure(root_of(squares), kind=squares.kind)

    def effective_dimension(self) -> Measure:
        alpha = self.numbers["prior"]
        return self._over_prior(lambda h: np.maximum(h, 0.0) / (np.maximum(h, 0.0) + alpha))

    def log_determinant(self) -> Measure:
        alpha = self.numbers["prior"]
        return self._over_prior(lambda h: np.log1p(np.maximum(h, 0.0) / alpha))

    def box_sharpness(self) -> Measure | None:
        if self.point.loss <= -1.0:
            self.missing["box_sharpness"] = f"it divides by 1 + loss, and the loss is {self.point.loss:.3g}"
            return None
        backend, epsilon = self.point.backend, self.numbers["box"]
        region = Region(backend, None, backend.scale_(sizes_of(self.point, 1.0), epsilon))
        layout = backend.layout(self.point.theta)
        corners = [
            probe_vectors.rademacher(backend, layout, self.seed, _FIRST_CORNER + number) for number in range(_CORNERS)
        ]
        highest = largest_rise(self.objective, self.point, region, [self.point.gradient, *self._both_ways(), *corners])
        self._note_rounding("box_sharpness", highest)
        return _lower_bound(100.0 * highest / (1.0 + self.point.loss), self.confidence)

    def ball_sharpness(self) -> Measure:
        region = Region(self.point.backend, self.numbers["ball"])
        highest = largest_rise(self.objective, self.point, region, [*self._both_ways(), self.point.gradient])
        self._note_rounding("ball_sharpness", highest)
        return _lower_bound(highest, self.confidence)

    def adaptive_sharpness(self) -> Measure:
        backend, offset = self.point.backend, self.numbers["adaptive_offset"]
        scale = sizes_of(self.point, offset)
        turned = DiagonalOperator(scale)
        top = self._largest(turned @ self.hessian @ turned, 1).eigenvector(0)
        slope = backend.multiply(scale, self.point.gradient)
        starts = [top, backend.scale_(backend.copy(top), -1.0), slope]
        highest = largest_rise(
            self.objective, self.point, Region(backend, self.numbers["adaptive_ball"], scale), starts
        )
        self._note_rounding("adaptive_sharpness", highest)
        return _lower_bound(highest, self.confidence, invariant=offset == 0)

    def average_rise(self) -> Measure:
        noise = isotropic(self.point, self.seed)
        samples = rises(self.objective, self.point, noise, self.numbers["sigma"], self.draws)
        found = estimate_from_samples(samples, self.confidence)
        self._note_rounding("average_rise", found.estimate)
        return _measure(found)

    def average_rise_quadratic(self) -> Measure:
        return self.trace().scaled(0.5 * self.numbers["sigma"] ** 2)

    def relative_flatness(self) -> Measure | None:
        if self.layer is None:
            self.missing["relative_flatness"] = "no parameter has two or more dimensions"
            return None
        self.told["layer"] = self.layer
        found = relative_flatness(
            self.objective,
            self.point,
            self.hessian,
            self.layer,
            self.filter_axis,
            self.draws,
            self.confidence,
            self.seed,
        )
        return _measure(found, invariant=True, kind="estimate" if found.standard_error else "exact")

    def fisher_rao_norm(self) -> Measure | None:
        value, which = fisher_rao(self.objective, self.point)
        if value is None:
            self.missing["fisher_rao_norm"] = which
            return None
        self.told["fisher"] = which
        return _measure(exact(value, self.confidence), invariant=True, kind="exact")

    def pac_bayes_sigma(self) -> Measure:
        # Where the quadratic model's rise is that much, or as large as the parameters.
        trace = self.trace().estimate if self._density is not None else 0.0
        start = (2.0 * self.numbers["rise"] / trace) ** 0.5 if trace > 0 else self._entry()
        return self._level(isotropic(self.point, self.seed), start)

    def pac_bayes_relative_sigma(self) -> Measure:
        offset = self.numbers["relative_offset"]
        return self._level(proportional(self.point, offset, self.seed), 0.1, invariant=offset == 0)

    def remark(self) -> str:
        """Return what to keep in mind where the point is no minimum."""
        parts = []
        if self._top is not None:
            h, radius = float(self._top.eigenvalues[-1]), self.numbers["ball"]
            by_slope, by_curvature = radius * self.point.slope, 0.5 * radius**2 * abs(h)
            if by_slope > by_curvature and by_slope > 1e-3 * abs(self.point.loss):
                parts.append(
                    f"no minimum: over a distance of {radius:g} the gradient changes the loss by {by_slope:.2g}, "
                    f"curvature by {by_curvature:.2g}; worst cases are those of the slope. Train on"
                )
        if self._density is not None:
            lowest, rounding = float(self._density.nodes[0]), self._density.rounding
            if lowest < -max(10.0 * rounding, 1e-3 * abs(float(self._density.nodes[-1]))):
                parts.append(
                    f"the Hessian has negative eigenvalues, down to at most {lowest:.2g}: they count in trace and "
                    f"norm, not in the log-determinant and the effective dimension"
                )
        if self._rounded:
            parts.append(
                f"losses are rounded to about {self._rounding:.1g}, more than a tenth of the rise behind "
                f"{', '.join(self._rounded)}. Run the model in a higher precision, or look further away"
            )
        if self._is_blurred:
            parts.append(
                f"the log-determinant and the effective dimension are hardly known: eigenvalues near the prior "
                f"{self.numbers['prior']:.2g} are not told from zero, beside one of {self.top.eigenvalues[-1]:.3g}. "
                f"Pass a larger prior="
            )
        return "\n".join(parts)

    def _sum(self, power: int) -> Measure:
        return _measure(sum_of(self.density, power), kind=self._kind)

    @property
    def _kind(self) -> str:
        return "estimate" if self.density.probes else "exact"

    def _over_prior(self, function: Callable[[Floats], Floats]) -> Measure:
        """Return a sum that is sharp at the prior, which may be too small for the steps there are."""
        found = _measure(increasing_sum(self.density, function), kind=self._kind)
        low, high = found.interval
        self._is_blurred |= high - low > found.estimate
        return found

    @property
    def _rounding(self) -> float:
        """By how much rounding may move a loss."""
        return self.hessian.precision * abs(self.point.loss)

    def _note_rounding(self, name: str, rise: float) -> None:
        if abs(rise) < 10.0 * self._rounding:
            self._rounded.append(name)

    def _largest(self, matrix: LinearOperator, k: int) -> EigenResult:
        k = min(k, self.objective.n)
        return outermost(matrix, k, "LA", None, 1e-3, max(_PRODUCTS, k), self.confidence, self.seed)

    def _both_ways(self) -> list[Array]:
        last = self.top.eigenvector(len(self.top.eigenvalues) - 1)
        backend = self.point.backend
        return [last, backend.scale_(backend.copy(last), -1.0)]

    def _entry(self) -> float:
        """Return a typical size of a parameter."""
        return float(self.point.length / self.objective.n**0.5) or 1.0

    def _level(self, noise: Any, start: float, invariant: bool = False) -> Measure:
        found = level_of_rise(
            self.objective, self.point, noise, self.numbers["rise"], start, self.draws, self.confidence
        )
        return _measure(found, invariant=invariant)


def _measure(value: Estimate, *, invariant: bool = False, kind: str = "estimate") -> Measure:
    low, high = value.interval
    interval = (float(low), float(high))
    return Measure(float(value.estimate), float(value.standard_error), interval, value.confidence, invariant, kind)


def _lower_bound(value: float, confidence: float, *, invariant: bool = False) -> Measure:
    return Measure(value, 0.0, (value, float("inf")), confidence, invariant, "lower bound")


MEASURES: dict[str, Callable[[Maker], Measure | None]] = {
    "largest_eigenvalue": Maker.largest_eigenvalue,
    "trace": Maker.trace,
    "mean_eigenvalue": Maker.mean_eigenvalue,
    "frobenius_norm": Maker.frobenius_norm,
    "effective_dimension": Maker.effective_dimension,
    "log_determinant": Maker.log_determinant,
    "box_sharpness": Maker.box_sharpness,
    "ball_sharpness": Maker.ball_sharpness,
    "adaptive_sharpness": Maker.adaptive_sharpness,
    "average_rise": Maker.average_rise,
    "average_rise_quadratic": Maker.average_rise_quadratic,
    "relative_flatness": Maker.relative_flatness,
    "fisher_rao_norm": Maker.fisher_rao_norm,
    "pac_bayes_sigma": Maker.pac_bayes_sigma,
    "pac_bayes_relative_sigma": Maker.pac_bayes_relative_sigma,
}
"""Each measure, by its name, in the order in which they are shown."""
