"""What is differentiated: a Keras model or a tf.Module with a criterion, or a function of a parameter structure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import tensorflow as tf

from specop.errors import InvalidInputError
from specop.objectives.calling import Criterion, Forward, call_on_inputs, calling_function, calling_module
from specop.objectives.hidden import HiddenState, hidden_state
from specop.objectives.keras_models import calling_layer, in_order, is_keras_loss, layers_of, refuse_unbuilt
from specop.objectives.parameters import ParameterTree, by_name, trained
from specop.objectives.refusals import criterion_of_parameters, layer_mixes_samples, not_trainable
from specop_tensorflow.structures import TREES

__all__ = ["FunctionModel", "KerasModel", "Model", "ModuleModel"]


class ModuleModel:
    """A `tf.Module`; ``criterion(outputs, y)`` or, with `forward`, ``criterion(outputs, batch)``."""

    reads_variables = True

    def __init__(
        self, module: Any, criterion: Criterion | None, forward: Forward | None, call: Forward = call_on_inputs
    ) -> None:
        self.module = module
        self.criterion = criterion
        self.calling = calling_module(
            in_order(criterion),
            forward,
            "for example keras.losses.SparseCategoricalCrossentropy(from_logits=True)",
            call,
            weighs=is_keras_loss(criterion),
        )

    def loss(self, values: Mapping[str, tf.Tensor], batch: Any) -> tf.Tensor:
        """Return the mean loss of the module as its variables are."""
        return self.calling.loss(self.module, batch)

    def outputs(self, values: Mapping[str, tf.Tensor], batch: Any) -> Any:
        """Return the module's outputs, or what `forward` makes of it."""
        found = self.calling.outputs(self.module, batch)
        self.mask = getattr(found, "_keras_mask", None)
        return found

    def compare(self, outputs: Any, batch: Any) -> tf.Tensor:
        """Return the criterion's mean loss, of the outputs of this trace that no layer of Keras has masked."""
        if self.mask is not None:
            outputs._keras_mask = self.mask
        return self.calling.compare(outputs, batch)

    def hidden_state(self) -> HiddenState:
        """Put back what a trace changes in the modules' plain attributes, and give what names it."""
        layers: dict[str, Any] = {}
        for layer in self._layers():
            # A module of the user's may have no name, or that of another one.
            name = getattr(layer, "name", type(layer).__name__)
            layers[f"{name} ({len(layers)})" if name in layers else name] = layer
        return hidden_state(layers, lambda key: key.startswith("_"))

    def evaluating(self) -> AbstractContextManager[None]:
        """A module has no modes, and layers of Keras are called with ``training=False``."""
        return nullcontext()

    def refuse_coupled_samples(self) -> None:
        """Of a module's layers nothing is known."""

    def select(self, select: Any, among: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the trainable variables, or those that `select` names."""
        named = self.named_state() if among is None else dict(among)
        real = {name: variable for name, variable in named.items() if variable.dtype.is_floating}
        if isinstance(select, tf.Module):
            select = list(select.variables)
        complex_ones = {name: variable for name, variable in named.items() if variable.dtype.is_complex}
        unfreeze = "Set trainable = True on their layer"
        return trained(real, select, self.constants(), complex_ones=complex_ones, unfreeze=unfreeze)

    def named_state(self) -> dict[str, Any]:
        """Return all variables by name."""
        return {name: variable for name, (variable, _) in self._entries().items()}

    def constants(self) -> frozenset[str]:
        """Return the names of variables that are not trainable."""
        return frozenset(name for name, (_, trainable) in self._entries().items() if not trainable)

    def trained(self) -> list[str]:
        """Return the names of trainable variables as they are."""
        return [name for name, (_, trainable) in self._entries().items() if trainable]

    def compute_dtypes(self) -> set[str]:
        """Return that of a Keras loss; a module computes in the dtypes of its variables."""
        return _criterion_dtypes(self.criterion)

    def arrays_of(self, tree: Any, names: Collection[str]) -> dict[str, Any]:
        """Return the tensors of a mapping by parameter name."""
        return by_name(tree, names)

    def structure_of(self, values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Return a mapping by parameter name."""
        return values

    def _layers(self) -> Iterator[Any]:
        yield from (self.module, *self.module.submodules)

    def _entries(self) -> dict[str, tuple[Any, bool]]:
        return _named([(one.name.removesuffix(":0"), one, one.trainable) for one in self.module.variables])


class KerasModel(ModuleModel):
    """A `keras.Model` or layer, called with ``training=False``, or True if its randomness is fixed."""

    def __init__(self, module: Any, criterion: Criterion | None, forward: Forward | None, *, training: bool) -> None:
        if keras.backend.backend() != "tensorflow":
            raise InvalidInputError(
                f"this Keras model runs on the {keras.backend.backend()} backend, and its arrays are not TensorFlow's. "
                f"Set KERAS_BACKEND=tensorflow before Keras is imported."
            )
        super().__init__(module, criterion, forward, calling_layer(criterion, training=training))
        self.training = training
        refuse_unbuilt(module)

    def loss(self, values: Mapping[str, tf.Tensor], batch: Any) -> tf.Tensor:
        """Return the mean loss, with what the layers add to a loss of Keras as `fit` does."""
        found = self.calling.loss(self.module, batch)
        return tf.add_n([found, *(tf.cast(one, found.dtype) for one in self._penalties())])

    def compare(self, outputs: Any, batch: Any) -> tf.Tensor:
        """Return the criterion's mean loss, or raise where layers add to it."""
        if self._penalties():
            raise criterion_of_parameters()
        return super().compare(outputs, batch)

    def _penalties(self) -> list[tf.Tensor]:
        """Return regularizers, activity losses and what `add_loss` added in the latest call."""
        # A criterion of the user's own may hold them already.
        return list(self.module.losses) if is_keras_loss(self.criterion) else []

    def select(self, select: Any, among: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the trainable weights, or those that `select` names."""
        if isinstance(select, keras.Layer):
            select = [weight.value for weight in select.weights]
        elif isinstance(select, keras.Variable):
            select = select.value
        elif isinstance(select, (list, tuple)):
            select = [one.value if isinstance(one, keras.Variable) else one for one in select]
        return super().select(select, among)

    def compute_dtypes(self) -> set[str]:
        """Return the compute dtypes of all layers, and that of a Keras loss."""
        return super().compute_dtypes() | {layer.compute_dtype for layer in self._layers()}

    def refuse_coupled_samples(self) -> None:
        """Raise if batch normalization uses the batch's own statistics."""
        for layer in self._layers():
            if self.training and layer.trainable and isinstance(layer, keras.layers.BatchNormalization):
                raise layer_mixes_samples(repr(layer.name), "Leave fixed_randomness out")

    def _entries(self) -> dict[str, tuple[Any, bool]]:
        # Keras freezes its own wrapper of a variable, and numbers models as they are made: their name is left out.
        prefix = f"{self.module.name}/"
        weights = self.module.weights
        return _named([(one.path.removeprefix(prefix), one.value, one.trainable) for one in weights])

    def _layers(self) -> Iterator[Any]:
        yield from layers_of(self.module)


class FunctionModel:
    """``fun(params, batch) -> loss``, or with a criterion ``-> outputs``; params is any structure of tensors."""

    reads_variables = False

    def __init__(self, function: Any, criterion: Criterion | None, params: Any, forward: Forward | None) -> None:
        self.calling = calling_function(function, in_order(criterion), forward)
        self.criterion = criterion
        for name, leaf in zip(TREES.names(params), TREES.flatten(params)[0], strict=True):
            if leaf is not None and not isinstance(leaf, (tf.Tensor, tf.Variable, keras.Variable)):
                raise not_trainable(name, leaf, "tf.Variable(VALUE)")
        self.tree = ParameterTree(TREES, params, _is_real, _is_complex)

    def loss(self, values: Mapping[str, tf.Tensor], batch: Any) -> tf.Tensor:
        """Return the mean loss."""
        return self.calling.loss(self.tree.structure(values), batch)

    def outputs(self, values: Mapping[str, tf.Tensor], batch: Any) -> Any:
        """Return the function's value at these leaves."""
        return self.calling.outputs(self.tree.structure(values), batch)

    def compare(self, outputs: Any, batch: Any) -> tf.Tensor:
        """Return the criterion's mean loss."""
        return self.calling.compare(outputs, batch)

    def hidden_state(self) -> HiddenState:
        """A function has no layers."""
        return hidden_state({})

    def evaluating(self) -> AbstractContextManager[None]:
        """A function has no modes."""
        return nullcontext()

    def refuse_coupled_samples(self) -> None:
        """Of a function nothing is known."""

    def select(self, select: Any, among: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return all real leaves, or those that `select` names."""
        return self.tree.select(select, among)

    def named_state(self) -> dict[str, Any]:
        """Return the leaves."""
        return self.tree.arrays

    def constants(self) -> frozenset[str]:
        """A function's parameters all count."""
        return frozenset()

    def trained(self) -> list[str]:
        """A function freezes nothing."""
        return []

    def compute_dtypes(self) -> set[str]:
        """Return that of a Keras loss; a function computes in the dtypes of its parameters."""
        return _criterion_dtypes(self.criterion)

    def arrays_of(self, tree: Any, names: Collection[str]) -> dict[str, Any]:
        """Return the selected leaves of a structure like params."""
        return self.tree.arrays_of(tree, names)

    def structure_of(self, values: dict[str, tf.Tensor]) -> Any:
        """Return params with the named leaves replaced."""
        return self.tree.structure(
            {name: tf.convert_to_tensor(tensor) for name, tensor in (self.tree.arrays | values).items()}
        )


Model = ModuleModel | FunctionModel
"""A loss as a function of parameters and a batch: variables that it reads by itself, or tensors that it is given."""


def _criterion_dtypes(criterion: Any) -> set[str]:
    return {criterion.dtype} if is_keras_loss(criterion) else set()


def _is_real(tensor: Any) -> bool:
    return bool(tensor.dtype.is_floating)


def _is_complex(tensor: Any) -> bool:
    return bool(tensor.dtype.is_complex)


def _named(found: Sequence[tuple[str, Any, bool]]) -> dict[str, tuple[Any, bool]]:
    """Return distinct variables by name, each with whether it is trainable; names that occur again get a number."""
    named: dict[str, tuple[Any, bool]] = {}
    seen: set[int] = set()
    for name, variable, trainable in found:
        if id(variable) in seen:
            continue
        seen.add(id(variable))
        unique, number = name, 1
        while unique in named:
            unique, number = f"{name}_{number}", number + 1
        named[unique] = (variable, bool(trainable))
    return named
