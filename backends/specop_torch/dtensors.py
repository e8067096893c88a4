"""Between DTensors and what a process holds of them, by operations that may be differentiated twice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, _api
from torch.distributed.tensor._dtensor_spec import DTensorSpec

from specop.errors import InvalidInputError

__all__ = ["as_dtensor", "as_dtensors", "local_parts", "twice_differentiable"]


def as_dtensor(part: Tensor, spec: DTensorSpec) -> DTensor:
    """Return the DTensor of which this process holds a part; its gradient is cut alike, or whole in each process."""
    return DTensor.from_local(
        part, spec.mesh, spec.placements, run_check=False, shape=spec.shape, stride=tuple(spec.stride)
    )


def as_dtensors(parts: Sequence[Tensor], specs: Sequence[DTensorSpec | None]) -> list[Tensor]:
    """Return what `local_parts` has taken apart."""
    return [part if spec is None else as_dtensor(part, spec) for part, spec in zip(parts, specs, strict=True)]


def local_parts(tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[DTensorSpec | None]]:
    """Return what this process holds of tensors, and how those that are DTensors lie; None for others."""
    parts: list[Tensor] = []
    specs: list[DTensorSpec | None] = []
    for tensor in tensors:
        if not isinstance(tensor, DTensor):
            # What is still on its way has no memory that can be looked at.
            parts.append(tensor.clone() if isinstance(tensor, AsyncCollectiveTensor) else tensor)
            specs.append(None)
            continue
        # Masked sums know the mask of one pass, and of means the gradient has another factor.
        placements = [one if _is_plain(one) else Replicate() for one in tensor.placements]
        kept = tensor if placements == list(tensor.placements) else tensor.redistribute(placements=placements)
        part = kept.to_local()
        parts.append(part.clone() if isinstance(part, AsyncCollectiveTensor) else part)
        specs.append(kept._spec)
    return parts, specs


def _is_plain(placement: Any) -> bool:
    return type(placement) in (Shard, Replicate) or (type(placement) is Partial and placement.reduce_op == "sum")


@contextlib.contextmanager
def twice_differentiable() -> Iterator[None]:
    """Let gradients flow through what makes DTensors of tensors, in their second derivatives too.

    Torch adds up the gradient of such a tensor over processes where nothing is recorded: what comes before the first
    cut layer, such as a norm before it, would have a second derivative that lacks a part, without a word.
    """
    own = _api._FromTorchTensor
    if not hasattr(_api, "_normalize_placements_for_grad"):
        raise InvalidInputError(
            f"torch {torch.__version__} makes DTensors of tensors in another way than the one whose second derivatives "
            f"are known here. Take torch 2.13 for tensor-parallel modules."
        )
    _api._FromTorchTensor = _FromTensor  # type: ignore[misc]
    try:
        yield
    finally:
        _api._FromTorchTensor = own  # type: ignore[misc]


class _FromTensor(_api._FromTorchTensor):
    """Makes a DTensor of what this process holds of it."""

    @staticmethod
    def backward(context: Any, slope: Any) -> Any:
        others = (None,) * (len(context.needs_input_grad) - 1)
        if slope is None:
            return None, *others
        placements = context.grad_placements or _api._normalize_placements_for_grad(context.forward_input_placements)
        if slope.placements != tuple(placements):
            slope = slope.redistribute(context.forward_input_device_mesh, placements)
        return slope.to_local(), *others
