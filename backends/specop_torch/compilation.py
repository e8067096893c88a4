"""Tapes compiled by torch's compiler: elementwise functions that follow each other become one kernel."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from specop.errors import InvalidInputError
from specop_torch.program import Slot, Step, Tape
from specop_torch.simplification import has_memory
from specop_torch.structures import normal
from specop_torch.tape import Untapeable

__all__ = ["Program", "compiled", "program_of"]


def compiled(
    tape: Tape | Untapeable, inputs: Sequence[Tensor]
) -> Callable[[Sequence[Tensor]], Sequence[Tensor | None]]:
    """Return what replays a tape as one compiled function; the first call compiles.

    Tapes of the same operations on tensors of the same layouts share the function: those of other batches, and of
    other points.

    Parameters
    ----------
    tape : Tape or Untapeable
        The latter raises.
    inputs : sequence of Tensor
        Like those that it will be replayed for.
    """
    if isinstance(tape, Untapeable):
        raise InvalidInputError(
            f"compile=True, but these products cannot be recorded: {tape.reason}. Leave compile=True out: torch's "
            f"autograd then multiplies each vector anew."
        )
    if any(constant.layout is not torch.strided for step in tape.steps for constant in _tensors(step)):
        raise InvalidInputError(
            "compile=True, but these products multiply by a sparse tensor, which torch's compiler does not take. Leave "
            "compile=True out, or make it dense."
        )
    program, constants = program_of(tape, inputs)

    def replay(inputs: Sequence[Tensor]) -> Sequence[Tensor | None]:
        with torch.inference_mode(False), torch.no_grad():
            return _run(_function(program), [*map(normal, inputs), *constants])

    return replay


@dataclass(frozen=True)
class Program:
    """A tape's operations as a function of its inputs and constants.

    Attributes
    ----------
    text : str
        Its source, and the layouts of what it is given: all that compiled code depends on.
    on_cuda : bool
    graph : Graph
    """

    text: str
    on_cuda: bool = field(compare=False)
    graph: Graph = field(compare=False)

    def function(self) -> Callable[..., Sequence[Tensor | None]]:
        """Return it as Python runs it."""
        return GraphModule(torch.nn.Module(), self.graph)


def program_of(tape: Tape, inputs: Sequence[Tensor]) -> tuple[Program, list[Tensor]]:
    """Return the program of a tape, and the constants that it takes after inputs like these."""
    graph = Graph()
    constants = {_place(value): _plain(value) for step in tape.steps for value in _tensors(step)}
    given = [*inputs, *constants.values()]
    places = [graph.placeholder(f"given_{number}") for number in range(len(given))]
    values: dict[int, Any] = dict(enumerate(places[: len(inputs)]))
    named = dict(zip(constants, places[len(inputs) :], strict=True))
    for step in tape.steps:
        _add(graph, step, values, named)
    graph.output(tuple(None if slot is None else values[slot] for slot in tape.outputs))
    layouts = [(tuple(one.shape), one.stride(), one.dtype, str(one.device)) for one in given]
    text = f"{graph.python_code('self').src}\n{layouts}"
    return Program(text, any(one.is_cuda for one in given), graph), list(constants.values())


def _tensors(step: Step) -> list[Tensor]:
    found: list[Tensor] = []
    torch.fx.node.map_aggregate(
        (step.arguments, step.keywords), lambda one: found.append(one) if isinstance(one, Tensor) else None
    )
    return found


def _place(constant: Tensor) -> tuple[Any, ...]:
    """Return the memory that a constant is read from; several detached tensors may share it."""
    if not has_memory(constant):
        return (id(constant),)
    storage = constant.untyped_storage()
    entries = tuple(constant.shape), constant.stride(), constant.storage_offset(), constant.dtype, constant.is_neg()
    return storage._cdata, constant.is_conj(), *entries


def _plain(constant: Tensor) -> Tensor:
    return normal(constant.detach()).resolve_conj().resolve_neg()


def _add(graph: Graph, step: Step, values: dict[int, Any], named: dict[tuple[Any, ...], Node]) -> None:
    """Write a step down as a node of the graph, and its results' nodes at their slots."""

    def node_of(value: Any) -> Any:
        if isinstance(value, Slot):
            return values[value.slot]
        return named[_place(value)] if isinstance(value, Tensor) else value

    keywords = dict(step.keywords)
    if step.target is not None:
        keyword, target = step.target
        keywords[keyword] = Slot(target)
    arguments = torch.fx.node.map_aggregate((tuple(step.operands), keywords), node_of)
    made = graph.call_function(step.function, *arguments)
    for number, slot in enumerate(step.results):
        if slot is not None:
            values[slot] = graph.call_function(operator.getitem, (made, number)) if _is_listed(step) else made


def _is_listed(step: Step) -> bool:
    """Whether a step's function returns a list or a tuple, be it of one tensor."""
    schema = getattr(step.function, "_schema", None)
    return schema is not None and (len(schema.returns) != 1 or isinstance(schema.returns[0].type, torch.ListType))


@functools.lru_cache(maxsize=64)
def _function(program: Program) -> Callable[..., Sequence[Tensor | None]]:
    # CUDA graphs: hundreds of small kernels take less time than their launches.
    mode = "reduce-overhead" if program.on_cuda else None
    found: Callable[..., Sequence[Tensor | None]] = torch.compile(
        program.function(), fullgraph=True, dynamic=False, mode=mode
    )
    return found


def _run(function: Callable[..., Sequence[Tensor | None]], given: Sequence[Tensor]) -> Sequence[Tensor | None]:
    try:
        return function(*given)
    except torch._dynamo.exc.TorchDynamoException as error:
        why = " ".join(str(error).partition("Set TORCHDYNAMO_VERBOSE")[0].split())[:300]
        raise InvalidInputError(
            f"compile=True, but torch's compiler stops at these products ({why}). On a CPU it needs a C++ compiler "
            f"(g++, or the one that CXX names): install it, or leave compile=True out."
        ) from error
