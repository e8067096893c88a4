"""repetitions: dimensions along which all entries of a traced result are the same number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax.extend.core import Jaxpr, Literal

__all__ = ["repetitions"]

Dimensions = frozenset[int]


def repetitions(jaxpr: Jaxpr, given: Sequence[Dimensions] | None = None) -> list[Dimensions]:
    """Return, for each result of a trace, dimensions along which it repeats one number.

    Derivatives of sums, means and maxima are full of them: each spreads a number over what was summed up.

    Parameters
    ----------
    jaxpr : Jaxpr
    given : sequence of frozenset of int, optional
        The same of its arguments.
    """
    known = dict(zip(jaxpr.invars, given, strict=True)) if given is not None else {}

    def of(atom: Any) -> Dimensions:
        return frozenset() if isinstance(atom, Literal) else known.get(atom, frozenset())

    for equation in jaxpr.eqns:
        rule = _RULES.get(equation.primitive.name)
        if rule is not None:
            found = rule(equation, [of(atom) for atom in equation.invars])
            known.update(zip(equation.outvars, found, strict=True))
    return [of(atom) for atom in jaxpr.outvars]


def _broadcast(equation: Any, given: list[Dimensions]) -> list[Dimensions]:
    (result,), operand = equation.outvars, equation.invars[0].aval
    places = equation.params["broadcast_dimensions"]
    kept = {place for i, place in enumerate(places) if operand.shape[i] > 1 and i not in given[0]}
    return [frozenset(range(result.aval.ndim)) - kept]


def _called(equation: Any, given: list[Dimensions]) -> list[Dimensions]:
    return repetitions(equation.params["jaxpr"].jaxpr, given)


_RULES: dict[str, Callable[[Any, list[Dimensions]], list[Dimensions]]] = {
    "broadcast_in_dim": _broadcast,
    "jit": _called,
    # Its name before JAX 0.7.
    "pjit": _called,
}
