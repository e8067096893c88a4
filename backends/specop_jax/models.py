"""What is differentiated: a function of a pytree, or an equinox module, which is one.

A model splits into arrays and a loss without arrays. The loss is hashable, so that compiled code serves every later
objective of the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from specop.errors import InvalidInputError
from specop.objectives.refusals import no_outputs
from specop.objectives.select import choose
from specop.objectives.trees import Constant
from specop_jax.structures import TREES

__all__ = ["Loss", "Model", "TreeModel", "checked_shapes", "equinox_model", "real", "target"]

Forward = Callable[[Any, Any], Any]
Criterion = Callable[..., Any]


class Loss(Protocol):
    """A mean loss as a pure function; hashable, and equal only to what computes the same."""

    def __hash__(self) -> int: ...

    def __call__(self, leaves: list[Any], batch: Any) -> Any:
        """Return the loss at these leaves."""

    def outputs(self, leaves: list[Any], batch: Any) -> Any:
        """Return what the criterion is given, or raise where there is none."""

    def compare(self, outputs: Any, batch: Any) -> Any:
        """Return the criterion's value at these outputs."""


class Model(Protocol):
    """A loss and the named arrays that it is a function of."""

    is_module: bool
    """Whether the arrays belong to an object that other functions can read past what they are given."""

    def read(self) -> tuple[Loss, dict[str, Array | np.ndarray]]:
        """Return the loss and all of the model's arrays as they are now."""

    def refuse_coupled_samples(self) -> None:
        """Raise if a sample's outputs are known to depend on the other samples of its batch."""

    def select(self, select: Any, among: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Return the names of the chosen parameters."""

    def arrays_of(self, tree: Any, names: tuple[str, ...]) -> dict[str, Any]:
        """Return the selected arrays of a parameter structure by name."""

    def structure_of(self, values: dict[str, Array]) -> Any:
        """Return named arrays as the user's structure."""


class TreeModel:
    """``outputs(tree, batch)``, or the loss itself if there is no criterion.

    Parameters
    ----------
    outputs : callable
    criterion : callable or None
    whole : bool
        Whether the criterion is given the batch, not its second part.
    tree : pytree
        Floating-point arrays are parameters, other arrays constants; everything else belongs to the structure.
    is_module : bool
        As in `Model`.
    """

    def __init__(
        self, outputs: Forward, criterion: Criterion | None, whole: bool, tree: Any, *, is_module: bool = False
    ) -> None:
        self.is_module = is_module
        self.treedef: Any
        paths, self.treedef = jax.tree_util.tree_flatten_with_path(tree)
        found = [TREES.as_array(leaf) for _, leaf in paths]
        names = names_of([path for path, _ in paths])
        constants = tuple(
            None if array is not None else Constant(leaf) for (_, leaf), array in zip(paths, found, strict=True)
        )
        self.names = names
        self.arrays = {name: array for name, array in zip(names, found, strict=True) if array is not None}
        self.loss = _TreeLoss(Constant(outputs), Constant(criterion), whole, self.treedef, constants)
        if not any(map(real, self.arrays.values())):
            raise InvalidInputError(
                f"there is no floating-point array among the {len(names)} leaves of the parameters. Pass a structure "
                f"(dict, list, tuple, ...) of jax arrays, and Python numbers as jax.numpy.asarray(number)."
            )

    def read(self) -> tuple[Loss, dict[str, Array | np.ndarray]]:
        """Return the loss and all arrays of the tree."""
        return self.loss, self.arrays

    def refuse_coupled_samples(self) -> None:
        """Of a function nothing is known."""

    def select(self, select: Any, among: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Return all floating-point leaves, or those that `select` names."""
        named = {name: array for name, array in self.arrays.items() if real(array)}
        if among is not None:
            named = {name: named[name] for name in among}
        return tuple(named) if select is None else choose(named, select)

    def arrays_of(self, tree: Any, names: tuple[str, ...]) -> dict[str, Any]:
        """Return the selected leaves of a structure like the parameters."""
        leaves, treedef = jax.tree_util.tree_flatten(tree)
        if treedef != self.treedef:
            raise InvalidInputError(f"expected a structure like params, {self.treedef}; got {treedef}.")
        named = dict(zip(self.names, leaves, strict=True))
        return {name: named[name] for name in names}

    def structure_of(self, values: dict[str, Array]) -> Any:
        """Return the parameters with the named leaves replaced."""
        leaves = self.loss.fill([values.get(name, array) for name, array in self.arrays.items()])
        return jax.tree_util.tree_unflatten(self.treedef, leaves)


@dataclass(frozen=True)
class _TreeLoss:
    function: Constant
    criterion: Constant
    whole: bool
    treedef: Any
    constants: tuple[Constant | None, ...]

    def __call__(self, leaves: list[Any], batch: Any) -> Any:
        found = self._value(leaves, batch)
        return found if self.criterion.value is None else self.compare(found, batch)

    def outputs(self, leaves: list[Any], batch: Any) -> Any:
        if self.criterion.value is None:
            raise no_outputs()
        return self._value(leaves, batch)

    def compare(self, outputs: Any, batch: Any) -> Any:
        return self.criterion.value(outputs, target(batch, self.whole))

    def _value(self, leaves: list[Any], batch: Any) -> Any:
        return self.function.value(jax.tree_util.tree_unflatten(self.treedef, self.fill(leaves)), batch)

    def fill(self, arrays: list[Any]) -> list[Any]:
        """Return all leaves of the tree with these arrays among the constants."""
        waiting = iter(arrays)
        return [next(waiting) if constant is None else constant.value for constant in self.constants]


def equinox_model(module: Any, criterion: Criterion | None, forward: Forward | None) -> TreeModel:
    """Return an equinox module as a model.

    ``criterion(outputs, y)`` or, with `forward`, ``criterion(outputs, batch)``. The module is called as it is: most
    take one sample, and then need ``forward=lambda model, batch: jax.vmap(model)(batch[0])``.
    """
    import equinox

    require_criterion(criterion)
    if forward is None:
        # What `forward` does with random keys is its own affair; without it there are none.
        for path, layer in jax.tree_util.tree_leaves_with_path(
            module, is_leaf=lambda x: isinstance(x, equinox.nn.Dropout)
        ):
            if isinstance(layer, equinox.nn.Dropout) and layer.p > 0 and not layer.inference:
                name = names_of([path])[0]
                raise InvalidInputError(
                    f"layer {name!r} (Dropout) has active dropout. Pass equinox.nn.inference_mode(model), or "
                    f"forward=lambda model, batch: ... with a fixed key for the curvature under one mask."
                )
    outputs = call_on_inputs if forward is None else forward
    return TreeModel(outputs, criterion, forward is not None, module, is_module=True)


def require_criterion(criterion: Criterion | None) -> None:
    """Raise InvalidInputError unless there is a criterion."""
    if criterion is None:
        raise InvalidInputError(
            "a module needs a criterion: objective(model, criterion, data), with the mean loss criterion(outputs, y). "
            "For a loss computed by hand pass a function of the parameters instead of a module."
        )


def call_on_inputs(model: Any, batch: Any) -> Any:
    """Return ``model(x)`` of a batch (x, y)."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        kind = f"{type(batch).__name__} of {len(batch)}" if hasattr(batch, "__len__") else type(batch).__name__
        raise InvalidInputError(
            f"a batch must be a pair (x, y), for model(x) and criterion(outputs, y); got {kind}. For other batches "
            f"pass forward=lambda model, batch: ..., and a criterion of (outputs, batch). If the data is one batch "
            f"[x, y], pass it as a tuple."
        )
    return model(batch[0])


def target(batch: Any, whole: bool) -> Any:
    """Return what a criterion compares outputs with."""
    return batch[1] if not whole and isinstance(batch, (tuple, list)) and len(batch) == 2 else batch


def names_of(paths: list[Any]) -> list[str]:
    """Return the key paths as names such as ``layers.0.w``."""
    names = [jax.tree_util.keystr(path, simple=True, separator=".") or "params" for path in paths]
    return names if len(set(names)) == len(names) else [jax.tree_util.keystr(path) for path in paths]


def real(array: Any) -> bool:
    """Whether derivatives with respect to the array exist."""
    return bool(jnp.issubdtype(array.dtype, np.floating))


def checked_shapes(found: Mapping[str, Any], like: Mapping[str, tuple[int, ...]]) -> list[Any]:
    """Return the arrays if they have these shapes, or raise InvalidInputError."""
    for name, array in found.items():
        if getattr(array, "shape", None) != like[name]:
            shape = getattr(array, "shape", type(array).__name__)
            raise InvalidInputError(f"{name!r} must be an array of shape {like[name]}, got {shape}.")
    return list(found.values())
