"""FullyShardedAutodiff: derivatives of a model whose parameters and data are parted over processes, layer by layer."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specop.arrays.memory import in_bytes
from specop.errors import InvalidInputError
from specop.objectives.autodiff import Linearization, Matrix
from specop.statistics.numbers import Floats, Integers
from specop_torch.arrays import torch_dtype
from specop_torch.autodiff import TorchAutodiff
from specop_torch.groups import Group
from specop_torch.loaders import check_parts
from specop_torch.sharded_modules import ShardedModule
from specop_torch.sharded_samples import SharedRows
from specop_torch.shared_batches import SharedBatches, Weightless
from specop_torch.shared_evaluation import SharedEvaluation
from specop_torch.spread import SpreadAutodiff, local
from specop_torch.structures import TREES
from specop_torch.wide import wide

__all__ = ["FullyShardedAutodiff"]


class FullyShardedAutodiff(SpreadAutodiff):
    """Each process has a part of the parameters and a part of each batch.

    A batch is what all processes read at the same time. The loss of a process counts by its share of that batch's
    terms, so that what is added up over processes is the loss, or the product, of the whole.

    Attributes
    ----------
    batches : SharedBatches
    """

    # All of a batch: processes would have to agree on a few.
    witness_samples = None  # type: ignore[assignment]
    witness_bytes = math.inf
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
        self.batches = SharedBatches(self.group.readers, weigh or TREES.count)
        self._evaluation = SharedEvaluation(model, self.devices, self.batches)

    def restrict(self, select: Any) -> FullyShardedAutodiff:
        part = super().restrict(select)
        assert isinstance(part, FullyShardedAutodiff)
        part.batches.weigh = self.batches.weigh
        return part

    # Batches
    def prepare(self, batch: Any) -> Any:
        """Return the batch on the device; raise unless those who run layers together have the same."""
        prepared = super().prepare(batch)
        readers = self.group.readers
        if readers.count < self.group.count:
            readers.refuse_different(self._told(prepared))
        return prepared

    def weighing(
        self, data: Any, weight: Callable[[Any], float] | None, are_as_given: bool
    ) -> Callable[[Any], float] | None:
        if are_as_given:
            raise InvalidInputError(
                'batches="as given" is not available where parameters are sharded: a batch is what all processes read '
                "at the same time, and counts by its terms."
            )
        super().weighing(data, weight, are_as_given)
        check_parts(data, self.group.readers.index, self.group.readers.count)
        self.batches.weigh = weight or TREES.count
        return self.batches.weight

    def count(self, batch: Any) -> int:
        """Return the number of samples in all parts of a batch."""
        return sum(self.batches.counts(batch))

    def array_shapes(self, structure: Any) -> list[tuple[int, ...]]:
        """Return the shapes of the arrays in this process's part."""
        return super().array_shapes(structure.stand_in if isinstance(structure, Weightless) else structure)

    def batch_bytes(self, batch: Any) -> int:
        """Return the memory that the arrays take in the process that has most, by which all of them decide alike."""
        return max(self.group.exchange(super().batch_bytes(batch)))

    def take(self, batch: Any, start: int, stop: int) -> Any:
        raise InvalidInputError(
            "a batch is not cut in two where parameters are sharded: the processes look at halves of their own parts."
        )

    def pick(self, batch: Any, indices: Integers) -> Any:
        """Return the samples at these places of all parts, which ascend."""
        self._check_chosen(indices)
        return self.batches.pick(batch, indices)

    def gather(self, chosen: Iterable[tuple[Any, Integers]]) -> Any:
        """Return samples at these places of several batches, those of batches of the same kind together."""
        return self.batches.gather(chosen)

    # Derivatives
    def loss(self, theta: Tensor | None, batch: Any) -> Tensor:
        with self.group.inside():
            return self.group.readers.total(self._own_loss(theta, batch))

    def gradient(self, theta: Tensor | None, batch: Any) -> tuple[Tensor, Tensor]:
        with self.group.inside():
            loss, gradient = super().gradient(theta, batch)
            return self.group.readers.total(loss), gradient

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

    def importance(self, theta: Tensor | None, batch: Any) -> Floats:
        """Return what each sample may add to curvature, those of one process after the other's."""
        count = self.batches.own_count(batch)
        with self.group.inside():
            if isinstance(batch, Weightless):
                points = self._leaves(theta, requires_grad=False)
                with self._evaluation.running(twice_differentiable=False), torch.no_grad():
                    self._evaluation.outputs(points, batch)
                self._evaluation.criterion(points, batch)
                each = np.zeros(count)
            else:
                rows = super().importance(theta, batch)
                # Rows that belong to no sample in particular say something of all of them only.
                each = rows.reshape(count, -1).sum(1) if len(rows) % count == 0 else np.full(count, rows.sum() / count)
            return np.concatenate(self.group.readers.exchange(each))

    def sample_gradients(self, theta: Any, batch: Any) -> SharedRows:
        """Return what gives rows for a range of samples; parameters are whole in each process for as long as it lives.

        With them each process differentiates its own samples alone, and the rows are dealt out.
        """
        if self.model.is_tensor_parallel:
            raise InvalidInputError(
                "gradients of single samples are not available where fully sharded layers are cut by tensor "
                "parallelism, too. Take ggn() or fisher(), which need none, or fully_shard alone."
            )
        self._check_room()
        counts, share = self.batches.counts(batch), self.batches.share(batch)
        with self.group.inside():
            model = self.model.gathered({} if theta is None else dict(zip(self.names, self._parts(theta), strict=True)))
        like = torch.empty(0, self.layout.n, dtype=torch_dtype(self.dtype), device=self.device)
        with self.group.together():
            selected = {name: model.wholes[name] for name in self.names}
            own = TorchAutodiff(model, selected, self.likelihood, None)
            rows = (
                (lambda start, stop: like.new_zeros(stop - start, self.layout.n))
                if isinstance(batch, Weightless)
                else own.sample_gradients(None, batch)
            )
        return SharedRows(self.group, rows, share, counts, like)

    def check_trained(self, theta: Tensor | None, batch: Any, changed: Callable[[], list[str]]) -> None:
        self._check_parts(batch)
        with self.group.inside():
            super().check_trained(theta, batch, changed)
            if self.model.is_tensor_parallel:
                self._refuse_different_gradients(theta, batch)
            self._check_additive(theta, batch)

    def _own_loss(self, theta: Tensor | None, batch: Any) -> Tensor:
        """Return this process's part of the loss."""
        return super().loss(theta, batch)

    def _check_parts(self, batch: Any) -> None:
        """Raise InvalidInputError if two processes have the same batch."""
        speakers, everyone = self.group.readers.first, self._told(batch)
        told = [everyone[process] for process in speakers]
        twice = next((number for number, one in enumerate(told) if one in told[:number]), None)
        if twice is not None:
            raise InvalidInputError(
                f"processes {speakers[told.index(told[twice])]} and {speakers[twice]} of {self.group.count} have the "
                f"same first batch, to the last bit. With fully sharded parameters each is to have a part of all data, "
                f"as by torch.utils.data.DistributedSampler(dataset, shuffle=False)."
            )

    def _check_additive(self, theta: Tensor | None, batch: Any) -> None:
        """Raise unless the loss of a process's batch is the mean over those of its halves, where it can be cut."""
        count = self.batches.own_count(batch)
        can_be_cut = count > 1 and not isinstance(batch, Weightless)
        parts = [batch, batch]
        if can_be_cut:
            parts = [TREES.take(batch, start, stop) for start, stop in ((0, count // 2), (count // 2, count))]
        weights = [self.batches.own_weight(one) for one in (batch, *parts)]
        told = self.group.exchange((can_be_cut, min(weights) > 0))
        if self.group.count == 1 or not any(cut for cut, _ in told) or any(cut and not weighs for cut, weighs in told):
            return
        shared = [(float(self._own_loss(theta, one)), self.batches.share(one)) for one in (batch, *parts)]
        losses = [loss / share if share else 0.0 for loss, share in shared]
        mean = float(np.dot(weights[1:], losses[1:])) / sum(weights[1:]) if can_be_cut else losses[0]
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
        if matrix.kind == "sampled fisher":
            matrix = replace(matrix, first=matrix.first + sum(self.batches.counts(batch)[: self.group.readers.index]))
        curved = matrix.kind == "hessian"
        self.model.layers.curved = curved
        product = super()._product_at(leaves, own, batch, matrix, retain_graph)

        def multiply(vectors: Sequence[Tensor]) -> Sequence[Tensor | None]:
            self.model.layers.curved = curved
            return product.multiply(vectors)

        return replace(product, multiply=multiply)

    def _output_matrix(
        self, points: dict[str, Tensor], values: list[Tensor], batch: Any, matrix: Matrix
    ) -> Callable[[Tensor], Tensor]:
        if isinstance(batch, Weightless):
            # The others wait for what it tells of its share.
            self._evaluation.criterion(points, batch)
            return torch.zeros_like
        return super()._output_matrix(points, values, batch, matrix)

    def _see_through(self, value: Tensor, own: dict[str, Tensor]) -> None:
        super()._see_through(value, own)
        self._inside = max(self._inside, self.model.layers.coarsest)

    @contextlib.contextmanager
    def _widened(self, batch: Any) -> Iterator[Any]:
        selected = {name: wide(tensor) for name, tensor in self.parameters.items()}
        made = type(self)(self.model.widened(), selected, self.likelihood, None, self.group, self.batches.weigh)
        yield made, TREES.map(wide, batch)

    def _check_room(self) -> None:
        """Raise InvalidInputError where a process has no room for all parameters, and a row as it is made and moved."""
        parameters = sum(math.prod(one.shape) * one.element_size() for one in self.model.sharded.values())
        needed, free = parameters + 3 * self.layout.n * self.dtype.itemsize, self.free_memory()
        if needed > free:
            raise InvalidInputError(
                f"gradients of single samples take all parameters and single rows whole in each process, "
                f"{in_bytes(needed)}, and {in_bytes(free)} are free in the one that has least. Take ggn() or fisher(), "
                f"which need none."
            )

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

    def _flat(self, outputs: Tensor | None, size: int) -> Any:
        own = super()._flat(outputs, size)
        if not self.group.readers.speaks:
            own = own[:0]
        sizes = self.group.exchange(len(own))
        padded = own.new_zeros(max(sizes))
        padded[: len(own)] = own
        rows = self.group.gather(padded, self.group.count * len(padded)).view(self.group.count, -1)
        return self._spread(torch.cat([row[:length] for row, length in zip(rows, sizes, strict=True)]))

    def _like(self, vector: Any, outputs: Tensor) -> Tensor:
        sizes = self.group.readers.exchange(outputs.numel())
        start = sum(sizes[: self.group.readers.index])
        return super()._like(self._gathered(vector)[start : start + outputs.numel()], outputs)
