"""TensorParallelAutodiff: derivatives of a module that `parallelize_module` has cut, as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from specop.errors import InvalidInputError
from specop.statistics.numbers import Floats
from specop_torch.dtensors import twice_differentiable
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
        with twice_differentiable():
            return super().loss(theta, batch)

    def gradient(self, theta: Tensor | None, batch: Any) -> tuple[Tensor, Tensor]:
        with twice_differentiable():
            return super().gradient(theta, batch)

    def check_trained(self, theta: Tensor | None, batch: Any, changed: Callable[[], list[str]]) -> None:
        super().check_trained(theta, batch, changed)
        with twice_differentiable():
            self._refuse_different_gradients(theta, batch)

    def _product(self, theta: Tensor | None, batch: Any, matrix: Any, *, retain_graph: bool) -> Any:
        with twice_differentiable():
            return super()._product(theta, batch, matrix, retain_graph=retain_graph)

    def importance(self, theta: Tensor | None, batch: Any) -> Floats:
        with twice_differentiable():
            return super().importance(theta, batch)

    def sample_gradients(self, theta: Tensor | None, batch: Any) -> Callable[[int, int], DTensor]:
        """Return what gives rows for a range of samples, by a pass for each: torch maps no function of DTensors."""
        with twice_differentiable():
            samples = self._samples(theta, batch)

        def between(start: int, stop: int) -> DTensor:
            with twice_differentiable(), self._evaluation.running(), torch.enable_grad():
                return self.backend.stack([self._join(one) for one in samples.one_by_one(start, stop)])

        return between

    def outputs(self, theta: Tensor | None, batch: Any) -> Tensor:
        with self._evaluation.running(twice_differentiable=False), torch.no_grad():
            return self._spread(self._evaluation.outputs(self._leaves(theta, requires_grad=False), batch).reshape(-1))

    def _flat(self, outputs: Tensor | None, size: int) -> Any:
        return self._spread(super()._flat(outputs, size))

    def _like(self, vector: Any, outputs: Tensor) -> Tensor:
        return super()._like(self._gathered(vector), outputs)
