"""What each sample of a batch adds to the gradient."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap

from specop.objectives.refusals import check_samples_first, dependent_samples
from specop_torch.memory import is_out_of_memory
from specop_torch.models import Model
from specop_torch.structures import TREES

__all__ = ["SampleGradients", "check_samples"]


@dataclass(frozen=True)
class SampleGradients:
    """Gradients by sample: with outputs z and r = d loss / d z, sample i has d(z_i . r_i) / d theta.

    They add up to the gradient of the batch's loss whatever the criterion averages over.

    Parameters
    ----------
    model : Model
    points : dict
        Values of the selected parameters; those that require grad are differentiated.
    batch : structure
    outputs, weights : Tensor
        Outputs z and what they are weighted with, r; their first axis is that of the samples.
    precision : float
        Relative rounding error of outputs.
    """

    model: Model
    points: dict[str, Tensor]
    batch: Any
    outputs: Tensor
    weights: Tensor
    precision: float

    def __call__(self, start: int, stop: int) -> list[Tensor | None]:
        """Return the gradients of the samples from `start` to `stop`, (stop - start, *shape) for each parameter."""
        try:
            found, outputs = self._mapped(start, stop)
        except (RuntimeError, NotImplementedError) as error:
            if is_out_of_memory(error):
                raise
            # Not every model can be mapped (its flow may depend on values): what is wrong with it in itself, the
            # loop will say.
            found, outputs = self._looped(start, stop)
        except ValueError as error:
            # What torch raises where statistics are taken of a single sample.
            raise dependent_samples(start, stop) from error
        self._check(outputs, start, stop)
        return [found.get(name) for name in self.points]

    def one_by_one(self, start: int, stop: int) -> list[list[Tensor | None]]:
        """Return the same sample after sample, each without a leading dimension, from a pass of its own."""
        rows, outputs = self._passes(start, stop)
        self._check(outputs, start, stop)
        return [[row.get(name) for name in self.points] for row in rows]

    def _check(self, outputs: Tensor, start: int, stop: int) -> None:
        expected = self.outputs[start:stop]
        if outputs.shape != expected.shape or bool((outputs - expected).norm() > self.precision**0.5 * expected.norm()):
            raise dependent_samples(start, stop)

    def _mapped(self, start: int, stop: int) -> tuple[dict[str, Tensor], Tensor]:
        def weighted(moving: dict[str, Tensor], sample: list[Tensor], weight: Tensor) -> tuple[Tensor, Tensor]:
            return self._weighted(moving, [part.unsqueeze(0) for part in sample], weight)

        gradients, outputs = vmap(grad(weighted, has_aux=True), in_dims=(None, 0, 0))(
            self._moving(), self._slices(start, stop), self.weights[start:stop]
        )
        return gradients, outputs.squeeze(1)

    def _looped(self, start: int, stop: int) -> tuple[dict[str, Tensor], Tensor]:
        rows, outputs = self._passes(start, stop)
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}, outputs

    def _passes(self, start: int, stop: int) -> tuple[list[dict[str, Tensor]], Tensor]:
        rows: list[dict[str, Tensor]] = []
        outputs: list[Tensor] = []
        moving = {name: point.detach().requires_grad_() for name, point in self._moving().items()}
        for i in range(start, stop):
            value, output = self._weighted(moving, self._slices(i, i + 1), self.weights[i])
            found = self.model.holding(self.points | moving, functools.partial(self._gradient, value, moving))
            rows.append(dict(zip(moving, found, strict=True)))
            outputs.append(output.detach())
        return rows, torch.cat(outputs)

    def _weighted(self, moving: dict[str, Tensor], sample: Sequence[Tensor], weight: Tensor) -> tuple[Tensor, Tensor]:
        _, rebuild = TREES.samples(self.batch)
        outputs = self.model.outputs(self.points | moving, rebuild(sample))
        return (outputs * weight).sum(), outputs

    def _gradient(self, value: Tensor, moving: dict[str, Tensor]) -> Sequence[Tensor]:
        return torch.autograd.grad(value, list(moving.values()), materialize_grads=True)

    def _moving(self) -> dict[str, Tensor]:
        return {name: point for name, point in self.points.items() if point.requires_grad}

    def _slices(self, start: int, stop: int) -> list[Tensor]:
        tensors, _ = TREES.samples(self.batch)
        return [TREES.between(tensor, start, stop) for tensor in tensors]


def check_samples(model: Model, outputs: Tensor, count: int) -> None:
    """Raise InvalidInputError unless the outputs' leading dimension is that of the batch, sample by sample."""
    model.refuse_coupled_samples()
    check_samples_first(outputs.shape, count)
