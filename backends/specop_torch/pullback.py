"""Vectors pulled back through an autograd graph, and places in it that hold no values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["place_of", "pulled_back"]


def pulled_back(
    values: Sequence[Any],
    points: Sequence[Any],
    weights: list[Tensor],
    *,
    retain_graph: bool = True,
    create_graph: bool = False,
) -> tuple[Tensor | None, ...]:
    """Return J'w for the Jacobian J of values in points, with None where no value depends on a point.

    Parameters
    ----------
    values : sequence of Tensor
        Tensors that still have their graph.
    points : sequence of Tensor or GradientEdge
    weights : list of Tensor
        One for each value, of its shape. Taken out of the list, so that they are freed as soon as they were used.
    retain_graph, create_graph : bool
        Arguments of `torch.autograd.grad` of these names.
    """
    # Torch's own way to take weights imports a system of symbolic algebra, which is a quarter of a second in each
    # process. It compares shapes with it, and those of DTensors are more than their sizes.
    if all(type(tensor) is Tensor for tensor in (*values, *weights)):
        total: Tensor = _Weighted.apply(len(values), *values, *weights)  # type: ignore[no-untyped-call]
        weights.clear()
        return torch.autograd.grad(
            total, list(points), retain_graph=retain_graph, create_graph=create_graph, allow_unused=True
        )
    return torch.autograd.grad(list(values), list(points), list(weights), retain_graph, create_graph, allow_unused=True)


def place_of(value: Tensor) -> Tensor:
    """Return a tensor at the value's place in its graph whose entries take no memory."""
    return _Place.apply(value) if type(value) is Tensor else value  # type: ignore[no-untyped-call]


class _Weighted(torch.autograd.Function):
    """A scalar whose derivatives in some tensors are others."""

    @staticmethod
    def forward(context: Any, count: int, *tensors: Tensor) -> Tensor:
        # Not saved for backward, which tensors made in inference mode cannot be. None of them is an output.
        context.count, context.weights = count, tensors[count:]
        return tensors[0].new_zeros(())

    @staticmethod
    def backward(context: Any, one: Tensor) -> tuple[Tensor | None, ...]:
        weights, context.weights = context.weights, ()
        return None, *weights, *[None] * context.count


class _Place(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor) -> Tensor:
        return value.new_zeros(()).expand(value.shape)

    @staticmethod
    def setup_context(context: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient
