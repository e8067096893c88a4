"""TensorflowParameters: the selected parameters of a TensorFlow model as a vector, and batches on their device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from specop.arrays.layout import Layout
from specop.errors import InvalidInputError
from specop.objectives.autodiff import Same
from specop.objectives.one_batch import OneBatch
from specop.objectives.parameters import check_trained, one_device, unchanged
from specop_tensorflow.arrays import TensorflowBackend, backend, numpy_dtype
from specop_tensorflow.checksums import checksums
from specop_tensorflow.derivatives import Derivatives
from specop_tensorflow.memory import free_memory, is_out_of_memory, on_gpu
from specop_tensorflow.models import Model
from specop_tensorflow.structures import TREES, tensor_of

__all__ = ["EPSILON", "TensorflowParameters", "require_eager"]

EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


class TensorflowParameters(OneBatch):
    """The vector of a model's selected parameters, batches on its device, and what both are watched by."""

    backend: TensorflowBackend = backend
    trees = TREES
    output_axis = -1
    # Tracing for fewer samples takes seconds.
    witness_bytes: float = 1 << 28
    is_out_of_memory = staticmethod(is_out_of_memory)

    def __init__(
        self, model: Model, selected: Mapping[str, Any], likelihood: str | None, fixed_randomness: int | None
    ) -> None:
        self.device = one_device({like.device for like in selected.values()}, "build the model inside tf.device(...)")
        dtype = max((numpy_dtype(like.dtype) for like in selected.values()), key=lambda kind: kind.itemsize)
        super().__init__(model, selected, likelihood, fixed_randomness, lambda size: Layout(size, dtype, self.device))
        self._trained = self.model.trained()

    @property
    def precision(self) -> float:
        """Rounding error of products: of the least exact dtype in use, or TF32's where it is switched on."""
        coarsest = self._rounding()
        tf32 = on_gpu(self.device) and tf.config.experimental.tensor_float_32_execution_enabled()
        return max(coarsest, 2.0**-11) if tf32 and coarsest > 1e-10 else coarsest

    def fingerprint(self, *, fixed: bool = False) -> tuple[int, ...]:
        """Return a checksum of everything the loss depends on besides the data, and theta if that is fixed."""
        require_eager()
        replaced = set(self.names) if fixed else set()
        state = self.model.named_state()
        constants = self.model.constants()
        frozen = (int(name in constants) for name in state)
        return (*frozen, *self._checksums({name: tensor for name, tensor in state.items() if name not in replaced}))

    def _checksums(self, state: Mapping[str, Any]) -> tuple[int, ...]:
        return checksums(state.values())

    def _constant_entries(self) -> Iterator[tuple[str, int, int]]:
        """Yield frozen variables."""
        frozen = self.model.constants()
        yield from ((name, 0, size) for name, size in zip(self.names, self.sizes, strict=True) if name in frozen)

    def free_memory(self) -> int:
        """Bytes that are free on the parameters' device."""
        return free_memory(self.device)

    @contextlib.contextmanager
    def preserved(self) -> Iterator[None]:
        """Nothing of ours draws: random operations are refused, or run on seeds of our own."""
        yield

    # Batches
    def prepare(self, batch: Any) -> Any:
        """Return the batch as tensors on the parameters' device."""
        with tf.device(self._place(batch)):
            # A copy first: TensorFlow may share the memory of a NumPy array.
            return TREES.map(
                lambda leaf: (
                    tensor_of(np.array(leaf)) if isinstance(leaf, (np.ndarray, np.generic)) else tf.identity(leaf)
                ),
                batch,
            )

    def _place(self, batch: Any) -> str:
        """Return the device that a batch is computed on."""
        return self.device

    def batch_bytes(self, batch: Any) -> int:
        """Return the memory that the batch's arrays take."""
        found = TREES.arrays(batch)
        return sum(int(np.prod(leaf.shape)) * leaf.dtype.size if tf.is_tensor(leaf) else leaf.nbytes for leaf in found)

    def batch_versions(self, batch: Any) -> tuple[Any, ...]:
        """Return the batch's tensors themselves, which are immutable; of variables and NumPy arrays checksums."""
        found = TREES.arrays(batch)
        tensors = [Same(leaf) for leaf in found if isinstance(leaf, Tensor)]
        return (*tensors, *checksums(leaf for leaf in found if not isinstance(leaf, Tensor)))

    def batch_fingerprint(self, batch: Any) -> tuple[int, ...]:
        """Return a checksum of the batch's arrays."""
        return checksums(TREES.arrays(self.prepare(batch)))

    def _state(self) -> Iterable[Any]:
        return self.model.named_state().values()

    def _derivatives(self, selected: Mapping[str, Any]) -> Derivatives:
        return Derivatives(self.model, selected, self.layout.dtype)

    def _current(self) -> list[Any]:
        check_trained(self.names, self._trained, self.model.trained())
        return unchanged(
            self.parameters, self.model.named_state(), lambda one: (tuple(one.shape), one.dtype.name, one.device)
        )

    def _rounding(self) -> float:
        """Return the rounding error of the least exact dtype in use."""
        dtypes = {like.dtype.name for like in self.parameters.values()} | self.model.compute_dtypes()
        return max(EPSILON[name] for name in dtypes)

    def _join(self, parts: Sequence[Any]) -> Tensor:
        return self._derivatives(self.parameters).vector(dict(zip(self.names, parts, strict=True)))

    def _split(self, vector: Tensor) -> list[Tensor]:
        return list(self._derivatives(self.parameters).split(vector).values())


def require_eager() -> None:
    """Raise InvalidInputError where nothing has a value yet."""
    if not tf.executing_eagerly() or tf.distribute.has_strategy():
        raise InvalidInputError(
            "specop looks at values, which do not exist inside a tf.function, another graph or the scope of a "
            "tf.distribute.Strategy. Call it outside; variables that were made in the scope can be read there."
        )
