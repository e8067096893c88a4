"""Which model a user has given: one of Keras, a tf.Module, or a function of a parameter structure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from specop.errors import InvalidInputError
from specop_tensorflow.models import FunctionModel, KerasModel, Model, ModuleModel

__all__ = ["describe"]


def describe(
    model: Any,
    criterion: Callable[..., Any] | None,
    params: Any,
    forward: Callable[[Any, Any], Any] | None,
    fixed_randomness: int | None,
) -> Model:
    """Return what is differentiated, or raise InvalidInputError where arguments do not go together."""
    if not isinstance(model, (keras.Layer, tf.Module)):
        return FunctionModel(model, criterion, params, forward)
    if params is not None:
        raise InvalidInputError("params= is for plain functions; a model brings its own. Use select= for a part.")
    if isinstance(model, keras.Layer):
        return KerasModel(model, criterion, forward, training=fixed_randomness is not None)
    return ModuleModel(model, criterion, forward)
