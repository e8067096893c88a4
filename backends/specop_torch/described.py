"""Which model a user has given: a module, one of Keras on torch, or a function of a parameter structure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from specop.errors import InvalidInputError
from specop_torch.models import FunctionModel, Model, ModuleModel

__all__ = ["describe"]


def describe(
    model: Any,
    criterion: Callable[..., Any] | None,
    params: Any,
    forward: Callable[[Any, Any], Any] | None,
    fixed_randomness: int | None,
) -> Model:
    """Return what is differentiated, or raise InvalidInputError where arguments do not go together."""
    if not isinstance(model, nn.Module):
        return FunctionModel(model, criterion, params, forward)
    if params is not None:
        raise InvalidInputError("params= is for plain functions; a module brings its own. Use select= for a part.")
    return _module(model, criterion, forward, fixed_randomness)


def _module(
    model: nn.Module,
    criterion: Callable[..., Any] | None,
    forward: Callable[[Any, Any], Any] | None,
    fixed_randomness: int | None,
) -> Model:
    if not any(base.__module__.partition(".")[0] == "keras" for base in type(model).__mro__):
        return ModuleModel(model, criterion, forward, check_modes=fixed_randomness is None)
    if fixed_randomness is not None:
        raise InvalidInputError(
            "fixed_randomness is not available on Keras' torch backend, whose layers draw from seeds of their own. "
            "Leave it out: layers are then called with training=False, where nothing is drawn."
        )
    from specop_torch.keras_models import KerasModel

    return KerasModel(model, criterion, forward)
