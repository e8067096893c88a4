"""ShardedModule: a module without hooks whose parameters lie elsewhere, in parts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.func import functional_call

from specop.errors import InvalidInputError
from specop.objectives.calling import Criterion, Forward
from specop.objectives.trees import Constant
from specop_torch.dtensors import twice_differentiable
from specop_torch.gathered import wholes_of
from specop_torch.groups import Group
from specop_torch.layers import Layers
from specop_torch.models import ModuleModel
from specop_torch.places import gathered_of
from specop_torch.refusals import refuse_hooks, refuse_modes
from specop_torch.spread import local
from specop_torch.wide import wide

__all__ = ["ShardedModule"]


class ShardedModule(ModuleModel):
    """A module without hooks whose parameters lie elsewhere, in parts.

    Parameters
    ----------
    module : nn.Module
        Module whose buffers are used; its own parameters are never read, and may be on the meta device.
    criterion, forward
        The arguments of `ModuleModel` of these names.
    params : mapping from names to Tensor
        DTensors, and tensors that each process holds whole.
    group : Group
    """

    is_wide = False

    def __init__(
        self,
        module: nn.Module,
        criterion: Criterion | None,
        forward: Forward | None,
        params: Mapping[str, Tensor],
        group: Group,
    ) -> None:
        refuse_hooks(module)
        own = {name: tuple(one.shape) for name, one in module.named_parameters()}
        given = {name: tuple(one.shape) for name, one in params.items()}
        if own != given:
            wrong = sorted(name for name in {*own, *given} if own.get(name) != given.get(name))
            raise InvalidInputError(
                f"params= and the model differ in {len(wrong)} parameters, such as {wrong[0]!r}: "
                f"{given.get(wrong[0], 'none')} there, {own.get(wrong[0], 'none')} in the model. Pass "
                f"dict(sharded.named_parameters()) of the same model, before any of it is unsharded."
            )
        self.sharded = dict(params)
        self.group = group
        self.layers = self._made_layers(module)
        super().__init__(module, criterion, forward, check_modes=True, is_sharded=True)

    def parameters(self) -> dict[str, Tensor]:
        return self.sharded

    def holding(self, values: Mapping[str, Tensor], call: Callable[[], Any]) -> Any:
        refuse_modes(self.module)
        parts = {name: local(values.get(name, one)) for name, one in self.sharded.items()}
        parts |= {name: value for name, value in values.items() if name in parts and not isinstance(value, DTensor)}

        def called(standing: dict[str, Tensor]) -> Any:
            held = {f"module.{name}": one for name, one in standing.items()}
            held |= {f"module.{name}": self._copied(buffer) for name, buffer in self.module.named_buffers()}
            return functional_call(self._replaced, held, (call,))

        with twice_differentiable() if self.is_tensor_parallel else nullcontext():
            return self.layers.holding(parts, called)

    @property
    def is_tensor_parallel(self) -> bool:
        """Whether layers are cut by tensor parallelism, too."""
        return any(one.spec is not None for one in self.layers.gathered.values())

    def compare(self, values: Mapping[str, Tensor], outputs: Any, batch: Any) -> Any:
        # Nothing is gathered for it: how often it is called depends on what a process has of a batch.
        def called(standing: dict[str, Tensor]) -> Any:
            held = {f"module.{name}": one for name, one in standing.items()}
            held |= {f"module.{name}": self._copied(buffer) for name, buffer in self.module.named_buffers()}
            return functional_call(self._replaced, held, (lambda: self.calling.compare(outputs, batch),))

        return self.layers.unread(called)

    def widened(self) -> ShardedModule:
        """Return the same in float64; the module and the criterion stay as they are."""
        made = copy.copy(self)
        made.is_wide = True
        made.sharded = {name: wide(one) for name, one in self.sharded.items()}
        made.layers = made._made_layers(self.module)
        criterion = self.calling.criterion.value
        if isinstance(criterion, nn.Module):
            made.calling = replace(self.calling, criterion=Constant(copy.deepcopy(criterion).double()))
        return made

    def named_state(self) -> Iterable[tuple[str, Tensor]]:
        yield from self.sharded.items()
        yield from self.module.named_buffers()

    def gathered(self, parts: Mapping[str, Tensor]) -> GatheredModule:
        """Return the same with all parameters whole in each process; all processes call it together.

        Parameters
        ----------
        parts : mapping
            What this process holds of parameters that are not to be the sharded ones.
        """
        own = [parts.get(name, local(one)) for name, one in self.sharded.items()]
        return GatheredModule(
            self, dict(zip(self.sharded, wholes_of([*self.layers.gathered.values()], own), strict=True))
        )

    def _made_layers(self, module: nn.Module) -> Layers:
        own = dict(module.named_parameters())
        return Layers(
            module, {name: gathered_of(name, one, self.group, own[name]) for name, one in self.sharded.items()}
        )

    def _copied(self, buffer: Tensor) -> Tensor:
        return wide(buffer) if self.is_wide else buffer.clone()


class GatheredModule(ModuleModel):
    """A module without hooks, and all of its parameters in each process.

    Parameters
    ----------
    of : ShardedModule
        Sharded module whose layers are run.
    wholes : mapping
        All parameters by name, each whole.
    """

    def __init__(self, of: ShardedModule, wholes: dict[str, Tensor]) -> None:
        # Not that of the base, which looks at what was looked at.
        vars(self).update(vars(of))
        self.wholes = wholes

    def parameters(self) -> dict[str, Tensor]:
        return self.wholes
