"""JaxParameters: the selected parameters of a JAX model as a vector, and batches where it lies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from specop.errors import InvalidInputError, ParametersChangedError
from specop.objectives.autodiff import Same
from specop.objectives.one_batch import OneBatch
from specop.objectives.parameters import check_trained, unchanged
from specop.objectives.trees import Joined
from specop.statistics.numbers import Integers
from specop_jax.alike import alike_on
from specop_jax.arrays import alive, require_precision, require_transfers
from specop_jax.form import Form
from specop_jax.memory import bytes_on_device, is_out_of_memory
from specop_jax.models import Loss, Model
from specop_jax.places import OnMesh, place_of
from specop_jax.structures import TREES, checksum, outlined, refuse_sparse

__all__ = ["JaxParameters"]


class JaxParameters(OneBatch):
    """The vector of a model's selected parameters, batches where it lies, and what both are watched by."""

    trees = TREES
    output_axis = -1
    # Compiling for fewer samples takes seconds.
    witness_bytes: float = 1 << 28

    def __init__(
        self, model: Model, selected: Mapping[str, Any], likelihood: str | None, fixed_randomness: int | None = None
    ) -> None:
        self.model = model
        # A module that is about to be trained may be described, too: its modes count when it is called.
        with model.evaluating():
            _, arrays = self._read()
        for name, array in selected.items():
            require_precision(array.dtype, f"parameter {name!r}")
        self.place = place_of(arrays)
        self.backend = self.place.backend
        self.device = self.place.device
        kinds = tuple((tuple(array.shape), np.dtype(array.dtype)) for array in selected.values())
        dtype = np.dtype(np.float64 if any(kind == np.float64 for _, kind in kinds) else np.float32)
        self.form = Form(kinds, dtype, self.place.order([arrays[name] for name in selected]))
        # Not the arrays themselves: they would outlive a model that is trained further.
        parameters = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in selected.items()}
        if isinstance(self.place, OnMesh):
            # Samples that devices share are not cut.
            self.witness_bytes = math.inf
        layout = self.place.layout(dtype, self.form.order)
        super().__init__(model, parameters, likelihood, fixed_randomness, layout)
        self._trained = model.trained()

    @property
    def precision(self) -> float:
        """Rounding error of products: of the least exact parameter dtype, or of the device's matrix products."""
        coarsest = max(float(jnp.finfo(kind).eps) for _, kind in self.form.kinds)
        products = {"gpu": 2.0**-11, "tpu": 2.0**-8}.get(self.device.platform, 0.0)
        setting = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
        exact = setting in ("highest", "float32")
        return coarsest if exact or coarsest < 1e-10 else max(coarsest, products)

    def fingerprint(self, *, fixed: bool = False) -> tuple[Any, ...]:
        """Return the loss and the identities of its arrays, which are immutable; of NumPy arrays a checksum."""
        replaced = set(self.names) if fixed else set()
        processes = self.place.processes
        alike = alike_on(self.place.mesh) if isinstance(self.place, OnMesh) and processes.count > 1 else None
        with processes.together():
            loss, arrays = self._read()
            kept = {name: array for name, array in arrays.items() if name not in replaced}
            if alike is not None:
                alike.check_places(kept, "the model")
        # Checksums, because all processes must find the same: whether the model has changed.
        versions = map(_version, kept.values()) if alike is None else alike.checksums(kept, "the model")
        return (loss, *versions)

    def free_memory(self) -> int:
        """Return the bytes that are free on the parameters' device, or on the fullest one of all processes."""
        return min(self.place.processes.exchange(self.backend.free_memory(self.layout)))

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Return whether smaller batches may help; several processes would have to agree on them."""
        return self.place.processes.count == 1 and is_out_of_memory(error)

    def preserved(self) -> AbstractContextManager[None]:
        """JAX has no global random state."""
        return nullcontext()

    # Batches
    def prepare(self, batch: Any) -> Any:
        """Return the batch on the parameters' device, or spread over their devices."""
        return self.place.batch(batch)

    def count(self, batch: Any) -> int:
        """Return the number of samples in a batch."""
        return super().count(outlined(batch))

    def array_shapes(self, structure: Any) -> list[tuple[int, ...]]:
        """Return the shapes of the arrays in a batch or a part of one, those without dimensions left out."""
        return super().array_shapes(outlined(structure))

    def take(self, batch: Any, start: int, stop: int) -> Any:
        """Return the batch's samples from `start` to `stop`."""
        refuse_sparse(batch)
        return super().take(batch, start, stop)

    def pick(self, batch: Any, indices: Integers) -> Any:
        """Return the batch's samples at these places."""
        refuse_sparse(batch)
        return super().pick(batch, indices)

    def batch_bytes(self, batch: Any) -> int:
        """Return the memory that the batch's arrays take."""
        return sum(map(bytes_on_device, TREES.arrays(batch)))

    def batch_versions(self, batch: Any) -> tuple[Any, ...]:
        """Return the batch's arrays themselves, which are immutable; of NumPy arrays checksums."""
        return tuple(map(_version, TREES.arrays(batch)))

    def batch_fingerprint(self, batch: Any) -> tuple[int, ...]:
        """Return a checksum of the batch's arrays."""
        return tuple(map(checksum, TREES.arrays(batch)))

    def _state(self) -> Iterable[Any]:
        return self._read()[1].values()

    def gather(self, chosen: Iterable[tuple[Any, Integers]]) -> list[tuple[list[int], Joined]]:
        """Return samples at these places of several batches, those of batches of the same kind together."""

        def dense() -> Iterator[tuple[Any, Integers]]:
            for batch, indices in chosen:
                refuse_sparse(batch)
                yield batch, indices

        return super().gather(dense())

    def _current(self) -> list[Array]:
        _, leaves = self._read()
        return self._held(leaves)

    def _held(self, leaves: dict[str, Any]) -> list[Array]:
        check_trained(self.names, self._trained, self.model.trained())
        found = unchanged(self.parameters, leaves, lambda array: (tuple(array.shape), np.dtype(array.dtype)))
        return [self.place.everywhere(array) for array in found]

    def _join(self, parts: Sequence[Any]) -> Array:
        return self.place.settled(self.form.join)([self.place.everywhere(part) for part in parts])

    def _split(self, vector: Array) -> list[Array]:
        return self.place.settled(self.form.split)(self._own(vector))

    def _own(self, vector: Array) -> Array:
        return self.place.own(vector, self.form.order)

    def _read(self) -> tuple[Loss, dict[str, Any]]:
        require_transfers()
        loss, arrays = self.model.read()
        for name, array in arrays.items():
            if isinstance(array, jax.core.Tracer):
                raise InvalidInputError(
                    f"array {name!r} of the model is being traced, inside jax.jit, jax.grad or jax.vmap: objective() "
                    f"needs numbers. Make it outside, and pass arrays of numbers."
                )
            if isinstance(array, Array) and array.is_deleted():
                raise ParametersChangedError(
                    f"array {name!r} of the model was deleted: it was donated to a jitted function. Make a new "
                    f"objective with the parameters that the function returned."
                )
        return loss, arrays


def _version(array: Array | np.ndarray) -> Same | int:
    return Same(alive(array, "an array of the data")) if isinstance(array, Array) else checksum(array)
