"""What a batch's matrix does to a vector, as linear functions on graphs that autograd keeps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from specop.errors import InvalidInputError
from specop_torch.custom_functions import check_custom_functions
from specop_torch.graph import refuse_first_order
from specop_torch.pullback import place_of, pulled_back

__all__ = [
    "Multiply",
    "double_backward",
    "jacobian",
    "output_gradient",
    "output_hessian",
    "transposed_jacobian",
]

Multiply = Callable[[Sequence[Tensor]], Sequence[Tensor | None]]
"""From tensors to tensors; a result is None where nothing depends on it."""


def double_backward(gradients: Sequence[Tensor | None], points: Sequence[Tensor], *, retain_graph: bool) -> Multiply:
    """Return v -> d/dtheta (gradient . v); a parameter that the gradient does not depend on gets None."""
    curved, moving = _moving(gradients), _moving(points)

    def multiply(vectors: Sequence[Tensor]) -> Sequence[Tensor | None]:
        parts: list[Tensor | None] = [None] * len(points)
        if curved:
            found = pulled_back(
                [gradients[i] for i in curved],
                [points[i] for i in moving],
                [vectors[i] for i in curved],
                retain_graph=retain_graph,
            )
            for i, part in zip(moving, found, strict=True):
                parts[i] = part
        return parts

    return multiply


def jacobian(outputs: Tensor, points: Sequence[Tensor]) -> tuple[Multiply, list[Tensor]]:
    """Return [v...] -> [J v], of the outputs' shape, and the tensors whose graph it goes through.

    J'w is linear in w, and its derivative in w along v is J v: two backward passes need the same derivatives of each
    operation as the Hessian does. Forward mode needs others, which torch lacks for some; nor can a tape see it.
    """
    # Zeros that take no memory.
    weights = outputs.new_zeros(()).expand(outputs.shape).requires_grad_()
    moving = _moving(points)
    pulled = pulled_back([outputs], [points[i] for i in moving], [weights], create_graph=True)
    reached = _moving(pulled)

    def multiply(vectors: Sequence[Tensor]) -> Sequence[Tensor | None]:
        if not reached:
            return [None]
        return pulled_back([pulled[i] for i in reached], [weights], [vectors[moving[i]] for i in reached])

    return multiply, [one for one in pulled if one is not None and one.requires_grad]


def transposed_jacobian(outputs: Tensor, points: Sequence[Tensor]) -> Multiply:
    """Return [u] -> [(J'u)...], the parameters' parts."""
    moving, end = _moving(points), place_of(outputs)

    def multiply(weights: Sequence[Tensor]) -> Sequence[Tensor | None]:
        parts: list[Tensor | None] = [None] * len(points)
        for i, part in zip(moving, pulled_back([end], [points[i] for i in moving], [*weights]), strict=True):
            parts[i] = part
        return parts

    return multiply


def output_hessian(criterion: Callable[[Tensor], Tensor], outputs: Tensor) -> Callable[[Tensor], Tensor]:
    """Return u -> (d^2 loss / d outputs^2) u for a criterion from outputs to loss."""
    moving, start = _start(outputs)
    loss = _loss(criterion, moving)
    refuse_first_order(loss)
    check_custom_functions(loss, functools.partial(criterion, moving), curved=True)
    del moving, outputs
    (gradient,) = torch.autograd.grad(loss, start, create_graph=True)
    if not gradient.requires_grad:
        return torch.zeros_like
    end = place_of(gradient)

    def multiply(u: Tensor) -> Tensor:
        weights = [u]
        del u
        (product,) = pulled_back([end], [start], weights)
        return torch.zeros_like(end) if product is None else product

    return multiply


def output_gradient(criterion: Callable[[Tensor], Tensor], outputs: Tensor) -> Tensor:
    """Return the gradient, in the outputs, of a criterion from outputs to loss."""
    moving, start = _start(outputs)
    loss = _loss(criterion, moving)
    # Only what its derivative needs of the outputs stays.
    del moving, outputs
    (gradient,) = torch.autograd.grad(loss, start)
    return gradient


def _start(outputs: Tensor) -> tuple[Tensor, GradientEdge]:
    """Return outputs at the beginning of a graph, and that place, which a criterion may overwrite."""
    moving = _Start.apply(torch.zeros((), requires_grad=True), outputs)  # type: ignore[no-untyped-call]
    return moving, get_gradient_edge(moving)


def _loss(criterion: Callable[[Tensor], Tensor], moving: Tensor) -> Tensor:
    loss = criterion(moving)
    if not loss.requires_grad:
        raise InvalidInputError("the criterion does not depend on the outputs: look for detach() or no_grad() in it.")
    return loss


class _Start(torch.autograd.Function):
    """Where a graph begins. A leaf would hold outputs for as long as there is a graph, whether or not it needs them."""

    @staticmethod
    def forward(context: Any, anchor: Tensor, values: Tensor) -> Tensor:
        return values.detach()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[None, None]:
        return None, None


def _moving(tensors: Sequence[Tensor | None]) -> list[int]:
    """Return the numbers of those that require grad."""
    return [i for i, tensor in enumerate(tensors) if tensor is not None and tensor.requires_grad]
