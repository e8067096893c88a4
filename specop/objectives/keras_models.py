"""What a model and a criterion of Keras are, and what `compile` was given, on whatever framework Keras runs.

Nothing here imports Keras: whoever has an object of it has imported it.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

from specop.errors import InvalidInputError
from specop.objectives.calling import Criterion, Forward, inputs, is_weighted
from specop.objectives.refusals import no_mean

__all__ = [
    "calling_layer",
    "compiled_loss",
    "in_order",
    "is_keras_loss",
    "layers_of",
    "likelihood_of",
    "named_variables",
    "refuse_mixed_precision",
    "refuse_unbuilt",
    "weight_of",
]

_MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")
_LIKELIHOODS = {
    "SparseCategoricalCrossentropy": "categorical",
    "CategoricalCrossentropy": "categorical",
    "BinaryCrossentropy": "bernoulli",
    "MeanSquaredError": "gaussian",
}
_PASS = (
    "forward=lambda model, batch: model.compute_loss(x=batch[0], y=batch[1], y_pred=model(batch[0], training=False))"
)


def is_keras_loss(criterion: Any) -> bool:
    """Whether a criterion is called with (y_true, y_pred, sample_weight), as a `keras.losses.Loss` is."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(criterion, keras.losses.Loss)


def likelihood_of(criterion: Any) -> str | None:
    """Return the likelihood of a loss of Keras, or None; of probabilities the second derivative is another one.

    The loss may be as `in_order` returns it.
    """
    if isinstance(criterion, functools.partial) and criterion.func is _turned_round:
        (criterion,) = criterion.args
    if not is_keras_loss(criterion):
        return None
    kinds = {getattr(sys.modules["keras"].losses, name): found for name, found in _LIKELIHOODS.items()}
    found = kinds.get(type(criterion))
    return found if found == "gaussian" or getattr(criterion, "from_logits", False) else None


def in_order(criterion: Any) -> Criterion | None:
    """Return a criterion of (outputs, y), and of the samples' weights where it is Keras' own.

    Raises
    ------
    InvalidInputError
        Unless it takes a mean.
    """
    if is_keras_loss(criterion):
        if criterion.reduction not in _MEANS:
            raise no_mean(criterion.reduction, _MEANS[0])
        return functools.partial(_turned_round, criterion)
    if inspect.isfunction(criterion) and criterion.__module__.partition(".")[0] == "keras":
        raise InvalidInputError(
            f"{criterion.__name__} of Keras takes (y_true, y_pred) and returns one loss a sample. Pass the class from "
            f"keras.losses that belongs to it, which is recognized and returns the mean, or a function of (outputs, y)."
        )
    found: Criterion | None = criterion
    return found


def weight_of(criterion: Any) -> Callable[[Any], float] | None:
    """Return what a loss of Keras divides a batch's sum by, where that is not its number of samples."""
    if is_keras_loss(criterion) and criterion.reduction == "mean_with_sample_weight":
        return _Divisor()
    return None


class _Divisor:
    """The sum of the samples' weights; where no batch has any, the number of labels, in proportion to terms."""

    def __init__(self) -> None:
        self.is_weighted: bool | None = None

    def __call__(self, batch: Any) -> float:
        is_here = is_weighted(batch) and batch[2] is not None
        if self.is_weighted not in (None, is_here):
            raise InvalidInputError(
                "some batches hold weights of samples and others do not, and the criterion divides by the sum of "
                "weights. Give all batches as (x, y, weights)."
            )
        self.is_weighted = is_here
        if is_here:
            return float(sys.modules["keras"].ops.convert_to_numpy(batch[2]).sum())
        return float(math.prod(batch[1].shape))


def compiled_loss(model: Any) -> Criterion | None:
    """Return the loss that a model of Keras was compiled with, or None for any other model.

    Raises
    ------
    InvalidInputError
        If `fit` makes the loss of more than that.
    """
    keras = sys.modules.get("keras")
    if keras is None or not isinstance(model, keras.Model) or not model.compiled:
        return None
    for name in ("train_step", "compute_loss"):
        if getattr(type(model), name) is not getattr(keras.Model, name):
            raise InvalidInputError(
                f"{type(model).__name__} has its own {name}, so that what compile() was given does not tell the loss "
                f"that fit() trains. Pass the criterion, or {_PASS} if that is it."
            )
    if model.loss is None:
        return None
    if isinstance(model.loss, (list, tuple, dict)) or len(getattr(model, "output_names", None) or [""]) > 1:
        raise _several_outputs()
    # Its weight in loss_weights is known to what Keras has made of it.
    made = model._compile_loss
    if made._user_loss_weights is None:
        if isinstance(model.loss, keras.losses.Loss):
            return model.loss
        if keras.losses.get(model.loss) is keras.losses.mean_squared_error:
            return keras.losses.MeanSquaredError()
    return made


def _turned_round(criterion: Any, outputs: Any, target: Any, weights: Any = None) -> Any:
    # Keras writes its losses the other way round: loss(y_true, y_pred).
    if isinstance(outputs, (list, tuple, dict)):
        raise _several_outputs()
    return criterion(target, outputs, weights)


def _several_outputs() -> InvalidInputError:
    return InvalidInputError(
        f"the model has several outputs, and fit() adds up a loss for each. Pass {_PASS}, which returns that sum; then "
        f"there are loss, gradient and Hessian. Call model.evaluate on a batch once before."
    )


def calling_layer(criterion: Any, *, training: bool = False) -> Forward:
    """Return how a model or layer is called on a batch (x, y), or (x, y, weights) where the criterion takes those."""
    kind = _call_weighted if is_keras_loss(criterion) else _call
    return functools.partial(kind, training=True) if training else kind


def _call(module: Any, batch: Any, *, training: bool = False) -> Any:
    return module(inputs(batch), training=training)


def _call_weighted(module: Any, batch: Any, *, training: bool = False) -> Any:
    return module(inputs(batch, weighted=True), training=training)


def refuse_unbuilt(module: Any) -> None:
    """Raise InvalidInputError if a model or layer has no variables yet."""
    if not module.built:
        raise InvalidInputError(
            f"{module.name!r} has no variables yet: Keras creates them when the model first sees data. Call "
            f"model(x) once, or give it an Input layer."
        )


def refuse_mixed_precision(module: Any, backend: str) -> None:
    """Raise InvalidInputError where a layer computes less precisely than its variables are."""
    for layer in layers_of(module):
        if layer.compute_dtype not in ("float32", "float64"):
            raise InvalidInputError(
                f"layer {layer.name!r} computes in {layer.compute_dtype}, which is not supported on Keras' {backend} "
                f"backend. Load the weights into a model of the dtype policy 'float32'."
            )


def layers_of(module: Any) -> Iterator[Any]:
    """Yield a model and all layers in it."""
    waiting = [module]
    while waiting:
        layer = waiting.pop()
        waiting += getattr(layer, "layers", [])
        yield layer


def named_variables(module: Any) -> dict[str, Any]:
    """Return the distinct variables of a model or layer by name, without the number that Keras gives a model."""
    prefix = f"{module.name}/"
    found: dict[str, Any] = {}
    for variable in {id(one): one for one in module.variables}.values():
        name, number = variable.path.removeprefix(prefix), 0
        while (unique := f"{name}_{number}" if number else name) in found:
            number += 1
        found[unique] = variable
    return found
