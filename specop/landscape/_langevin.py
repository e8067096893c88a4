"""Chain: Langevin steps in the neighbourhood of a point, accepted or rejected so that they have no bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array, numbers_of
from specop.errors import NonFiniteError
from specop.krylov.task import Task
from specop.statistics.numbers import Floats

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["Chain", "Target", "walk"]

# Index of the first normal vector, far from those of other probes; each chain has so many.
_PROBE, _DRAWS = 1 << 38, 1 << 26
# While it warms up a chain looks after so many steps whether enough of them were accepted.
_LOOK, _ENOUGH = 20, 0.6
_SHORTER, _LONGER = 0.6, 1.25
# Every fourth step, at random, is shorter: a chain that lies where all long ones are rejected goes on by these.
_OFTEN, _SHORT = 0.75, 0.125


@dataclass(frozen=True, eq=False)
class Target:
    r"""The density proportional to :math:`\exp(-m \beta L(w) - \gamma |w - w_0|^2 / 2)`.

    Attributes
    ----------
    objective : Objective
        Objective whose loss is L.
    start : native vector (n,)
        Parameters :math:`w_0` that the density is centred on.
    weight : float
        Number of samples times inverse temperature, :math:`m \beta`.
    gamma : float
    """

    objective: Objective
    start: Array
    weight: float
    gamma: float


@dataclass(frozen=True, eq=False)
class Chain:
    r"""What a chain saw.

    Attributes
    ----------
    rises : ndarray (steps,)
        Loss after each step less the loss at the start.
    step : float
        Longest :math:`\epsilon` of the steps that were kept.
    accepted : float
        Share of steps that were accepted.
    """

    rises: Floats
    step: float
    accepted: float


@dataclass(frozen=True, eq=False)
class _Place:
    """A point of a chain: its shift from the start, the loss, the force, and the scalars that steps need."""

    shift: Array
    loss: float
    force: Array
    potential: float
    squared_force: float


def walk(task: Task, target: Target, longest: float, steps: int, warm_up: int, number: int) -> Chain:
    r"""Return a chain of Metropolis-adjusted Langevin steps [1]_ from the start of a target.

    .. math:: w' = w - \tfrac{\epsilon}{2} \nabla U(w) + \sqrt{\epsilon} \, \xi,
       \qquad U = m \beta L + \tfrac{\gamma}{2} |w - w_0|^2

    with standard normal :math:`\xi`; the step is accepted with the probability that makes exp(-U) the chain's density.
    A step takes one pass over the data.

    Parameters
    ----------
    task : Task
        Task whose seed is the seed of the draws.
    target : Target
    longest : float
        The step to begin with. While the chain warms up, steps get shorter where fewer than 60 % are accepted.
    steps : int
        Number of draws to keep.
    warm_up : int
        Number of steps before these draws, which are not kept.
    number : int
        Number of the chain.

    References
    ----------
    .. [1] G. O. Roberts, R. L. Tweedie, Exponential convergence of Langevin distributions and their discrete
       approximations, Bernoulli 2 (1996).
    """
    backend, rng = task.backend, np.random.Generator(np.random.Philox(key=[task.seed, number]))
    layout = backend.layout(target.start)
    here = _place(task, target, backend.zeros(layout))
    lowest, step = here.loss, longest
    rises, accepted, recent = np.empty(steps), 0, 0.0
    for turn in range(warm_up + steps):
        length = step * (1.0 if rng.random() < _OFTEN else _SHORT)
        noise = probes.normal(backend, layout, task.seed, _PROBE + number * _DRAWS + turn)
        move = backend.axpy_(backend.scale_(noise, length**0.5), -length / 2, here.force)
        try:
            there = _place(task, target, backend.axpy_(backend.copy(here.shift), 1.0, move))
        except NonFiniteError:
            # So far out that the loss overflows: a step that is never accepted.
            there = None
        chance = 0.0 if there is None else _chance(task, here, there, move, length)
        if rng.random() < chance and there is not None:
            here = there
            accepted += turn >= warm_up
        recent += chance
        if turn >= warm_up:
            rises[turn - warm_up] = here.loss - lowest
        elif (turn + 1) % _LOOK == 0:
            rate, recent = recent / _LOOK, 0.0
            step = step * _SHORTER if rate < _ENOUGH else min(longest, step * _LONGER) if rate > 0.9 else step
        task.update()
    return Chain(rises, step, accepted / steps)


def _place(task: Task, target: Target, shift: Array) -> _Place:
    backend = task.backend
    at = backend.axpy_(backend.copy(shift), 1.0, target.start)
    value, gradient = target.objective.loss_and_gradient(at)
    force = backend.axpy_(backend.scale_(gradient, target.weight), target.gamma, shift)
    loss, away, squared = numbers_of(backend, value, backend.dot(shift, shift), backend.dot(force, force))
    if not np.isfinite([loss, squared]).all():
        raise NonFiniteError(f"the loss is {loss} and the gradient's squared norm {squared} in a step of a chain.")
    return _Place(shift, loss, force, target.weight * loss + target.gamma * away / 2, squared)


def _chance(task: Task, here: _Place, there: _Place, move: Array, length: float) -> float:
    """Return the probability with which a step is accepted.

    The logarithm of both proposals' ratio, in a form without the squared lengths of steps that cancel.
    """
    backend = task.backend
    forward, backward = numbers_of(backend, backend.dot(move, here.force), backend.dot(move, there.force))
    ratio = here.potential - there.potential + (forward + backward) / 2
    ratio -= length / 8 * (there.squared_force - here.squared_force)
    return float(np.exp(min(ratio, 0.0))) if np.isfinite(ratio) else 0.0
