"""HookedModule: a module inside of fully_shard's hooks, which runs as it is trained."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from specop.errors import InvalidInputError
from specop.objectives.calling import Criterion, Forward
from specop_torch.groups import Group
from specop_torch.models import ModuleModel
from specop_torch.refusals import refuse_modes
from specop_torch.spread import local

__all__ = ["HookedModule"]

# Of a group of parameters: what a training loop may have set for a step of its own, and what a gradient asks for.
_SETTINGS = {"reduce_grads": True, "all_reduce_grads": True, "gradient_divide_factor": None}


class HookedModule(ModuleModel):
    """A module inside of fully_shard's hooks.

    Its hooks gather its own parameters only, so that these are written to for another point and put back, and the
    gradient is what a backward pass leaves in them.

    Parameters
    ----------
    module : nn.Module
    criterion, forward
        The arguments of `ModuleModel` of these names.
    group : Group
        Processes that hold the module's parameters.
    """

    def __init__(self, module: nn.Module, criterion: Criterion | None, forward: Forward | None, group: Group) -> None:
        self.group = group
        self._sharding: list[Any] = [layer for layer in module.modules() if is_hooked(layer)]
        self._is_held = False
        self._reshard()
        super().__init__(module, criterion, forward, check_modes=True, is_sharded=True)

    def parameters(self) -> dict[str, Tensor]:
        # A forward pass may have left them gathered.
        self._reshard()
        return dict(self.module.named_parameters())

    def holding(self, values: Mapping[str, Tensor], call: Callable[[], Any]) -> Any:
        refuse_modes(self.module)
        if self._is_held:
            return call()
        own = self.parameters()
        before = {name: local(own[name]).clone() for name in values}
        buffers = {name: (buffer, buffer.clone()) for name, buffer in self.module.named_buffers()}
        self._is_held = True
        try:
            self._write(own, values)
            return call()
        finally:
            self._is_held = False
            self._reshard()
            self._write(own, before)
            with torch.no_grad():
                for buffer, kept in buffers.values():
                    buffer.copy_(kept)

    def slope(
        self, values: Mapping[str, Tensor], loss: Callable[[], Tensor]
    ) -> tuple[Tensor, dict[str, Tensor | None]]:
        """Return a process's part of the loss, and its parts of the gradient of the sum of these.

        Parameters
        ----------
        values : mapping
            What this process holds of each parameter.
        loss : callable
            ``loss()`` runs the model and returns the loss.
        """
        own = self.parameters()
        self._refuse_steps(own)

        def call() -> tuple[Tensor, dict[str, Tensor | None]]:
            with self._without_gradients(own), self._synchronized():
                value = loss()
                # The hooks take the mean over processes with different samples.
                (value * self.group.readers.count).backward()
                found = {name: None if one.grad is None else local(one.grad).clone() for name, one in own.items()}
                return value, found

        value, found = self.holding(values, call)
        return value, found

    def _write(self, own: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in values.items():
                local(own[name]).copy_(value)

    def _reshard(self) -> None:
        for layer in self._sharding:
            layer.reshard()

    @contextlib.contextmanager
    def _without_gradients(self, own: Mapping[str, Tensor]) -> Iterator[None]:
        """Put what is accumulated for training aside, and back."""
        kept = {name: one.grad for name, one in own.items()}
        try:
            for one in own.values():
                one.grad = None
            yield
        finally:
            for name, one in own.items():
                one.grad = kept[name]

    @contextlib.contextmanager
    def _synchronized(self) -> Iterator[None]:
        """Let the hooks take the plain mean over processes in the next backward pass."""
        states = [layer._get_fsdp_state() for layer in self._sharding]
        groups = [group for state in states for group in _groups_of(state)]
        before = [{name: getattr(group, name) for name in _SETTINGS} for group in groups]
        contexts = [state._state_ctx for state in states]
        last = [context.is_last_backward for context in contexts]
        try:
            for group in groups:
                vars(group).update(_SETTINGS)
            for context in contexts:
                context.is_last_backward = True
            yield
        finally:
            for group, settings in zip(groups, before, strict=True):
                vars(group).update(settings)
            for context, was in zip(contexts, last, strict=True):
                context.is_last_backward = was

    def _refuse_steps(self, own: Mapping[str, Tensor]) -> None:
        """Raise InvalidInputError if a backward pass would train."""
        acting = [name for name, one in own.items() if getattr(one, "_post_accumulate_grad_hooks", None)]
        if acting:
            raise InvalidInputError(
                f"{len(acting)} parameters, such as {acting[0]!r}, have hooks that act on gradients as they come, such "
                f"as an optimizer's step in the backward pass: a gradient would train the model. Remove them, or pass "
                f"the same model without hooks with params=dict(sharded.named_parameters())."
            )


def is_hooked(layer: nn.Module) -> bool:
    """Return whether a layer is in FSDP2; told by the name of the class, whose import takes long."""
    return "FSDPModule" in {kind.__name__ for kind in type(layer).__mro__}


def _groups_of(state: Any) -> list[Any]:
    """Return a layer's groups of parameters, of which there was one at most before torch 2.13."""
    found = getattr(state, "_fsdp_param_groups", None)
    if found is None:
        found = [state._fsdp_param_group] if getattr(state, "_fsdp_param_group", None) is not None else []
    missing = [name for group in found for name in _SETTINGS if not hasattr(group, name)]
    if missing or not hasattr(state, "_state_ctx"):
        raise InvalidInputError(
            f"the hooks of fully_shard in torch {torch.__version__} are not those of torch 2.13, whose gradients are "
            f"known here. Pass the same model without hooks with params=dict(sharded.named_parameters())."
        )
    return list(found)
