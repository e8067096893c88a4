"""What is differentiated: a function of a pytree, or an equinox module, which is one.

A model splits into arrays and a loss without arrays. The loss is hashable, so that compiled code serves every later
objective of the same function.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from specop.errors import InvalidInputError, SpecopError
from specop.objectives.calling import Calling, Criterion, Forward, call_on_inputs, calling_module
from specop.objectives.hidden import HiddenState, hidden_state
from specop.objectives.parameters import ParameterTree
from specop.objectives.refusals import not_trainable
from specop.objectives.trees import Frame
from specop_jax.structures import TREES, names_of

__all__ = ["CRITERION", "Loss", "Model", "TreeModel", "equinox_model", "is_complex", "real"]

CRITERION = "with the mean loss criterion(outputs, y)"
"""What a module lacks that comes without a criterion."""


class Loss(Protocol):
    """A mean loss as a pure function; hashable, and equal only to what computes the same."""

    def __hash__(self) -> int: ...

    def __call__(self, leaves: list[Any], batch: Any) -> Any:
        """Return the loss at these leaves."""

    def again(self, leaves: list[Any], batch: Any) -> tuple[Any, list[str]]:
        """Return the loss in the next call, and the names of the arrays that the first one has changed."""

    def outputs(self, leaves: list[Any], batch: Any) -> Any:
        """Return what the criterion is given, or raise where there is none."""

    def compare(self, outputs: Any, batch: Any) -> Any:
        """Return the criterion's value at these outputs."""


class Model(Protocol):
    """A loss and the named arrays that it is a function of."""

    is_module: bool
    """Whether the arrays belong to an object that other functions can read past what they are given."""

    widens: bool
    """Whether the loss is computed in float64 where its arrays are."""

    calling: Calling
    """The model and its criterion."""

    def read(self) -> tuple[Loss, dict[str, Array | np.ndarray]]:
        """Return the loss and all of the model's arrays as they are now."""

    def hidden_state(self) -> HiddenState:
        """Put back what a trace changes in plain attributes, and give what names it."""

    def evaluating(self) -> AbstractContextManager[Any]:
        """Return a context in which all layers are in evaluation mode."""

    def refuse_coupled_samples(self) -> None:
        """Raise if a sample's outputs are known to depend on the other samples of its batch."""

    def trained(self) -> list[str]:
        """Return the names of what is trained as it is, where parameters may be frozen."""

    def select(self, select: Any, among: Collection[str] | None = None) -> dict[str, Any]:
        """Return the chosen parameters by name."""

    def arrays_of(self, tree: Any, names: Collection[str]) -> dict[str, Any]:
        """Return the selected arrays of a parameter structure by name."""

    def structure_of(self, values: dict[str, Array]) -> Any:
        """Return named arrays as the user's structure."""


class TreeModel:
    """A function of a pytree.

    Parameters
    ----------
    calling : Calling
    tree : pytree
        Floating-point arrays are parameters, other arrays constants; everything else belongs to the structure.
    is_module : bool
        Whether the structure is a module and not a function's parameters.
    """

    widens = True

    def __init__(self, calling: Calling, tree: Any, *, is_module: bool = False) -> None:
        self.is_module = is_module
        self.tree = ParameterTree(TREES, tree, real, is_complex)
        if not is_module:
            _refuse_numbers(tree)
        self.calling = calling
        self.loss = _TreeLoss(calling, self.tree.frame)

    def read(self) -> tuple[Loss, dict[str, Array | np.ndarray]]:
        """Return the loss and all arrays of the tree."""
        return self.loss, self.tree.arrays

    def hidden_state(self) -> HiddenState:
        """A function has no layers, and equinox's cannot be changed."""
        return hidden_state({})

    def evaluating(self) -> AbstractContextManager[None]:
        """A function has no modes, and those of equinox's layers belong to the structure that it was given."""
        return nullcontext()

    def refuse_coupled_samples(self) -> None:
        """Of a function nothing is known."""

    def trained(self) -> list[str]:
        """A tree freezes nothing."""
        return []

    def select(self, select: Any, among: Collection[str] | None = None) -> dict[str, Any]:
        """Return all floating-point leaves, or those that `select` names."""
        collections = {name.partition(".")[0] for name in self.tree.arrays}
        if among is None and select is None and {"params", "batch_stats"} <= collections:
            raise InvalidInputError(
                "params holds all variables of a flax.linen module, so that its statistics would count as parameters. "
                "Pass params=variables['params'], and in the function model.apply({**variables, 'params': params}, x)."
            )
        return self.tree.select(select, among)

    def arrays_of(self, tree: Any, names: Collection[str]) -> dict[str, Any]:
        """Return the selected leaves of a structure like the parameters."""
        return self.tree.arrays_of(tree, names)

    def structure_of(self, values: dict[str, Array]) -> Any:
        """Return the parameters with the named leaves replaced."""
        return self.tree.structure(values)


@dataclass(frozen=True)
class _TreeLoss:
    calling: Calling
    frame: Frame

    def __call__(self, leaves: list[Any], batch: Any) -> Any:
        return self.calling.loss(self.frame.fill(leaves), batch)

    def again(self, leaves: list[Any], batch: Any) -> tuple[Any, list[str]]:
        return self(leaves, batch), []

    def outputs(self, leaves: list[Any], batch: Any) -> Any:
        return self.calling.outputs(self.frame.fill(leaves), batch)

    def compare(self, outputs: Any, batch: Any) -> Any:
        return self.calling.compare(outputs, batch)


def equinox_model(module: Any, criterion: Criterion | None, forward: Forward | None) -> TreeModel:
    """Return an equinox module as a model.

    ``criterion(outputs, y)`` or, with `forward`, ``criterion(outputs, batch)``. The module is called as it is: most
    take one sample, and then need ``forward=lambda model, batch: jax.vmap(model)(batch[0])``.
    """
    import equinox

    calling = calling_module(criterion, forward, CRITERION, _call_equinox)
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
    return TreeModel(calling, module, is_module=True)


def _call_equinox(module: Any, batch: Any) -> Any:
    try:
        return call_on_inputs(module, batch)
    except (jax.errors.JAXTypeError, SpecopError):
        raise
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"{type(module).__name__} fails on a whole batch: {str(error).strip().rstrip('.')}. Most equinox modules "
            f"take one sample: pass forward=lambda model, batch: jax.vmap(model)(batch[0]) and a criterion of "
            f"(outputs, batch)."
        ) from error


def _refuse_numbers(params: Any) -> None:
    """Raise InvalidInputError if Python floats are among the parameters: jax.grad would differentiate them."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if isinstance(leaf, (float, complex)) and not isinstance(leaf, np.generic):
            raise not_trainable(names_of([path])[0], leaf, "jax.numpy.asarray(VALUE)")


def real(array: Any) -> bool:
    """Whether derivatives with respect to the array exist."""
    return bool(jnp.issubdtype(array.dtype, np.floating))


def is_complex(array: Any) -> bool:
    """Whether the array holds complex numbers."""
    return bool(jnp.issubdtype(array.dtype, np.complexfloating))
