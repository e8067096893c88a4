"""Which model a user has given: a module of Flax, Equinox, Linen or Keras, or a function of a pytree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from specop.errors import InvalidInputError
from specop.objectives.calling import calling_function
from specop_jax.models import Model, TreeModel, equinox_model

__all__ = ["describe"]


def describe(
    model: Any,
    criterion: Callable[..., Any] | None,
    params: Any,
    forward: Callable[[Any, Any], Any] | None,
    fixed_randomness: int | None,
) -> Model:
    """Return what is differentiated, or raise InvalidInputError where arguments do not go together."""
    origins = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    if params is None and "flax" in origins:
        from flax import nnx

        if isinstance(model, nnx.Module):
            from specop_jax.flax_modules import NnxModel

            return NnxModel(model, criterion, forward, fixed_randomness)
    if fixed_randomness is not None:
        raise InvalidInputError(
            "fixed_randomness is for modules that hold their random state. In JAX a function is given its random keys: "
            "put a fixed key into it, or into forward=."
        )
    if "keras" in origins:
        if params is not None:
            raise InvalidInputError("params= is for plain functions; a model brings its own. Use select= for a part.")
        from specop_jax.keras_models import KerasModel

        return KerasModel(model, criterion, forward)
    if "flax" in origins:
        from specop_jax.linen_modules import is_linen, linen_model

        if is_linen(model):
            return linen_model(model, criterion, params, forward)
    if params is None and "equinox" in origins:
        return equinox_model(model, criterion, forward)
    if params is None:
        raise InvalidInputError(
            f"{type(model).__name__} does not hold its parameters: pass a function of them, "
            f"objective(fun, criterion, data, params=params)."
        )
    return TreeModel(calling_function(model, criterion, forward), params)
