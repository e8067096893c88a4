"""joined: what processes of jax.distributed share of an objective whose parameters they hold together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from specop.arrays.processes import Processes
from specop.errors import InvalidInputError
from specop.objectives.source import as_batches
from specop_jax.alike import Alike, alike_on
from specop_jax.autodiff import JaxAutodiff
from specop_jax.places import OnMesh
from specop_jax.structures import TREES

__all__ = ["Joined", "joined"]

_END = object()


def joined(autodiff: JaxAutodiff, parallel: Any, said: dict[str, Any]) -> Joined | None:
    """Return what processes share that hold a model's parameters together, or None where one has them alone.

    Parameters
    ----------
    autodiff : JaxAutodiff
    parallel : object
        The argument ``parallel`` as the user gave it.
    said : dict
        Other arguments, by name, that must be the same in all processes.

    Raises
    ------
    InvalidInputError
        If it says something else than where the parameters lie, or if the processes have different models.
    """
    place, count = autodiff.place, jax.process_count()
    if isinstance(place, OnMesh) and place.processes.count > 1:
        if parallel is not None and parallel is not True:
            raise InvalidInputError(
                f"parallel={parallel!r}, and the parameters lie on the devices of {place.processes.count} processes, "
                f"which make each call together. Leave parallel= out; for a look at the data of one process alone put "
                f"its parameters on a mesh of jax.local_devices()."
            )
        return Joined(autodiff, place, said)
    ways = (
        "to work together, put parameters and batches on a mesh of all processes' devices with jax.sharding."
        "NamedSharding, batches with jax.make_array_from_process_local_data; nothing else has to be said"
    )
    if parallel is None and count > 1:
        raise InvalidInputError(
            f"this is one of {count} processes, the parameters lie on its own devices, and its data may be a part of "
            f"all. Pass parallel=False to look at the model and the data of this process alone; {ways}."
        )
    if parallel is not None and parallel is not False:
        raise InvalidInputError(
            f"parallel={parallel!r}, and the parameters lie on the devices of this process alone. Leave parallel= out, "
            f"or pass parallel=False in a group of processes; {ways}."
        )
    return None


class Joined:
    """Processes that run one model together: data and weights of which all of them have the same.

    Parameters
    ----------
    autodiff : JaxAutodiff
        Derivatives of parameters on a mesh of several processes.
    place : OnMesh
        Mesh that the parameters lie on.
    said : dict
        Arguments, by name, that must be the same in all of them.
    """

    def __init__(self, autodiff: JaxAutodiff, place: OnMesh, said: dict[str, Any]) -> None:
        self._mesh = place.mesh
        self._processes = place.processes
        own = {"likelihood": autodiff.likelihood, "fixed_randomness": autodiff.fixed_randomness}
        told = self._processes.exchange({"the selected parameters": autodiff.names, **own, **said})
        for number, one in enumerate(told):
            for name, value in one.items():
                if value != told[0][name]:
                    raise InvalidInputError(
                        f"{name} differs between processes 0 and {number} of {self._processes.count}: "
                        f"{told[0][name]!r} and {value!r}. Make the same call in each."
                    )
        autodiff.fingerprint()

    def data(self, data: Any) -> Any:
        """Return the user's batches, of which each pass gives all processes the same, or raises in all of them."""
        with self._processes.together():
            batches = as_batches(data)
        agreed = _Agreed(batches, self._processes, alike_on(self._mesh))
        if not isinstance(batches, (list, tuple)):
            return agreed
        for _ in agreed:
            pass
        return data

    def weight(self, weight: Callable[[Any], Any] | None) -> Callable[[Any], float] | None:
        """Return what weighs a batch, the same in all processes."""
        return None if weight is None else functools.partial(_weighed, weight, self._processes)


class _Agreed:
    """Batches that all processes read together.

    Parameters
    ----------
    batches : iterable
    processes : Processes
    alike : Alike
    """

    def __init__(self, batches: Iterable[Any], processes: Processes, alike: Alike) -> None:
        self.batches = batches
        self._processes = processes
        self._alike = alike

    def __iter__(self) -> Iterator[Any]:
        source: Iterator[Any] = iter(())
        number = 0
        while True:
            named: dict[str, Any] = {}
            with self._processes.together():
                source = source if number else iter(self.batches)
                batch = next(source, _END)
                if batch is not _END:
                    arrays = TREES.arrays(batch)
                    named = {f"array {place}": array for place, array in enumerate(arrays)}
                    self._alike.check_places(named, f"batch {number}")
            ended = self._processes.exchange(batch is _END)
            if any(ended) and not all(ended):
                raise InvalidInputError(
                    f"the data of process {ended.index(True)} of {len(ended)} end after {number} batches, and those of "
                    f"process {ended.index(False)} go on: each batch is one of all processes. Give as many in each."
                )
            if batch is _END:
                return
            self._alike.checksums(named, f"batch {number}")
            yield batch
            number += 1


def _weighed(weight: Callable[[Any], Any], processes: Processes, batch: Any) -> float:
    with processes.together():
        own = float(weight(batch))
    told = processes.exchange(own)
    other = next((number for number, one in enumerate(told) if one != told[0]), None)
    if other is not None:
        raise InvalidInputError(
            f"weight(batch) is {told[0]:g} in process 0 and {told[other]:g} in process {other} of {len(told)}: a batch "
            f"is one of all processes, and its weight the number of terms in all of it."
        )
    return own
