"""SpreadAutodiff: derivatives of a model whose parameters lie in parts on several processes, which run it together."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from specop.errors import InvalidInputError
from specop.objectives.autodiff import Linearization, Matrix
from specop.objectives.parameters import checked_shapes
from specop.objectives.source import as_batches
from specop.statistics.numbers import Integers
from specop_torch.arrays import torch_dtype
from specop_torch.autodiff import TorchAutodiff
from specop_torch.checksums import checksums
from specop_torch.exchange import Exchange, Place
from specop_torch.graph import graph_bytes
from specop_torch.groups import Group, group_of
from specop_torch.models import Model
from specop_torch.places import first_holder, place_of
from specop_torch.same_gradients import refuse_different_gradients
from specop_torch.sharded import ShardedBackend, sharded, sharded_layout
from specop_torch.structures import TREES

__all__ = ["SpreadAutodiff", "local"]


def local(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor, in the same memory."""
    found: Tensor = tensor.detach().to_local() if isinstance(tensor, DTensor) else tensor  # type: ignore[attr-defined]
    return found


class SpreadAutodiff(TorchAutodiff):
    """What `TorchAutodiff` does, for vectors and parameters that a group of processes holds in parts.

    All processes make each call together, and what they decide by, memory and fingerprints, is exchanged first.
    Products are not recorded: a tape does not see what collectives do, and would hold gathered parameters.

    Parameters
    ----------
    model : Model
    selected : mapping from names to Tensor
        DTensors, and tensors that each process holds whole.
    likelihood, fixed_randomness
        The arguments of `TorchAutodiff` of these names.
    group : Group
    """

    backend: ShardedBackend = sharded  # type: ignore[assignment]

    def __init__(
        self,
        model: Model,
        selected: Mapping[str, Tensor],
        likelihood: str | None,
        fixed_randomness: int | None,
        group: Group | None = None,
    ) -> None:
        self.group = group or group_of(_mesh_of(selected.values()))
        if fixed_randomness is not None:
            raise InvalidInputError(
                "fixed_randomness= is not available for sharded parameters: processes would draw different masks, and "
                "layers that run again other ones. Call model.eval()."
            )
        super().__init__(model, selected, likelihood, None)
        self.sharing = self.group.sharing
        self.layout = sharded_layout(self.layout, self.group)
        self.places = {name: place_of(name, one, self.group) for name, one in self.parameters.items()}
        self._exchange = Exchange(self.group, list(self.places.values()))

    def restrict(self, select: Any) -> SpreadAutodiff:
        chosen = self.model.select(select, among=self.parameters)
        part = type(self)(self.model, chosen, self.likelihood, None, self.group)
        part.accepts_stopped_gradients = self.accepts_stopped_gradients
        return part

    # Data
    def weighing(
        self, data: Any, weight: Callable[[Any], float] | None, are_as_given: bool
    ) -> Callable[[Any], float] | None:
        """Return what counts the terms of a batch in all processes; raise unless all of them have as many batches.

        Parameters
        ----------
        data : batch or re-iterable of batches
            The data as the user gave them.
        weight : callable or None
            Counts those of this process's batch; None for its samples.
        are_as_given : bool
            Whether batches count as they are given.
        """
        told = self.group.exchange((_length(data), isinstance(as_batches(data), (list, tuple))))
        counts = [count for count, _ in told]
        if len(set(told)) > len(set(counts)):
            raise InvalidInputError(
                "some processes have lists of batches and others loaders: where parameters are sharded they keep what "
                "they have read alike. Pass lists in all, or loaders in all."
            )
        if len(set(counts)) > 1:
            raise InvalidInputError(
                f"the processes have {' and '.join(map(str, counts))} batches: where parameters are sharded all of "
                f"them must have as many, because each needs the others for its own. Batches may be of different size: "
                f"spread the samples otherwise, or split a batch."
            )
        return weight

    def pick(self, batch: Any, indices: Integers) -> Any:
        """Return the batch's samples at these places; raise InvalidInputError unless they are the same in all."""
        self._check_chosen(indices)
        return super().pick(batch, indices)

    def _check_chosen(self, indices: Integers) -> None:
        told = self.group.exchange(zlib.crc32(np.ascontiguousarray(indices, dtype=np.int64).tobytes()))
        other = next((number for number, one in enumerate(told) if one != told[0]), None)
        if other is not None:
            raise InvalidInputError(
                f"processes 0 and {other} of {self.group.count} have chosen different samples: all of them pass the "
                f"same indices. Seed what draws them."
            )

    # What processes decide by
    def _told(self, batch: Any) -> list[tuple[int, ...]]:
        """Return checksums of what each process has for a batch."""
        # Of copies: a look at a tensor by way of NumPy makes it one that others may write into.
        return self.group.exchange(checksums(one.detach().clone() for one in TREES.arrays(batch)))

    def fingerprint(self, *, fixed: bool = False) -> tuple[Any, ...]:
        """Return what `TorchAutodiff.fingerprint` does, of all processes; raise unless they have the same model."""
        replaced = set(self.names) if fixed else set()
        state = dict(self.model.named_state())
        whole = {name: checksums([local(one)]) for name, one in state.items() if not _is_part(one)}
        parts = self._parts_told({name: one for name, one in state.items() if _is_part(one) and name not in replaced})
        shared = (self.names, self.model.modes(), self._autocast(), whole)
        told = self.group.exchange((shared, parts))
        self._check_alike([one for one, _ in told])
        self._check_copies([one for _, one in told])
        names, modes, autocast, _ = shared
        kept = tuple(found for name, found in whole.items() if name not in replaced)
        return names, modes, autocast, kept, tuple(tuple(one.items()) for _, one in told)

    def _check_alike(self, told: Sequence[Any]) -> None:
        other = next((number for number, one in enumerate(told) if one != told[0]), None)
        if other is None:
            return
        (*first, known), (*second, found) = told[0], told[other]
        differ = [name for name in known if found.get(name) != known[name]]
        what = (
            "modes of their layers, in autocast or in what is selected"
            if first != second or not differ
            else f"{len(differ)} buffers or parameters that each has whole, such as {differ[0]!r}"
        )
        raise InvalidInputError(
            f"the models of processes 0 and {other} of {self.group.count} differ in {what}: their curvature would be "
            f"that of no model. Send those of one process to all, such as by torch.distributed.broadcast(tensor, 0)."
        )

    def _parts_told(self, parts: Mapping[str, Any]) -> dict[tuple[str, ...], tuple[int, tuple[int, ...]]]:
        """Return the first process that holds the same parts, and checksums, of each kind of parameters."""
        kinds: dict[tuple[tuple[str, ...], int], list[Tensor]] = {}
        for one in parts.values():
            kinds.setdefault(first_holder(one, self.group), []).append(local(one))
        return {kind: (first, checksums(found)) for (kind, first), found in kinds.items()}

    def _check_copies(self, told: Sequence[Mapping[tuple[str, ...], tuple[int, tuple[int, ...]]]]) -> None:
        for number, parts in enumerate(told):
            for kind, (first, found) in parts.items():
                if found != told[first][kind][1]:
                    raise InvalidInputError(
                        f"processes {first} and {number} of {self.group.count} hold the same parts of the parameters, "
                        f"and these differ: their curvature would be that of no model. Send those of one to the other."
                    )

    def free_memory(self) -> int:
        """Return the bytes that are free for the process that has least."""
        return min(self.group.exchange(super().free_memory()))

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether smaller batches may help: processes would have to agree on them, which is not built."""
        return False

    # Derivatives
    def linearize(self, theta: Tensor | None, batch: Any, vector: Tensor, matrix: Matrix) -> Linearization:
        with self._evaluation.running(), torch.enable_grad():
            product = self._product(theta, batch, matrix, retain_graph=True)
            first = product(vector)
            held = graph_bytes(product.graph, self._state())

        def apply(other: Tensor) -> Tensor:
            # Layers may run again in it.
            with self._evaluation.running(), torch.enable_grad():
                return product(other)

        return Linearization(first, apply, max(self.group.exchange(held)))

    def _refuse_different_gradients(self, theta: Tensor | None, batch: Any) -> None:
        """Raise InvalidInputError unless those who run tensor-parallel layers together find the same gradient."""
        with self._evaluation.running(twice_differentiable=False), torch.enable_grad():
            points = self._leaves(theta, requires_grad=True)
            _, found = self._differentiate(points, self.current(), batch, create_graph=False)
        self._compare_gradients(found)

    def _compare_gradients(self, found: Sequence[Tensor | None]) -> None:
        parts = dict(zip(self.names, self._as_parts(found), strict=True))
        first = [place.first(self.group.index) for place in self.places.values()]
        refuse_different_gradients(self.group, parts, first, self.precision)

    # Vectors and parameters
    def flatten(self, tree: Any) -> DTensor:
        """Return a structure of DTensors, or of tensors that each process has whole, as a vector."""
        found = self.model.arrays_of(tree, self.names)
        checked = checked_shapes(found, dict(zip(self.names, self.shapes, strict=True)), self.trees.shape)
        triples = zip(checked, self.parameters.values(), self.places.values(), strict=True)
        return self._join([self._part_of(one, like, place) for one, like, place in triples])

    def _parts(self, vector: DTensor) -> list[Tensor]:
        """Return this process's parts of the parameters, in their dtypes."""
        found = self._exchange.parts(local(vector))
        return [part.to(one.dtype) for part, one in zip(found, self.parameters.values(), strict=True)]

    def _split(self, vector: Any) -> list[Tensor]:
        return [
            DTensor.from_local(
                part, one.device_mesh, one.placements, run_check=False, shape=one.shape, stride=one.stride()
            )
            if isinstance(one, DTensor)
            else part
            for part, one in zip(self._parts(vector), self.parameters.values(), strict=True)
        ]

    def _join(self, parts: Sequence[Tensor | None], rows: tuple[int, ...] = ()) -> Any:
        dtype, me = torch_dtype(self.dtype), self.group.index
        whole = [
            torch.zeros(place.local_shape(me), dtype=dtype, device=self.device)
            if part is None
            else part.detach().to(dtype)
            for part, place in zip(self._as_parts(parts), self.places.values(), strict=True)
        ]
        return self.group.spread(self._exchange.joined(whole), self.layout.n)

    def _as_parts(self, found: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return what this process holds of tensors like the parameters, cut as these are."""
        return [
            local(one.detach().redistribute(placements=like.placements))  # type: ignore[attr-defined]
            if isinstance(one, DTensor) and isinstance(like, DTensor)
            else one
            for one, like in zip(found, self.parameters.values(), strict=True)
        ]

    def _part_of(self, found: Tensor, like: Tensor, place: Place) -> Tensor:
        """Return what this process holds of a tensor like a parameter, however that is cut."""
        found = found.detach()
        if isinstance(found, DTensor):
            if isinstance(like, DTensor) and found.device_mesh == like.device_mesh:
                return local(found.redistribute(placements=like.placements))
            found = found.full_tensor()
        return found[tuple(place.box(self.group.index))]

    def _spread(self, whole: Tensor) -> DTensor:
        """Return a vector that each process has whole."""
        own = self.group.own(len(whole))
        return self.group.spread(whole.detach()[own].to(torch_dtype(self.dtype), copy=True), len(whole))

    def _gathered(self, vector: DTensor) -> Tensor:
        return self.group.gather(local(vector), len(vector))


def _is_part(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor) and not all(one.is_replicate() for one in tensor.placements)


def _length(data: Any) -> int:
    batches = as_batches(data)
    if not hasattr(batches, "__len__"):
        raise InvalidInputError(
            f"a {type(data).__name__} does not say how many batches it holds, and where parameters are sharded all "
            f"processes must have as many. Pass a list of batches, or a loader that has a length."
        )
    return len(batches)  # type: ignore[arg-type]


def _mesh_of(tensors: Any) -> DeviceMesh:
    return next(one.device_mesh for one in tensors if isinstance(one, DTensor))
