"""What an optimizer of Keras does with a gradient, read off its settings and its variables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from specop.errors import InvalidInputError
from specop.objectives.update_rule import Step, UpdateRule, no_rule, no_state, not_held
from specop_tensorflow.autodiff import TensorflowAutodiff

__all__ = ["update_rule"]


def update_rule(autodiff: TensorflowAutodiff, optimizer: Any, gradient: tf.Tensor) -> UpdateRule:
    """Return what SGD, Adam, AdamW or RMSprop do with the gradient of the selected parameters."""
    while type(optimizer) is keras.optimizers.LossScaleOptimizer:
        # It multiplies the loss and divides the gradient by the same number.
        optimizer = optimizer.inner_optimizer
    kind, name = type(optimizer), type(optimizer).__name__
    if kind not in _READERS:
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise InvalidInputError(
                f"optimizer must be one of keras.optimizers, got {name}. Without one, pass lr= and momentum=."
            )
        raise no_rule(name, "keras.optimizers.SGD, Adam, AdamW and RMSprop")
    own = autodiff.current()
    _check_settings(optimizer, name, own)
    places = optimizer._trainable_variables_indices
    keys = {parameter: optimizer._var_key(variable) for parameter, variable in own.items()}
    if optimizer.built:
        absent = [parameter for parameter, key in keys.items() if key not in places]
        if absent:
            raise not_held(name, absent)
    if kind is not keras.optimizers.SGD and (not optimizer.built or int(optimizer.iterations) == 0):
        raise no_state(name, own)
    _check_unclipped(optimizer, name, autodiff.parts(gradient))
    rate, decay = float(optimizer.learning_rate), float(optimizer.weight_decay or 0.0)
    steps, denominators, averages = [], [], []
    for parameter, variable in own.items():
        taken = rate * decay if optimizer._use_weight_decay(variable) else 0.0
        step, denominator, average = _READERS[kind](optimizer, places.get(keys[parameter]), rate, taken)
        steps.append(step)
        denominators.append(denominator)
        averages.append(average)
    scale = None if kind is keras.optimizers.SGD else tf.math.rsqrt(autodiff.joined(denominators))
    average = None if any(part is None for part in averages) else autodiff.joined(averages)
    return UpdateRule(name, tuple(steps), scale, average)


def _sgd(optimizer: Any, place: int | None, rate: float, taken: float) -> tuple[Step, None, tf.Tensor | None]:
    momentum = float(optimizer.momentum)
    step = Step(rate, momentum, nesterov=bool(optimizer.nesterov and momentum), decoupled=taken)
    # It sums up steps, which have the rate and the sign of a step.
    is_there = momentum and place is not None and rate
    return step, None, tf.convert_to_tensor(optimizer.momentums[place]) / -rate if is_there else None


def _adam(optimizer: Any, place: int, rate: float, taken: float) -> tuple[Step, tf.Tensor, tf.Tensor]:
    first, second, count = float(optimizer.beta_1), float(optimizer.beta_2), int(optimizer.iterations)
    moments = optimizer._velocity_hats if optimizer.amsgrad else optimizer._velocities
    root = tf.sqrt(tf.convert_to_tensor(moments[place])) + optimizer.epsilon
    denominator = (1.0 - first**count) / np.sqrt(1.0 - second**count) * root
    return (
        Step(rate, first, 1.0 - first, decoupled=taken),
        denominator,
        tf.convert_to_tensor(optimizer._momentums[place]),
    )


def _rmsprop(optimizer: Any, place: int, rate: float, taken: float) -> tuple[Step, tf.Tensor, tf.Tensor | None]:
    moment = tf.convert_to_tensor(optimizer._velocities[place])
    if optimizer.centered:
        moment = moment - tf.convert_to_tensor(optimizer._average_gradients[place]) ** 2
    denominator = tf.sqrt(moment + optimizer.epsilon)
    momentum = float(optimizer.momentum)
    average = None
    if momentum and rate:
        # It sums up steps, which have the rate and are divided already.
        average = tf.convert_to_tensor(optimizer._momentums[place]) * denominator / rate
    return Step(rate, momentum, decoupled=taken), denominator, average


_Reader = Callable[[Any, Any, float, float], tuple[Step, Any, Any]]
_READERS: dict[type, _Reader] = {
    keras.optimizers.SGD: _sgd,
    keras.optimizers.Adam: _adam,
    keras.optimizers.AdamW: _adam,
    keras.optimizers.RMSprop: _rmsprop,
}


def _check_settings(optimizer: Any, name: str, own: dict[str, Any]) -> None:
    """Raise InvalidInputError where parameters are moved by something else than steps."""
    if optimizer.use_ema and optimizer.ema_overwrite_frequency:
        raise InvalidInputError(
            f"{name} replaces the parameters by their moving average every {optimizer.ema_overwrite_frequency} steps "
            f"(ema_overwrite_frequency): no limit is known for that. Pass lr= and momentum= for the steps in between."
        )
    known = {id(getattr(one, "value", one)): one for one in optimizer._trainable_variables}
    for parameter, variable in own.items():
        if getattr(known.get(id(variable), variable), "constraint", None) is not None:
            raise InvalidInputError(
                f"{parameter!r} has a constraint, which moves it after each step: no limit is known for that. Take the "
                f"constraint away, or restrict the objective to other parameters."
            )


def _check_unclipped(optimizer: Any, name: str, slopes: Sequence[tf.Tensor]) -> None:
    norms = [float(tf.norm(slope)) for slope in slopes]
    largest = max(float(tf.reduce_max(tf.abs(slope))) for slope in slopes)
    for setting, size in (
        ("clipnorm", max(norms)),
        ("global_clipnorm", float(np.linalg.norm(norms))),
        ("clipvalue", largest),
    ):
        limit = getattr(optimizer, setting)
        if limit and size > limit:
            raise InvalidInputError(
                f"{name} clips the gradient of this point, {setting}={limit:g} where it has {size:.3g}: its steps do "
                f"not follow the curvature here. The limit holds where nothing is clipped; pass lr= and momentum= for "
                f"that without the optimizer."
            )
