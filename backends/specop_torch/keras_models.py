"""Models of Keras on its torch backend: modules of torch whose layers read Keras' own variables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
from torch import Tensor

from specop.errors import InvalidInputError
from specop.objectives.calling import Criterion, Forward, calling_module
from specop.objectives.hidden import HiddenState, hidden_state
from specop.objectives.keras_models import (
    calling_layer,
    in_order,
    is_keras_loss,
    layers_of,
    named_variables,
    refuse_mixed_precision,
    refuse_unbuilt,
)
from specop.objectives.parameters import trained
from specop.objectives.refusals import criterion_of_parameters
from specop_torch.models import ModuleModel
from specop_torch.structures import normal

__all__ = ["KerasModel"]


class KerasModel(ModuleModel):
    """A `keras.Model` or layer on the torch backend, called with ``training=False``.

    Its layers read Keras' variables, whose values torch cannot replace: a stateless scope of Keras does.
    """

    check_modes = False
    widens = False

    def __init__(self, module: Any, criterion: Criterion | None, forward: Forward | None) -> None:
        refuse_unbuilt(module)
        refuse_mixed_precision(module, "torch")
        _refuse_torch_layers(module)
        self.module = module
        self.penalized = is_keras_loss(criterion)
        example = "for example keras.losses.MeanSquaredError()"
        call = calling_layer(criterion)
        self.calling = calling_module(in_order(criterion), forward, example, call, weighs=self.penalized)
        self.constants = frozenset(name for name, one in named_variables(module).items() if not one.trainable)
        self._mask: Any = None

    def parameters(self) -> dict[str, Tensor]:
        """Return the values of all variables by name."""
        return {name: variable.value for name, variable in named_variables(self.module).items()}

    def trained(self) -> list[str]:
        """Return the names of the trainable variables as they are."""
        return [name for name, variable in named_variables(self.module).items() if variable.trainable]

    def loss(self, values: Mapping[str, Tensor], batch: Any) -> Any:
        """Return the mean loss, with what the layers add to a loss of Keras as `fit` does."""

        def call() -> Any:
            found = self.calling.loss(self.module, batch)
            return sum((one.to(found.dtype) for one in self._penalties()), found)

        return self.holding(values, call)

    def again(self, values: Mapping[str, Tensor], batch: Any) -> tuple[Any, list[str]]:
        """Return the mean loss; what a call assigns to variables is left in its scope."""
        return self.loss(values, batch), []

    def outputs(self, values: Mapping[str, Tensor], batch: Any) -> Any:
        """Return the outputs, or raise where layers add to the loss."""

        def call() -> Any:
            found = self.calling.outputs(self.module, batch)
            if self._penalties():
                raise criterion_of_parameters()
            return found

        found = self.holding(values, call)
        self._mask = getattr(found, "_keras_mask", None)
        return found

    def compare(self, values: Mapping[str, Tensor], outputs: Any, batch: Any) -> Any:
        """Return the criterion's value, of outputs that no layer has masked in this form."""
        if self._mask is not None:
            outputs._keras_mask = self._mask
        return super().compare(values, outputs, batch)

    def holding(self, values: Mapping[str, Tensor], call: Callable[[], Any]) -> Any:
        """Return what a call returns while the variables have these values; what is assigned is forgotten."""
        variables = named_variables(self.module)
        pairs = [(one, values[name] if name in values else normal(one.value)) for name, one in variables.items()]
        with keras.StatelessScope(pairs, collect_losses=True):
            return call()

    def padding_rows(self) -> dict[str, int]:
        """Keras masks what is padded, and trains its row."""
        return {}

    def refuse_coupled_samples(self) -> None:
        """In evaluation no layer of Keras is known to couple samples."""

    def hidden_state(self) -> HiddenState:
        """Layers of Keras keep what they count in variables."""
        return hidden_state({})

    def evaluating(self) -> AbstractContextManager[None]:
        """Layers of Keras are called with ``training=False``."""
        return nullcontext()

    def select(self, select: Any, among: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the trainable weights, or those that `select` names."""
        variables = {name: one for name, one in named_variables(self.module).items() if among is None or name in among}
        named = {name: one.value for name, one in variables.items() if one.value.is_floating_point()}
        if isinstance(select, keras.Layer):
            select = list(select.weights)
        if isinstance(select, keras.Variable):
            select = [select]
        if isinstance(select, (list, tuple)) and any(isinstance(one, keras.Variable) for one in select):
            chosen = {id(one) for one in select}
            select = [name for name, variable in variables.items() if id(variable) in chosen]
        return trained(named, select, self.constants, complex_ones={}, unfreeze="Set trainable = True on their layer")

    def named_state(self) -> Iterable[tuple[str, Tensor]]:
        """Yield the values of all variables."""
        yield from self.parameters().items()

    def modes(self) -> tuple[int, ...]:
        """Layers of Keras are told with each call."""
        return ()

    def _penalties(self) -> list[Any]:
        """Return regularizers, activity losses and what `add_loss` added in the latest call."""
        losses: Any = self.module.losses if self.penalized else ()
        return list(losses)


def _refuse_torch_layers(module: Any) -> None:
    for layer in layers_of(module):
        if type(layer).__name__ == "TorchModuleWrapper":
            raise InvalidInputError(
                f"layer {layer.name!r} wraps a module of torch, which reads parameters of its own. Pass a module of "
                f"torch that holds it, or write it as a layer of Keras."
            )
