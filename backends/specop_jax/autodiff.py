"""Loss, gradient and products with curvature matrices of a JAX model for one batch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from specop.arrays.layout import Layout
from specop.errors import InvalidInputError, NonFiniteError, ParametersChangedError
from specop.objectives.autodiff import Batched, Linearization, Matrix, Same
from specop.objectives.calling import calling_function
from specop.objectives.likelihoods import Likelihood, label_noise, recognise
from specop.objectives.parameters import checked_shapes
from specop.objectives.refusals import (
    check_samples_first,
    dependent_samples,
    not_finite,
    parameter_changed,
    several_devices,
    wrong_likelihood,
)
from specop_jax import programs
from specop_jax.arrays import JaxBackend, backend, device_of, require_precision
from specop_jax.memory import free_memory, held_bytes, is_out_of_memory
from specop_jax.models import Loss, Model, TreeModel, equinox_model
from specop_jax.products import LossProgram, OutputProgram, Status, Variant
from specop_jax.programs import Arguments, Program
from specop_jax.structures import TREES, checksum, on_device

__all__ = ["JaxAutodiff", "make_autodiff"]

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
    described = _describe(model, criterion, params, forward, fixed_randomness)
    return JaxAutodiff(described, described.select(select), recognise(criterion, likelihood))


def _describe(
    model: Any,
    criterion: Callable[..., Any] | None,
    params: Any,
    forward: Callable[[Any, Any], Any] | None,
    fixed_randomness: int | None,
) -> Model:
    origins = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    if params is None and "flax" in origins:
        from flax import nnx

        if isinstance(model, nnx.Module):
            from specop_jax.flax_modules import NnxModel

            return NnxModel(model, criterion, forward, fixed_randomness)
    if fixed_randomness is not None:
        raise InvalidInputError(
            "fixed_randomness is for modules that hold their random state. In JAX a function is given its random keys: "
            "put a fixed key into it, or into forward=."
        )
    if params is None and "equinox" in origins:
        return equinox_model(model, criterion, forward)
    if params is None:
        raise InvalidInputError(
            f"{type(model).__name__} does not hold its parameters: pass a function of them, "
            f"objective(fun, criterion, data, params=params), for a flax.linen module "
            f"lambda params, batch: model.apply(params, batch[0])."
        )
    return TreeModel(calling_function(model, criterion, forward), params)


class JaxAutodiff(Batched):
    """`specop.objectives.Autodiff` on JAX."""

    backend: JaxBackend = backend
    trees = TREES

    def __init__(self, model: Model, names: tuple[str, ...], likelihood: str | None) -> None:
        self.model = model
        self.names = names
        self.likelihood = likelihood
        _, arrays = self._read()
        devices = {device_of(array, repr(name)) for name, array in arrays.items() if isinstance(array, Array)}
        selected = {name: arrays[name] for name in names}
        for name, array in selected.items():
            require_precision(array.dtype, f"parameter {name!r}")
        if len(devices) > 1:
            raise several_devices([*devices], "put them on one with jax.device_put(params, device)")
        self.device = devices.pop() if devices else jax.devices()[0]
        self.form = tuple((tuple(array.shape), np.dtype(array.dtype)) for array in selected.values())
        dtype = np.dtype(np.float64 if any(kind == np.float64 for _, kind in self.form) else np.float32)
        self.shapes = tuple(shape for shape, _ in self.form)
        self.sizes = tuple(int(np.prod(shape)) for shape in self.shapes)
        self.layout = Layout(sum(self.sizes), dtype, self.device)
        self._programs: dict[Any, Any] = {}

    @property
    def precision(self) -> float:
        """Rounding error of products: of the least exact parameter dtype, or of the device's matrix products."""
        coarsest = max(float(jnp.finfo(kind).eps) for _, kind in self.form)
        products = {"gpu": 2.0**-11, "tpu": 2.0**-8}.get(self.device.platform, 0.0)
        setting = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
        exact = setting in ("highest", "float32")
        return coarsest if exact or coarsest < 1e-10 else max(coarsest, products)

    def restrict(self, select: Any) -> JaxAutodiff:
        """Return the same for a part of the parameters selected now."""
        return JaxAutodiff(self.model, self.model.select(select, among=self.names), self.likelihood)

    def flatten(self, tree: Any) -> Array:
        """Return a parameter structure as a vector."""
        shapes = dict(zip(self.names, self.shapes, strict=True))
        parts = checked_shapes(self.model.arrays_of(tree, self.names), shapes, lambda one: getattr(one, "shape", None))
        return programs.join([on_device(part, self.device) for part in parts], self.layout.dtype)

    def point(self) -> Array:
        """Return the current values as a vector."""
        _, leaves = self._read()
        return programs.join(self._points(leaves), self.layout.dtype)

    def unflatten(self, vector: Array) -> Any:
        """Return a vector in the structure of the parameters; of a module, a mapping by name."""
        self.backend.check_vector(vector, self.layout, "the vector")
        return self.model.structure_of(dict(zip(self.names, programs.split(vector, self.form), strict=True)))

    def fingerprint(self, *, fixed: bool = False) -> tuple[Any, ...]:
        """Return the loss and the identities of its arrays, which are immutable; of NumPy arrays a checksum."""
        loss, arrays = self._read()
        replaced = set(self.names) if fixed else set()
        kept = [array for name, array in arrays.items() if name not in replaced]
        return (loss, *map(_version, kept))

    def free_memory(self) -> int:
        """Return the bytes that are free on the parameters' device."""
        return free_memory(self.device)

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Return whether an error says that the device's memory is used up."""
        return is_out_of_memory(error)

    def preserved(self) -> AbstractContextManager[None]:
        """JAX has no global random state."""
        return nullcontext()

    # Batches
    def prepare(self, batch: Any) -> Any:
        """Return the batch on the parameters' device."""
        return TREES.map(lambda array: on_device(array, self.device), batch)

    def batch_bytes(self, batch: Any) -> int:
        """Return the memory that the batch's arrays take."""
        return sum(array.nbytes for array in TREES.arrays(batch))

    def batch_versions(self, batch: Any) -> tuple[Any, ...]:
        """Return the batch's arrays themselves, which are immutable; of NumPy arrays checksums."""
        return tuple(map(_version, TREES.arrays(batch)))

    def batch_fingerprint(self, batch: Any) -> tuple[int, ...]:
        """Return a checksum of the batch's arrays."""
        return tuple(map(checksum, TREES.arrays(batch)))

    # Derivatives
    def loss(self, theta: Array | None, batch: Any) -> Array:
        """Return the loss."""
        program, arguments = self._program(LossProgram, theta, batch)
        return self._finite(program.loss(*arguments), arguments)

    def gradient(self, theta: Array | None, batch: Any) -> tuple[Array, Array]:
        """Return loss and gradient."""
        program, arguments = self._program(LossProgram, theta, batch)
        loss, gradient = program.gradient(*arguments)
        return self._finite(loss, arguments), gradient

    def output_size(self, theta: Array | None, batch: Any) -> int:
        """Return the number of entries of the outputs."""
        program, _ = self._program(OutputProgram, theta, batch)
        return int(program.outputs.size)

    def linearize(self, theta: Array | None, batch: Any, vector: Array, matrix: Matrix) -> Linearization:
        """Return the product with a vector, and what multiplies others without another look at model or data."""
        if matrix.kind == "hessian":
            loss_program, arguments = self._program(LossProgram, theta, batch)
            product = loss_program.linearize(arguments, vector)
        else:
            program, arguments = self._program(OutputProgram, theta, batch)
            product = program.linearize(arguments, vector, *self._variant(program, arguments[2], batch, matrix))
        self._sound(product.status, arguments)
        return Linearization(product.first, product.apply, held_bytes(product.held, arguments[:2]))

    def product(self, theta: Array | None, batch: Any, vector: Array, matrix: Matrix) -> Array:
        """Return the product with a vector and keep nothing."""
        if matrix.kind == "hessian":
            program, arguments = self._program(LossProgram, theta, batch)
            loss, product = program.product(*arguments, vector)
            self._finite(loss, arguments)
            return product
        # By the same compiled functions: one for both would take as long to compile and does hardly less.
        return self.linearize(theta, batch, vector, matrix).first

    def sample_gradients(self, theta: Array | None, batch: Any) -> Callable[[int, int], Array]:
        """Return what gives the gradient's parts, as rows, for a range of samples."""
        program, arguments = self._program(OutputProgram, theta, batch)
        self._check_samples(program, batch)
        status, outputs, gradient = program.slopes(*arguments)
        self._sound(status, arguments)

        def between(start: int, stop: int) -> Array:
            rows, lengths = program.rows(stop - start, *arguments, outputs, gradient, start)
            error, scale = self.backend.to_host(lengths)[0]
            # Not "greater": where a sample on its own gives NaN, this fails too.
            if not error <= self.precision**0.5 * scale:
                raise dependent_samples(start, stop)
            return rows

        return between

    def _variant(
        self, program: OutputProgram, arrays: list[Array], batch: Any, matrix: Matrix
    ) -> tuple[Variant, tuple[Array, ...]]:
        """Return which of a program's products the matrix is, and what that takes besides the point and the data."""
        if matrix.kind == "empirical fisher":
            self._check_samples(program, batch)
        if matrix.kind == "ggn" and self.likelihood is not None:
            self._terms(program, arrays)
        if matrix.kind not in ("fisher", "sampled fisher"):
            return Variant(matrix.kind), ()
        likelihood, weights = self._terms(program, arrays)
        if matrix.kind == "fisher":
            return Variant(matrix.kind, likelihood), (weights,)
        noise = label_noise(likelihood.name, matrix, self.count(batch), weights.size)
        return Variant(matrix.kind, likelihood), (weights, jax.device_put(noise, self.device))

    def _terms(self, program: OutputProgram, arrays: list[Array]) -> tuple[Likelihood, Array]:
        assert self.likelihood is not None
        found = program.terms(self.likelihood, arrays)
        if found is None:
            raise wrong_likelihood(self.likelihood, program.outputs.shape)
        return found

    def _check_samples(self, program: OutputProgram, batch: Any) -> None:
        self.model.refuse_coupled_samples()
        check_samples_first(program.outputs.shape, self.count(batch))

    def _program(self, kind: type[P], theta: Array | None, batch: Any) -> tuple[P, Arguments]:
        """Return compiled functions for a batch of this form, and their arguments."""
        loss, leaves = self._read()
        arrays, frame = TREES.take_apart(batch)
        others = [None if name in set(self.names) else leaf for name, leaf in leaves.items()]
        points = self._points(leaves) if theta is None else programs.split(theta, self.form)
        arguments = points, others, arrays
        key = (kind, loss, frame, tuple((array.shape, array.dtype) for array in arrays))
        if key not in self._programs:
            program = programs.find(kind, loss, frame, self.form, self.layout.dtype, arguments)
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

    def _points(self, leaves: dict[str, Any]) -> list[Array]:
        """Return the selected parameters as the model has them now: it may hold other arrays than at first."""
        for name, (shape, dtype) in zip(self.names, self.form, strict=True):
            now = leaves.get(name)
            if now is None or (tuple(now.shape), now.dtype) != (shape, dtype):
                what = "is gone" if now is None else f"is now {now.dtype} of shape {now.shape}"
                raise parameter_changed(name, what)
        return [on_device(leaves[name], self.device) for name in self.names]

    def _read(self) -> tuple[Loss, dict[str, Any]]:
        loss, arrays = self.model.read()
        for name, array in arrays.items():
            if isinstance(array, Array) and array.is_deleted():
                raise ParametersChangedError(
                    f"array {name!r} of the model was deleted: it was donated to a jitted function. Make a new "
                    f"objective with the parameters that the function returned."
                )
        return loss, arrays

    def _finite(self, loss: Any, arguments: Arguments) -> Array:
        if not np.isfinite(np.asarray(loss)):
            raise self._not_finite(f"the loss is {float(loss)}", arguments)
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
            if jnp.issubdtype(value.dtype, np.floating) and not np.isfinite(np.asarray(value, dtype=float)).all()
        ]
        return not_finite(what, bad)


def _version(array: Array | np.ndarray) -> Same | int:
    return Same(array) if isinstance(array, Array) else checksum(array)
