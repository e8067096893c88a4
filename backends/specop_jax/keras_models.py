"""Models of Keras on its JAX backend: functions of the values of their variables, in a stateless scope."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import keras
import numpy as np
from jax import Array
from keras.src.backend import get_keras_mask

from specop.errors import InvalidInputError
from specop.objectives.calling import Calling, Criterion, Forward, calling_module
from specop.objectives.hidden import HiddenState, hidden_state
from specop.objectives.keras_models import (
    calling_layer,
    in_order,
    is_keras_loss,
    named_variables,
    refuse_mixed_precision,
    refuse_unbuilt,
)
from specop.objectives.parameters import by_name, trained
from specop.objectives.refusals import criterion_of_parameters
from specop.objectives.trees import Constant
from specop_jax.models import CRITERION, Loss, real

__all__ = ["KerasModel"]


class KerasModel:
    """A `keras.Model` or layer on the JAX backend, called with ``training=False``.

    The values of its variables are read anew for each call; what a call would assign to them is left in the scope.
    """

    is_module = True
    widens = False

    def __init__(self, module: Any, criterion: Criterion | None, forward: Forward | None) -> None:
        refuse_unbuilt(module)
        refuse_mixed_precision(module, "JAX")
        self.module = module
        self.penalized = is_keras_loss(criterion)
        call = calling_layer(criterion)
        self.calling = calling_module(in_order(criterion), forward, CRITERION, call, weighs=self.penalized)

    def read(self) -> tuple[Loss, dict[str, Array | np.ndarray]]:
        """Return the loss and the values of all variables."""
        variables = named_variables(self.module)
        loss = _KerasLoss(self.calling, Constant(self.module), tuple(map(Constant, variables.values())), self.penalized)
        return loss, {name: variable.value for name, variable in variables.items()}

    def hidden_state(self) -> HiddenState:
        """Layers of Keras keep what they count in variables."""
        return hidden_state({})

    def evaluating(self) -> AbstractContextManager[None]:
        """Layers of Keras are called with ``training=False``."""
        return nullcontext()

    def refuse_coupled_samples(self) -> None:
        """In evaluation no layer of Keras is known to couple samples."""

    def trained(self) -> list[str]:
        """Return the names of trainable variables as they are."""
        return [name for name, variable in named_variables(self.module).items() if variable.trainable]

    def select(self, select: Any, among: Collection[str] | None = None) -> dict[str, Any]:
        """Return the trainable weights, or those that `select` names."""
        variables = {name: one for name, one in named_variables(self.module).items() if among is None or name in among}
        if isinstance(select, keras.Layer):
            select = list(select.weights)
        if isinstance(select, keras.Variable):
            select = [select]
        if isinstance(select, (list, tuple)) and any(isinstance(one, keras.Variable) for one in select):
            chosen = {id(one) for one in select}
            select = [name for name, variable in variables.items() if id(variable) in chosen]
        named = {name: variable.value for name, variable in variables.items() if real(variable.value)}
        frozen = [name for name, variable in variables.items() if not variable.trainable]
        return trained(named, select, frozen, complex_ones={}, unfreeze="Set trainable = True on their layer")

    def arrays_of(self, tree: Any, names: Collection[str]) -> dict[str, Any]:
        """Return the arrays of a mapping by parameter name."""
        return by_name(tree, names)

    def structure_of(self, values: dict[str, Array]) -> dict[str, Array]:
        """Return a mapping by parameter name."""
        return values


@dataclass(frozen=True)
class _KerasLoss:
    calling: Calling
    module: Constant
    variables: tuple[Constant, ...]
    penalized: bool

    def __call__(self, leaves: list[Any], batch: Any) -> Any:
        with self._scope(leaves):
            found = self.calling.loss(self.module.value, batch)
            return found + sum((jnp.asarray(one, found.dtype) for one in self._penalties()), jnp.zeros((), found.dtype))

    def again(self, leaves: list[Any], batch: Any) -> tuple[Any, list[str]]:
        return self(leaves, batch), []

    def outputs(self, leaves: list[Any], batch: Any) -> Any:
        with self._scope(leaves):
            found = self.calling.outputs(self.module.value, batch)
            if self._penalties():
                raise criterion_of_parameters()
            if get_keras_mask(found) is not None:
                raise InvalidInputError(
                    "a layer masks a part of the outputs, and Keras' loss leaves that out by a mark on the very array, "
                    "which matrices of the outputs do not see on its JAX backend. Loss, gradient and Hessian exist; "
                    "for the others mask in a criterion of your own, or take another backend."
                )
            return found

    def compare(self, outputs: Any, batch: Any) -> Any:
        return self.calling.compare(outputs, batch)

    def _penalties(self) -> list[Any]:
        """Return regularizers, activity losses and what `add_loss` added in the latest call."""
        return list(self.module.value.losses) if self.penalized else []

    def _scope(self, leaves: list[Any]) -> Any:
        pairs = [(variable.value, leaf) for variable, leaf in zip(self.variables, leaves, strict=True)]
        return keras.StatelessScope(pairs, collect_losses=True)
