"""Group: the processes of jax.distributed whose devices a mesh has, and what they tell each other."""

from __future__ import annotations

import functools
import pickle
import socket
import struct
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from specop.arrays.processes import ALONE, Processes
from specop.arrays.same_call import check_same_call, number_of_call
from specop.errors import InvalidInputError, ProcessError
from specop_jax.memory import free_memory
from specop_jax.watch import Watch, limit_of_user

__all__ = ["Group", "free_on", "keeping_others", "numbers_on", "processes_on", "put", "refuse_own", "waiting_on"]

# Bytes of a first message, of which the first tell the length and the call; what is longer takes a second one.
_SHORT, _HEAD = 512, 12


@functools.cache
def numbers_on(mesh: Mesh) -> tuple[int, ...]:
    """Return which processes have devices of a mesh, as JAX numbers them."""
    return tuple(sorted({device.process_index for device in mesh.devices.flat}))


@functools.cache
def processes_on(mesh: Mesh) -> Processes:
    """Return the processes that have devices of a mesh; the first call for a mesh is to be made by all of them."""
    if len(numbers_on(mesh)) == 1:
        return ALONE
    group = Group(mesh)
    assert group.watch is not None
    _WATCHES[mesh] = group.watch
    return group


_WATCHES: dict[Mesh, Watch] = {}


class Group(Processes):
    """Processes that hold arrays on a mesh together.

    Parameters
    ----------
    mesh : Mesh

    Attributes
    ----------
    neighbours : int
        How many of them run on this machine.
    watch : Watch
        Ends them where one lets the others wait for too long.

    Raises
    ------
    InvalidInputError
        If this process has no device of the mesh, or the processes' linear algebra gives different bits.
    """

    watch: Watch | None = None

    def __init__(self, mesh: Mesh) -> None:
        numbers = numbers_on(mesh)
        if jax.process_index() not in numbers:
            raise InvalidInputError(
                f"process {jax.process_index()} has no device of the mesh {mesh}, whose devices belong to the "
                f"processes {', '.join(map(str, numbers))}. Only these make calls with arrays on it."
            )
        self.index = numbers.index(jax.process_index())
        self.count = len(numbers)
        devices = [next(one for one in mesh.devices.flat if one.process_index == number) for number in numbers]
        self._mesh = Mesh(np.array(devices), ("process",))
        self._cut = NamedSharding(self._mesh, PartitionSpec("process"))
        self._gather = jax.jit(lambda rows: rows, out_shardings=NamedSharding(self._mesh, PartitionSpec()))
        self.check_arithmetic()
        with self.together():
            limit = limit_of_user()
        told = self.exchange((socket.gethostname(), limit))
        hosts = [host for host, _ in told]
        self.neighbours = hosts.count(hosts[self.index])
        kinds = [device.id for device in mesh.devices.flat], mesh.devices.shape, mesh.axis_names, mesh.axis_types
        # The first process's limit is that of all.
        self.watch = Watch(f"{zlib.crc32(repr(kinds).encode()):x}", self.index, self.count, told[0][1])

    def exchange(self, value: Any) -> list[Any]:
        calls, found = self._exchanged(value, number_of_call())
        check_same_call(calls, lambda call: self._exchanged(call, 0)[1])
        return found

    def _exchanged(self, value: Any, call: int) -> tuple[list[int], list[Any]]:
        message = pickle.dumps(value)
        head = struct.pack("<QI", len(message), call)
        found = self._told(head + message[: _SHORT - _HEAD], _SHORT)
        lengths, calls = zip(*(struct.unpack("<QI", row[:_HEAD].tobytes()) for row in found), strict=True)
        bodies = [row[_HEAD:] for row in found]
        rest = max(lengths) - (_SHORT - _HEAD)
        if rest > 0:
            # Powers of two: each length is a program of its own.
            others = self._told(message[_SHORT - _HEAD :], 1 << (rest - 1).bit_length())
            bodies = [np.concatenate(pair) for pair in zip(bodies, others, strict=True)]
        told = [pickle.loads(body[:length].tobytes()) for body, length in zip(bodies, lengths, strict=True)]
        return [*calls], told

    def _told(self, message: bytes, size: int) -> NDArray[np.uint8]:
        own = np.zeros((1, size), np.uint8)
        own[0, : len(message)] = np.frombuffer(message, np.uint8)
        rows = jax.make_array_from_process_local_data(self._cut, own, (self.count, size))
        waiting = nullcontext() if self.watch is None else self.watch.waiting(is_meeting=True)
        with waiting, keeping_others(self._mesh):
            return np.asarray(jax.block_until_ready(self._gather(rows)))


def waiting_on(mesh: Mesh) -> AbstractContextManager[None]:
    """Return what tells other processes, if there are any, that this one is in a program of all devices of a mesh."""
    watch = _WATCHES.get(mesh)
    return nullcontext() if watch is None else watch.waiting(is_meeting=False)


@contextmanager
def keeping_others(mesh: Mesh) -> Iterator[None]:
    """Raise ProcessError where what the processes of a mesh do together has failed because one of them is lost."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # JAX raises the one or the other, by the code of the status that it is given.
        count = len(numbers_on(mesh))
        if count == 1 or not _is_of_others(error):
            raise
        raise ProcessError(
            f"process {jax.process_index()} of {count} has lost the others: {error}. One of them has ended, hangs, or "
            f"does something else: look at what it said last. jax.distributed cannot be used any more."
        ) from error


def _is_of_others(error: BaseException) -> bool:
    """Whether an error of the runtime is about the connection between processes."""
    text = str(error).lower()
    return any(word in text for word in ("gloo", "nccl", "coordination"))


def free_on(mesh: Mesh) -> int:
    """Return the bytes that are free on the fullest of this process's devices of a mesh."""
    own = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    free = min(map(free_memory, own))
    # Devices of a processor, and processes of one machine, have its memory together.
    processes = processes_on(mesh)
    sharing = len(own) * (processes.neighbours if isinstance(processes, Group) else 1)
    return free // sharing if own[0].platform == "cpu" else free


def put(array: Any, sharding: NamedSharding, what: str = "an array") -> Array:
    """Return an array on the devices of a mesh: what lies there as it is to be cut, and what each process has whole.

    Raises
    ------
    InvalidInputError
        If an array of JAX lies on one process alone, and the mesh has devices of others.
    """
    if sharding.is_fully_addressable or isinstance(array, jax.core.Tracer):
        return jax.device_put(array, sharding)
    if isinstance(array, Array):
        refuse_own(array, sharding.mesh, what)
        return jax.device_put(array, sharding)
    values = np.asarray(array)
    return jax.make_array_from_callback(values.shape, sharding, lambda place: values[place])


def refuse_own(array: Any, mesh: Any, what: str) -> None:
    """Raise InvalidInputError for an array of JAX that lies on this process alone where others have devices too."""
    count = len(numbers_on(mesh))
    if count > 1 and isinstance(array, Array) and array.is_fully_addressable:
        raise InvalidInputError(
            f"{what} lies on {', '.join(sorted(map(str, array.devices())))}, on process {jax.process_index()} alone, "
            f"and other arrays on the devices of {count} processes. Make it one array of all of them: where each has "
            f"a part, with jax.make_array_from_process_local_data(jax.sharding.NamedSharding(mesh, jax.sharding."
            f"PartitionSpec({mesh.axis_names[0]!r})), part); where each has all, pass it as a NumPy array, or make it "
            f"so with PartitionSpec()."
        )
