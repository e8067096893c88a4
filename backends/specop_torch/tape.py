"""Record a linear computation once, then replay only what depends on its input.

A Hessian-vector product by double backward is linear in the vector, and most of what it touches does not depend on
it. A dispatch mode watches one such product and writes down the operations that the vector reaches; everything else
is a constant by then. Replaying that tape skips the autograd engine, holds only the constants it needs, and takes
no tracing compiler: the recording is itself a product that its caller wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from specop_torch.convolutions import faster_equivalent
from specop_torch.program import Slot, Step, Tape, flat
from specop_torch.simplification import Facts, has_memory, simplified

__all__ = ["Tape", "Untapeable", "record"]


@dataclass(frozen=True)
class Untapeable:
    """The computation does something that cannot be replayed safely."""

    reason: str
    constants: list[Tensor]


def record(
    function: Callable[[list[Tensor]], Sequence[Tensor | None]], inputs: list[Tensor]
) -> tuple[Sequence[Tensor | None], Tape | Untapeable]:
    """Run a linear function and return its outputs together with a tape of it.

    Parameters
    ----------
    function : callable
        Linear in ``inputs``; an output is None where it does not depend on them.
    inputs : list of Tensor
        Not required to be anything in particular: only where their values flow is recorded.

    Returns
    -------
    outputs : sequence of Tensor or None
    tape : Tape or Untapeable
        The reason instead of the tape if the computation mutates what it captured, branches on values, or hands
        its data around in a way that dispatch does not see.
    """
    recorder = _Recorder(inputs)
    with recorder:
        outputs = function(inputs)
    return outputs, recorder.finish(outputs)


class _Recorder(TorchDispatchMode):
    """Writes down the operations that its inputs reach."""

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.slots: Any = WeakTensorKeyDictionary()
        # Slots that share memory form a group: writing into one changes what is read from the others.
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.facts = Facts()
        self.inputs = len(inputs)
        self.steps: list[Step] = []
        self.captured: list[tuple[Tensor, int]] = []
        self.reason: str | None = None
        for tensor in inputs:
            self._new_slot(tensor)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # The wrapper that would keep a compiler out of the method imports that compiler, for a second.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [item for item in flat(args) if isinstance(item, Tensor)]
        recorded = any(tensor in self.slots for tensor in tensors)
        if any(isinstance(value, Tensor) and self._shares_recorded_storage(value) for value in kwargs.values()):
            self.reason = f"{func} takes a recorded value by keyword"
        if not recorded:
            if any(self._shares_recorded_storage(tensor) for tensor in tensors):
                self.reason = f"{func} reads a recorded value through an alias"
            return func(*args, **kwargs)

        mutated = _written(func, args)
        for tensor in mutated:
            if tensor not in self.slots:
                self._adopt_buffer(tensor)
        arguments = [self._argument(value) for value in args]
        result = func(*args, **kwargs)
        outputs = list(result) if isinstance(result, (tuple, list)) else [result]
        if torch.Tag.nondeterministic_seeded in func.tags or not all(
            isinstance(output, (Tensor, type(None))) for output in outputs
        ):
            self.reason = f"{func} draws random numbers or looks at the values of what it gets"
        results = [self._new_slot(output) if isinstance(output, Tensor) else None for output in outputs]
        step = Step(faster_equivalent(func, args, result), arguments, kwargs, results)
        step.writes = {self.facts.group[self.slots[tensor]] for tensor in mutated}
        self.steps.append(step)
        return result

    def finish(self, outputs: Sequence[Tensor | None]) -> Tape | Untapeable:
        """Drop what no output needs, note each value's last use, and return the tape."""
        for tensor, version in self.captured:
            if tensor._version != version:
                self.reason = "a captured tensor was overwritten later"
        wanted: list[int | None] = []
        for output in outputs:
            if output is not None and output not in self.slots and self._shares_recorded_storage(output):
                self.reason = "an output is an alias that was not recorded"
            wanted.append(None if output is None else self.slots.get(output))
        if self.reason is not None:
            return Untapeable(self.reason, [tensor.detach() for tensor, _ in self.captured])

        steps, found = simplified(self.steps, wanted, self.inputs, self.facts)
        constants = [value for step in steps for value in flat(step.arguments) if isinstance(value, Tensor)]
        return Tape(steps, len(self.facts.group), found, constants)

    def _new_slot(self, tensor: Tensor) -> int:
        known = self.slots.get(tensor)
        if known is not None:
            return int(known)
        slot = len(self.facts.group)
        self.slots[tensor] = slot
        group = slot
        if tensor.layout is not torch.strided:
            self.reason = "a recorded value is sparse"
        elif has_memory(tensor):
            storage = tensor.untyped_storage()
            reference, known_group = self.storages.get(storage.data_ptr(), (None, -1))
            if reference is None or reference.expired():
                self.storages[storage.data_ptr()] = (StorageWeakRef(storage), group)
            else:
                group = known_group
        self.facts.note(tensor, group)
        return slot

    def _shares_recorded_storage(self, tensor: Tensor) -> bool:
        if not has_memory(tensor):
            return False
        found = self.storages.get(tensor.untyped_storage().data_ptr())
        return found is not None and tensor.numel() > 0 and not found[0].expired()

    def _adopt_buffer(self, buffer: Tensor) -> None:
        """Make a constant that is about to be written into start from a copy of its value in every replay."""
        start = buffer.detach().clone()
        self.steps.append(Step(torch.ops.aten.clone.default, [start], {}, [self._new_slot(buffer)]))

    def _argument(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._argument(item) for item in value]
        if not isinstance(value, Tensor):
            return value
        slot = self.slots.get(value)
        if slot is not None:
            return Slot(slot)
        if self._shares_recorded_storage(value):
            self.reason = "a recorded value was read through an alias"
        # The tensor itself is watched: one detached below autograd, as here, has a version counter of its own.
        self.captured.append((value, value._version))
        # Detached: a constant must not keep the autograd graph alive.
        return value.detach()


def _written(func: Any, args: Any) -> list[Tensor]:
    if not func._schema.is_mutable:
        return []
    return [
        value
        for argument, value in zip(func._schema.arguments, args, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, Tensor)
    ]
