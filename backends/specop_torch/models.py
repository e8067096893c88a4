"""What is differentiated: a module with a criterion, or a function of a parameter structure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from specop.objectives.calling import Criterion, Forward, calling_function, calling_module
from specop.objectives.hidden import Access, HiddenState, attributes_set, hidden_state
from specop.objectives.parameters import ParameterTree, by_name, trained
from specop.objectives.refusals import not_trainable
from specop_torch.lightning_modules import Aside, with_batch_hooks
from specop_torch.normalizers import check_mean
from specop_torch.refusals import refuse_coupled_samples, refuse_layers, refuse_modes, refuse_sharded
from specop_torch.shared_memory import refuse_shared_memory
from specop_torch.structures import TREES, normal

__all__ = ["FunctionModel", "Model", "ModuleModel"]


class ModuleModel:
    """A `torch.nn.Module`; ``criterion(outputs, y)`` or, with `forward`, ``criterion(outputs, batch)``."""

    widens = True

    def __init__(
        self,
        module: nn.Module,
        criterion: Criterion | None,
        forward: Forward | None,
        *,
        check_modes: bool,
        is_sharded: bool = False,
    ) -> None:
        self.module = _unwrapped(module)
        forward = with_batch_hooks(self.module, forward)
        self.calling = calling_module(criterion, forward, "for example torch.nn.functional.cross_entropy")
        check_mean(criterion)
        if not is_sharded:
            refuse_sharded(self.module)
        self.check_modes = check_modes
        self.constants = frozenset(name for name, tensor in self.parameters().items() if not tensor.requires_grad)
        self._replaced = _Replaced(self.module)
        refuse_layers(self.module, self.named_state())
        if not is_sharded:
            refuse_shared_memory(self.parameters().items())

    def parameters(self) -> dict[str, Tensor]:
        """Return the parameters by name."""
        return dict(self.module.named_parameters())

    def trained(self) -> list[str]:
        """Return the names of the parameters that require grad as they are."""
        return [name for name, parameter in self.parameters().items() if parameter.requires_grad]

    def loss(self, values: Mapping[str, Tensor], batch: Any) -> Any:
        """Return the mean loss."""
        # One call for both: a criterion may read the module's parameters, as a penalty does.
        return self.holding(values, lambda: self.calling.loss(self.module, batch))

    def again(self, values: Mapping[str, Tensor], batch: Any) -> tuple[Any, list[str]]:
        """Return the mean loss in the next call, and the names of the buffers that the first one has changed."""
        if not self.check_modes:
            # Under a fixed seed the next call draws anew only if the seed is set anew.
            return self.loss(values, batch), []

        def call() -> tuple[Any, list[str]]:
            before: set[tuple[str, int, int]] = set()
            after: set[tuple[str, int, int]] = set()
            for versions in (before, after):
                versions |= {(name, id(one), one._version) for name, one in self.module.named_buffers()}
                loss = self.calling.loss(self.module, batch)
            return loss, sorted({name for name, *_ in after - before})

        found: tuple[Any, list[str]] = self.holding(values, call)
        return found

    def outputs(self, values: Mapping[str, Tensor], batch: Any) -> Any:
        """Return the outputs."""
        return self.holding(values, lambda: self.calling.outputs(self.module, batch))

    def holding(self, values: Mapping[str, Tensor], call: Callable[[], Any]) -> Any:
        """Return what a call returns while the module holds these values, and copies of its buffers.

        Layers may update buffers. Backward passes need this too: activation checkpointing runs layers again in them.
        """
        if self.check_modes:
            refuse_modes(self.module)
        held = {f"module.{name}": normal(parameter) for name, parameter in self.parameters().items()}
        held |= {f"module.{name}": value for name, value in values.items()}
        held |= {f"module.{name}": buffer.clone() for name, buffer in self.module.named_buffers()}
        return functional_call(self._replaced, held, (call,))

    def compare(self, values: Mapping[str, Tensor], outputs: Any, batch: Any) -> Any:
        """Return the criterion's value."""
        return self.holding(values, lambda: self.calling.compare(outputs, batch))

    def padding_rows(self) -> dict[str, int]:
        """Return the padding rows of all embeddings."""
        return {
            f"{name}.weight" if name else "weight": layer.padding_idx
            for name, layer in self.module.named_modules()
            if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)) and layer.padding_idx is not None
        }

    def refuse_coupled_samples(self) -> None:
        """Raise if batch normalization uses the batch's own statistics."""
        refuse_coupled_samples(self.module)

    def hidden_state(self) -> HiddenState:
        """Put back what a call changes in the layers' plain attributes, and give what names it."""
        return hidden_state(dict(self.module.named_modules()), vars(nn.Module()).__contains__, _access)

    def evaluating(self) -> AbstractContextManager[None]:
        """Hold every layer in evaluation mode."""
        return attributes_set(list(self.module.modules()), training=False)

    def select(self, select: Any, among: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the parameters that require grad, or those that `select` names."""
        named = self.parameters() if among is None else dict(among)
        real = {name: tensor for name, tensor in named.items() if tensor.is_floating_point()}
        if isinstance(select, nn.Module):
            select = list(select.parameters())
        complex_ones = {name: tensor for name, tensor in named.items() if tensor.is_complex()}
        unfreeze = "Call requires_grad_() on them"
        return trained(
            real, select, self.constants, complex_ones=complex_ones, unfreeze=unfreeze, tied=self._tied_names()
        )

    def _tied_names(self) -> dict[str, list[str]]:
        """Return the further names of parameters that several modules hold, as embeddings and heads do."""
        every = self.module.named_parameters(remove_duplicate=False)
        first = {id(parameter): name for name, parameter in self.module.named_parameters()}
        tied: dict[str, list[str]] = {}
        for name, parameter in every:
            tied.setdefault(first[id(parameter)], []).append(name)
        return tied

    def named_state(self) -> Iterable[tuple[str, Tensor]]:
        """Yield parameters and buffers."""
        yield from self.parameters().items()
        yield from self.module.named_buffers()

    def state(self) -> list[Tensor]:
        """Return parameters and buffers."""
        return [tensor for _, tensor in self.named_state()]

    def modes(self) -> tuple[int, ...]:
        """Return which layers are in training mode."""
        return tuple(int(layer.training) for layer in self.module.modules())

    def all_layers(self) -> list[nn.Module]:
        """Return the module and all that it is made of."""
        return list(self.module.modules())

    def arrays_of(self, tree: Any, names: Collection[str]) -> dict[str, Any]:
        """Return the tensors of a mapping by parameter name."""
        return by_name(tree, names)

    def structure_of(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a mapping by parameter name."""
        return values


class FunctionModel:
    """``fun(params, batch) -> loss``, or with a criterion ``-> outputs``; params is any structure of tensors."""

    constants: frozenset[str] = frozenset()
    widens = True

    def __init__(self, function: Any, criterion: Criterion | None, params: Any, forward: Forward | None) -> None:
        self.calling = calling_function(function, criterion, forward)
        check_mean(criterion)
        for name, leaf in zip(TREES.names(params), TREES.flatten(params)[0], strict=True):
            if leaf is not None and not isinstance(leaf, Tensor):
                raise not_trainable(name, leaf, "torch.as_tensor(VALUE)")
        self.tree = ParameterTree(TREES, params, Tensor.is_floating_point, Tensor.is_complex)

    def trained(self) -> list[str]:
        """A function freezes nothing."""
        return []

    def loss(self, values: Mapping[str, Tensor], batch: Any) -> Any:
        """Return the mean loss."""
        return self.calling.loss(self.structure_of(values), batch)

    def again(self, values: Mapping[str, Tensor], batch: Any) -> tuple[Any, list[str]]:
        """Return the mean loss; a function has no buffers."""
        return self.loss(values, batch), []

    def outputs(self, values: Mapping[str, Tensor], batch: Any) -> Any:
        """Return the function's value at a structure with the named leaves replaced."""
        return self.calling.outputs(self.structure_of(values), batch)

    def holding(self, values: Mapping[str, Tensor], call: Callable[[], Any]) -> Any:
        """Return what a call returns: a function takes its parameters as arguments."""
        return call()

    def compare(self, values: Mapping[str, Tensor], outputs: Any, batch: Any) -> Any:
        """Return the criterion's value."""
        return self.calling.compare(outputs, batch)

    def padding_rows(self) -> dict[str, int]:
        """Of a function nothing is known."""
        return {}

    def hidden_state(self) -> HiddenState:
        """A function has no layers."""
        return hidden_state({})

    def evaluating(self) -> AbstractContextManager[None]:
        """A function has no modes."""
        return nullcontext()

    def refuse_coupled_samples(self) -> None:
        """Of a function nothing is known."""

    def select(self, select: Any, among: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return all real leaves, or those that `select` names."""
        return self.tree.select(select, among)

    def named_state(self) -> Iterable[tuple[str, Tensor]]:
        """Yield the leaves."""
        return self.tree.arrays.items()

    def state(self) -> list[Tensor]:
        """Return the leaves."""
        return list(self.tree.arrays.values())

    def modes(self) -> tuple[int, ...]:
        """A function has no switches."""
        return ()

    def all_layers(self) -> list[nn.Module]:
        """A function has no layers that anyone knows of."""
        return []

    def arrays_of(self, tree: Any, names: Collection[str]) -> dict[str, Any]:
        """Return the selected leaves of a structure like params."""
        return self.tree.arrays_of(tree, names)

    def structure_of(self, values: Mapping[str, Tensor]) -> Any:
        """Return params with the named leaves replaced."""
        return self.tree.structure(
            {name: normal(tensor.detach()) for name, tensor in self.tree.arrays.items()} | dict(values)
        )


Model = ModuleModel | FunctionModel
"""A loss as a function of named tensors and a batch."""


def _unwrapped(module: nn.Module) -> nn.Module:
    """Return the module below what compiles it or spreads it over devices and processes: the same function.

    torch.compile has returned silently wrong second derivatives, the hooks of DistributedDataParallel wait for other
    processes, and Lightning's Fabric hooks outputs and casts.
    """
    while True:
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            module = module.module
        elif hasattr(module, "_orig_mod"):
            module = module._orig_mod  # type: ignore[assignment]
        elif type(module).__name__ == "_FabricModule":
            module = module._original_module  # type: ignore[assignment]
        else:
            break
    return module


def _access(value: Any) -> Access | None:
    """Return how the content of a tensor or a generator is copied and put back."""
    if isinstance(value, torch.Generator):
        return lambda: value.get_state().numpy(), lambda state: value.set_state(torch.from_numpy(state))
    if not isinstance(value, Tensor) or value.is_inference():
        return None
    kept = value.detach().clone()
    return lambda: (value._version, kept), lambda content: value.detach().copy_(content[1])


class _Replaced(nn.Module):
    """Puts any call under `functional_call`, which replaces tensors inside modules only."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._aside = Aside(module)

    def forward(self, call: Callable[[], Any]) -> Any:
        with self._aside():
            return call()
