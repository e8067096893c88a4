"""Linear functions that are compiled in two parts: what does not depend on the vector is computed once and kept."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax

__all__ = ["Residuals", "Split"]


class Split:
    """A function that returns facts and linear functions, and what is done with the latter, compiled apart.

    Parameters
    ----------
    make : callable
        ``make(*arguments) -> (facts, linear)``; `linear` is a pytree of functions.
    *uses : callable
        ``use(linear, operand)``.
    compile : callable
        What compiles them.
    """

    def __init__(
        self, make: Callable[..., tuple[Any, Any]], *uses: Callable[..., Any], compile: Callable[..., Any] = jax.jit
    ) -> None:
        def made(*arguments: Any) -> tuple[Any, Residuals]:
            facts, linear = make(*arguments)
            return facts, Residuals.of(linear, arguments)

        def applied(use: Callable[..., Any], residuals: Residuals, given: list[Any], operand: Any) -> Any:
            return use(residuals.linear(given), operand)

        self._made = compile(made)
        self._uses = [compile(functools.partial(applied, use)) for use in uses]

    def __call__(self, *arguments: Any) -> tuple[Any, list[Callable[[Any], Any]], list[Any]]:
        """Return the facts, a function of an operand for each use, and the arrays that these hold."""
        facts, residuals = self._made(*arguments)
        given = residuals.choose(arguments)
        return facts, [functools.partial(use, residuals, given) for use in self._uses], [*residuals.arrays, *given]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Residuals:
    """Linear functions without those of its arrays that are arguments of the function they came from.

    A compiled function returns copies of arguments: each linearization would hold the parameters once more.
    """

    arrays: list[Any]
    treedef: Any = field(metadata={"static": True})
    sources: tuple[int | None, ...] = field(metadata={"static": True})

    @classmethod
    def of(cls, linear: Any, arguments: Any) -> Residuals:
        """Take apart linear functions, a pytree of them, while they are traced."""
        leaves, treedef = jax.tree_util.tree_flatten(linear)
        places = {id(argument): i for i, argument in enumerate(jax.tree_util.tree_leaves(arguments))}
        sources = tuple(places.get(id(leaf)) for leaf in leaves)
        return cls([leaf for leaf, place in zip(leaves, sources, strict=True) if place is None], treedef, sources)

    def choose(self, arguments: Any) -> list[Any]:
        """Return the arguments that belong to the functions, in their order."""
        leaves = jax.tree_util.tree_leaves(arguments)
        return [leaves[place] for place in self.sources if place is not None]

    def linear(self, given: list[Any]) -> Any:
        """Put the functions together again."""
        own, theirs = iter(self.arrays), iter(given)
        leaves = [next(own if place is None else theirs) for place in self.sources]
        return jax.tree_util.tree_unflatten(self.treedef, leaves)
