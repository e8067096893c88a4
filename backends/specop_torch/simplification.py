"""Programs that do the same with less: no sums with zeros, products that add, operands' memory used again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from specop_torch.program import Slot, Step

__all__ = ["Facts", "has_memory", "simplified"]

_aten = torch.ops.aten

# What computes the same into the memory of an operand, and the operands that may give theirs.
_IN_PLACE: dict[Any, tuple[Any, tuple[int, ...]]] = {
    _aten.add.Tensor: (_aten.add_.Tensor, (0, 1)),
    _aten.mul.Tensor: (_aten.mul_.Tensor, (0, 1)),
    _aten.sub.Tensor: (_aten.sub_.Tensor, (0,)),
    _aten.div.Tensor: (_aten.div_.Tensor, (0,)),
    _aten.neg.default: (_aten.neg_.default, (0,)),
    _aten.mul.Scalar: (_aten.mul_.Scalar, (0,)),
    _aten.div.Scalar: (_aten.div_.Scalar, (0,)),
    _aten.addmm.default: (_aten.addmm_.default, (0,)),
}
_BACKWARD = {
    _aten.threshold_backward.default: _aten.threshold_backward.grad_input,
    _aten.gelu_backward.default: _aten.gelu_backward.grad_input,
    _aten.silu_backward.default: _aten.silu_backward.grad_input,
    _aten.tanh_backward.default: _aten.tanh_backward.grad_input,
    _aten.sigmoid_backward.default: _aten.sigmoid_backward.grad_input,
}


@dataclass
class Facts:
    """What was seen of each slot while a program was recorded.

    Attributes
    ----------
    group : list of int
        Slots that share memory have the same number.
    layout : list of tuple
        Size, strides and dtype.
    is_whole : list of bool
        Whether the tensor covers its memory, each entry once.
    """

    group: list[int] = field(default_factory=list)
    layout: list[tuple[Any, ...]] = field(default_factory=list)
    is_whole: list[bool] = field(default_factory=list)

    def note(self, tensor: Tensor, group: int) -> None:
        """Add what is to be seen of the next slot's tensor."""
        strided = has_memory(tensor)
        self.group.append(group)
        self.layout.append((tensor.shape, tensor.stride() if strided else None, tensor.dtype))
        self.is_whole.append(
            strided
            and tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
            and bool(_aten.is_non_overlapping_and_dense.default(tensor))
        )

    def is_contiguous(self, slot: int) -> bool:
        """Whether entries lie in memory in the order of their indices."""
        size, strides, _ = self.layout[slot]
        expected = 1
        for length, stride in zip(reversed(size), reversed(strides or ()), strict=False):
            if length != 1 and stride != expected:
                return False
            expected *= length
        return strides is not None

    def join(self, group: int, other: int) -> None:
        """Let slots of one group share the memory of the other."""
        self.group = [other if found == group else found for found in self.group]


def has_memory(tensor: Tensor) -> bool:
    """Return whether a tensor has a memory of its own, which a sparse one and what torch knows to be zero have not."""
    return tensor.layout is torch.strided and not tensor._is_zerotensor()


def simplified(
    steps: Sequence[Step], outputs: Sequence[int | None], inputs: int, facts: Facts
) -> tuple[list[Step], list[int | None]]:
    """Return the steps that outputs need, in their shortest form, and the slots where outputs are found.

    Parameters
    ----------
    steps : sequence of Step
        Steps to simplify; they are changed in place.
    outputs : sequence of int or None
        Slot of each output; None for an output that is missing.
    inputs : int
        The first slots are inputs, whose memory belongs to the caller.
    facts : Facts
        What is known of each slot; it is changed in place.
    """
    written = {group for step in steps for group in step.writes}
    steps, outputs = _without_zeros(steps, outputs, inputs, written, facts)
    steps = _live(steps, outputs, facts)
    _fuse_sums(steps, _Memory(steps, outputs, inputs, written, facts))
    steps = _live(steps, outputs, facts)
    _save_memory(steps, _Memory(steps, outputs, inputs, written, facts))
    return steps, outputs


def _without_zeros(
    steps: Sequence[Step], outputs: Sequence[int | None], inputs: int, written: set[int], facts: Facts
) -> tuple[list[Step], list[int | None]]:
    """Drop sums with what is zero for every input: the gradient, in its argument, of a piecewise linear function."""
    zeros: set[int] = set()
    same: dict[int, int] = {}
    kept = []
    for step in steps:
        step.rename(same)
        if step.function is _aten.zeros_like.default and facts.group[step.result] not in written:
            zeros.add(step.result)
        equal = _summand(step, zeros, facts)
        if equal is not None and equal >= inputs and not written & {facts.group[equal], facts.group[step.result]}:
            same[step.result] = equal
            facts.join(facts.group[step.result], facts.group[equal])
        else:
            kept.append(step)
    return kept, [same.get(slot, slot) if slot is not None else None for slot in outputs]


def _summand(step: Step, zeros: set[int], facts: Facts) -> int | None:
    """Return the slot that the step's result equals, if the step adds zeros to it."""
    if not _is_sum(step):
        return None
    (_, left), (_, right) = step.holes
    for one, other in ((left, right), (right, left)):
        if other in zeros and facts.layout[one] == facts.layout[step.result]:
            return one
    return None


def _is_sum(step: Step) -> bool:
    """Whether a step adds two values, neither of them scaled."""
    return step.function is _aten.add.Tensor and not step.keywords and len(step.holes) == 2


def _live(steps: Sequence[Step], outputs: Iterable[int | None], facts: Facts) -> list[Step]:
    """Return the steps that outputs depend on, and note in each which slots nothing reads after it."""
    needed = {slot for slot in outputs if slot is not None}
    needed_groups = {facts.group[slot] for slot in needed}
    live: list[Step] = []
    for step in reversed(steps):
        if needed_groups.intersection(step.writes) or needed.intersection(step.results):
            step.last_uses = [slot for slot in step.reads if slot not in needed]
            needed |= step.reads
            needed_groups.update(facts.group[slot] for slot in step.reads)
            live.append(step)
    live.reverse()
    return live


class _Memory:
    """Which memory a step may write its result into."""

    def __init__(
        self, steps: Sequence[Step], outputs: Iterable[int | None], inputs: int, written: set[int], facts: Facts
    ) -> None:
        self.facts = facts
        self.last_read = {facts.group[slot]: at for at, step in enumerate(steps) for slot in step.reads}
        held = {facts.group[slot] for slot in outputs if slot is not None}
        self.taken = written | held | set(facts.group[:inputs])

    def is_free(self, slot: int, step: Step, at: int) -> bool:
        """Whether the step, the one at this place, is the last to read what the slot holds, and as large as that."""
        facts, group = self.facts, self.facts.group[slot]
        return (
            group not in self.taken
            and self.last_read[group] == at
            and facts.is_whole[slot]
            and facts.layout[slot] == facts.layout[step.result]
            and sum(facts.group[read] == group for read in step.reads) == 1
        )

    def give(self, slot: int, step: Step, at: int) -> None:
        """Let the step's result have the memory of the slot."""
        group, result = self.facts.group[slot], self.facts.group[step.result]
        self.last_read[group] = self.last_read.get(result, at)
        if result in self.taken:
            self.taken.add(group)
        self.facts.join(result, group)


def _fuse_sums(steps: Sequence[Step], memory: _Memory) -> None:
    """Add matrix products where they are computed, which reads and writes the sum once less.

    The step of the product itself is left to be dropped, as nothing needs it any more.
    """
    facts = memory.facts
    products = {facts.group[step.result]: (at, step) for at, step in enumerate(steps) if step.function in _ADDED}
    readers: dict[int, list[Step]] = {}
    for step in steps:
        for group in {facts.group[slot] for slot in step.reads}:
            readers.setdefault(group, []).append(step)
    changed: dict[int, int] = {}
    for at, step in enumerate(steps):
        if not _is_sum(step):
            continue
        for (_, total), (_, term) in (step.holes, step.holes[::-1]):
            source, target, result = facts.group[term], facts.group[total], facts.group[step.result]
            made, product = products.get(source, (at, step))
            if (
                product is not step
                and memory.is_free(total, step, at)
                and memory.is_free(term, step, at)
                # Views from contiguous to contiguous memory leave the order of entries as it is.
                and all(facts.is_contiguous(slot) for slot in (total, term, product.result))
                and all(_is_view(reader, source, facts) for reader in readers[source] if reader is not step)
                and all(changed.get(facts.group[slot], -1) < made for slot in product.reads)
            ):
                memory.give(total, step, at)
                step.replace(_ADDED[product.function], [Slot(total), *product.operands])
                for slot in product.reads:
                    memory.last_read[facts.group[slot]] = max(memory.last_read[facts.group[slot]], at)
                changed[target] = at
                products.pop(target, None)
                readers[target] += readers.pop(result, [])
                break


def _is_view(step: Step, group: int, facts: Facts) -> bool:
    return all(slot is not None and facts.group[slot] == group for slot in step.results)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    total.view(left.shape[0], right.shape[1]).addmm_(left, right)
    return total


def _add_products(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    total.view(left.shape[0], left.shape[1], right.shape[2]).baddbmm_(left, right)
    return total


_ADDED: dict[Any, Any] = {_aten.mm.default: _add_product, _aten.bmm.default: _add_products}


def _save_memory(steps: Sequence[Step], memory: _Memory) -> None:
    """Compute elementwise functions in place where nothing needs the operand afterwards."""
    for at, step in enumerate(steps):
        function, operands, keyword = _in_place(step.function)
        for position, slot in step.holes:
            if position in operands and memory.is_free(slot, step, at):
                memory.give(slot, step, at)
                step.compute_into(position, function, keyword)
                break


def _in_place(function: Any) -> tuple[Any, tuple[int, ...], str | None]:
    """Return the variant that writes into an operand, which these may be, and its keyword if not the first argument."""
    if function in _BACKWARD:
        return _BACKWARD[function], (0,), "grad_input"
    return *_IN_PLACE.get(function, (None, ())), None
