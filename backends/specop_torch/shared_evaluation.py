"""SharedEvaluation: the forward pass on a process's part of a batch, whose loss counts by the part's share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from specop.errors import InvalidInputError
from specop_torch.evaluation import Evaluation
from specop_torch.models import Model
from specop_torch.shared_batches import SharedBatches, Weightless

__all__ = ["SharedEvaluation"]


class SharedEvaluation(Evaluation):
    """Runs a model on a part of a batch; its loss counts by that part's share.

    Parameters
    ----------
    model, devices
        The arguments of `Evaluation` of these names.
    batches : SharedBatches
        Batches that know each process's share of their terms.
    """

    def __init__(self, model: Model, devices: Sequence[torch.device], batches: SharedBatches) -> None:
        super().__init__(model, devices, None)
        self.batches = batches

    def loss(self, points: dict[str, Tensor], batch: Any) -> Tensor:
        return _whole(super().loss(points, _with_loss(batch))) * self.batches.share(batch)

    def again(self, points: dict[str, Tensor], batch: Any) -> tuple[Tensor, list[str]]:
        loss, changed = super().again(points, _with_loss(batch))
        return loss * self.batches.share(batch), changed

    def outputs(self, points: dict[str, Tensor], batch: Any) -> Tensor:
        if not isinstance(batch, Weightless):
            return _whole(super().outputs(points, batch))
        if batch.own is not None:
            return _whole(super().outputs(points, batch.own))
        # None, but with the graph that the others wait for.
        return torch.atleast_1d(super().outputs(points, batch.stand_in))[:0]

    def criterion(self, points: dict[str, Tensor], batch: Any) -> Callable[[Tensor], Tensor]:
        share = self.batches.share(batch)
        if isinstance(batch, Weightless):
            return lambda outputs: 0.0 * outputs.sum()
        compare = super().criterion(points, batch)
        return lambda outputs: compare(outputs) * share


def _with_loss(batch: Any) -> Any:
    return batch.stand_in if isinstance(batch, Weightless) else batch


def _whole(found: Tensor) -> Tensor:
    """Return what a process has found; raise InvalidInputError for a part of it."""
    if isinstance(found, DTensor):
        raise InvalidInputError(
            f"outputs or losses are DTensors, with the placements {found.placements}: each process is to have all of "
            f"them for its samples. Let the last layer that is cut return tensors, output_layouts=Replicate() and "
            f"use_local_output=True."
        )
    return found
