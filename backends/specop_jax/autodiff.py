"""Loss, gradient and products with curvature matrices of a JAX model for one batch."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from specop.errors import InvalidInputError, NonFiniteError
from specop.objectives.autodiff import Linearization, Matrix
from specop.objectives.keras_models import likelihood_of
from specop.objectives.likelihoods import Likelihood, candidates, fits, label_noise, recognise
from specop.objectives.refusals import (
    check_samples_first,
    dependent_samples,
    not_finite,
    wrong_likelihood,
)
from specop.statistics.numbers import Floats
from specop_jax import programs
from specop_jax.arrays import known
from specop_jax.described import describe
from specop_jax.loss_program import LossProgram, ResidualProgram
from specop_jax.memory import held_bytes
from specop_jax.models import Loss, real
from specop_jax.output_program import OutputProgram, Variant
from specop_jax.parameters import JaxParameters
from specop_jax.programs import Arguments, Program, Status
from specop_jax.spread import is_spread
from specop_jax.structures import TREES, refuse_sparse
from specop_jax.trained import check_repeated

__all__ = ["JaxAutodiff", "make_autodiff"]

# Matrices that are derivatives of a gradient.
_SECOND: dict[str, type[LossProgram]] = {"hessian": LossProgram, "output curvature": ResidualProgram}

P = TypeVar("P", bound=Program)


def make_autodiff(
    model: Any,
    criterion: Callable[..., Any] | None,
    *,
    params: Any = None,
    select: Any = None,
    forward: Callable[[Any, Any], Any] | None = None,
    likelihood: str | None = None,
    fixed_randomness: int | None = None,
) -> JaxAutodiff:
    """Return the one-batch derivatives of a module or of a function of a pytree."""
    described = describe(model, criterion, params, forward, fixed_randomness)
    name = recognise(criterion, likelihood, likelihood_of)
    return JaxAutodiff(described, described.select(select), name, fixed_randomness)


class JaxAutodiff(JaxParameters):
    """`specop.objectives.Autodiff` on JAX."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._programs: dict[Any, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_programs": {}}

    def loss(self, theta: Array | None, batch: Any) -> Array:
        """Return the loss."""
        program, arguments = self._program(LossProgram, theta, batch)
        return self._finite(program.loss(*arguments), arguments)

    def gradient(self, theta: Array | None, batch: Any) -> tuple[Array, Array]:
        """Return loss and gradient."""
        program, arguments = self._program(LossProgram, theta, batch)
        loss, gradient = program.gradient(*arguments)
        return self._finite(loss, arguments), gradient

    def check_trained(self, theta: Array | None, batch: Any, changed: Callable[[], list[str]]) -> None:
        """Raise unless two calls of the loss agree; its gradient is JAX's own."""
        check_repeated(*self._program(LossProgram, theta, batch), changed, self.place.processes)

    @contextmanager
    def _widened(self, batch: Any) -> Iterator[Any]:
        if not self.model.widens:
            raise InvalidInputError("Keras casts to the dtypes of its variables")
        with jax.enable_x64(True):
            selected = {name: jax.ShapeDtypeStruct(kind.shape, np.float64) for name, kind in self.parameters.items()}
            yield _Wide(self.model, selected, self.likelihood), TREES.map(_wide, batch)

    def outputs(self, theta: Array | None, batch: Any) -> Array:
        """Return what the criterion is given as a vector."""
        program, arguments = self._program(OutputProgram, theta, batch)
        return program.flat(*arguments)

    def output_gradient(self, theta: Array | None, batch: Any, shift: Array) -> Array:
        """Return the criterion's gradient in the outputs as a vector, at outputs that are moved by another one."""
        program, arguments = self._program(OutputProgram, theta, batch)
        status, _, gradient = program.slopes(*arguments, self.place.own(shift, self.place.plain(shift)))
        self._sound(status, arguments)
        return program.flatten(gradient)

    def importance(self, theta: Array | None, batch: Any) -> Floats:
        """Return what each row of the outputs may add to curvature."""
        program, arguments = self._program(OutputProgram, theta, batch)
        terms = None if self.likelihood is None else self._terms(program, arguments[2])
        status, found = program.importance(terms, *arguments)
        self._sound(status, arguments)
        return self.backend.to_host(found)[0]

    def linearize(self, theta: Array | None, batch: Any, vector: Array, matrix: Matrix) -> Linearization:
        """Return the product with a vector, and what multiplies others without another look at model or data."""
        # What is kept of a first product would outlive the trace that the vector belongs to.
        jax.tree_util.tree_map(known, vector)
        order = self.place.plain(vector) if matrix.kind == "transposed jacobian" else self.form.order
        vector = self.place.own(vector, order)
        if matrix.kind in _SECOND:
            second, arguments = self._program(_SECOND[matrix.kind], theta, batch)
            product = second.linearize(arguments, vector)
        else:
            program, arguments = self._program(OutputProgram, theta, batch)
            product = program.linearize(arguments, vector, *self._variant(program, arguments[2], batch, matrix))
        self._sound(product.status, arguments)
        apply = product.apply if order is None else lambda other: product.apply(self.place.own(other, order))
        return Linearization(product.first, apply, held_bytes(product.held, arguments[:2]))

    def product(self, theta: Array | None, batch: Any, vector: Array, matrix: Matrix) -> Array:
        """Return the product with a vector and keep nothing."""
        if matrix.kind in _SECOND:
            program, arguments = self._program(_SECOND[matrix.kind], theta, batch)
            loss, product = program.product(*arguments, self._own(vector))
            self._finite(loss, arguments)
            return product
        # By the same compiled functions: one for both would take as long to compile and does hardly less.
        return self.linearize(theta, batch, vector, matrix).first

    def sample_gradients(self, theta: Array | None, batch: Any) -> Callable[[int, int], Array]:
        """Return what gives the gradient's parts, as rows, for a range of samples."""
        program, arguments = self._of_samples(theta, batch)
        status, outputs, gradient = program.slopes(*arguments, None)
        self._sound(status, arguments)

        def between(start: int, stop: int) -> Array:
            rows, lengths = program.rows(stop - start, *arguments, outputs, gradient, start)
            self._check_apart(lengths, start, stop)
            return rows

        return between

    def sample_traces(
        self, theta: Array | None, batch: Any, signs: Callable[[int], NDArray[np.int8]]
    ) -> Callable[[int, int], Floats]:
        """Return what gives, for a range of samples, what they add to the trace of the Gauss-Newton matrix."""
        program, arguments = self._of_samples(theta, batch)
        likelihood, weights = self._terms(program, arguments[2])
        drawn = signs(math.prod(program.outputs.shape[1:])).reshape(program.outputs.shape)
        roots = functools.partial(program.roots, (likelihood, weights), *arguments)
        status, outputs, images, measured = roots(self.place.everywhere(drawn))
        self._sound(status, arguments)
        if not fits(measured, float(np.finfo(program.outputs.dtype).eps) ** 0.5):
            raise wrong_likelihood(self.likelihood, program.outputs.shape)

        def between(start: int, stop: int) -> Floats:
            squares, lengths = program.squares(stop - start, *arguments, outputs, images, start)
            self._check_apart(lengths, start, stop)
            return self.backend.to_host(squares)[0]

        return between

    def _of_samples(self, theta: Array | None, batch: Any) -> tuple[OutputProgram, Arguments]:
        # Samples are cut out of arrays that each device has.
        program, arguments = self._program(OutputProgram, theta, self.place.gathered(batch))
        self._check_samples(program, batch)
        return program, arguments

    def _check_apart(self, lengths: Array, start: int, stop: int) -> None:
        error, scale = self.backend.to_host(lengths)[0]
        # Not "greater": where a sample on its own gives NaN, this fails too.
        if not error <= self.precision**0.5 * scale:
            raise dependent_samples(start, stop)

    def _variant(
        self, program: OutputProgram, arrays: list[Array], batch: Any, matrix: Matrix
    ) -> tuple[Variant, tuple[Array, ...]]:
        """Return which of a program's products the matrix is, and what that takes besides the point and the data."""
        if matrix.kind.startswith("empirical fisher"):
            self._check_samples(program, batch)
        # A likelihood that the user names is checked, that of a criterion which Keras brings is known.
        if matrix.kind == "ggn" and self.likelihood not in (None, likelihood_of(self.model.calling.criterion.value)):
            self._terms(program, arrays)
        if matrix.kind not in ("fisher", "sampled fisher", "empirical fisher of terms"):
            return Variant(matrix.kind), ()
        likelihood, weights = self._terms(program, arrays)
        if matrix.kind != "sampled fisher":
            return Variant(matrix.kind, likelihood), (weights,)
        noise = label_noise(likelihood.name, matrix, self.count(batch), weights.size)
        return Variant(matrix.kind, likelihood), (weights, self.place.everywhere(noise))

    def _terms(self, program: OutputProgram, arrays: list[Array]) -> tuple[Likelihood, Array]:
        for name in candidates(self.likelihood):
            found = program.terms(name, arrays)
            if found is not None:
                return found
        raise wrong_likelihood(self.likelihood, program.outputs.shape)

    def _check_samples(self, program: OutputProgram, batch: Any) -> None:
        self.model.refuse_coupled_samples()
        refuse_sparse(batch)
        check_samples_first(program.outputs.shape, self.count(batch))

    def _program(self, kind: type[P], theta: Array | None, batch: Any) -> tuple[P, Arguments]:
        """Return compiled functions for a batch of this form, and their arguments."""
        points = None if theta is None else self._split(theta)
        known = len(self._programs)
        with self.place.processes.together():
            program, arguments = self._found_program(kind, points, batch)
        if len(self._programs) > known:
            programs.check_same(program, self.place.processes)
        return program, arguments

    def _found_program(self, kind: type[P], points: list[Array] | None, batch: Any) -> tuple[P, Arguments]:
        loss, leaves = self._read()
        arrays, frame = TREES.take_apart(batch)
        others = [None if name in self.parameters else self.place.leaf(leaf) for name, leaf in leaves.items()]
        arguments = self._held(leaves) if points is None else points, others, arrays
        key = (kind, loss, frame, tuple((array.shape, array.dtype, self.place.cut_of(array)) for array in arrays))
        if key not in self._programs:
            program = programs.find(kind, loss, frame, self.form, arguments)
            if self.model.is_module:
                self._refuse_bypassed(program, leaves)
            self._programs[key] = program
        return self._programs[key], arguments

    def _refuse_bypassed(self, program: Program, leaves: dict[str, Any]) -> None:
        read = {id(array) for array in program.captured}
        for name in self.names:
            if id(leaves[name]) in read:
                raise InvalidInputError(
                    f"the forward pass or the criterion reads the parameter {name!r} of the module itself, not of the "
                    f"one that it is given, so its derivative would lack that part. For a penalty pass "
                    f"forward=lambda model, batch: (model(batch[0]), penalty(model)), which the criterion adds up."
                )

    def _finite(self, loss: Any, arguments: Arguments) -> Array:
        if not np.isfinite(np.asarray(known(loss))):
            error = self._not_finite(f"the loss is {float(loss)}", arguments)
            error.value = float(loss)
            raise error
        return loss

    def _sound(self, status: Status, arguments: Arguments) -> None:
        finite, loss = status
        if not np.asarray(finite):
            raise self._not_finite("the outputs hold NaN or infinity", arguments)
        self._finite(loss, arguments)

    def _not_finite(self, what: str, arguments: Arguments) -> NonFiniteError:
        points, others, _ = arguments
        names = [*self.model.read()[1]]
        waiting = iter(points)
        values = [next(waiting) if other is None else other for other in others]
        bad = [
            name
            for name, value in zip(names, values, strict=True)
            if jnp.issubdtype(value.dtype, np.floating) and not np.asarray(jnp.isfinite(value).all())
        ]
        return not_finite(what, bad)


class _Wide(JaxAutodiff):
    """The same model with all of its arrays in float64, for a few gradients."""

    # What cuts a vector of another dtype up takes longer to compile than the vector to move.
    def _split(self, vector: Array) -> list[Array]:
        if self.form.order is not None:
            return super()._split(vector)
        ends = np.cumsum(self.sizes)[:-1]
        pieces = zip(np.split(np.asarray(vector), ends), self.shapes, strict=True)
        return [jnp.asarray(piece.reshape(shape)) for piece, shape in pieces]

    # It lives for one look at the model.
    @functools.cached_property
    def _arrays(self) -> tuple[Loss, dict[str, Any]]:
        loss, arrays = super()._read()
        return loss, {name: _wide(array) for name, array in arrays.items()}

    def _read(self) -> tuple[Loss, dict[str, Any]]:
        return self._arrays


def _wide(array: Any) -> Any:
    if is_spread(array):
        return array.astype(np.float64) if real(array) else array
    # By way of the host, because a conversion is compiled for each shape.
    return jnp.asarray(np.asarray(array, np.float64)) if real(array) else array
