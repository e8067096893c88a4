"""The laws of an objective: derivatives against differences, and a model that stays as it was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array, Backend, numbers_of
from specop.arrays.layout import Layout
from specop.errors import InvalidInputError, NonFiniteError
from specop.objectives.agreement import length
from specop.objectives.mean import Objective
from specop.operators.operator import LinearOperator
from specop.statistics.numbers import Floats
from specop.testing._laws import require, require_near, require_same
from specop.testing._operators import check_operator

__all__ = ["check_objective"]


def check_objective(objective: Objective, *, params: Any = None, dense: Floats | None = None, seed: int = 0) -> None:
    r"""Check the derivatives of an objective, its structures and blocks, and that it leaves the model alone.

    Derivatives are compared with central differences, with a step of about :math:`\epsilon^{1/3}`: good to 1e-6 in
    float64 and 2e-2 in float32, for a loss that is smooth there and curved on the scale of its parameters.

    Parameters
    ----------
    objective : Objective
        Objective of some thousand parameters at most, so that every pass is quick.
    params : structure, optional
        The model's own parameters, as `Objective.flatten` takes them; for a module a mapping by name. Differences are
        taken there, and the current point is compared with ``theta`` at the same place. Without it they are taken at a
        random point with standard deviation 0.3, where the loss must be finite.
    dense : ndarray, (n, n), optional
        The Hessian at the model's current parameters, by other means, in float64.
    seed : int, optional
        Seed of the random vectors.

    Raises
    ------
    AssertionError
        At the first broken law; the text names method, law and numbers.

    Examples
    --------
    >>> import torch, specop
    >>> from specop.testing import check_objective
    >>> model = torch.nn.Linear(3, 1).double()
    >>> data = (torch.ones(8, 3).double(), torch.ones(8, 1).double())
    >>> objective = specop.objective(model, torch.nn.functional.mse_loss, data)
    >>> check_objective(objective, params=dict(model.named_parameters()))
    """
    bench = _Bench(objective, seed, objective.hessian())
    found = bench.state(params)
    _check_unchanged(bench, found, params, "is left as it was found by loss and gradient")
    _check_sizes(bench)
    theta = bench.draw(0.3) if params is None else bench.backend.copy(objective.flatten(params))
    _check_structures(bench, theta)
    check_operator(bench.H, seed=seed)
    _check_gradient(bench, theta)
    _check_hessian(bench, theta)
    if params is not None:
        _check_current_point(bench, theta)
    if dense is not None:
        _check_dense(bench, np.asarray(dense, dtype=np.float64))
    _check_blocks(bench)
    _check_unchanged(bench, found, params, "is left as it was found")
    for failing in _failures(bench, theta):
        _check_unchanged(bench, found, params, f"is left as it was found, also after {failing} failed")


@dataclass
class _Bench:
    """An objective, its Hessian at the current point, and random vectors."""

    objective: Objective
    seed: int
    H: LinearOperator
    drawn: int = 0

    @property
    def backend(self) -> Backend:
        return self.H.backend

    @property
    def layout(self) -> Layout:
        return self.H.domain

    @property
    def precision(self) -> float:
        return float(self.H.precision)

    @property
    def step(self) -> float:
        """Where rounding and curvature spoil a central difference about equally."""
        return float(self.precision ** (1 / 3))

    @property
    def rtol(self) -> float:
        """Error allowed to a central difference, relative to the derivative."""
        return max(1e-6, min(4 * self.step, 0.2)) if self.precision > 1e-10 else 1e-6

    def draw(self, scale: float = 1.0) -> Array:
        self.drawn += 1
        vector = probes.normal(self.backend, self.layout, self.seed, self.drawn)
        return self.backend.scale_(vector, scale)

    def unit(self) -> Array:
        return self.draw(self.layout.n**-0.5)

    def numpy(self, x: Array) -> Floats:
        return np.array(self.backend.to_numpy(x), dtype=np.float64)

    def number(self, scalar: Array) -> float:
        return numbers_of(self.backend, scalar)[0]

    def difference(self, function: Callable[[Array], Floats], theta: Array, direction: Array) -> Floats:
        """Return the central difference of a function along a direction."""
        ahead, behind = (
            function(self.backend.axpy_(self.backend.copy(theta), by, direction)) for by in (self.step, -self.step)
        )
        return (ahead - behind) / (2 * self.step)

    def state(self, params: Any) -> dict[str, Floats]:
        """What can be seen of the model: exact numbers, for a comparison bit for bit."""
        seen = {
            "loss()": np.array(self.number(self.objective.loss())),
            "gradient()": self.numpy(self.objective.gradient()),
        }
        return seen if params is None else {"flatten(params)": self.numpy(self.objective.flatten(params)), **seen}


def _check_sizes(bench: _Bench) -> None:
    objective = bench.objective
    n, shape = objective.n, bench.H.shape
    require(shape == (n, n), "hessian", "has the size of the parameter vector", f"{shape} for n = {n}")
    require(bench.H.is_symmetric, "hessian", "claims to be symmetric")
    require(len(set(objective.names)) == len(objective.names), "names", "are distinct", str(objective.names))
    try:
        bench.backend.check_vector(objective.gradient(), bench.layout, "the gradient")
    except InvalidInputError as error:
        raise AssertionError(f"gradient: is a vector like those of the Hessian ({error}).") from error
    require(objective.samples > 0, "samples", "is the number of samples", str(objective.samples))


def _check_structures(bench: _Bench, theta: Array) -> None:
    objective = bench.objective
    back = bench.numpy(objective.flatten(objective.unflatten(theta)))
    require_same(back, bench.numpy(theta), "flatten", "undoes unflatten")
    product = bench.numpy(bench.H @ theta)
    tree = bench.numpy(objective.flatten(bench.H @ objective.unflatten(theta)))
    # Only close: the first product with an operator may be computed in another way than those after it.
    law = "multiplies a parameter structure as it does its vector"
    require_near(tree, product, 100 * bench.precision * length(product), "hessian", law)
    wrong = bench.backend.zeros(bench.layout.of_length(objective.n + 1))
    for name, call in (("unflatten", objective.unflatten), ("loss", objective.loss), ("gradient", objective.gradient)):
        try:
            call(wrong)
        except InvalidInputError:
            continue
        raise AssertionError(f"{name}: refuses a vector of length n + 1 with InvalidInputError.")


def _check_gradient(bench: _Bench, theta: Array) -> None:
    objective, h = bench.objective, bench.step
    loss, gradient = bench.number(objective.loss(theta)), objective.gradient(theta)
    slope = bench.numpy(gradient)
    directions = [bench.unit(), bench.unit()]
    if length(slope) > 0:
        # Along the gradient itself the derivative is largest, and a wrong factor shows best.
        directions.append(bench.backend.scale_(bench.backend.copy(gradient), 1 / length(slope)))
    for direction in directions:
        difference = bench.difference(lambda point: np.array(bench.number(objective.loss(point))), theta, direction)
        derivative = slope @ bench.numpy(direction)
        allowed = bench.rtol * length(slope) + 100 * bench.precision * abs(loss) / h
        require_near(derivative, difference, allowed, "gradient", "is that of the loss, by differences")


def _check_hessian(bench: _Bench, theta: Array) -> None:
    objective, backend, h = bench.objective, bench.backend, bench.step
    H = objective.hessian(theta)
    scale = abs(bench.number(objective.loss(theta))) + length(bench.numpy(objective.gradient(theta)))
    # The first product linearizes, later ones replay: each is tested.
    for number in range(3):
        direction = bench.unit()
        if number == 2:
            # Towards the largest curvature, where a wrong factor shows best.
            direction = H @ direction
            size = bench.number(backend.norm(direction))
            if size == 0:
                return
            direction = backend.scale_(direction, 1 / size)
        product = bench.numpy(H @ direction)
        difference = bench.difference(lambda point: bench.numpy(objective.gradient(point)), theta, direction)
        allowed = bench.rtol * length(difference) + 100 * bench.precision * scale / h
        law = f"is the derivative of the gradient, by differences, in product {number + 1}"
        require_near(product, difference, allowed, "hessian", law)


def _check_current_point(bench: _Bench, theta: Array) -> None:
    objective, direction = bench.objective, bench.unit()
    pairs: dict[str, Callable[[Any], Array]] = {
        "loss": objective.loss,
        "gradient": objective.gradient,
        "hessian": lambda point: objective.hessian(point) @ direction,
    }
    for name, method in pairs.items():
        here, there = bench.backend.to_host(method(None), method(theta))
        law = "at theta equal to the current parameters is that of the model"
        require_near(here, there, 100 * bench.precision * length(there), name, law)


def _check_dense(bench: _Bench, dense: Floats) -> None:
    n, tolerance = bench.objective.n, 1e-10 if bench.precision < 1e-10 else 1e3 * bench.precision
    require(dense.shape == (n, n), "dense", "has the size of the objective", f"{dense.shape} for n = {n}")
    for _ in range(3):
        vector = bench.draw()
        found, expected = bench.numpy(bench.H @ vector), dense @ bench.numpy(vector)
        law = "has the products of the dense Hessian"
        require_near(found, expected, tolerance * length(expected), "hessian", law)


def _check_blocks(bench: _Bench) -> None:
    """A part of the parameters has its own block of gradient and Hessian."""
    objective, tolerance = bench.objective, 1e3 * bench.precision
    whole = bench.numpy(objective.gradient())
    parts = [objective.restrict([name]) for name in objective.names]
    ends = np.cumsum([part.n for part in parts])
    require(ends[-1] == objective.n, "restrict", "to each name in turn covers all parameters", f"{ends[-1]}")
    for number in sorted({0, len(parts) - 1}):
        part, name = parts[number], objective.names[number]
        require(part.names == (name,), "restrict", f"to {name!r} keeps that name", str(part.names))
        block = np.arange(ends[number] - part.n, ends[number])
        H = part.hessian()
        vector = probes.normal(bench.backend, H.domain, bench.seed, 0)
        expected = bench.numpy(bench.H @ bench.backend.scatter(vector, block, bench.layout))
        found, law = bench.numpy(H @ vector), f"to {name!r} has its block of the"
        require_near(found, expected[block], tolerance * length(expected), "restrict", f"{law} Hessian")
        found = bench.numpy(part.gradient())
        require_near(found, whole[block], tolerance * length(whole), "restrict", f"{law} gradient")


def _failures(bench: _Bench, theta: Array) -> Iterator[str]:
    """Make calls that must fail, inside of the model too, and tell which one did."""
    objective = bench.objective
    bad = bench.backend.scale_(bench.backend.copy(theta), np.nan)
    calls: dict[str, Callable[[], Any]] = {
        "loss(NaN)": lambda: objective.loss(bad),
        "gradient(NaN)": lambda: objective.gradient(bad),
        "hessian(NaN) @ v": lambda: objective.hessian(bad) @ bench.unit(),
    }
    for call, function in calls.items():
        try:
            function()
        except NonFiniteError:
            yield call
        else:
            raise AssertionError(f"{call}: raises NonFiniteError, because the loss is not finite there.")


def _check_unchanged(bench: _Bench, before: dict[str, Floats], params: Any, law: str) -> None:
    try:
        now = bench.state(params)
    except NonFiniteError as error:
        raise AssertionError(f"the model {law}: its loss is no longer finite ({error}).") from error
    for name, values in now.items():
        require_same(values, before[name], name, f"{law}: bit for bit the same")
