"""QUANTITIES: what a monitor can record, each the function of `specop` that it is named after at one point."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from specop.arrays.backend import Array, backend_of
from specop.errors import InvalidInputError, MissingStateError
from specop.krylov.known import eigenvectors_for
from specop.landscape._dynamics import dynamics_at
from specop.landscape._flatness import flatness
from specop.landscape._noise import noise
from specop.objectives.curvature import CurvatureOperator
from specop.objectives.mean import Objective
from specop.operators.operator import LinearOperator
from specop.results.eigen import EigenResult
from specop.results.result import Result
from specop.results.spectral_density import SpectralDensity
from specop.spectral.eigsh import eigsh
from specop.spectral.spectral_density import spectral_density
from specop.spectral.trace import trace
from specop.spectral.tracking import largest_near
from specop.statistics.estimate import Estimate, exact, within

__all__ = ["CONFIDENCE", "QUANTITIES", "Point", "options_of"]

# Records between two that begin from a random vector, which has no part in what earlier ones may have missed.
_AFRESH = 10
# Of bounds on eigenvalues, as `eigsh` gives them by default.
CONFIDENCE = 0.99
# Index of the first random vector, far from those of probes.
_FIRST_PROBE = 1 << 37


@dataclass
class Point:
    """One point of training, and what is known of those before it.

    Attributes
    ----------
    objective : Objective
    theta : native vector or None
        The parameters; None for those that the model has.
    number : int
        Number of records before this one.
    seed : int
        Seed of random vectors, the same at each point: differences between two points are then less random than each.
    optimizer : object or None
        Optimizer of the training, as `specop.landscape.stability` takes it.
    lr : float or None
        The learning rate, where it was given.
    known : dict
        Eigenpairs of earlier points by the quantity that they were found for; those of this one are put there.
    results : dict
        What was found at this point, by quantity.
    """

    objective: Objective
    theta: Array | None
    number: int
    seed: int
    known: dict[str, EigenResult]
    optimizer: Any = None
    lr: float | None = None
    results: dict[str, Result] = field(default_factory=dict)

    @cached_property
    def hessian(self) -> CurvatureOperator:
        """The Hessian at this point, whose linearizations all quantities share."""
        return self.objective.hessian(self.theta)

    def nearby(self, name: str) -> EigenResult | None:
        """Return the eigenpairs that were last found for a quantity, where this model's vectors live now."""
        found = self.known.get(name)
        if found is None or backend_of(found.rows) is not self.hessian.backend:
            return found
        backend = self.hessian.backend
        if backend.layout(found.eigenvector(0)) != self.hessian.domain:
            # The model has moved to another device since.
            return replace(found, rows=backend.to_numpy(found.rows))
        return found


def _lambda_max(point: Point, *, tol: float = 1e-2) -> dict[str, Estimate]:
    """Find the largest eigenvalue of the Hessian."""
    eigen = point.results.get("eigenvalues")
    if not isinstance(eigen, EigenResult) or eigen.which != "LA":
        eigen = _outermost(point, "lambda_max", point.hessian, tol=tol)
    point.known["lambda_max"] = point.results["lambda_max"] = eigen
    value, error, level = _read(eigen)
    return {"lambda_max": _largest(value, error, level), "lambda_max_level": exact(level, CONFIDENCE)}


def _outermost(point: Point, name: str, matrix: LinearOperator, *, tol: float) -> EigenResult:
    """Find the largest eigenvalue of a matrix, from the eigenvector of shortly before; each tenth time afresh."""
    known = point.nearby(name) if point.number % _AFRESH else None
    if known is not None:
        near = eigenvectors_for(known, matrix.backend, matrix.domain, "the last record")[-1]
        found = largest_near(matrix, near, tol=tol, seed=point.seed, draw=_FIRST_PROBE + point.number)
        if found.converged:
            return found
    return eigsh(matrix, k=1, which="LA", tol=tol, seed=point.seed)


def _largest(value: float, bound: float, level: float) -> Estimate:
    """Return a largest eigenvalue: something larger may have been missed up to the level."""
    return Estimate(value, 0.0, (value - bound, max(value + bound, level)), CONFIDENCE)


def _read(eigen: EigenResult) -> tuple[float, float, float]:
    """Return the largest eigenvalue, within what some eigenvalue lies, and above what none does."""
    value, bound = float(eigen.eigenvalues[-1]), float(eigen.bounds[-1])
    return value, min(float(eigen.residuals[-1]), bound), value + bound


def _eigenvalues(point: Point, *, k: int = 5, which: str = "LA", **options: Any) -> dict[str, Estimate]:
    known = point.nearby("eigenvalues")
    eigen = eigsh(point.hessian, k=k, which=which, v0=known, seed=point.seed, **options)
    point.known["eigenvalues"] = point.results["eigenvalues"] = eigen
    pairs = zip(eigen.eigenvalues[::-1].tolist(), eigen.bounds[::-1].tolist(), strict=True)
    return {f"eigenvalue_{i}": within(value, bound, CONFIDENCE) for i, (value, bound) in enumerate(pairs, 1)}


def _trace(point: Point, *, rtol: float = 0.1, **options: Any) -> dict[str, Estimate]:
    found = point.results["trace"] = trace(point.hessian, rtol=rtol, seed=point.seed, **options)
    return {"trace": found.value}


def _density(point: Point, **options: Any) -> dict[str, Estimate]:
    found: SpectralDensity = spectral_density(point.hessian, seed=point.seed, **options)
    point.results["density"] = found
    return {
        "density_mean": found.integrate(lambda x: x),
        "density_mean_square": found.integrate(np.square),
        "density_mean_negative": found.integrate(lambda x: np.minimum(x, 0.0)),
    }


def _stability(point: Point, *, tol: float = 1e-2) -> dict[str, Estimate]:
    """Hold the largest eigenvalue that the optimizer's steps see against the limit of stable steps."""
    if point.optimizer is None and point.lr is None:
        raise InvalidInputError(
            "stability needs to know the steps: pass optimizer= or lr= to Monitor, or optimizer= to record; or leave "
            '"stability" out of what.'
        )
    lr = point.lr if point.optimizer is None else None
    gradient = point.objective.gradient(point.theta)
    try:
        dynamics = dynamics_at(point.objective, point.optimizer, lr or None, None, False, gradient)
    except MissingStateError:
        raise
    except InvalidInputError as error:
        raise InvalidInputError(f"{error} A Monitor leaves the limit out with what='lambda_max'.") from error
    if lr == 0:
        # A schedule begins or ends: no limit, as for an optimizer whose rate is zero.
        dynamics = replace(dynamics, step=replace(dynamics.step, rate=0.0))
    matrix = dynamics.matrix(point.hessian)
    eigen = point.results.get("lambda_max") if matrix is point.hessian else None
    if not isinstance(eigen, EigenResult):
        eigen = _outermost(point, "stability", matrix, tol=tol)
    point.known["stability"] = point.results["stability"] = eigen
    (value, bound, level), limit = _read(eigen), dynamics.limit
    # Where parameters have rates of their own, these are in the matrix.
    has_rates = dynamics.scale is not None and dynamics.step.rate == 1.0
    return {
        **({} if has_rates else {"lr": exact(dynamics.step.rate, CONFIDENCE)}),
        "sharpness": _largest(value, bound, level),
        "sharpness_level": exact(level, CONFIDENCE),
        "limit": exact(limit, CONFIDENCE),
        "ratio": _largest(value / limit, bound / limit, level / limit),
    }


def _noise(point: Point, **options: Any) -> dict[str, Estimate]:
    found = point.results["noise"] = noise(point.objective, theta=point.theta, seed=point.seed, **options)
    return {"simple_scale": found.simple_scale, "curvature_scale": found.curvature_scale}


def _flatness(point: Point, **options: Any) -> dict[str, Estimate]:
    found = point.results["flatness"] = flatness(point.objective, theta=point.theta, seed=point.seed, **options)
    return {f"flatness_{name}": measure for name, measure in found.measures.items()}


QUANTITIES: dict[str, Callable[..., dict[str, Estimate]]] = {
    "eigenvalues": _eigenvalues,
    "lambda_max": _lambda_max,
    "trace": _trace,
    "density": _density,
    "stability": _stability,
    "noise": _noise,
    "flatness": _flatness,
}
"""In the order in which they are computed: later ones use what was found before."""

_BEHIND: dict[str, Callable[..., Any]] = {
    "eigenvalues": eigsh,
    "trace": trace,
    "density": spectral_density,
    "noise": noise,
    "flatness": flatness,
}
# What a monitor passes itself.
_PASSED = {"point", "options", "A", "objective", "theta", "v0", "seed"}


def options_of(name: str) -> list[str]:
    """Return the keywords that a quantity takes, those of the function behind it included."""
    functions = [QUANTITIES[name], *([_BEHIND[name]] if name in _BEHIND else [])]
    known = dict.fromkeys(key for function in functions for key in inspect.signature(function).parameters)
    return [key for key in known if key not in _PASSED]
