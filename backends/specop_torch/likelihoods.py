"""What the core's likelihoods take from torch: its array functions, and the losses that it brings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from specop.objectives.keras_models import likelihood_of as of_keras
from specop.objectives.likelihoods import ArrayFunctions

__all__ = ["FUNCTIONS", "likelihood_of"]

_LOSSES: dict[Any, str] = {
    nn.CrossEntropyLoss: "categorical",
    functional.cross_entropy: "categorical",
    nn.BCEWithLogitsLoss: "bernoulli",
    functional.binary_cross_entropy_with_logits: "bernoulli",
    nn.MSELoss: "gaussian",
    functional.mse_loss: "gaussian",
}


def likelihood_of(criterion: Any) -> str | None:
    """Return the likelihood of one of torch's own losses, or of Keras'."""
    own = (name for loss, name in _LOSSES.items() if criterion is loss or type(criterion) is loss)
    return next(own, None) or of_keras(criterion)


def _sum(x: Tensor, axis: int | tuple[int, ...]) -> Tensor:
    # Of no axis at all torch makes all of them.
    return x if axis == () else x.sum(axis, keepdim=True)


def _steps(like: Tensor) -> Tensor:
    return torch.arange(1, like.numel() + 1, device=like.device, dtype=torch.float32).reshape(like.shape)


def _one_hot(labels: Tensor, like: Tensor, axis: int) -> Tensor:
    places = labels.clamp(max=like.shape[axis] - 1).long()
    shape = torch.broadcast_shapes(labels.shape, like.shape)
    return torch.zeros(shape, dtype=like.dtype, device=like.device).scatter_(axis, places, 1.0)


FUNCTIONS = ArrayFunctions(
    multiply=torch.mul,
    subtract=torch.sub,
    divide=torch.div,
    less=torch.lt,
    sin=torch.sin,
    sqrt=torch.sqrt,
    sigmoid=torch.sigmoid,
    softmax=torch.softmax,
    cumsum=torch.cumsum,
    sum=_sum,
    mean=lambda x: x.mean(0),
    norm=torch.linalg.vector_norm,
    least=torch.amin,
    zeros=torch.zeros_like,
    steps=_steps,
    one_hot=_one_hot,
    rows=lambda x, like: x.reshape(-1, *like.shape),
    cast=lambda x, like: x.to(like.dtype),
    wide=lambda x: x.to(torch.promote_types(x.dtype, torch.float32)),
)
