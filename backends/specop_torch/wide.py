"""A model in float64: its parameters and buffers in place of the module's own, while the module stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from specop.errors import InvalidInputError
from specop.objectives.trees import Constant
from specop_torch.models import FunctionModel, Model, ModuleModel

__all__ = ["widened"]


def widened(model: Model) -> Model:
    """Return the same model with all of its tensors in float64; a criterion that is a module is copied."""
    if not model.widens:
        raise InvalidInputError("variables of Keras keep their own precision")
    made: Any = _WideFunction() if isinstance(model, FunctionModel) else _WideModule()
    made.__dict__.update(model.__dict__)
    criterion = model.calling.criterion.value
    if isinstance(criterion, nn.Module):
        made.calling = replace(model.calling, criterion=Constant(copy.deepcopy(criterion).double()))
    return made


class _WideModule(ModuleModel):
    def __init__(self) -> None:
        pass

    def named_state(self) -> Iterable[tuple[str, Tensor]]:
        return ((name, wide(tensor)) for name, tensor in super().named_state())

    def holding(self, values: Mapping[str, Tensor], call: Callable[[], Any]) -> Any:
        held = {f"module.{name}": tensor for name, tensor in self.named_state()}
        held |= {f"module.{name}": value for name, value in values.items()}
        return functional_call(self._replaced, held, (call,))


class _WideFunction(FunctionModel):
    def __init__(self) -> None:
        pass

    def named_state(self) -> Iterable[tuple[str, Tensor]]:
        return ((name, wide(tensor)) for name, tensor in super().named_state())

    def structure_of(self, values: Mapping[str, Tensor]) -> Any:
        return self.tree.structure(dict(self.named_state()) | dict(values))


def wide(tensor: Tensor) -> Tensor:
    """Return a copy, in float64 if the tensor holds floating-point numbers."""
    return tensor.detach().to(torch.float64, copy=True) if tensor.is_floating_point() else tensor.detach().clone()
