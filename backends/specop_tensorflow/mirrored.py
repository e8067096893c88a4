"""MirroredAutodiff: derivatives of a model of which each of several devices has a copy.

What was traced once runs on any of the devices: the copies of the variables on it are passed in place of the first
ones, which the trace has captured. Vectors are on the first device; for each part of the data one goes to its device,
and the product comes back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow import Tensor

from specop.errors import InvalidInputError
from specop.objectives.autodiff import Linearization, Matrix
from specop.statistics.numbers import Floats
from specop_tensorflow.autodiff import TensorflowAutodiff
from specop_tensorflow.autodiff import make_autodiff as make_on_one_device
from specop_tensorflow.checksums import checksums
from specop_tensorflow.memory import free_memory
from specop_tensorflow.structures import TREES

__all__ = ["MirroredAutodiff", "make_autodiff"]

T = TypeVar("T")

_tracing = threading.RLock()


def make_autodiff(model: Any, criterion: Callable[..., Any] | None, **options: Any) -> TensorflowAutodiff:
    """Return the one-batch derivatives of a model, on all devices that have a copy of it."""
    made = make_on_one_device(model, criterion, **options)
    # Under a fixed seed there is one generator, on the first device.
    if made.fixed_randomness is not None or len(_devices(made.parameters.values())) == 1:
        return made
    return MirroredAutodiff(made.model, made.parameters, made.likelihood, None)


def _devices(variables: Iterable[Any]) -> tuple[str, ...]:
    """Return the devices that have copies of all these variables; one where there are none such, or not everywhere."""
    places = {tuple(copy.device for copy in _copies(variable)) for variable in variables}
    return next(iter(places)) if len(places) == 1 else ("",)


def _copies(variable: Any) -> Sequence[Any]:
    """Return the copies of a variable that are kept equal; of anything else that alone."""
    is_mirrored = isinstance(variable, tf.Variable) and isinstance(variable, tf.distribute.DistributedValues)
    return variable.values if is_mirrored and not _differs(variable) else (variable,)


def _copy(variable: Any, number: int) -> Any:
    copies = _copies(variable)
    return copies[number] if len(copies) > 1 else variable


def _differs(variable: Any) -> bool:
    """Whether each device has a value of its own, whose mean or sum is read."""
    return getattr(variable, "synchronization", None) == tf.VariableSynchronization.ON_READ


class MirroredAutodiff(TensorflowAutodiff):
    """What `TensorflowAutodiff` does, for batches on any of several devices.

    Parameters
    ----------
    model : Model
    selected : mapping
        Variables with a copy on each device.
    likelihood, fixed_randomness
        The arguments of `TensorflowAutodiff` of these names.

    Attributes
    ----------
    devices : tuple of str
        Devices that have the copies; the first one has the vectors.
    """

    def __init__(
        self, model: Any, selected: Mapping[str, Any], likelihood: str | None, fixed_randomness: int | None
    ) -> None:
        super().__init__(model, selected, likelihood, fixed_randomness)
        found = _devices(selected.values())
        self.devices = found if len(found) > 1 else (self.device,)

    def _checksums(self, state: Mapping[str, Any]) -> tuple[int, ...]:
        alike = {name: one for name, one in state.items() if not _differs(one)}
        each = [checksums(_copy(one, number) for one in alike.values()) for number in range(len(self.devices))]
        if len(set(each)) > 1:
            name = next(name for name, one in alike.items() if len({checksums([copy]) for copy in _copies(one)}) > 1)
            raise InvalidInputError(
                f"the copies of the variable {name!r} on {', '.join(self.devices)} differ, so that each device would "
                f"have another model. Assign to the variable, variable.assign(value), and not to one of its copies."
            )
        return (*each[0], *checksums(copy for name, one in state.items() if name not in alike for copy in one.values))

    def free_memory(self) -> int:
        """Bytes that are free on the device that has least."""
        return min(map(free_memory, self.devices))

    # Devices
    def placed(self, batch: Any, number: int) -> Any:
        """Return a batch on one of the devices; what is computed of it is computed there."""
        with tf.device(self.devices[number]):
            return TREES.map(tf.identity, batch)

    def at_once(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """Return what tasks compute, each on its device, at the same time."""
        if len(tasks) == 1:
            return [tasks[0]()]
        # TensorFlow computes without holding Python's lock.
        with ThreadPoolExecutor(len(tasks)) as pool:
            return list(pool.map(lambda task: task(), tasks))

    def _number(self, batch: Any) -> int:
        """Return which device a batch is on, that of its first tensor; the first one where it is on none of these."""
        first = next((leaf.device for leaf in TREES.arrays(batch) if isinstance(leaf, Tensor)), None)
        return self.devices.index(first) if first in self.devices else 0

    def _place(self, batch: Any) -> str:
        return self.devices[self._number(batch)]

    # Derivatives
    def loss(self, theta: Tensor | None, batch: Any) -> Tensor:
        """Return the loss as a scalar."""
        return self._home(super().loss, batch, theta, batch)

    def gradient(self, theta: Tensor | None, batch: Any) -> tuple[Tensor, Tensor]:
        """Return loss and gradient."""
        return self._home(super().gradient, batch, theta, batch)

    def outputs(self, theta: Tensor | None, batch: Any) -> Tensor:
        """Return what the criterion is given as a vector."""
        return self._home(super().outputs, batch, theta, batch)

    def output_gradient(self, theta: Tensor | None, batch: Any, shift: Tensor) -> Tensor:
        """Return the criterion's gradient in the outputs as a vector, at outputs that are moved by another one."""
        return self._home(super().output_gradient, batch, theta, batch, shift)

    def importance(self, theta: Tensor | None, batch: Any) -> Floats:
        """Return what each row of the outputs may add to curvature."""
        with tf.device(self._place(batch)):
            return super().importance(theta, batch)

    def linearize(self, theta: Tensor | None, batch: Any, vector: Tensor, matrix: Matrix) -> Linearization:
        """Return the product with a vector, and what multiplies others without another look at model or data."""
        place = self._place(batch)
        with tf.device(place):
            made = super().linearize(theta, batch, vector, matrix)

        def apply(vector: Tensor) -> Tensor:
            with tf.device(place):
                found = made.apply(vector)
            return self._moved(found)

        return replace(made, first=self._moved(made.first), apply=apply)

    def sample_gradients(self, theta: Tensor | None, batch: Any) -> Callable[[int, int], Tensor]:
        """Return what gives the gradient's parts, as rows, for a range of samples."""
        with tf.device(self._place(batch)):
            between = super().sample_gradients(theta, batch)
        return lambda start, stop: self._home(between, batch, start, stop)

    def sample_traces(
        self, theta: Tensor | None, batch: Any, signs: Callable[[int], NDArray[np.int8]]
    ) -> Callable[[int, int], Floats]:
        """Return what gives, for a range of samples, what they add to the trace of the Gauss-Newton matrix."""
        place = self._place(batch)
        with tf.device(place):
            between = super().sample_traces(theta, batch, signs)

        def found(start: int, stop: int) -> Floats:
            with tf.device(place):
                return between(start, stop)

        return found

    def _home(self, compute: Callable[..., Any], batch: Any, *arguments: Any) -> Any:
        """Return what is computed where the batch is, on the first device."""
        with tf.device(self._place(batch)):
            found = compute(*arguments)
        return tuple(map(self._moved, found)) if isinstance(found, tuple) else self._moved(found)

    def _moved(self, tensor: Tensor) -> Tensor:
        if tensor.device == self.device:
            return tensor
        with tf.device(self.device):
            return tf.identity(tensor)

    def _traced(self, *arguments: Any) -> tuple[Any, dict[str, Any], list[Tensor]]:
        # What is traced runs the user's code, with parts of TensorFlow replaced for the time.
        with _tracing:
            return super()._traced(*arguments)

    def _read(self, parameter: Any, batch: Any) -> Tensor:
        return super()._read(_copy(parameter, self._number(batch)), batch)

    def _bound(
        self, kind: Any, run: Callable[..., Any], theta: Tensor | None, batch: Any, *rest: Any
    ) -> tuple[Any, list[Any], dict[str, Any]]:
        number = self._number(batch)
        with tf.device(self.devices[number]):
            trace, inputs, shadows = super()._bound(kind, run, theta, batch, *rest)
        if not number or not self.model.reads_variables:
            return trace, inputs, shadows
        mirrored = [one for one in self.model.named_state().values() if len(_copies(one)) > 1]
        handles = {id(one.handle): _copy(one, number).handle for one in mirrored}
        return trace, [handles.get(id(one), one) for one in inputs], shadows
