"""A straight-line program of torch operations, and how it runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Slot", "Step", "Tape", "flat"]


@dataclass(frozen=True, eq=False)
class Tape:
    """A straight-line program of aten operations from input slots to output slots."""

    steps: list[Step]
    slots: int
    outputs: list[int | None]
    constants: list[Tensor]

    def __len__(self) -> int:
        return len(self.steps)

    @torch.no_grad()
    def replay(self, inputs: Iterable[Tensor]) -> list[Tensor | None]:
        """Return the outputs for other inputs of the same shapes."""
        values: list[Any] = [None] * self.slots
        for position, tensor in enumerate(inputs):
            values[position] = tensor
        for step in self.steps:
            step.run(values)
        return [None if slot is None else values[slot] for slot in self.outputs]


class Step:
    """One operation: its arguments with holes where recorded values go."""

    __slots__ = (
        "arguments",
        "function",
        "holes",
        "keywords",
        "last_uses",
        "nested_holes",
        "results",
        "target",
        "writes",
    )

    def __init__(
        self, function: Any, arguments: list[Any], keywords: dict[str, Any], results: list[int | None]
    ) -> None:
        self.keywords = keywords
        self.results = results
        self.last_uses: list[int] = []
        self.writes: set[int] = set()
        self.target: tuple[str, int] | None = None
        self.replace(function, arguments)

    def replace(self, function: Any, arguments: list[Any]) -> None:
        """Compute by another function of other arguments."""
        self.function = function
        self.arguments = arguments
        self.holes = [(at, value.slot) for at, value in enumerate(arguments) if isinstance(value, Slot)]
        self.nested_holes = [
            (at, [(i, item.slot) for i, item in enumerate(value) if isinstance(item, Slot)])
            for at, value in enumerate(arguments)
            if isinstance(value, list) and any(isinstance(item, Slot) for item in value)
        ]

    @property
    def result(self) -> int:
        """The slot of the only result."""
        (slot,) = self.results
        assert slot is not None
        return slot

    @property
    def reads(self) -> set[int]:
        nested = (slot for _, holes in self.nested_holes for _, slot in holes)
        return {slot for _, slot in self.holes} | set(nested)

    @property
    def operands(self) -> list[Any]:
        """The arguments, with slots where values go."""
        operands = self.arguments.copy()
        for at, slot in self.holes:
            operands[at] = Slot(slot)
        for at, holes in self.nested_holes:
            items = operands[at].copy()
            for i, slot in holes:
                items[i] = Slot(slot)
            operands[at] = items
        return operands

    def rename(self, names: dict[int, int]) -> None:
        """Read other slots instead of these."""
        self.holes = [(at, names.get(slot, slot)) for at, slot in self.holes]
        self.nested_holes = [(at, [(i, names.get(slot, slot)) for i, slot in holes]) for at, holes in self.nested_holes]

    def compute_into(self, position: int, function: Any, keyword: str | None) -> None:
        """Compute by a variant that writes into one operand: its first, or the one it takes by a keyword too."""
        self.function = function
        if keyword is not None:
            self.target = keyword, dict(self.holes)[position]
        elif position != 0:
            self.arguments[0], self.arguments[position] = self.arguments[position], self.arguments[0]
            places = {0: position, position: 0}
            self.holes = [(places.get(at, at), slot) for at, slot in self.holes]

    def run(self, values: list[Any]) -> None:
        arguments = self.arguments.copy()
        for at, slot in self.holes:
            arguments[at] = values[slot]
        for at, holes in self.nested_holes:
            items = arguments[at].copy()
            for i, slot in holes:
                items[i] = values[slot]
            arguments[at] = items
        if self.target is None:
            result = self.function(*arguments, **self.keywords)
        else:
            keyword, slot = self.target
            result = self.function(*arguments, **self.keywords, **{keyword: values[slot]})
        if isinstance(result, (tuple, list)):
            for target, item in zip(self.results, result, strict=True):
                if target is not None:
                    values[target] = item
        elif self.results[0] is not None:
            values[self.results[0]] = result
        for used in self.last_uses:
            values[used] = None


class Slot:
    """A hole for the value that a step leaves in this slot."""

    __slots__ = ("slot",)

    def __init__(self, slot: int) -> None:
        self.slot = slot


def flat(values: Iterable[Any]) -> list[Any]:
    """Return the items of nested lists and tuples."""
    items: list[Any] = []
    for value in values:
        if isinstance(value, (list, tuple)):
            items.extend(flat(value))
        else:
            items.append(value)
    return items
