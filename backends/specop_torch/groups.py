"""Group: the processes of a one-dimensional mesh, the part of a vector that each holds, and how parts meet."""

from __future__ import annotations

import os
import pickle
import socket
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta

from specop.arrays.processes import Processes
from specop.arrays.same_call import check_same_call, number_of_call
from specop.errors import ProcessError
from specop_torch.readers import Axis, Readers

__all__ = ["Group", "group_of"]

# Their names before torch 2.13.
_gather: Callable[..., Any] = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor
_scatter: Callable[..., Any] = getattr(distributed, "reduce_scatter_single", None) or distributed.reduce_scatter_tensor

_groups: WeakKeyDictionary[DeviceMesh, Group] = WeakKeyDictionary()


def group_of(mesh: DeviceMesh) -> Group:
    """Return the processes of a mesh; the first call for a mesh is to be made by all of them."""
    found = _groups.get(mesh)
    # A mesh equals one of a group that was destroyed before it was made.
    if found is None or found.handle is not mesh.get_group():
        found = _groups[mesh] = Group(mesh)
    return found


class Group(Processes):
    """Processes that hold vectors together, each the entries that `torch.chunk` gives it.

    Parameters
    ----------
    mesh : DeviceMesh
        Mesh of one dimension, of the processes that hold vectors.

    Attributes
    ----------
    sharing : int
        How many processes have the memory of this one's device, or machine, together with it.
    home : DeviceMesh
        The mesh that parameters lie on.
    holders : Group
        Processes that together hold all parts of a parameter.
    copies : Group or None
        Processes that hold the same part as this one; None where no other does.
    readers : Readers
        Processes that read different samples.

    Raises
    ------
    InvalidInputError
        If the processes' linear algebra gives different bits.
    """

    def __init__(self, mesh: DeviceMesh) -> None:
        self.mesh = self.home = mesh
        self.holders: Group = self
        self.copies: Group | None = None
        self.handle = mesh.get_group()
        self.index = distributed.get_rank(self.handle)
        self.count = distributed.get_world_size(self.handle)
        self.readers = Readers(self, self.sum, range(self.count), self.index)
        self.device = _device(mesh.device_type)
        self._specs: dict[tuple[torch.Size, torch.dtype, int], DTensorSpec] = {}
        self._inner: Any = None
        self._is_inside = self._has_left = self._is_reopened = False
        places = self.exchange(_place(self.device)) if self.count > 1 else [""]
        # Processes outside of this group may share the memory, too.
        beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if self.device.type == "cpu" else 1
        self.sharing = max(places.count(places[self.index]), beside)
        if self.count > 1:
            self.check_arithmetic()

    def axes(self, mesh: DeviceMesh) -> tuple[Axis, ...] | None:
        """Return what the dimensions of a mesh that a parameter lies on are for; None for another mesh."""
        return (Axis("parts", self.count),) if mesh == self.home else None

    # What is shared by all
    def exchange(self, value: Any) -> list[Any]:
        message = pickle.dumps(value)
        return self._told(message, self._meet(len(message)))

    def of_first(self, value: Any) -> Any:
        self._meet(0)
        found = [value]
        self._call(distributed.broadcast_object_list, found, group_src=0)
        return found[0]

    def any(self, holds: bool) -> bool:
        return any(self._meet(int(holds)))

    def _meet(self, number: int) -> list[int]:
        """Return what each process gives, and raise unless all are in the same call of the user's.

        Whatever processes tell each other begins so: those in different places meet here, and not in two collectives.
        """
        if self.count == 1:
            return [number]
        own = torch.tensor([number_of_call(), number], device=self.device)
        told = own.new_empty(self.count, 2)
        self._call(_gather, told.view(-1), own)
        calls, numbers = told.T.tolist()
        check_same_call(calls, self._told_anyway)
        return numbers

    def _told_anyway(self, value: Any) -> list[Any]:
        message = pickle.dumps(value)
        lengths = torch.empty(self.count, dtype=torch.int64, device=self.device)
        self._call(_gather, lengths, torch.tensor([len(message)], device=self.device))
        return self._told(message, lengths.tolist())

    def _told(self, message: bytes, lengths: Sequence[int]) -> list[Any]:
        own = torch.zeros(max(lengths), dtype=torch.uint8, device=self.device)
        own[: len(message)] = torch.frombuffer(bytearray(message), dtype=torch.uint8)
        found = own.new_empty(self.count, len(own))
        self._call(_gather, found.view(-1), own)
        rows = found.cpu().numpy()
        return [pickle.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]

    @contextmanager
    def together(self) -> Iterator[None]:
        # The block around it ends together.
        with nullcontext() if self._is_inside else super().together():
            yield

    @contextmanager
    def inside(self) -> Iterator[None]:
        """End a block in which the processes wait for each other: an error in one is raised in all.

        On a CPU its collectives go over connections of their own. A process that fails closes these, so that whoever
        waits there hears of it at once; why, it is told over the group's, which can be used further. Elsewhere the
        others wait for the group's timeout.
        """
        if self.count == 1 or self._is_inside:
            yield
            return
        error: BaseException | None = None
        self._open()
        try:
            yield
        except BaseException as caught:
            error = caught
            if isinstance(caught, _LeftError):
                # What its frames hold would keep the connections open on which others still wait for this process.
                for one in (caught, caught.__cause__):
                    traceback.clear_frames(None if one is None else one.__traceback__)
            self._close()
        finally:
            self._is_inside = False
        if not self.any(error is not None):
            return
        self._close()
        has_cause = error is not None and not isinstance(error, _LeftError)
        if any(self.exchange(has_cause)) and not has_cause:
            error = None
        self.raise_together(error)

    def _open(self) -> None:
        self._is_inside, self._has_left = True, False
        # Some of all processes get a group of the same name again, and with it addresses that are none any more.
        is_whole = self.count == distributed.get_world_size()
        if self._inner is not None or self.device.type != "cpu" or (self._is_reopened and not is_whole):
            return
        ranks = None if is_whole else distributed.get_process_group_ranks(self.handle)
        inner = distributed.new_group(ranks, self._timeout, "gloo", use_local_synchronization=not is_whole)
        # Who has all its connections may fail at once, and must not close them while others still make theirs.
        self.any(False)
        self._inner, self._is_reopened = inner, True

    @property
    def _timeout(self) -> Any:
        return getattr(self.handle._get_backend(self.device).options, "_timeout", None)

    def _close(self) -> None:
        if self._inner is not None:
            distributed.destroy_process_group(self._inner)
            self._inner, self._has_left = None, True

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over processes, the same bits in each; the tensor is consumed."""
        if self.count > 1:
            self._call(distributed.all_reduce, values)
        return values

    # Parts of a vector
    def width(self, n: int) -> int:
        """Return the number of entries that all processes hold but the last ones, which hold fewer or none."""
        return max(1, -(-n // self.count))

    def own(self, n: int) -> slice:
        """Return which entries this process holds."""
        width = self.width(n)
        start = min(self.index * width, n)
        return slice(start, min(start + width, n))

    def spread(self, local: Tensor, n: int, along: int = -1) -> DTensor:
        """Return the array of which this process holds a part, with n entries along the axis that is cut."""
        shape = list(local.shape)
        shape[along] = n
        axis = range(len(shape))[along]
        key = torch.Size(shape), local.dtype, axis
        spec = self._specs.get(key)
        if spec is None:
            if len(self._specs) > 1_000:
                self._specs.clear()
            strides = torch.empty(shape, dtype=local.dtype, device="meta").stride()
            spec = DTensorSpec(self.mesh, (Shard(axis),), tensor_meta=TensorMeta(key[0], strides, local.dtype))
            self._specs[key] = spec
        # DTensor.from_local, which gradients flow through, takes ten times as long.
        return DTensor(local, spec, requires_grad=False)

    def gather(self, local: Tensor, n: int) -> Tensor:
        """Return all entries, in storage of their own, of an array that is cut along its last axis."""
        width, lead = self.width(n), local.shape[:-1]
        if self.count == 1:
            return local.clone(memory_format=torch.contiguous_format)
        if local.shape[-1] < width:
            padded = local.new_zeros(*lead, width)
            padded[..., : local.shape[-1]] = local
            local = padded
        found = local.new_empty(self.count, *lead, width)
        self._call(_gather, found.view(self.count * (lead[0] if lead else width), *local.shape[1:]), local.contiguous())
        return torch.movedim(found, 0, -2).reshape(*lead, -1)[..., :n]

    def reduce(self, part: Tensor | None, factor: float, n: int, like: Tensor, failed: bool) -> tuple[Tensor, bool]:
        """Return this process's entries of the sum of all parts, and whether any process has failed.

        Each part goes with a number that tells of a failure, so that neither takes a collective of its own.

        Parameters
        ----------
        part : tensor (n,) or None
            What this process adds; None for nothing.
        factor : float
            Number that the part is multiplied by.
        n : int
            Length of the vector.
        like : tensor
            Tensor of the vector's dtype and device.
        failed : bool
            Whether this process has failed.
        """
        width, own = self.width(n), self.own(n)
        sent = like.new_zeros(self.count, width + 1)
        if part is not None:
            whole = n // width * width
            torch.mul(part[:whole].view(-1, width), factor, out=sent[: n // width, :width])
            if whole < n:
                torch.mul(part[whole:], factor, out=sent[n // width, : n - whole])
        sent[:, width] = float(failed)
        if self.count == 1:
            return sent[0, :width], failed
        received = like.new_empty(width + 1)
        self._call(_scatter, received, sent.view(-1))
        return received[: own.stop - own.start].clone(), bool(received[width] != 0)

    def deal(self, rows: Tensor | None, counts: Sequence[int], n: int, like: Tensor) -> Tensor:
        """Return this process's entries of rows that processes have whole, those of one after the other's.

        Parameters
        ----------
        rows : tensor (count, n) or None
            Rows of this process; None where it has none.
        counts : sequence of int
            Number of rows of each process.
        n : int
            Length of a row.
        like : tensor
            Tensor of the rows' dtype and device.
        """
        width, own = self.width(n), self.own(n)
        count = counts[self.index]
        padded = like.new_zeros(count, self.count * width)
        if rows is not None:
            padded[:, :n] = rows
        sent = torch.cat([part.reshape(-1) for part in padded.split(width, dim=1)])
        received = like.new_empty(sum(counts) * width)
        if self.count == 1:
            return padded[:, :n]
        sizes = [one * width for one in counts]
        self._call(distributed.all_to_all_single, received, sent, sizes, [count * width] * self.count)
        return received.view(-1, width)[:, : own.stop - own.start].clone()

    def _call(self, collective: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        if self._is_inside and self._has_left:
            raise _LeftError(f"process {self.index} of {self.count} has left the others.")
        is_own = self._is_inside and self._inner is not None
        try:
            collective(*arguments, group=self._inner if is_own else self.handle, **options)
        except RuntimeError as error:
            raise (_LeftError if is_own else ProcessError)(
                f"process {self.index} of {self.count} has lost the others in {collective.__name__}: {error}. One of "
                f"them has ended, hangs, or does something else: look at what it said last. The group cannot be used "
                f"any more."
            ) from error


class _LeftError(ProcessError):
    """Another process has closed the connections that models use, and says why over the group's."""


def _place(device: torch.device) -> str:
    """Return a name of the memory that a device has."""
    own = "" if device.type != "cuda" else f" {torch.cuda.get_device_properties(device).uuid}"
    return f"{socket.gethostname()} {device}{own}"


def _device(kind: str) -> torch.device:
    return torch.device(kind) if kind == "cpu" else torch.device(kind, torch.get_device_module(kind).current_device())
