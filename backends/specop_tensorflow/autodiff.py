"""Loss, gradient and Hessian-vector products of a TensorFlow model for one batch.

The user's variables are only read: the model is traced, never run, and what is compiled from the trace holds no
operation that writes. At another point it reads variables of our own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import psutil
import tensorflow as tf
from tensorflow.python.client import device_lib

from specop.autodiff import Linearization
from specop.backend import Layout
from specop.errors import InvalidInputError, NonFiniteError, ParametersChangedError
from specop_tensorflow.arrays import TensorflowBackend, backend, numpy_dtype, on_gpu
from specop_tensorflow.checksums import checksums
from specop_tensorflow.derivatives import Derivatives
from specop_tensorflow.models import FunctionModel, KerasModel, Model, ModuleModel
from specop_tensorflow.structures import leaves, map_tensors, signature
from specop_tensorflow.traces import FirstOrder, SecondOrder

__all__ = ["TensorflowAutodiff", "make_autodiff"]

_EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def make_autodiff(
    model: Any,
    criterion: Callable[..., tf.Tensor] | None,
    *,
    params: Any = None,
    select: Any = None,
    forward: Callable[[Any, Any], Any] | None = None,
    fixed_randomness: int | None = None,
) -> TensorflowAutodiff:
    """Return the one-batch derivatives of a Keras model, a tf.Module or a function of a parameter structure."""
    if isinstance(model, (keras.Layer, tf.Module)):
        if params is not None:
            raise InvalidInputError("params= is for plain functions; a model brings its own. Use select= for a part.")
        described: Model
        if isinstance(model, keras.Layer):
            described = KerasModel(model, criterion, forward, training=fixed_randomness is not None)
        else:
            described = ModuleModel(model, criterion, forward)
    else:
        described = FunctionModel(model, criterion, params, forward)
    return TensorflowAutodiff(described, described.select(select), fixed_randomness)


class TensorflowAutodiff:
    """`specop.autodiff.Autodiff` on gradient tapes."""

    backend: TensorflowBackend = backend

    def __init__(self, model: Model, selected: Mapping[str, Any], fixed_randomness: int | None) -> None:
        self.model = model
        self.fixed_randomness = fixed_randomness
        self.parameters = dict(selected)
        self.names = tuple(selected)
        devices = {parameter.device for parameter in selected.values()}
        if len(devices) > 1:
            raise InvalidInputError(
                f"the selected parameters lie on several devices, {sorted(devices)}. Select a part of the model that "
                f"lies on one, or build the model inside tf.device(...)."
            )
        (self.device,) = devices
        dtype = max((numpy_dtype(like.dtype) for like in selected.values()), key=lambda kind: kind.itemsize)
        self.layout = Layout.whole(sum(like.shape.num_elements() for like in selected.values()), dtype, self.device)
        self._traces: dict[Any, Any] = {}

    @property
    def precision(self) -> float:
        """Rounding error of products: of the least exact dtype in use, or TF32's where it is switched on."""
        dtypes = {like.dtype.name for like in self.parameters.values()} | self.model.compute_dtypes()
        coarsest = max(_EPSILON[name] for name in dtypes)
        tf32 = on_gpu(self.device) and tf.config.experimental.tensor_float_32_execution_enabled()
        return max(coarsest, 2.0**-11) if tf32 and coarsest > 1e-10 else coarsest

    def restrict(self, select: Any) -> TensorflowAutodiff:
        """Return the same for a part of the parameters selected now."""
        return TensorflowAutodiff(self.model, self.model.select(select, among=self.parameters), self.fixed_randomness)

    def flatten(self, tree: Any) -> tf.Tensor:
        """Return a parameter structure, or a mapping from names to tensors, as a vector."""
        parts = self.model.tensors_of(tree, self.parameters)
        return tf.concat([tf.reshape(tf.cast(part, self.layout.dtype), [-1]) for part in parts], 0)

    def unflatten(self, vector: tf.Tensor) -> Any:
        """Return a vector in the structure of the parameters: a mapping by name, or what the function takes."""
        self.backend.check_vector(vector, self.layout, "the vector")
        return self.model.structure_of(self._derivatives(self.parameters).split(vector))

    def fingerprint(self, *, fixed: bool = False) -> tuple[int, ...]:
        """Return a checksum of everything the loss depends on besides the data, and theta if that is fixed."""
        replaced = set(self.names) if fixed else set()
        state = self.model.named_state()
        constants = self.model.constants()
        frozen = (int(name in constants) for name in state)
        return (*frozen, *checksums(tensor for name, tensor in state.items() if name not in replaced))

    def free_memory(self) -> int:
        """Bytes that are free on the parameters' device."""
        if not on_gpu(self.device):
            return int(psutil.virtual_memory().available)
        name = self.device.partition("device:")[2]
        (limit,) = (one.memory_limit for one in device_lib.list_local_devices() if one.name.endswith(name))
        return int(limit - tf.config.experimental.get_memory_info(name)["current"])

    @contextlib.contextmanager
    def preserved(self) -> Iterator[None]:
        """Nothing of ours draws: random operations are refused, or run on seeds of our own."""
        yield

    # Batches
    def prepare(self, batch: Any) -> Any:
        """Return the batch as tensors on the parameters' device."""
        with tf.device(self.device):
            # A copy first: TensorFlow may share the memory of a NumPy array.
            return map_tensors(
                lambda leaf: (
                    tf.convert_to_tensor(np.array(leaf))
                    if isinstance(leaf, (np.ndarray, np.generic))
                    else tf.identity(leaf)
                ),
                batch,
            )

    def count(self, batch: Any) -> int:
        """Return the leading dimension of the batch's first array."""
        for leaf in leaves(batch):
            if len(leaf.shape):
                return int(leaf.shape[0])
        return 1

    def batch_bytes(self, batch: Any) -> int:
        """Return the memory that the batch's arrays take."""
        return sum(
            int(np.prod(leaf.shape)) * leaf.dtype.size if tf.is_tensor(leaf) else leaf.nbytes for leaf in leaves(batch)
        )

    def batch_versions(self, batch: Any) -> tuple[int, ...]:
        """Tensors are immutable."""
        return ()

    def batch_fingerprint(self, batch: Any) -> tuple[int, ...]:
        """Return a checksum of the batch's arrays."""
        return checksums(leaves(self.prepare(batch)))

    # Derivatives
    def loss(self, theta: tf.Tensor | None, batch: Any) -> tf.Tensor:
        """Return the loss as a scalar."""
        trace, inputs, _ = self._bound(FirstOrder, theta, batch)
        (loss,) = trace.loss(*inputs)
        return self._checked(loss, theta)

    def gradient(self, theta: tf.Tensor | None, batch: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Return loss and gradient."""
        trace, inputs, _ = self._bound(FirstOrder, theta, batch)
        loss, gradient = trace.gradient(*inputs)
        return self._checked(loss, theta), gradient

    def linearize(self, theta: tf.Tensor | None, batch: Any, vector: tf.Tensor) -> Linearization:
        """Return H v and what multiplies further vectors without another look at model or data."""
        trace, inputs, shadows = self._bound(SecondOrder, theta, batch)
        loss, *boundary = trace.before(*inputs)
        self._checked(loss, theta)

        def apply(vector: tf.Tensor, alive: Any = shadows) -> tf.Tensor:
            return trace.after(*boundary, vector)[0]

        return Linearization(apply(vector), apply, trace.bytes(boundary))

    def product(self, theta: tf.Tensor | None, batch: Any, vector: tf.Tensor) -> tf.Tensor:
        """Return H v and keep nothing."""
        return self.linearize(theta, batch, vector).first

    def _derivatives(self, selected: Mapping[str, Any]) -> Derivatives:
        return Derivatives(self.model, selected, self.layout.dtype)

    def _bound(self, kind: type[Any], theta: tf.Tensor | None, batch: Any) -> tuple[Any, list[Any], dict[str, Any]]:
        """Return the trace for this batch, its inputs, and the variables that stand in for the model's own at theta."""
        # What was prepared is prepared: this makes NumPy arrays of a user's own list into tensors.
        batch = self.prepare(batch)
        current = self._current()
        values = {} if theta is None else self._derivatives(current).split(theta)
        reads = self.model.reads_variables
        points = {} if reads else {**self.model.named_state(), **values}
        key = (kind, signature(batch), self.model.constants(), tuple(map(id, current.values())))
        if key not in self._traces:
            self._traces[key] = kind(self._derivatives(current), points, batch, self.fixed_randomness)
        shadows = {name: tf.Variable(value, trainable=False) for name, value in (values if reads else {}).items()}
        trace = self._traces[key]
        return trace, trace.inputs([tf.convert_to_tensor(point) for point in points.values()], batch, shadows), shadows

    def _current(self) -> dict[str, Any]:
        """Return the selected parameters as the model has them now: it may hold other variables than at first."""
        held = self.model.named_state()
        for name, known in self.parameters.items():
            now = held.get(name)
            if now is None or (now.shape, now.dtype, now.device) != (known.shape, known.dtype, known.device):
                what = "is gone" if now is None else f"is now {tuple(now.shape)}, {now.dtype.name}, on {now.device}"
                raise ParametersChangedError(f"parameter {name!r} {what}. Make a new objective for the changed model.")
        return {name: held[name] for name in self.names}

    def _checked(self, loss: tf.Tensor, theta: tf.Tensor | None) -> tf.Tensor:
        if not np.isfinite(loss.numpy()):
            raise NonFiniteError(self._why_not_finite(loss, theta))
        return loss

    def _why_not_finite(self, loss: tf.Tensor, theta: tf.Tensor | None) -> str:
        state = {name: tf.convert_to_tensor(tensor) for name, tensor in self.model.named_state().items()}
        if theta is not None:
            state |= self._derivatives(self.parameters).split(theta)
        real = {name: tensor for name, tensor in state.items() if tensor.dtype.is_floating}
        bad = [name for name, tensor in real.items() if not tf.reduce_all(tf.math.is_finite(tensor))]
        where = (
            f"These parameters or other weights, of the model or in theta, hold NaN or infinity: {', '.join(bad[:5])}. "
            f"Restore them from a checkpoint."
            if bad
            else "All parameters are finite: look at the data, and for log(0), division by zero or overflow."
        )
        return f"the loss is {float(loss)}. {where}"
