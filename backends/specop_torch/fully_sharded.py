"""FullyShardedAutodiff: derivatives of a model whose parameters and data are parted over processes, layer by layer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from specop.errors import InvalidInputError
from specop.objectives.autodiff import Linearization, Matrix
from specop_torch.evaluation import Evaluation
from specop_torch.groups import Group
from specop_torch.sharded_modules import ShardedModule
from specop_torch.spread import SpreadAutodiff, local
from specop_torch.structures import TREES
from specop_torch.teams import TorchTeam
from specop_torch.wide import wide

__all__ = ["FullyShardedAutodiff"]


class FullyShardedAutodiff(SpreadAutodiff):
    """Each process has a part of the parameters and a part of each batch.

    A batch is what all processes read at the same time. The loss of a process counts by its share of that batch's
    terms, so that what is added up over processes is the loss, or the product, of the whole.

    Attributes
    ----------
    weigh : callable
        ``weigh(batch)``: number of terms of this process's part.
    """

    # All of a batch: processes would have to agree on a few.
    witness_samples = None  # type: ignore[assignment]
    model: ShardedModule

    def __init__(
        self,
        model: ShardedModule,
        selected: Mapping[str, Tensor],
        likelihood: str | None,
        fixed_randomness: int | None,
        group: Group | None = None,
        weigh: Callable[[Any], float] | None = None,
    ) -> None:
        super().__init__(model, selected, likelihood, fixed_randomness, group or model.group)
        self.weigh: Callable[[Any], float] = weigh or self.trees.count
        self._evaluation = _Shared(model, self.devices, self.share)

    def restrict(self, select: Any) -> FullyShardedAutodiff:
        part = super().restrict(select)
        assert isinstance(part, FullyShardedAutodiff)
        part.weigh = self.weigh
        return part

    # Batches
    def weighing(
        self, data: Any, weight: Callable[[Any], float] | None, are_as_given: bool
    ) -> Callable[[Any], float] | None:
        if are_as_given:
            raise InvalidInputError(
                'batches="as given" is not available where parameters are sharded: a batch is what all processes read '
                "at the same time, and counts by its terms."
            )
        super().weighing(data, weight, are_as_given)
        TorchTeam(self.group).check_data(data)
        self.weigh = weight or self.trees.count
        return self.weight

    def count(self, batch: Any) -> int:
        """Return the number of samples in all parts of a batch."""
        return sum(self.group.exchange(self.trees.count(batch)))

    def weight(self, batch: Any) -> float:
        """Return the number of terms in all parts of a batch."""
        return float(sum(self.group.exchange(float(self.weigh(batch)))))

    def share(self, batch: Any) -> float:
        """Return the share of this process's part in the terms of a batch."""
        weights = self.group.exchange(float(self.weigh(batch)))
        if min(weights) <= 0:
            raise InvalidInputError(
                f"process {weights.index(min(weights))} of {self.group.count} has a batch of weight {min(weights)}, "
                f"and with sharded parameters all of them must have a loss of each batch. Spread the data otherwise."
            )
        return weights[self.group.index] / sum(weights)

    def take(self, batch: Any, start: int, stop: int) -> Any:
        raise self._uncut()

    def pick(self, batch: Any, indices: Any) -> Any:
        raise self._uncut()

    def _uncut(self) -> InvalidInputError:
        return InvalidInputError(
            "samples of a batch cannot be taken out where parameters are sharded, because all processes must have a "
            "part of each batch. Make an objective of other data."
        )

    # Derivatives
    def loss(self, theta: Tensor | None, batch: Any) -> Tensor:
        with self.group.inside():
            return self.group.sum(self._own_loss(theta, batch).clone())

    def gradient(self, theta: Tensor | None, batch: Any) -> tuple[Tensor, Tensor]:
        with self.group.inside():
            loss, gradient = super().gradient(theta, batch)
            return self.group.sum(loss.clone()), gradient

    def linearize(self, theta: Tensor | None, batch: Any, vector: Tensor, matrix: Matrix) -> Linearization:
        with self.group.inside():
            made = super().linearize(theta, batch, vector, matrix)

        def apply(other: Tensor) -> Tensor:
            with self.group.inside():
                product: Tensor = made.apply(other)
                return product

        return replace(made, apply=apply)

    def product(self, theta: Tensor | None, batch: Any, vector: Tensor, matrix: Matrix) -> Tensor:
        with self.group.inside():
            return super().product(theta, batch, vector, matrix)

    def output_gradient(self, theta: Tensor | None, batch: Any, shift: Tensor) -> Tensor:
        with self.group.inside():
            return super().output_gradient(theta, batch, shift)

    def importance(self, theta: Tensor | None, batch: Any) -> Any:
        raise InvalidInputError(
            "the importance of single samples is not available for sharded parameters. Gather the parameters into one "
            "process, or leave out what asks for it."
        )

    def check_trained(self, theta: Tensor | None, batch: Any, changed: Callable[[], list[str]]) -> None:
        self._check_parts(batch)
        with self.group.inside():
            super().check_trained(theta, batch, changed)
            self._check_additive(theta, batch)

    def _own_loss(self, theta: Tensor | None, batch: Any) -> Tensor:
        """Return this process's part of the loss."""
        return super().loss(theta, batch)

    def _check_parts(self, batch: Any) -> None:
        """Raise InvalidInputError if two processes have the same batch."""
        told = self._told(batch)
        twice = next((number for number, one in enumerate(told) if one in told[:number]), None)
        if twice is not None:
            raise InvalidInputError(
                f"processes {told.index(told[twice])} and {twice} of {self.group.count} have the same first batch, to "
                f"the last bit. With fully sharded parameters each is to have a part of all data, as by "
                f"torch.utils.data.DistributedSampler(dataset, shuffle=False)."
            )

    def _check_additive(self, theta: Tensor | None, batch: Any) -> None:
        """Raise unless the loss of a process's batch is the mean over those of its halves, where it can be cut."""
        count = self.trees.count(batch)
        if self.group.count == 1 or min(self.group.exchange(count)) < 2:
            return
        parts = [self.trees.take(batch, start, stop) for start, stop in ((0, count // 2), (count // 2, count))]
        weights = [float(self.weigh(part)) for part in (batch, *parts)]
        if min(min(one) for one in self.group.exchange(weights)) <= 0:
            return
        losses = [float(self._own_loss(theta, one)) / self.share(one) for one in (batch, *parts)]
        mean = (weights[1] * losses[1] + weights[2] * losses[2]) / (weights[1] + weights[2])
        off = abs(mean - losses[0])
        if off > max(1e-5, min(self.precision**0.5, 0.03)) * max(map(abs, losses)) + 10.0 * self.precision:
            raise InvalidInputError(
                f"the loss of a batch is {losses[0]:.6g}, and the mean over its halves {mean:.6g}, so that those of "
                f"several processes do not add up to the loss on all data. Samples are coupled, the criterion is no "
                f"mean, or it divides by something else than the number of samples: then pass "
                f"weight=lambda batch: ..., what it divides by."
            )

    def outputs(self, theta: Tensor | None, batch: Any) -> Tensor:
        with self.group.inside(), self._evaluation.running(twice_differentiable=False), torch.no_grad():
            found = self._evaluation.outputs(self._leaves(theta, requires_grad=False), batch)
            return self._flat(found, found.numel())

    def _product_at(
        self, leaves: dict[str, Tensor], own: dict[str, Tensor], batch: Any, matrix: Matrix, retain_graph: bool
    ) -> Any:
        if matrix.kind in ("empirical fisher of samples", "sampled fisher"):
            raise InvalidInputError(
                f"the {matrix.kind} is not available for sharded parameters. Take fisher() or "
                f"fisher(kind='empirical', of='terms')."
            )
        curved = matrix.kind == "hessian"
        self.model.layers.curved = curved
        product = super()._product_at(leaves, own, batch, matrix, retain_graph)

        def multiply(vectors: Sequence[Tensor]) -> Sequence[Tensor | None]:
            self.model.layers.curved = curved
            return product.multiply(vectors)

        return replace(product, multiply=multiply)

    def _see_through(self, value: Tensor, own: dict[str, Tensor]) -> None:
        super()._see_through(value, own)
        self._inside = max(self._inside, self.model.layers.coarsest)

    @contextlib.contextmanager
    def _widened(self, batch: Any) -> Iterator[Any]:
        selected = {name: wide(tensor) for name, tensor in self.parameters.items()}
        made = type(self)(self.model.widened(), selected, self.likelihood, None, self.group, self.weigh)
        yield made, TREES.map(wide, batch)

    # Vectors and parameters
    def _leaves(self, theta: Tensor | None, *, requires_grad: bool) -> dict[str, Tensor]:
        found = super()._leaves(theta, requires_grad=False)
        constant = self.model.constants
        return {
            name: local(value).detach().requires_grad_(requires_grad and name not in constant)
            for name, value in found.items()
        }

    def _operands(self, vector: Any) -> list[Tensor]:
        return self._parts(vector)

    def _split(self, vector: Any) -> list[Tensor]:
        return self._as_parameters(self._parts(vector))

    def _join(self, parts: Sequence[Tensor | None], rows: tuple[int, ...] = ()) -> Any:
        return self._joined(self._as_parts(parts))

    def _flat(self, outputs: Tensor | None, size: int) -> Any:
        own = super()._flat(outputs, size)
        sizes = self.group.exchange(len(own))
        padded = own.new_zeros(max(sizes))
        padded[: len(own)] = own
        rows = self.group.gather(padded, self.group.count * len(padded)).view(self.group.count, -1)
        return self._spread(torch.cat([row[:length] for row, length in zip(rows, sizes, strict=True)]))

    def _like(self, vector: Any, outputs: Tensor) -> Tensor:
        sizes = self.group.exchange(outputs.numel())
        start = sum(sizes[: self.group.index])
        return super()._like(self._gathered(vector)[start : start + outputs.numel()], outputs)


class _Shared(Evaluation):
    """Runs a model on a part of a batch; its loss counts by that part's share."""

    def __init__(self, model: ShardedModule, devices: Sequence[torch.device], share: Callable[[Any], float]) -> None:
        super().__init__(model, devices, None)
        self.share = share

    def loss(self, points: dict[str, Tensor], batch: Any) -> Tensor:
        return super().loss(points, batch) * self.share(batch)

    def again(self, points: dict[str, Tensor], batch: Any) -> tuple[Tensor, list[str]]:
        loss, changed = super().again(points, batch)
        return loss * self.share(batch), changed

    def criterion(self, points: dict[str, Tensor], batch: Any) -> Callable[[Tensor], Tensor]:
        share, compare = self.share(batch), super().criterion(points, batch)
        return lambda outputs: compare(outputs) * share
