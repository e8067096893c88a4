"""Aside, with_batch_hooks: what modules of Lightning and their metrics do beside their loss, and before it."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from torch import Tensor, nn

from specop.errors import InvalidInputError
from specop.objectives.calling import Forward

__all__ = ["Aside", "with_batch_hooks"]

# A trainer calls them between its loader and the model.
_BATCH_HOOKS = "on_before_batch_transfer", "on_after_batch_transfer"
_MISSING = object()
# Attributes that torch knows of.
_TORCH = set(vars(nn.Module()))


class Aside:
    """Holds off what a step does beside its loss.

    Nothing is logged or optimized, and what the step and its metrics keep in attributes stays as it was. Classes are
    told by their names, because importing them takes long.

    Parameters
    ----------
    module : nn.Module
        A model that may be, or hold, modules of Lightning or torchmetrics.
    """

    def __init__(self, module: nn.Module) -> None:
        layers = list(module.modules())
        self._steps = [layer for layer in layers if _kind(layer, "LightningModule", ("lightning", "pytorch_lightning"))]
        self._metrics = [layer for layer in layers if _kind(layer, "Metric", ("torchmetrics",))]

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold it off inside."""
        before = [(layer, dict(vars(layer))) for layer in (*self._steps, *self._metrics)]
        try:
            for layer, values in before:
                vars(layer).update({key: _copied(value) for key, value in values.items() if key not in _TORCH})
            for step in self._steps:
                vars(step).update(log=_nothing, log_dict=_nothing, optimizers=_refuse, manual_backward=_refuse)
            yield
        finally:
            for layer, values in before:
                vars(layer).clear()
                vars(layer).update(values)


def with_batch_hooks(module: nn.Module, forward: Forward | None) -> Forward | None:
    """Return `forward`, or raise InvalidInputError where batches would lack what the module's own hooks do to them."""
    base = _kind(module, "DataHooks", ("lightning", "pytorch_lightning"))
    own = [
        hook
        for hook in _BATCH_HOOKS
        if base is not None and hook not in vars(module) and getattr(type(module), hook) is not getattr(base, hook)
    ]
    if not own:
        return forward
    if forward is None:
        raise _unaltered(module, own)
    return _Altering(forward, own)


class _Altering:
    """A user's ``forward``, which has to call the hooks that alter batches."""

    def __init__(self, forward: Forward, hooks: list[str]) -> None:
        self._forward = forward
        self._hooks = hooks

    def __call__(self, module: Any, batch: Any) -> Any:
        missing = set(self._hooks)

        def noting(hook: str) -> Callable[..., Any]:
            own = getattr(module, hook)

            def noted(*args: Any, **options: Any) -> Any:
                missing.discard(hook)
                return own(*args, **options)

            return noted

        held = vars(module)
        before = {hook: held.get(hook, _MISSING) for hook in self._hooks}
        try:
            held.update({hook: noting(hook) for hook in self._hooks})
            found = self._forward(module, batch)
        finally:
            for hook, value in before.items():
                held.pop(hook)
                if value is not _MISSING:
                    held[hook] = value
        if missing:
            raise _unaltered(module, [hook for hook in self._hooks if hook in missing])
        return found


def _kind(layer: nn.Module, name: str, packages: tuple[str, ...]) -> type | None:
    """Return the class of this name that an object's class is derived from, if it is of one of these packages."""
    kinds = (kind for kind in type(layer).__mro__ if kind.__name__ == name)
    return next((kind for kind in kinds if kind.__module__.partition(".")[0] in packages), None)


def _copied(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.detach().clone()
    return copy.copy(state) if isinstance(state, (list, dict, set, deque)) else state


def _nothing(*_: Any, **__: Any) -> None:
    """Log nothing."""


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise InvalidInputError(
        "training_step optimizes by itself (automatic_optimization=False), and an objective needs the loss alone: pass "
        "forward=lambda model, batch: ..., which returns the loss of one of the optimizers, and select= for what that "
        "one trains."
    )


def _unaltered(module: nn.Module, hooks: list[str]) -> InvalidInputError:
    altered = "batch"
    for hook in _BATCH_HOOKS:
        altered = f"model.{hook}({altered}, 0)" if hook in hooks else altered
    return InvalidInputError(
        f"{type(module).__name__}.{' and '.join(hooks)} alters batches between the trainer's loader and the model, and "
        f"nothing calls it here: the loss would be of other data than the one that is trained. Pass forward=lambda "
        f"model, batch: model.training_step({altered}, 0). For data that have been altered already, or are meant as "
        f"they are, set model.{hooks[0]} = lambda batch, index: batch."
    )
