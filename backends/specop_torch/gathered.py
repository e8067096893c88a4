"""Gathered: parameters that processes hold in parts, whole for as long as they are needed; twice differentiable."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable

from specop_torch.dtensors import as_dtensor
from specop_torch.exchange import Place

if TYPE_CHECKING:
    from torch.distributed.tensor._dtensor_spec import DTensorSpec

    from specop_torch.groups import Group

__all__ = ["Gathered", "LayerCall", "wholes_of"]

# Their names before torch 2.13.
_gather: Callable[..., Any] = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor
_scatter: Callable[..., Any] = getattr(distributed, "reduce_scatter_single", None) or distributed.reduce_scatter_tensor


# Entries below which parameters of a layer travel together: then a collective's latency counts, and not the copy.
_SMALL = 65_536


@dataclass(frozen=True)
class Gathered:
    """How processes hold a parameter.

    Parameters
    ----------
    group : Group
        Processes that hold the parts; all of them make each call.
    place : Place
        Which part each process holds of what is gathered: cut once, or not at all.
    copies : Group or None
        Processes that hold the same part, of other samples.
    spec : DTensorSpec or None
        How other processes, with the same samples, hold the parameter of which what is gathered is this process's part;
        None where it is the parameter.
    """

    group: Group
    place: Place
    copies: Group | None = None
    spec: DTensorSpec | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the parameter."""
        return self.place.shape if self.spec is None else tuple(self.spec.shape)

    def kept(self, part: Tensor) -> Tensor:
        """Return the parameter for as long as a graph holds it; gradients go to the parts."""
        return self.parameter(_Whole.apply(self, part))  # type: ignore[no-untyped-call]

    def parameter(self, whole: Tensor) -> Tensor:
        """Return what has been gathered as what stands in the module."""
        return whole if self.spec is None else as_dtensor(whole, self.spec)

    @property
    def is_cut(self) -> bool:
        """Whether a process holds a part only."""
        return bool(self.place.cuts) and self.group.count > 1

    @property
    def dimension(self) -> int:
        """Along which it is cut."""
        (cut,) = self.place.cuts
        return cut.dimension

    @property
    def width(self) -> int:
        """Number of rows that each process holds but the last ones, which hold fewer or none."""
        return -(-self.place.shape[self.dimension] // self.group.count)

    def rows(self, tensor: Tensor, count: int) -> Tensor:
        """Return a tensor with the dimension that is cut first, followed by zeros up to so many rows."""
        moved = tensor.movedim(self.dimension, 0)
        if len(moved) == count:
            return moved.contiguous()
        padded = moved.new_zeros(count, *moved.shape[1:])
        padded[: len(moved)] = moved
        return padded


@torch.no_grad()
def wholes_of(gathered: Sequence[Gathered], parts: Sequence[Tensor]) -> list[Tensor]:
    """Return parameters from the parts that this process holds."""
    found = list(parts)
    for places in _together(gathered, parts):
        group = gathered[places[0]].group
        own = [gathered[i].rows(parts[i], gathered[i].width) for i in places]
        sent = own[0].view(-1) if len(own) == 1 else torch.cat([one.view(-1) for one in own])
        received = sent.new_empty(group.count, len(sent))
        group._call(_gather, received.view(-1), sent)
        for i, one, columns in zip(places, own, received.split([one.numel() for one in own], dim=1), strict=True):
            dimension = gathered[i].dimension
            rows = columns.reshape(-1, *one.shape[1:])[: gathered[i].place.shape[dimension]]
            found[i] = rows.movedim(0, dimension)
    return found


@torch.no_grad()
def parts_of(gathered: Sequence[Gathered], wholes: Sequence[Tensor]) -> list[Tensor]:
    """Return this process's parts of the sums over processes of what each of them gives."""
    found = list(wholes)
    for i, one in enumerate(gathered):
        if one.group.count > 1 and not one.place.cuts:
            found[i] = one.group.sum(wholes[i].clone(memory_format=torch.contiguous_format))
    for places in _together(gathered, wholes):
        group = gathered[places[0]].group
        own = [gathered[i].rows(wholes[i], gathered[i].width * group.count) for i in places]
        columns = [one.view(group.count, -1) for one in own]
        sent = columns[0] if len(own) == 1 else torch.cat(columns, dim=1)
        received = sent.new_empty(sent.shape[1])
        group._call(_scatter, received, sent.reshape(-1))
        pieces = received.split([one.shape[1] for one in columns])
        for i, padded, piece in zip(places, own, pieces, strict=True):
            dimension = gathered[i].dimension
            count = gathered[i].place.local_shape(group.index)[dimension]
            found[i] = piece.view(-1, *padded.shape[1:])[:count].movedim(0, dimension)
    for i, one in enumerate(gathered):
        if one.copies is not None:
            found[i] = one.copies.sum(found[i].clone(memory_format=torch.contiguous_format))
    return found


def _together(gathered: Sequence[Gathered], tensors: Sequence[Tensor]) -> list[list[int]]:
    """Return which of those that are cut travel in one collective."""
    small: dict[torch.dtype, list[int]] = {}
    large: list[list[int]] = []
    for i, one in enumerate(gathered):
        if one.is_cut and math.prod(one.place.shape) < _SMALL:
            small.setdefault(tensors[i].dtype, []).append(i)
        elif one.is_cut:
            large.append([i])
    return [*small.values(), *large]


class _Whole(torch.autograd.Function):
    """A parameter from its parts. A process's gradient in the whole is its share of the sum."""

    @staticmethod
    def forward(context: Any, gathered: Gathered, part: Tensor) -> Tensor:
        context.gathered = gathered
        # Not the leaf itself where nothing has to be gathered.
        (whole,) = wholes_of([gathered], [part])
        return whole.view_as(whole)

    @staticmethod
    def backward(context: Any, slope: Tensor) -> Any:
        return None, _Part.apply(context.gathered, slope)  # type: ignore[no-untyped-call]


class _Part(torch.autograd.Function):
    """A part of the sum of what processes have of a parameter's gradient."""

    @staticmethod
    def forward(context: Any, gathered: Gathered, whole: Tensor) -> Tensor:
        context.gathered = gathered
        (part,) = parts_of([gathered], [whole])
        return part.view_as(part)

    @staticmethod
    def backward(context: Any, slope: Tensor) -> Any:
        return None, _Whole.apply(context.gathered, slope)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class LayerCall:
    """A layer as a function of tensors: what it is called with, and its parameters.

    Called, it keeps its inputs and the parts of parameters; the parameters are gathered anew, and the layer runs anew,
    in each derivative. So no more than one layer's parameters are whole at a time.

    Parameters
    ----------
    run : callable
        ``run(inputs, parameters)``: a list of tensors.
    parameters : sequence of Gathered
        How processes hold each parameter.
    inputs : int
        Number of tensors that it is called with.
    seen : callable
        ``seen(outputs, compute)``: looks at a graph that is about to be differentiated twice.
    """

    run: Callable[[Sequence[Tensor], Sequence[Tensor]], list[Tensor]]
    parameters: Sequence[Gathered]
    inputs: int
    seen: Callable[[Sequence[Tensor], Callable[[], Any]], None]

    def __call__(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the outputs for the inputs, followed by the parts of the parameters."""
        found: Sequence[Tensor] = _Run.apply(self, *tensors)  # type: ignore[no-untyped-call]
        return found

    def wholes(self, parts: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return the parameters, or what stands for them, from parts of them."""
        known = [i for i, part in enumerate(parts) if part is not None]
        whole = wholes_of([self.parameters[i] for i in known], [parts[i] for i in known])  # type: ignore[misc]
        found: list[Tensor | None] = [None] * len(parts)
        for i, one in zip(known, whole, strict=True):
            found[i] = one
        return found

    def graph(self, tensors: Sequence[Tensor], needed: Sequence[bool]) -> tuple[list[Tensor], list[Tensor]]:
        """Return leaves for inputs and whole parameters, those needed with gradients, and the outputs at them."""
        values = [*tensors[: self.inputs], *wholes_of(self.parameters, tensors[self.inputs :])]
        # Copies only of the handle: a leaf that is returned as it is must not be the user's.
        leaves = [value.detach().requires_grad_(need) for value, need in zip(values, needed, strict=True)]
        return leaves, self.run(leaves[: self.inputs], leaves[self.inputs :])

    def to_parts(self, found: Sequence[Tensor | None], needed: Sequence[bool], like: Sequence[Tensor]) -> list[Any]:
        """Return gradients in inputs as they are, and those in parameters added up over processes.

        Where nothing depends on a parameter in this process, others wait for its zeros all the same.
        """
        result: list[Any] = [*found[: self.inputs], *(None for _ in self.parameters)]
        asked = [place for place in range(self.inputs, len(result)) if needed[place]]
        wholes = [torch.zeros_like(like[i]) if (one := found[i]) is None else one for i in asked]
        for place, part in zip(asked, parts_of([self.parameters[i - self.inputs] for i in asked], wholes), strict=True):
            result[place] = part
        return result


class _Run(torch.autograd.Function):
    """The outputs of a layer."""

    @staticmethod
    def forward(context: Any, call: LayerCall, *tensors: Tensor) -> Any:
        context.call = call
        context.save_for_backward(*tensors)
        wholes = call.wholes(tensors[call.inputs :])
        outputs = call.run(tensors[: call.inputs], wholes)  # type: ignore[arg-type]
        own = {tensor.untyped_storage().data_ptr() for tensor in (*tensors, *wholes) if tensor is not None}
        outputs = [one.clone() if one.untyped_storage().data_ptr() in own else one for one in outputs]
        context.mark_non_differentiable(*(one for one in outputs if not one.is_floating_point()))
        return tuple(outputs)

    @staticmethod
    def backward(context: Any, *slopes: Tensor) -> Any:
        needed = context.needs_input_grad[1:]
        return None, *_Slope.apply(context.call, needed, len(slopes), *context.saved_tensors, *slopes)  # type: ignore[no-untyped-call]


class _Slope(torch.autograd.Function):
    """The gradients of a layer in its inputs and parameters, for those in its outputs."""

    @staticmethod
    def forward(context: Any, call: LayerCall, needed: Sequence[bool], count: int, *tensors: Tensor) -> Any:
        context.call, context.needed, context.count = call, needed, count
        context.save_for_backward(*tensors)
        context.set_materialize_grads(False)
        known, slopes = tensors[:-count], tensors[-count:]
        with torch.enable_grad():
            leaves, outputs = call.graph(known, needed)
        moving = [leaf for leaf in leaves if leaf.requires_grad]
        pairs = [(one, slope) for one, slope in zip(outputs, slopes, strict=True) if one.requires_grad]
        found = _grad([one for one, _ in pairs], moving, [slope for _, slope in pairs])
        return tuple(call.to_parts(_placed(found, leaves), needed, leaves))

    @staticmethod
    @once_differentiable
    def backward(context: Any, *along: Tensor | None) -> Any:
        call, needed, count = context.call, context.needed, context.count
        known, slopes = context.saved_tensors[:-count], context.saved_tensors[-count:]
        vectors = [*along[: call.inputs], *call.wholes(along[call.inputs :])]
        with torch.enable_grad():
            leaves, outputs = call.graph(known, needed)
            call.seen(outputs, lambda: call.run(leaves[: call.inputs], leaves[call.inputs :]))
            weights = [
                slope.detach().requires_grad_(one.requires_grad) for one, slope in zip(outputs, slopes, strict=True)
            ]
            moving = [leaf for leaf in leaves if leaf.requires_grad]
            pairs = [(one, weight) for one, weight in zip(outputs, weights, strict=True) if weight.requires_grad]
            found = _grad([one for one, _ in pairs], moving, [weight for _, weight in pairs], create_graph=True)
        bent = [
            (slope, vector)
            for slope, vector in zip(_placed(found, leaves), vectors, strict=True)
            if slope is not None and slope.requires_grad and vector is not None
        ]
        last = [*moving, *(weight for weight in weights if weight.requires_grad)]
        turned = _grad([slope for slope, _ in bent], last, [vector for _, vector in bent])
        tail = iter(turned[len(moving) :])
        parts = call.to_parts(_placed(turned[: len(moving)], leaves), needed, leaves)
        return None, None, None, *parts, *(next(tail) if weight.requires_grad else None for weight in weights)


def _grad(
    values: Sequence[Tensor], points: Sequence[Tensor], weights: Sequence[Tensor], *, create_graph: bool = False
) -> Sequence[Tensor | None]:
    if not values or not points:
        return [None] * len(points)
    return torch.autograd.grad(values, points, weights, create_graph=create_graph, allow_unused=True)


def _placed(found: Sequence[Tensor | None], leaves: Sequence[Tensor]) -> list[Tensor | None]:
    """Return gradients for all leaves, None for those that need none."""
    waiting = iter(found)
    return [next(waiting) if leaf.requires_grad else None for leaf in leaves]
