"""TensorParallelAutodiff: derivatives of a module that `parallelize_module` has cut, as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, _api

from specop.errors import InvalidInputError
from specop.statistics.numbers import Floats
from specop_torch.spread import SpreadAutodiff

__all__ = ["TensorParallelAutodiff"]


class TensorParallelAutodiff(SpreadAutodiff):
    """Parameters are DTensors that torch's own dispatch multiplies; each process has all of the data.

    Derivatives are taken by reverse over reverse, as torch has no forward mode of DTensors.
    """

    def prepare(self, batch: Any) -> Any:
        """Return the batch on the device; raise unless it is the same in all processes."""
        prepared = super().prepare(batch)
        told = self._told(prepared)
        other = next((number for number, one in enumerate(told) if one != told[0]), None)
        if other is not None:
            raise InvalidInputError(
                f"processes 0 and {other} of {self.group.count} have read different batches, and a tensor-parallel "
                f"model takes each batch whole in each process. Give all of them the same data, in the same order: no "
                f"DistributedSampler over this mesh, no shuffle=True."
            )
        return prepared

    def loss(self, theta: Tensor | None, batch: Any) -> Tensor:
        with _twice_differentiable():
            return super().loss(theta, batch)

    def gradient(self, theta: Tensor | None, batch: Any) -> tuple[Tensor, Tensor]:
        with _twice_differentiable():
            return super().gradient(theta, batch)

    def _product(self, theta: Tensor | None, batch: Any, matrix: Any, *, retain_graph: bool) -> Any:
        with _twice_differentiable():
            return super()._product(theta, batch, matrix, retain_graph=retain_graph)

    def importance(self, theta: Tensor | None, batch: Any) -> Floats:
        with _twice_differentiable():
            return super().importance(theta, batch)

    def sample_gradients(self, theta: Tensor | None, batch: Any) -> Callable[[int, int], DTensor]:
        """Return what gives rows for a range of samples, by a pass for each: torch maps no function of DTensors."""
        with _twice_differentiable():
            samples = self._samples(theta, batch)

        def between(start: int, stop: int) -> DTensor:
            with _twice_differentiable(), self._evaluation.running(), torch.enable_grad():
                return self.backend.stack([self._join(one) for one in samples.one_by_one(start, stop)])

        return between

    def outputs(self, theta: Tensor | None, batch: Any) -> Tensor:
        with self._evaluation.running(twice_differentiable=False), torch.no_grad():
            return self._spread(self._evaluation.outputs(self._leaves(theta, requires_grad=False), batch).reshape(-1))

    def _flat(self, outputs: Tensor | None, size: int) -> Any:
        return self._spread(super()._flat(outputs, size))

    def _like(self, vector: Any, outputs: Tensor) -> Tensor:
        return super()._like(self._gathered(vector), outputs)


@contextlib.contextmanager
def _twice_differentiable() -> Iterator[None]:
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
