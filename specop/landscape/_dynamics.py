"""Dynamics: an update rule on a quadratic, in coordinates in which it is the same along each eigenvector."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from specop.arrays.backend import Array, Backend, backend_of, lengths_of, numbers_of
from specop.arrays.layout import Layout
from specop.errors import InvalidInputError, checked_number
from specop.objectives.update_rule import Step, UpdateRule
from specop.operators.explicit import DiagonalOperator
from specop.operators.identity import identity_like
from specop.operators.operator import LinearOperator
from specop.statistics.numbers import Floats

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["Dynamics", "dynamics_at", "dynamics_of", "plain_dynamics"]

# A gradient over the root of the mean of its squares, which it is a thousandth part of or more, is at most 32.
_LONGEST = 100.0


@dataclass(frozen=True, eq=False)
class Dynamics:
    r"""What steps do along an eigenvector of :math:`D (H + W) D` with eigenvalue h.

    Attributes
    ----------
    name : str
        Name of the optimizer.
    step : Step
        What all parameters share. The rate is 1 where it differs between parameters: `scale` has it then. Weight decays
        that differ are zero here.
    scale : native vector or None
        Entries of the root of what steps multiply gradients by besides `step.rate`; None for the identity.
    turned : native vector or None
        Entries of D: those of `scale`, with what differing decoupled weight decays make of them at the limit.
    coupled, decoupled : native vector or float
        Entries of W, and the share of each parameter that a step takes away.
    average : native vector or None
        The running mean or sum of gradients that the next step starts from.
    notes : tuple of str
        What the result is to say of the optimizer.
    """

    name: str
    step: Step
    scale: Array | None = None
    turned: Array | None = None
    coupled: Array | float = 0.0
    decoupled: Array | float = 0.0
    average: Array | None = None
    notes: tuple[str, ...] = ()

    @property
    def limit(self) -> float:
        """The eigenvalue up to which steps do not grow: where they are turned round without a change of length."""
        rate = self.step.rate
        return (2.0 - self.step.decoupled) / (rate * self.response) if rate else np.inf

    @property
    def response(self) -> float:
        """The sum of a gradient's parts in a step, for gradients that change their sign in each."""
        step = self.step
        kept = step.gain / (1.0 + step.momentum)
        return 1.0 + step.momentum * kept if step.nesterov else kept

    def stable_rate(self, largest: float, coupled: float = 0.0) -> float:
        """Return the rate at which an eigenvalue is the limit.

        Parameters
        ----------
        largest : float
            The eigenvalue, of the preconditioned Hessian.
        coupled : float
            Decoupled weight decay, as a multiple of the rate.
        """
        slope = largest * self.response + coupled
        return 2.0 / slope if slope > 0 else np.inf

    def factors(self, eigenvalue: float) -> tuple[complex, complex]:
        """Return the two factors of a step along an eigenvector, the one of the larger size first.

        Without momentum there is one, and the other is zero.
        """
        step = self.step
        if np.isnan(step.rate):
            return complex(np.nan), complex(np.nan)
        force, left = step.rate * eigenvalue, 1.0 - step.decoupled
        if step.nesterov:
            middle = left + step.momentum - force * (1.0 + step.momentum * step.gain)
            last = step.momentum * (left - force)
        else:
            middle, last = left + step.momentum - force * step.gain, step.momentum * left
        first, second = sorted(np.roots([1.0, -middle, last]), key=abs, reverse=True)
        return complex(first), complex(second)

    def matrix(self, hessian: LinearOperator) -> LinearOperator:
        """Return D (H + W) D."""
        whole = hessian
        if not isinstance(self.coupled, float):
            whole = hessian + DiagonalOperator(self.coupled)
        elif self.coupled:
            whole = hessian + self.coupled * identity_like(hessian)
        if self.turned is None:
            return whole
        diagonal = DiagonalOperator(self.turned)
        return diagonal @ whole @ diagonal

    def preconditioned(self, backend: Backend, gradient: Array) -> Array:
        """Return D D g in fresh storage."""
        if self.scale is None:
            return backend.copy(gradient)
        return backend.multiply(self.scale, backend.multiply(self.scale, gradient))


def dynamics_at(
    objective: Objective,
    optimizer: Any,
    lr: float | None,
    momentum: float | None,
    nesterov: bool,
    gradient: Array,
) -> Dynamics:
    """Return the dynamics of an optimizer, or of gradient descent, heavy ball or Nesterov's method.

    Parameters
    ----------
    objective, optimizer, lr, momentum, nesterov
        The arguments of `specop.landscape.stability` of these names.
    gradient : native vector (n,)
        Gradient of the loss where the optimizer is.
    """
    if optimizer is None:
        return plain_dynamics(lr, 0.0 if momentum is None else momentum, nesterov)
    if lr is not None or momentum is not None or nesterov:
        raise InvalidInputError(
            f"{type(optimizer).__name__} brings its own learning rate and momentum: leave out lr=, momentum= and "
            f"nesterov=, or the optimizer."
        )
    rule = objective.update_rule(optimizer, gradient)
    sizes = [where.stop - where.start for where in objective.slices.values()]
    backend = backend_of(gradient)
    found = dynamics_of(rule, objective.names, sizes, backend, backend.layout(gradient))
    unseen = _unseen(objective, rule, backend, gradient)
    if not unseen:
        return found
    names = ", ".join(map(repr, unseen[:3])) + (f" and {len(unseen) - 3} more" if len(unseen) > 3 else "")
    note = (
        f"the second moments of {rule.name} are far below squared gradients of this loss for {names}: it was trained "
        f"on another one, as with batch normalization in training mode, and its steps are too long for this one; "
        f"objective.restrict(...) can leave them out"
    )
    return replace(found, notes=(note,))


def _unseen(objective: Objective, rule: UpdateRule, backend: Backend, gradient: Array) -> list[str]:
    """Return the parameters whose steps are longer than gradients of the loss that was trained can make them."""
    if rule.scale is None:
        return []
    steps = backend.multiply(rule.scale, backend.multiply(rule.scale, gradient))
    places = objective.slices
    norms = lengths_of(backend, *(backend.section(steps, one.start, one.stop) for one in places.values()))
    sizes = [(one.stop - one.start) ** 0.5 for one in places.values()]
    return [name for name, norm, size in zip(places, norms, sizes, strict=True) if norm > _LONGEST * size]


def plain_dynamics(lr: float | None, momentum: float, nesterov: bool) -> Dynamics:
    """Return gradient descent, heavy ball or Nesterov's method; without a rate it is NaN."""
    lr = np.nan if lr is None else checked_number("lr", lr, positive=True)
    if not 0 <= checked_number("momentum", momentum) < 1:
        raise InvalidInputError(f"momentum must lie from 0 to below 1, got {momentum!r}.")
    name = "gradient descent" if not momentum else "Nesterov" if nesterov else "heavy ball"
    return Dynamics(name, Step(lr, float(momentum), nesterov=bool(nesterov and momentum)))


def dynamics_of(
    rule: UpdateRule, names: tuple[str, ...], sizes: list[int], backend: Backend, layout: Layout
) -> Dynamics:
    """Return an optimizer's dynamics, or raise InvalidInputError where its parameters do not share one limit.

    Parameters
    ----------
    rule : UpdateRule
    names, sizes : sequences
        Names and numbers of entries of the parameters.
    backend : Backend
    layout : Layout
        Layout of vectors.
    """
    first = rule.steps[0]
    for name, step in zip(names, rule.steps, strict=True):
        if (step.momentum, step.gain, step.nesterov) != (first.momentum, first.gain, first.nesterov):
            raise InvalidInputError(
                f"{rule.name} moves {names[0]!r} with momentum {first.momentum:g} and {name!r} with {step.momentum:g}"
                f"{'' if step.momentum != first.momentum else ', but dampened or looking ahead in another way'}: no "
                f"one limit holds for both. Pass objective.restrict(...) to the parameters of one group."
            )
        if not 0 <= step.momentum < 1 or not 0 <= step.decoupled < 2 or not 0 <= step.rate < np.inf or step.gain <= 0:
            raise InvalidInputError(
                f"{rule.name} moves {name!r} with rate {step.rate:g}, momentum {step.momentum:g}, gain {step.gain:g} "
                f"and a decay of {step.decoupled:g} a step: it needs a finite rate >= 0, momentum from 0 to below 1, a "
                f"positive gain, and a decay from 0 to below 2."
            )
    rates, coupled, decoupled = (
        np.array([getattr(step, part) for step in rule.steps]) for part in ("rate", "coupled", "decoupled")
    )

    def spread(values: Floats, base: Array | None = None) -> Array:
        """Return a number for each parameter as a vector, times another one."""
        found = backend.from_host(np.repeat(values, sizes).astype(layout.dtype), layout)
        return found if base is None else backend.multiply(base, found)

    step, scale = replace(first, coupled=0.0), rule.scale
    if scale is not None and not np.isfinite(numbers_of(backend, backend.norm(scale))[0]):
        raise InvalidInputError(
            f"the second moments of {rule.name} are zero, NaN or infinite somewhere, without an epsilon that keeps "
            f"steps finite. Check the optimizer's state, or set its epsilon."
        )
    if np.ptp(rates) > 0:
        step, scale = replace(step, rate=1.0), spread(np.sqrt(rates), scale)
    turned = scale
    if np.ptp(decoupled) > 0:
        # At the limit a step is turned round: the force is (2 - decay) x, for each entry.
        step, turned = replace(step, decoupled=0.0), spread(1.0 / np.sqrt(1.0 - decoupled / 2.0), scale)
    added, taken = (spread(values) if np.ptp(values) > 0 else float(values[0]) for values in (coupled, decoupled))
    return Dynamics(rule.name, step, scale, turned, added, taken, rule.average)
