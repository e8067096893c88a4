"""Loss, gradient and products with curvature matrices of a TensorFlow model for one batch.

The user's variables are only read: the model is traced, never run, and what is compiled from the trace holds no
operation that writes. At another point it reads variables of our own.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow import Tensor

from specop.arrays.layout import Layout
from specop.errors import InvalidInputError, NonFiniteError
from specop.objectives.autodiff import Linearization, Matrix
from specop.objectives.keras_models import likelihood_of
from specop.objectives.likelihoods import Likelihood, candidates, fits, label_noise, readings, recognise
from specop.objectives.refusals import (
    changing_loss,
    check_samples_first,
    dependent_samples,
    not_finite,
    wrong_likelihood,
)
from specop.statistics.numbers import Floats
from specop_tensorflow.derivatives import Derivatives
from specop_tensorflow.described import describe
from specop_tensorflow.likelihoods import FUNCTIONS
from specop_tensorflow.outputs import moved_gradient
from specop_tensorflow.parameters import EPSILON, TensorflowParameters, require_eager
from specop_tensorflow.products import Product
from specop_tensorflow.samples import Importance, SampleRoots, SampleRows, sample_weights
from specop_tensorflow.structures import TREES
from specop_tensorflow.traces import Linear, Trace, spec_of
from specop_tensorflow.wide import wide

__all__ = ["TensorflowAutodiff", "make_autodiff"]

# Kinds of matrices that are made of a likelihood.
_OF_LIKELIHOODS = ("fisher", "sampled fisher", "empirical fisher of terms")


def make_autodiff(
    model: Any,
    criterion: Callable[..., Tensor] | None,
    *,
    params: Any = None,
    select: Any = None,
    forward: Callable[[Any, Any], Any] | None = None,
    likelihood: str | None = None,
    fixed_randomness: int | None = None,
) -> TensorflowAutodiff:
    """Return the one-batch derivatives of a Keras model, a tf.Module or a function of a parameter structure."""
    require_eager()
    described = describe(model, criterion, params, forward, fixed_randomness)
    name = recognise(criterion, likelihood, likelihood_of)
    return TensorflowAutodiff(described, described.select(select), name, fixed_randomness)


class TensorflowAutodiff(TensorflowParameters):
    """`specop.objectives.Autodiff` on gradient tapes."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._traces: dict[Any, Any] = {}
        self._wide: _Wide | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_traces": {}, "_wide": None}

    def loss(self, theta: Tensor | None, batch: Any) -> Tensor:
        """Return the loss as a scalar."""
        trace, inputs, _ = self._bound(Trace, Derivatives.gradient, theta, batch)
        (loss,) = trace.first(*inputs)
        return self._checked(loss, theta)

    def gradient(self, theta: Tensor | None, batch: Any) -> tuple[Tensor, Tensor]:
        """Return loss and gradient."""
        trace, inputs, _ = self._bound(Trace, Derivatives.gradient, theta, batch)
        loss, gradient = trace.call(*inputs)
        return self._checked(loss, theta), gradient

    def check_trained(self, theta: Tensor | None, batch: Any, changed: Callable[[], list[str]]) -> None:
        """Raise unless two traces of the loss agree; its gradient is that of a tape, as in `fit`."""
        once = float(self.loss(theta, batch))
        # A function of its own, which no earlier trace serves.
        trace, inputs, _ = self._bound(Trace, functools.partial(Derivatives.loss), theta, batch)
        again = float(trace.call(*inputs)[0])
        if abs(once - again) > 100.0 * self.precision * max(abs(once), abs(again)):
            raise changing_loss(once, again, changed())

    def outputs(self, theta: Tensor | None, batch: Any) -> Tensor:
        """Return what the criterion is given as a vector."""
        return tf.reshape(tf.cast(self._outputs(theta, batch), self.layout.dtype), [-1])

    def output_gradient(self, theta: Tensor | None, batch: Any, shift: Tensor) -> Tensor:
        """Return the criterion's gradient in the outputs as a vector, at outputs that are moved by another one."""
        trace, inputs, _ = self._bound(Trace, moved_gradient, theta, batch, [shift], spec_of(shift))
        loss, gradient = trace.call(*inputs)
        self._checked(loss, theta)
        return gradient

    @contextlib.contextmanager
    def _widened(self, batch: Any) -> Iterator[Any]:
        self._wide = self._wide or _Wide(self)
        with tf.device(self.device):
            yield self._wide, batch

    def importance(self, theta: Tensor | None, batch: Any) -> Floats:
        """Return what each row of the outputs may add to curvature."""
        for likelihood in [None] if self.likelihood is None else self._all_readings(theta, batch):
            trace, inputs, _ = self._bound(Trace, Importance(likelihood), theta, batch)
            finite, loss, measured, rows = trace.call(*inputs)
            self._check_outputs(finite, theta)
            self._checked(loss, theta)
            if likelihood is None or fits(measured.numpy(), self._rounding() ** 0.5):
                return np.asarray(rows.numpy())
        raise wrong_likelihood(str(self.likelihood), self._outputs(theta, batch).shape)

    def linearize(self, theta: Tensor | None, batch: Any, vector: Tensor, matrix: Matrix) -> Linearization:
        """Return the product with a vector, and what multiplies others without another look at model or data."""
        trace, boundary, shadows = self._cut(theta, batch, matrix)

        def apply(vector: Tensor, alive: Any = shadows) -> Tensor:
            return trace.after(*boundary, vector)[0]

        return Linearization(apply(vector), apply, trace.bytes(boundary))

    def product(self, theta: Tensor | None, batch: Any, vector: Tensor, matrix: Matrix) -> Tensor:
        """Return the product with a vector and keep nothing."""
        return self.linearize(theta, batch, vector, matrix).first

    def sample_gradients(self, theta: Tensor | None, batch: Any) -> Callable[[int, int], Tensor]:
        """Return what gives the gradient's parts, as rows, for a range of samples."""
        self.model.refuse_coupled_samples()
        trace, inputs, _ = self._bound(Trace, sample_weights, theta, batch)
        if trace.draws:
            raise InvalidInputError(
                "the model draws random numbers under one fixed mask for the whole batch, so that gradients of single "
                "samples do not exist. Leave fixed_randomness out."
            )
        finite, loss, outputs, weights = trace.call(*inputs)
        self._check_outputs(finite, theta)
        self._checked(loss, theta)
        return self._by_samples(theta, batch, outputs, weights)

    def sample_traces(
        self, theta: Tensor | None, batch: Any, signs: Callable[[int], NDArray[np.int8]]
    ) -> Callable[[int, int], Floats]:
        """Return what gives, for a range of samples, what they add to the trace of the Gauss-Newton matrix."""
        self.model.refuse_coupled_samples()
        shape = self._outputs(theta, batch).shape
        check_samples_first(shape, self.count(batch))
        with tf.device(self.device):
            drawn = tf.convert_to_tensor(signs(int(np.prod(shape[1:]))))
        precision = self._rounding()
        for likelihood in self._all_readings(theta, batch):
            run = SampleRoots(likelihood, precision)
            trace, inputs, _ = self._bound(Trace, run, theta, batch, [drawn], spec_of(drawn))
            finite, loss, measured, outputs, roots = trace.call(*inputs)
            self._check_outputs(finite, theta)
            self._checked(loss, theta)
            if all(fits(one, precision**0.5) for one in measured.numpy()):
                squares = self._by_samples(theta, batch, outputs, roots, are_squared=True)
                return lambda start, stop: np.asarray(squares(start, stop).numpy(), np.float64)
        raise wrong_likelihood(self.likelihood, shape)

    def _by_samples(
        self, theta: Tensor | None, batch: Any, outputs: Tensor, weights: Tensor, *, are_squared: bool = False
    ) -> Callable[[int, int], Tensor]:
        batch = self.prepare(batch)
        rows = SampleRows(tuple(TREES.have_samples(batch)), are_squared)

        def between(start: int, stop: int) -> Tensor:
            part, some = weights[start:stop], self.take(batch, start, stop)
            trace, inputs, _ = self._bound(Trace, rows, theta, some, [part], spec_of(part))
            alone, found = trace.call(*inputs)
            self._check_independent(alone, outputs[start:stop], start, stop)
            return found

        return between

    def _cut(self, theta: Tensor | None, batch: Any, matrix: Matrix) -> tuple[Linear, list[Tensor], dict[str, Any]]:
        """Return a trace of products with a matrix, what it keeps, and the variables that this reads."""
        if matrix.kind.startswith("empirical fisher"):
            self.model.refuse_coupled_samples()
        spec = tf.TensorSpec([None if matrix.kind == "transposed jacobian" else self.layout.n], self.layout.dtype)
        for likelihood in self._readings(theta, batch, matrix):
            noise = [self._noise(theta, batch, matrix, likelihood)] if matrix.kind == "sampled fisher" else []
            specs = [tf.TensorSpec([None, None], tf.float64) for _ in noise]
            run = Product(matrix.kind, likelihood)
            trace, inputs, shadows = self._bound(Linear, run, theta, batch, noise, *specs, spec)
            finite, loss, measured, *boundary = trace.before(*inputs)
            self._check_outputs(finite, theta)
            self._checked(loss, theta)
            if likelihood is None or fits(measured.numpy(), self._rounding() ** 0.5):
                return trace, boundary, shadows
        raise wrong_likelihood(str(self.likelihood), self._outputs(theta, batch).shape)

    def _readings(self, theta: Tensor | None, batch: Any, matrix: Matrix) -> Iterator[Any]:
        """Yield how the outputs may be read, or None where no likelihood matters."""
        # A likelihood that the user names is checked, that of a criterion which Keras brings is known.
        is_claimed = self.likelihood != likelihood_of(self.model.calling.criterion.value)
        matters = matrix.kind in _OF_LIKELIHOODS or (matrix.kind == "ggn" and is_claimed)
        if self.likelihood is not None and matters:
            yield from self._all_readings(theta, batch)
        else:
            yield None

    def _all_readings(self, theta: Tensor | None, batch: Any) -> Iterator[Likelihood]:
        """Yield how the outputs may be read: as of the likelihood, or of any if none is known."""
        for name in candidates(self.likelihood):
            yield from readings(FUNCTIONS, name, 1)
            # How many dimensions there are takes another trace, so nobody asks before it matters.
            yield from readings(FUNCTIONS, name, self._outputs(theta, batch).shape.rank)[1:]

    def _noise(self, theta: Tensor | None, batch: Any, matrix: Matrix, likelihood: Likelihood) -> Tensor:
        shape = self._outputs(theta, batch).shape
        terms = shape.num_elements()
        if likelihood.name == "categorical":
            terms //= shape[likelihood.axis]
        with tf.device(self.device):
            return tf.convert_to_tensor(label_noise(likelihood.name, matrix, self.count(batch), terms))

    def _outputs(self, theta: Tensor | None, batch: Any) -> Tensor:
        trace, inputs, _ = self._bound(Trace, Derivatives.outputs, theta, batch)
        (outputs,) = trace.call(*inputs)
        self._check_outputs(tf.reduce_all(tf.math.is_finite(outputs)), theta)
        return outputs

    def _bound(
        self,
        kind: Any,
        run: Callable[..., Any],
        theta: Tensor | None,
        batch: Any,
        operands: Sequence[Tensor] = (),
        *rest: tf.TensorSpec,
    ) -> tuple[Any, list[Any], dict[str, Any]]:
        """Return the trace for this batch, its inputs, and the variables that stand in for the model's own at theta.

        Parameters
        ----------
        kind : type
            `Trace` or `Linear`.
        run : callable
            ``run(derivatives, values, batch, *arguments)`` is what is traced; hashable, and equal only to what computes
            the same.
        theta, batch
            Parameters and batch to evaluate the trace at.
        operands : sequence of Tensor
            The further arguments, a vector apart.
        *rest : tf.TensorSpec
            Shapes and dtypes of all further arguments.
        """
        trace, points, arrays = self._traced(kind, run, batch, rest)
        values = {} if theta is None else dict(zip(self.names, self._split(theta), strict=True))
        shadows = {name: tf.Variable(value, trainable=False) for name, value in values.items() if not points}
        given = [values[name] if name in values else self._read(point, batch) for name, point in points.items()]
        return trace, trace.inputs(given, arrays, shadows, operands), shadows

    def _read(self, parameter: Any, batch: Any) -> Tensor:
        """Return the value of a parameter for a function of a batch."""
        return tf.convert_to_tensor(parameter)

    def _traced(
        self, kind: Any, run: Callable[..., Any], batch: Any, rest: Sequence[tf.TensorSpec]
    ) -> tuple[Any, dict[str, Any], list[Tensor]]:
        """Return the trace for this batch, all that a function is given by name, and the batch's tensors."""
        # What was prepared is prepared: this makes NumPy arrays of a user's own list into tensors.
        arrays, frame = TREES.take_apart(self.prepare(batch))
        specs = [spec_of(array) for array in arrays]
        current = self.current()
        points = {} if self.model.reads_variables else {**self.model.named_state(), **current}
        key = (kind, run, frame, *specs, *rest, self.model.constants(), tuple(map(id, current.values())))
        if key not in self._traces:
            derivatives = self._derivatives(current)
            traced = functools.partial(run, derivatives)
            self._traces[key] = kind(derivatives, points, (specs, frame), self.fixed_randomness, traced, *rest)
        return self._traces[key], points, arrays

    def _checked(self, loss: Tensor, theta: Tensor | None) -> Tensor:
        if not np.isfinite(loss.numpy()):
            error = self._not_finite(f"the loss is {float(loss)}", theta)
            error.value = float(loss)
            raise error
        return loss

    def _check_outputs(self, finite: Tensor, theta: Tensor | None) -> None:
        if not finite:
            raise self._not_finite("the outputs hold NaN or infinity", theta)

    def _check_independent(self, alone: Tensor, together: Tensor, start: int, stop: int) -> None:
        if alone.shape == together.shape and tf.norm(alone - together) <= self.precision**0.5 * tf.norm(together):
            return
        raise dependent_samples(start, stop)

    def _not_finite(self, what: str, theta: Tensor | None) -> NonFiniteError:
        state = {name: tf.convert_to_tensor(tensor) for name, tensor in self.model.named_state().items()}
        if theta is not None:
            state |= dict(zip(self.names, self._split(theta), strict=True))
        real = {name: tensor for name, tensor in state.items() if tensor.dtype.is_floating}
        return not_finite(what, [name for name, one in real.items() if not tf.reduce_all(tf.math.is_finite(one))])


class _Wide(TensorflowAutodiff):
    """The same derivatives in float64, by the traces of a model in another type.

    Parameters
    ----------
    narrow : TensorflowAutodiff
    """

    precision = EPSILON["float64"]

    def __init__(self, narrow: TensorflowAutodiff) -> None:
        self.__dict__.update(narrow.__dict__)
        self.narrow = narrow
        self.layout = Layout(narrow.layout.n, np.dtype(np.float64), narrow.device)
        self.parameters = {name: tf.TensorSpec(like.shape, tf.float64) for name, like in narrow.parameters.items()}
        self._traces = {}

    def _bound(
        self,
        kind: Any,
        run: Callable[..., Any],
        theta: Tensor | None,
        batch: Any,
        operands: Sequence[Tensor] = (),
        *rest: tf.TensorSpec,
    ) -> tuple[Any, list[Any], dict[str, Any]]:
        given = [tf.TensorSpec(spec.shape, self.narrow.layout.dtype) for spec in rest]
        trace, points, arrays = self.narrow._traced(kind, run, batch, given)
        if trace not in self._traces:
            self._traces[trace] = trace.widened()
        found = self._traces[trace]
        values = dict(zip(self.names, self._split(theta), strict=True))
        shadows = {
            name: tf.Variable(values.get(name, wide(variable)), trainable=False)
            for name, variable in found.variables.items()
        }
        state = [wide(values.get(name, point)) for name, point in points.items()]
        return found, found.inputs(state, [wide(array) for array in arrays], shadows, operands), shadows

    def _rounding(self) -> float:
        return self.precision
