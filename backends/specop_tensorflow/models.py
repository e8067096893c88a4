"""What is differentiated: a Keras model or a tf.Module with a criterion, or a function of a parameter structure."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import keras
import optree
import tensorflow as tf

from specop.errors import InvalidInputError
from specop.objectives.refusals import no_outputs
from specop.objectives.select import choose

__all__ = ["FunctionModel", "KerasModel", "Model", "ModuleModel"]

Forward = Callable[[Any, Any], Any]
Criterion = Callable[..., tf.Tensor]
_MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")


class Model(Protocol):
    """A loss as a function of parameters and a batch.

    Parameters are variables that the loss reads by itself, or tensors that it is given.
    """

    reads_variables: bool

    def loss(self, values: Mapping[str, tf.Tensor], batch: Any) -> tf.Tensor:
        """Return the mean loss over the batch; `values` holds all parameters of a function, and nothing else."""

    def outputs(self, values: Mapping[str, tf.Tensor], batch: Any) -> Any:
        """Return what the criterion compares with the batch."""

    def compare(self, outputs: Any, batch: Any) -> tf.Tensor:
        """Return the criterion's mean loss."""

    def refuse_coupled_samples(self) -> None:
        """Raise InvalidInputError if a layer is known to mix the samples of a batch."""

    def select(self, select: Any, among: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the chosen parameters by name."""

    def named_state(self) -> dict[str, Any]:
        """Return everything that the loss is known to depend on besides the data."""

    def constants(self) -> frozenset[str]:
        """Return the names of parameters that are frozen."""

    def compute_dtypes(self) -> set[str]:
        """Return the dtypes in which layers compute, where they are not those of their parameters."""

    def tensors_of(self, tree: Any, like: Mapping[str, Any]) -> list[tf.Tensor]:
        """Return the tensors of a parameter structure in the order of `like`."""

    def structure_of(self, values: dict[str, tf.Tensor]) -> Any:
        """Return named tensors as the user's structure."""


class ModuleModel:
    """A `tf.Module`; ``criterion(outputs, y)`` or, with `forward`, ``criterion(outputs, batch)``."""

    reads_variables = True

    def __init__(self, module: Any, criterion: Criterion | None, forward: Forward | None) -> None:
        self.module = module
        self.criterion = _checked_criterion(criterion)
        self.forward = forward

    def loss(self, values: Mapping[str, tf.Tensor], batch: Any) -> tf.Tensor:
        """Return the mean loss of the module as its variables are."""
        return self.compare(self.outputs(values, batch), batch)

    def outputs(self, values: Mapping[str, tf.Tensor], batch: Any) -> Any:
        """Return the module's outputs, or what `forward` makes of it."""
        if self.forward is not None:
            return self.forward(self.module, batch)
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            kind = f"{type(batch).__name__} of {len(batch)}" if hasattr(batch, "__len__") else type(batch).__name__
            raise InvalidInputError(
                f"a batch must be a pair (x, y), for model(x) and criterion(outputs, y); got {kind}. For other batches "
                f"pass forward=lambda model, batch: ..., and a criterion of (outputs, batch). If the data is one batch "
                f"[x, y], pass it as a tuple."
            )
        return self._call(batch[0])

    def compare(self, outputs: Any, batch: Any) -> tf.Tensor:
        """Return the criterion's mean loss."""
        return _compare(self.criterion, outputs, batch if self.forward is not None else batch[1])

    def refuse_coupled_samples(self) -> None:
        """Of a module's layers nothing is known."""

    def select(self, select: Any, among: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the trainable variables, or those that `select` names."""
        named = self.named_state() if among is None else dict(among)
        real = {name: variable for name, variable in named.items() if variable.dtype.is_floating}
        constants = self.constants()
        if select is None:
            trainable = {name: variable for name, variable in real.items() if name not in constants}
            if not trainable:
                raise InvalidInputError(
                    f"none of the model's {len(named)} variables is trainable. Set trainable = True on the layers "
                    f"whose curvature you want; a Keras model that was never called has no variables yet."
                )
            return trainable
        if isinstance(select, tf.Module):
            select = list(select.variables)
        chosen = {name: real[name] for name in choose(real, select)}
        frozen = [name for name in chosen if name in constants]
        if frozen:
            warnings.warn(
                f"{len(frozen)} selected variables are not trainable, such as {frozen[0]!r}: they count as constants, "
                f"and their rows are zero. Set trainable = True on their layer to include them.",
                stacklevel=5,
            )
        return chosen

    def named_state(self) -> dict[str, Any]:
        """Return all variables by name."""
        return {name: variable for name, (variable, _) in self._entries().items()}

    def constants(self) -> frozenset[str]:
        """Return the names of variables that are not trainable."""
        return frozenset(name for name, (_, trainable) in self._entries().items() if not trainable)

    def compute_dtypes(self) -> set[str]:
        """Return that of a Keras loss; a module computes in the dtypes of its variables."""
        return _criterion_dtypes(self.criterion)

    def tensors_of(self, tree: Any, like: Mapping[str, Any]) -> list[tf.Tensor]:
        """Return the tensors of a mapping by parameter name."""
        if not isinstance(tree, Mapping) or set(tree) != set(like):
            raise InvalidInputError(
                f"a parameter structure of a model is a mapping with exactly its {len(like)} selected names, such as "
                f"{next(iter(like))!r}; got {type(tree).__name__}."
            )
        return _checked_shapes({name: tree[name] for name in like}, like)

    def structure_of(self, values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Return a mapping by parameter name."""
        return values

    def _entries(self) -> dict[str, tuple[Any, bool]]:
        return _named([(one.name.removesuffix(":0"), one, one.trainable) for one in self.module.variables])

    def _call(self, x: Any) -> Any:
        return self.module(x)


class KerasModel(ModuleModel):
    """A `keras.Model` or layer, called with ``training=False``, or True if its randomness is fixed."""

    def __init__(self, module: Any, criterion: Criterion | None, forward: Forward | None, *, training: bool) -> None:
        if keras.backend.backend() != "tensorflow":
            raise InvalidInputError(
                f"this Keras model runs on the {keras.backend.backend()} backend, and its arrays are not TensorFlow's. "
                f"Set KERAS_BACKEND=tensorflow before Keras is imported."
            )
        super().__init__(module, criterion, forward)
        self.training = training
        if not module.built:
            raise InvalidInputError(
                f"{module.name!r} has no variables yet: Keras creates them when the model first sees data. Call "
                f"model(x) once, or give it an Input layer."
            )
        if isinstance(criterion, keras.losses.Loss) and module.losses:
            warnings.warn(
                f"{module.name!r} has {len(module.losses)} losses of its own, such as regularizers, which the "
                f"criterion does not contain: the curvature is that of the criterion alone. To include them pass "
                f"criterion=lambda outputs, y: loss(y, outputs) + sum(model.losses).",
                stacklevel=4,
            )

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
                raise InvalidInputError(
                    f"layer {layer.name!r} is batch normalization in training mode: a sample's outputs depend on the "
                    f"whole batch, so that gradients of single samples do not exist. Leave fixed_randomness out."
                )

    def _entries(self) -> dict[str, tuple[Any, bool]]:
        # Keras freezes its own wrapper of a variable, and numbers models as they are made: their name is left out.
        prefix = f"{self.module.name}/"
        weights = self.module.weights
        return _named([(one.path.removeprefix(prefix), one.value, one.trainable) for one in weights])

    def _layers(self) -> Iterator[Any]:
        waiting = [self.module]
        while waiting:
            layer = waiting.pop()
            waiting += getattr(layer, "layers", [])
            yield layer

    def _call(self, x: Any) -> Any:
        return self.module(x, training=self.training)


class FunctionModel:
    """``fun(params, batch) -> loss``, or with a criterion ``-> outputs``; params is any structure of tensors."""

    reads_variables = False

    def __init__(self, function: Any, criterion: Criterion | None, params: Any, forward: Forward | None) -> None:
        if not callable(function):
            raise InvalidInputError(
                f"expected a Keras model, a tf.Module or a function of (params, batch), got {type(function).__name__}."
            )
        if forward is not None:
            raise InvalidInputError("forward= is for models; a function computes its outputs itself.")
        self.function = function
        self.criterion = None if criterion is None else _checked_criterion(criterion)
        self.treedef: Any
        paths, tensors, self.treedef = optree.tree_flatten_with_path(params)
        tensors = [leaf.value if isinstance(leaf, keras.Variable) else leaf for leaf in tensors]
        if not tensors or not all(isinstance(tensor, (tf.Tensor, tf.Variable)) for tensor in tensors):
            raise InvalidInputError(
                "params must be a structure (dict, list, tuple, ...) of tensors or variables with at least one."
            )
        self.tensors = {
            ".".join(map(str, path)) or "params": tensor for path, tensor in zip(paths, tensors, strict=True)
        }

    def loss(self, values: Mapping[str, tf.Tensor], batch: Any) -> tf.Tensor:
        """Return the mean loss."""
        found = self._call(values, batch)
        return found if self.criterion is None else self.compare(found, batch)

    def outputs(self, values: Mapping[str, tf.Tensor], batch: Any) -> Any:
        """Return the function's value at these leaves."""
        if self.criterion is None:
            raise no_outputs()
        return self._call(values, batch)

    def compare(self, outputs: Any, batch: Any) -> tf.Tensor:
        """Return the criterion's mean loss."""
        pair = isinstance(batch, (tuple, list)) and len(batch) == 2
        return _compare(self.criterion, outputs, batch[1] if pair else batch)

    def refuse_coupled_samples(self) -> None:
        """Of a function nothing is known."""

    def select(self, select: Any, among: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return all real leaves, or those that `select` names."""
        named = self.tensors if among is None else dict(among)
        real = {name: tensor for name, tensor in named.items() if tensor.dtype.is_floating}
        if not real:
            raise InvalidInputError("params holds no floating-point tensor.")
        return real if select is None else {name: real[name] for name in choose(real, select)}

    def named_state(self) -> dict[str, Any]:
        """Return the leaves."""
        return self.tensors

    def constants(self) -> frozenset[str]:
        """A function's parameters all count."""
        return frozenset()

    def compute_dtypes(self) -> set[str]:
        """Return that of a Keras loss; a function computes in the dtypes of its parameters."""
        return _criterion_dtypes(self.criterion)

    def tensors_of(self, tree: Any, like: Mapping[str, Any]) -> list[tf.Tensor]:
        """Return the selected leaves of a structure like params."""
        found, treedef = optree.tree_flatten(tree)
        if treedef != self.treedef:
            raise InvalidInputError(f"expected a structure like params, {self.treedef}; got {treedef}.")
        named = dict(zip(self.tensors, found, strict=True))
        return _checked_shapes({name: named[name] for name in like}, like)

    def structure_of(self, values: dict[str, tf.Tensor]) -> Any:
        """Return params with the named leaves replaced."""
        leaves = [values.get(name, tensor) for name, tensor in self.tensors.items()]
        return optree.tree_unflatten(self.treedef, [tf.convert_to_tensor(leaf) for leaf in leaves])

    def _call(self, values: Mapping[str, tf.Tensor], batch: Any) -> Any:
        return self.function(optree.tree_unflatten(self.treedef, [values[name] for name in self.tensors]), batch)


def _criterion_dtypes(criterion: Criterion | None) -> set[str]:
    return {criterion.dtype} if isinstance(criterion, keras.losses.Loss) else set()


def _compare(criterion: Criterion | None, outputs: Any, target: Any) -> tf.Tensor:
    assert criterion is not None
    # Keras writes its losses the other way round: loss(y_true, y_pred).
    return criterion(target, outputs) if isinstance(criterion, keras.losses.Loss) else criterion(outputs, target)


def _checked_criterion(criterion: Criterion | None) -> Criterion:
    if criterion is None:
        raise InvalidInputError(
            "a model needs a criterion: objective(model, criterion, data), for example keras.losses."
            "SparseCategoricalCrossentropy(from_logits=True). For a loss computed by hand pass a function of the "
            "parameters instead of a model."
        )
    if isinstance(criterion, keras.losses.Loss):
        if criterion.reduction not in _MEANS:
            raise InvalidInputError(
                f"the criterion has reduction={criterion.reduction!r}; curvature is defined here for the mean loss. "
                f"Use reduction='sum_over_batch_size'; multiply the operator by the number of samples for the sum."
            )
    elif inspect.isfunction(criterion) and criterion.__module__.partition(".")[0] == "keras":
        raise InvalidInputError(
            f"{criterion.__name__} of Keras takes (y_true, y_pred) and returns one loss a sample. Pass the class from "
            f"keras.losses that belongs to it, which is recognized and returns the mean, or a function of (outputs, y)."
        )
    return criterion


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


def _checked_shapes(found: Mapping[str, Any], like: Mapping[str, Any]) -> list[tf.Tensor]:
    for name, tensor in found.items():
        if not isinstance(tensor, (tf.Tensor, tf.Variable)) or tensor.shape != like[name].shape:
            shape = tuple(tensor.shape) if hasattr(tensor, "shape") else type(tensor).__name__
            raise InvalidInputError(f"{name!r} must be a tensor of shape {tuple(like[name].shape)}, got {shape}.")
    return [tf.convert_to_tensor(tensor) for tensor in found.values()]
