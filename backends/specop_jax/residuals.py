"""What a linear function has kept of the computation that it is the derivative of."""

from __future__ import annotations

from typing import Any

import jax

__all__ = ["Residuals"]


@jax.tree_util.register_pytree_node_class
class Residuals:
    """Linear functions without those of its arrays that are arguments of the function they came from.

    A compiled function returns copies of arguments: each linearization would hold the parameters once more.
    """

    def __init__(self, arrays: list[Any], treedef: Any, sources: tuple[int | None, ...]) -> None:
        self.arrays = arrays
        self.treedef = treedef
        self.sources = sources

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

    def tree_flatten(self) -> tuple[tuple[list[Any]], tuple[Any, ...]]:
        """Separate arrays from structure, for JAX."""
        return (self.arrays,), (self.treedef, self.sources)

    @classmethod
    def tree_unflatten(cls, structure: tuple[Any, ...], children: tuple[list[Any]]) -> Residuals:
        """Put arrays and structure together, for JAX."""
        return cls(*children, *structure)
