"""Linear functions that are compiled in two parts: what does not depend on the vector is computed once and kept."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Literal, jaxpr_as_fun

from specop_jax.joined_products import joined_products
from specop_jax.repetitions import repetitions

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
    consumes : bool
        Whether the caller gives the first argument and operands away, so that results take their memory.
    """

    def __init__(
        self,
        make: Callable[..., tuple[Any, Any]],
        *uses: Callable[..., Any],
        compile: Callable[..., Any] = jax.jit,
        consumes: bool = False,
    ) -> None:
        def made(*arguments: Any) -> tuple[Any, Residuals]:
            return Residuals.of(make, arguments, given_away=1 if consumes else 0)

        def applied(use: Callable[..., Any], residuals: Residuals, given: list[Any], operand: Any) -> Any:
            return use(residuals.linear(given), operand)

        self._make, self._compile, self._consumes = made, compile, consumes
        self._made: Any = None
        operand = {"donate_argnums": 2} if consumes else {}
        self._uses = [compile(joined_products(functools.partial(applied, use)), **operand) for use in uses]

    def __call__(self, *arguments: Any) -> tuple[Any, list[Callable[[Any], Any]], list[Any]]:
        """Return the facts, a function of an operand for each use, and the arrays that these hold."""
        if self._made is None:
            self._made = self._compile(self._make, **self._donated(arguments))
        facts, residuals = self._made(*arguments)
        given = residuals.choose(arguments)
        return facts, [functools.partial(use, residuals, given) for use in self._uses], [*residuals.arrays, *given]

    def _donated(self, arguments: Any) -> dict[str, int]:
        # JAX warns where no result can take the memory of what it is given.
        if not self._consumes:
            return {}
        _, residuals = jax.eval_shape(self._make, *arguments)
        return {"donate_argnums": 0} if _kinds(arguments[0]) <= _kinds(residuals) else {}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Residuals:
    """The arrays of linear functions, but for what can be had without holding it.

    A compiled function returns copies of arguments: each linearization would hold the parameters once more. And the
    derivative of a sum spreads one number over all that was summed up: it is enough to hold that number.
    """

    arrays: list[Any]
    treedef: Any = field(metadata={"static": True})
    sources: tuple[int | None, ...] = field(metadata={"static": True})
    shapes: tuple[tuple[int, ...], ...] = field(metadata={"static": True})

    @classmethod
    def of(cls, make: Callable[..., tuple[Any, Any]], arguments: Any, *, given_away: int = 0) -> tuple[Any, Residuals]:
        """Return the facts, and linear functions taken apart while they are traced.

        Parameters
        ----------
        make : callable
            ``make(*arguments) -> (facts, linear)``; `linear` is a pytree of functions.
        arguments : sequence of pytrees
        given_away : int
            How many of the first arguments cannot be read later.
        """
        trace, kinds = jax.make_jaxpr(make, return_shape=True)(*arguments)
        found = jaxpr_as_fun(trace)(*jax.tree_util.tree_leaves(arguments))
        facts, linear = jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(kinds), found)
        leaves, treedef = jax.tree_util.tree_flatten(linear)
        variables = trace.jaxpr.outvars[len(found) - len(leaves) :]
        repeated = repetitions(trace.jaxpr)[len(found) - len(leaves) :]
        first = len(jax.tree_util.tree_leaves(arguments[:given_away]))
        places = {variable: place for place, variable in enumerate(trace.jaxpr.invars) if place >= first}
        sources = tuple(None if isinstance(one, Literal) else places.get(one) for one in variables)
        own = [(leaf, along) for leaf, along, place in zip(leaves, repeated, sources, strict=True) if place is None]
        arrays = [_once(leaf, along) for leaf, along in own]
        return facts, cls(arrays, treedef, sources, tuple(leaf.shape for leaf, _ in own))

    def choose(self, arguments: Any) -> list[Any]:
        """Return the arguments that belong to the functions, in their order."""
        leaves = jax.tree_util.tree_leaves(arguments)
        return [leaves[place] for place in self.sources if place is not None]

    def linear(self, given: list[Any]) -> Any:
        """Put the functions together again."""
        own, theirs = iter(map(jnp.broadcast_to, self.arrays, self.shapes)), iter(given)
        leaves = [next(own if place is None else theirs) for place in self.sources]
        return jax.tree_util.tree_unflatten(self.treedef, leaves)


def _kinds(tree: Any) -> set[Any]:
    return {(leaf.shape, leaf.dtype) for leaf in jax.tree_util.tree_leaves(tree)}


def _once(array: Array, repeated: frozenset[int]) -> Array:
    """Return an array without repetitions along dimensions."""
    # How an array is cut over devices may belong to its type, and one entry cannot be cut.
    spec = jax.typeof(array).sharding.spec
    for dimension in repeated:
        if array.shape[dimension] > 1 and spec[dimension] is None:
            array = jax.lax.slice_in_dim(array, 0, 1, axis=dimension)
    return array
