"""Where a model is: on one device, or on those of a mesh; and how a batch comes there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from specop.arrays.layout import Layout
from specop.arrays.processes import ALONE, Processes
from specop.errors import InvalidInputError
from specop.objectives.parameters import one_device
from specop_jax.arrays import JaxBackend, alive, backend
from specop_jax.compiled import compiled, settled
from specop_jax.finding import backend_on
from specop_jax.groups import processes_on, put, refuse_own
from specop_jax.order import Order, Spread, device_of_process, names_by_dimension
from specop_jax.spread import SpreadArray, is_spread, mesh_of
from specop_jax.spread_backend import SpreadBackend
from specop_jax.spread_rows import rows_of
from specop_jax.structures import TREES, on_device, without_mesh

__all__ = ["Place", "place_of"]

F = TypeVar("F", bound=Callable[..., Any])


class OnDevice:
    """All of a model on one device.

    Parameters
    ----------
    device : jax.Device
    """

    backend: JaxBackend = backend
    processes: Processes = ALONE

    def __init__(self, device: jax.Device) -> None:
        self.device = device

    def layout(self, dtype: Any, order: Order | None) -> Callable[[int], Layout]:
        """Return what describes a vector of a length."""
        return lambda size: Layout(size, dtype, self.device)

    def order(self, arrays: Sequence[Any]) -> None:
        """A vector on one device lies in its own order."""

    def plain(self, vector: Array) -> None:
        """The order of the entries themselves is the only one."""

    def own(self, vector: Array, order: Order | None) -> Array:
        """Return a vector as it lies here."""
        return vector

    def everywhere(self, array: Any) -> Array:
        """Return an array on the device."""
        return on_device(array, self.device)

    def leaf(self, array: Any) -> Any:
        """Return one of the model's arrays that is no parameter, as it is."""
        return without_mesh(array) if isinstance(array, Array) else array

    def batch(self, batch: Any) -> Any:
        """Return a batch on the device."""
        for array in TREES.arrays(batch):
            if is_spread(array):
                raise InvalidInputError(
                    f"the batch is spread over {len(array.sharding.device_set)} devices, and the parameters lie on "
                    f"{self.device} alone, where all of it would have to be gathered. Put them on all of these with "
                    f"jax.device_put(params, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())), or the "
                    f"batch on that device."
                )
        return TREES.map(lambda array: on_device(array, self.device), batch)

    def gathered(self, batch: Any) -> Any:
        """Return a batch of which samples can be cut out."""
        return batch

    def cut_of(self, array: Any) -> Any:
        """Return what else tells compiled functions of an array apart."""
        return None

    def compiled(self, function: Callable[..., Any]) -> Any:
        """Return a function of the user's as it is: operation by operation it runs here."""
        return function

    def settled(self, function: F) -> F:
        """Return a compiled function as it is."""
        return function

    def settle(self, arrays: Any) -> None:
        """Let arrays be computed whenever they are needed."""


@dataclass(frozen=True)
class OnMesh:
    """A model on the devices of a mesh, each array as it was put there.

    Parameters
    ----------
    mesh : Mesh
    is_replicated : bool
        Whether each device has all of the model.
    """

    mesh: Mesh
    is_replicated: bool

    @property
    def backend(self) -> SpreadBackend:
        """Array primitives of its vectors."""
        return backend_on(self.mesh)

    @property
    def processes(self) -> Processes:
        """Those that have devices of the mesh."""
        return processes_on(self.mesh)

    @property
    def device(self) -> jax.Device:
        """The first device of this process."""
        return device_of_process(self.mesh)

    def layout(self, dtype: Any, order: Order | None) -> Callable[[int], Layout]:
        """Return what describes a vector of a length."""
        return lambda size: Layout(size, dtype, self.device, Spread(self.mesh, order))

    def order(self, arrays: Sequence[Any]) -> Order:
        """Return the order of a vector of these parameters: that in which the devices have them."""
        specs = [array.sharding.spec if is_spread(array) else PartitionSpec() for array in arrays]
        return Order.of(self.mesh, [tuple(array.shape) for array in arrays], specs)

    def plain(self, vector: Any) -> Order:
        """Return the order of a vector's entries themselves."""
        return Order.plain(self.mesh, vector.shape[0])

    def own(self, vector: Any, order: Order | None) -> Any:
        """Return a vector in this order."""
        assert order is not None
        if isinstance(vector, SpreadArray) and vector.order == order:
            return vector
        rows = rows_of(vector, order)
        self.settle(rows)
        return rows if order.is_whole else SpreadArray(rows, order)

    def everywhere(self, array: Any) -> Array:
        """Return an array as it was put on the mesh; others on each device."""
        if is_spread(array):
            return alive(array, "an array")
        return put(array, NamedSharding(self.mesh, PartitionSpec()))

    def leaf(self, array: Any) -> Any:
        """Return one of the model's arrays that is no parameter, on the mesh."""
        return self.everywhere(array) if isinstance(array, Array) else array

    def batch(self, batch: Any) -> Any:
        """Return a batch on the mesh: what is there as it is, other samples in equal parts, or else on each device."""
        count = TREES.count(batch)
        return TREES.map(lambda array: self._of_batch(array, count), batch)

    def gathered(self, batch: Any) -> Any:
        """Return a batch of which samples can be cut out: all devices have all of it."""
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        found = TREES.map(lambda array: put(array, everywhere), batch)
        self.settle(found)
        return found

    def cut_of(self, array: Any) -> Any:
        """Return along which axes an array is cut."""
        return names_by_dimension(array.sharding.spec, array.ndim)

    def compiled(self, function: Callable[..., Any]) -> Any:
        """Return a function of the user's as one program, which all processes come to."""
        return compiled(function, self.mesh)

    def settled(self, function: F) -> F:
        """Return a compiled function that may wait for its results."""
        return cast(F, settled(function, self.mesh))

    def settle(self, arrays: Any) -> None:
        """Wait for arrays where `settled` does."""
        settled(lambda: arrays, self.mesh)()

    def _of_batch(self, array: Any, count: int) -> Array:
        if is_spread(array):
            if mesh_of(array) != self.mesh:
                raise InvalidInputError(
                    f"an array of the batch has the sharding {array.sharding}, and the parameters lie on {self.mesh}. "
                    f"Put both on the same mesh."
                )
            return alive(array, "an array of the data")
        devices = int(self.mesh.devices.size)
        is_even = self.is_replicated and np.ndim(array) and len(array) == count and count % devices == 0
        spec = PartitionSpec(self.mesh.axis_names) if is_even else PartitionSpec()
        return put(array, NamedSharding(self.mesh, spec), "an array of the batch")


Place = OnDevice | OnMesh


def place_of(arrays: Mapping[str, Any]) -> Place:
    """Return where a model's arrays are, or raise InvalidInputError."""
    native = {name: array for name, array in arrays.items() if isinstance(array, Array)}
    spread = {name: alive(array, repr(name)) for name, array in native.items() if is_spread(array)}
    if not spread:
        devices = {next(iter(alive(array, repr(name)).devices())) for name, array in native.items()}
        return OnDevice(one_device(devices or jax.devices()[:1], "put them on one with jax.device_put(params, device)"))
    for name, array in spread.items():
        if mesh_of(array) is None:
            raise InvalidInputError(
                f"{name!r} is spread over {len(array.sharding.device_set)} devices by {type(array.sharding).__name__}, "
                f"which names no mesh. Put it there with jax.device_put(array, jax.sharding.NamedSharding(mesh, spec))."
            )
    meshes = list(dict.fromkeys(map(mesh_of, spread.values())))
    if len(meshes) > 1:
        raise InvalidInputError(
            f"the parameters lie on several meshes, {meshes[0]} and {meshes[1]}. Put them on one with jax.device_put."
        )
    for name, array in native.items():
        if name not in spread and array.committed and next(iter(array.devices())) not in meshes[0].devices.flat:
            raise InvalidInputError(
                f"{name!r} lies on {next(iter(array.devices()))}, outside of the mesh of the others, {meshes[0]}."
            )
    for name, array in native.items():
        refuse_own(array, meshes[0], repr(name))
    return OnMesh(meshes[0], all(array.is_fully_replicated for array in spread.values()))
