"""Models of Keras on its JAX backend: functions of the values of their variables, in a stateless scope."""

from __future__ import annotations

import functools
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import keras
import numpy as np
from jax import Array

from specop.errors import InvalidInputError
from specop.objectives.calling import Calling, Criterion, Forward, calling_module, inputs
from specop.objectives.hidden import HiddenState, hidden_state
from specop.objectives.parameters import by_name, trained
from specop.objectives.refusals import criterion_of_parameters, no_mean
from specop.objectives.trees import Constant
from specop_jax.models import CRITERION, Loss, real

__all__ = ["KerasModel", "keras_likelihood"]

_MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")
_LIKELIHOODS = {
    keras.losses.SparseCategoricalCrossentropy: "categorical",
    keras.losses.CategoricalCrossentropy: "categorical",
    keras.losses.BinaryCrossentropy: "bernoulli",
    keras.losses.MeanSquaredError: "gaussian",
}


def keras_likelihood(criterion: Any) -> str | None:
    """Return the likelihood of a loss of Keras; of probabilities the second derivative is another one."""
    found = _LIKELIHOODS.get(type(criterion))
    return found if found == "gaussian" or getattr(criterion, "from_logits", False) else None


class KerasModel:
    """A `keras.Model` or layer on the JAX backend, called with ``training=False``.

    The values of its variables are read anew for each call; what a call would assign to them is left in the scope.
    """

    is_module = True
    widens = False

    def __init__(self, module: Any, criterion: Criterion | None, forward: Forward | None) -> None:
        if not module.built:
            raise InvalidInputError(
                f"{module.name!r} has no variables yet: Keras creates them when the model first sees data. Call "
                f"model(x) once, or give it an Input layer."
            )
        _refuse_mixed_precision(module)
        self.module = module
        self.penalized = isinstance(criterion, keras.losses.Loss)
        self.calling = calling_module(_in_order(criterion), forward, CRITERION, _called)

    def read(self) -> tuple[Loss, dict[str, Array | np.ndarray]]:
        """Return the loss and the values of all variables."""
        variables = self._variables()
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

    def select(self, select: Any, among: Collection[str] | None = None) -> dict[str, Any]:
        """Return the trainable weights, or those that `select` names."""
        variables = {name: one for name, one in self._variables().items() if among is None or name in among}
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

    def _variables(self) -> dict[str, Any]:
        prefix = f"{self.module.name}/"
        found: dict[str, Any] = {}
        for variable in {id(one): one for one in self.module.variables}.values():
            name, number = variable.path.removeprefix(prefix), 0
            while (unique := f"{name}_{number}" if number else name) in found:
                number += 1
            found[unique] = variable
        return found


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
            return found

    def compare(self, outputs: Any, batch: Any) -> Any:
        return self.calling.compare(outputs, batch)

    def _penalties(self) -> list[Any]:
        """Return regularizers, activity losses and what `add_loss` added in the latest call."""
        return list(self.module.value.losses) if self.penalized else []

    def _scope(self, leaves: list[Any]) -> Any:
        pairs = [(variable.value, leaf) for variable, leaf in zip(self.variables, leaves, strict=True)]
        return keras.StatelessScope(pairs, collect_losses=True)


def _refuse_mixed_precision(module: Any) -> None:
    """Raise InvalidInputError where a layer computes less precisely than its variables are."""
    waiting = [module]
    while waiting:
        layer = waiting.pop()
        waiting += getattr(layer, "layers", [])
        if layer.compute_dtype not in ("float32", "float64"):
            raise InvalidInputError(
                f"layer {layer.name!r} computes in {layer.compute_dtype}, which is not supported on Keras' JAX "
                f"backend. Load the weights into a model of the dtype policy 'float32'."
            )


def _called(module: Any, batch: Any) -> Any:
    return module(inputs(batch), training=False)


def _in_order(criterion: Criterion | None) -> Criterion | None:
    """Return a criterion of (outputs, y), or raise InvalidInputError unless it takes a mean."""
    if not isinstance(criterion, keras.losses.Loss):
        return criterion
    if criterion.reduction not in _MEANS:
        raise no_mean(criterion.reduction, _MEANS[0])
    return functools.partial(_turned_round, criterion)


def _turned_round(criterion: Any, outputs: Any, target: Any) -> Any:
    # Keras writes its losses the other way round: loss(y_true, y_pred).
    return criterion(target, outputs)
