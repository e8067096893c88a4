"""UpdateRule: what an optimizer does with a gradient while its second moments stand still."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from specop.arrays.backend import Array
from specop.errors import InvalidInputError, MissingStateError

__all__ = ["Step", "UpdateRule", "no_rule", "no_state", "not_held"]


@dataclass(frozen=True)
class Step:
    r"""The numbers of one parameter's update, for :math:`x` with the gradient g.

    .. math::
        m \leftarrow b m + a (g + w x), \qquad
        x \leftarrow (1 - \delta) x - \eta P^{-1} m

    and with Nesterov's momentum :math:`\eta P^{-1} (g + w x + b m)` in the last term.

    Attributes
    ----------
    rate : float
        :math:`\eta`, the learning rate.
    momentum : float
        b, what is kept of m.
    gain : float
        a: 1 for heavy ball, 1 - b for a mean, and what dampening leaves of it.
    nesterov : bool
        Whether the step looks ahead.
    coupled : float
        w, a weight decay that is added to the gradient.
    decoupled : float
        :math:`\delta`, the share of x that a step takes away besides: the rate times a decoupled weight decay.
    """

    rate: float
    momentum: float = 0.0
    gain: float = 1.0
    nesterov: bool = False
    coupled: float = 0.0
    decoupled: float = 0.0


@dataclass(frozen=True, eq=False)
class UpdateRule:
    """An optimizer's update of the selected parameters, read off its settings and its state.

    Attributes
    ----------
    name : str
        The optimizer's.
    steps : tuple of Step
        One for each parameter, in the order of the vector.
    scale : native vector (n,) or None
        Entries of the diagonal matrix P^(-1/2); None for the identity.
    average : native vector (n,) or None
        m as it is; None before the first step, and without momentum.
    """

    name: str
    steps: tuple[Step, ...]
    scale: Array | None = None
    average: Array | None = None


def no_rule(name: str, known: str) -> InvalidInputError:
    """Return what is said of an optimizer whose limit is not known."""
    return InvalidInputError(
        f"the largest stable curvature of {name} is not known: there are formulas for {known}. Pass lr= and momentum= "
        f"for the limit of plain steps, or read specop.eigsh(objective.hessian(), k=1, which='LA')."
    )


def no_state(name: str, parameters: Iterable[str]) -> MissingStateError:
    """Return what is said where second moments are not there yet."""
    return MissingStateError(
        f"{name} has no second moments yet for {_some(parameters)}: it keeps them from its first step with a gradient "
        f"on. Take a step first."
    )


def not_held(name: str, parameters: Iterable[str]) -> InvalidInputError:
    """Return what is said where an optimizer does not move all selected parameters."""
    return InvalidInputError(
        f"{name} does not hold {_some(parameters)}, which the objective has. Pass the optimizer of these parameters, "
        f"or objective.restrict(...) to those that it moves."
    )


def _some(parameters: Iterable[str]) -> str:
    names = list(parameters)
    rest = f" and {len(names) - 3} more parameters" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + rest
