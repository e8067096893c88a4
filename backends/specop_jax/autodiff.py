"""Loss, gradient and Hessian-vector products of a JAX model for one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax import Array

from specop.autodiff import Linearization
from specop.backend import Layout
from specop.errors import InvalidInputError, NonFiniteError, ParametersChangedError
from specop_jax import programs
from specop_jax.arrays import JaxBackend, backend, device_of, require_precision
from specop_jax.models import Loss, Model, TreeModel, checked_shapes, equinox_model
from specop_jax.structures import checksum, on_device, take_apart

__all__ = ["JaxAutodiff", "make_autodiff"]


def make_autodiff(
    model: Any,
    criterion: Callable[..., Any] | None,
    *,
    params: Any = None,
    select: Any = None,
    forward: Callable[[Any, Any], Any] | None = None,
    fixed_randomness: int | None = None,
) -> JaxAutodiff:
    """Return the one-batch derivatives of a module or of a function of a pytree."""
    described = _describe(model, criterion, params, forward, fixed_randomness)
    return JaxAutodiff(described, described.select(select))


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
    if not callable(model):
        raise InvalidInputError(f"expected a module or a function of (params, batch), got {type(model).__name__}.")
    if forward is not None:
        raise InvalidInputError("forward= is for modules; a function computes its outputs itself.")
    return TreeModel(model, criterion, False, params)


class JaxAutodiff:
    """`specop.autodiff.Autodiff` on JAX."""

    backend: JaxBackend = backend

    def __init__(self, model: Model, names: tuple[str, ...]) -> None:
        self.model = model
        self.names = names
        _, arrays = self._read()
        devices = {device_of(array, repr(name)) for name, array in arrays.items() if isinstance(array, Array)}
        selected = {name: arrays[name] for name in names}
        for name, array in selected.items():
            require_precision(array.dtype, f"parameter {name!r}")
        if len(devices) > 1:
            raise InvalidInputError(
                f"the model's arrays lie on several devices, {sorted(map(str, devices))}. Put them on one with "
                f"jax.device_put(params, device)."
            )
        self.device = devices.pop() if devices else jax.devices()[0]
        self.form = tuple((tuple(array.shape), np.dtype(array.dtype)) for array in selected.values())
        dtype = np.dtype(np.float64 if any(kind == np.float64 for _, kind in self.form) else np.float32)
        self.layout = Layout.whole(sum(int(np.prod(shape)) for shape, _ in self.form), dtype, self.device)
        self._programs: dict[Any, programs.Program] = {}

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
        return JaxAutodiff(self.model, self.model.select(select, among=self.names))

    def flatten(self, tree: Any) -> Array:
        """Return a parameter structure as a vector."""
        shapes = dict(zip(self.names, (shape for shape, _ in self.form), strict=True))
        parts = checked_shapes(self.model.arrays_of(tree, self.names), shapes)
        return programs.join([on_device(part, self.device) for part in parts], self.layout.dtype)

    def unflatten(self, vector: Array) -> Any:
        """Return a vector in the structure of the parameters; of a module, a mapping by name."""
        self.backend.check_vector(vector, self.layout, "the vector")
        return self.model.structure_of(dict(zip(self.names, programs.split(vector, self.form), strict=True)))

    def fingerprint(self, *, fixed: bool = False) -> tuple[Any, ...]:
        """Return the loss and the identities of its arrays, which are immutable; of NumPy arrays a checksum."""
        loss, arrays = self._read()
        replaced = set(self.names) if fixed else set()
        kept = [array for name, array in arrays.items() if name not in replaced]
        return (loss, *(_Same(array) if isinstance(array, Array) else checksum(array) for array in kept))

    def free_memory(self) -> int:
        """Bytes that are free on the parameters' device."""
        known = self.device.memory_stats() if self.device.platform != "cpu" else None
        if known is None:
            return int(psutil.virtual_memory().available)
        return int(known["bytes_limit"] - known["bytes_in_use"])

    def preserved(self) -> AbstractContextManager[None]:
        """JAX has no global random state."""
        return nullcontext()

    # Batches
    def prepare(self, batch: Any) -> Any:
        """Return the batch on the parameters' device."""
        arrays, frame = take_apart(batch)
        return frame.fill([on_device(array, self.device) for array in arrays])

    def count(self, batch: Any) -> int:
        """Return the leading dimension of the batch's first array."""
        return next((int(array.shape[0]) for array in take_apart(batch)[0] if array.ndim), 1)

    def batch_bytes(self, batch: Any) -> int:
        """Return the memory that the batch's arrays take."""
        return sum(array.nbytes for array in take_apart(batch)[0])

    def batch_versions(self, batch: Any) -> tuple[int, ...]:
        """Return checksums of the batch's NumPy arrays; JAX's own are immutable."""
        return tuple(checksum(array) for array in take_apart(batch)[0] if not isinstance(array, Array))

    def batch_fingerprint(self, batch: Any) -> tuple[int, ...]:
        """Return a checksum of the batch's arrays."""
        return tuple(map(checksum, take_apart(batch)[0]))

    # Derivatives
    def loss(self, theta: Array | None, batch: Any) -> Array:
        """Return the loss."""
        program, arguments = self._program(theta, batch)
        return self._finite(program.loss(*arguments), arguments)

    def gradient(self, theta: Array | None, batch: Any) -> tuple[Array, Array]:
        """Return loss and gradient."""
        program, arguments = self._program(theta, batch)
        loss, gradient = program.gradient(*arguments)
        return self._finite(loss, arguments), gradient

    def linearize(self, theta: Array | None, batch: Any, vector: Array) -> Linearization:
        """Return H v and what multiplies further vectors without another look at model or data."""
        program, arguments = self._program(theta, batch)
        found = program.linearize(*arguments, vector)
        if found is None:
            return self._recomputed(program, arguments, vector)
        loss, first, apply, held = found
        self._finite(loss, arguments)
        return Linearization(first, apply, _bytes(held, arguments[:2]))

    def product(self, theta: Array | None, batch: Any, vector: Array) -> Array:
        """Return H v and keep nothing."""
        program, arguments = self._program(theta, batch)
        loss, product = program.product(*arguments, vector)
        self._finite(loss, arguments)
        return product

    def _recomputed(self, program: programs.Program, arguments: tuple[Any, ...], vector: Array) -> Linearization:
        loss, first = program.product(*arguments, vector)
        self._finite(loss, arguments)
        held = _bytes(arguments[2], arguments[:2])
        return Linearization(first, lambda other: program.product(*arguments, other)[1], held)

    def _program(self, theta: Array | None, batch: Any) -> tuple[programs.Program, tuple[Any, ...]]:
        """Return compiled functions for a batch of this form, and their arguments."""
        loss, leaves = self._read()
        arrays, frame = take_apart(batch)
        others = [None if name in set(self.names) else leaf for name, leaf in leaves.items()]
        points = self._points(leaves) if theta is None else programs.split(theta, self.form)
        key = (loss, frame, tuple((array.shape, array.dtype) for array in arrays))
        if key not in self._programs:
            self._programs[key] = programs.find_program(
                loss, frame, self.form, self.layout.dtype, points, others, arrays
            )
        return self._programs[key], (points, others, arrays)

    def _points(self, leaves: dict[str, Any]) -> list[Array]:
        """Return the selected parameters as the model has them now: it may hold other arrays than at first."""
        for name, (shape, dtype) in zip(self.names, self.form, strict=True):
            now = leaves.get(name)
            if now is None or (tuple(now.shape), now.dtype) != (shape, dtype):
                what = "is gone" if now is None else f"is now {now.dtype} of shape {now.shape}"
                raise ParametersChangedError(f"parameter {name!r} {what}. Make a new objective for the changed model.")
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

    def _finite(self, loss: Array, arguments: tuple[Any, ...]) -> Array:
        if np.isfinite(np.asarray(loss)):
            return loss
        points, others, _ = arguments
        names = [*self.model.read()[1]]
        waiting = iter(points)
        values = [next(waiting) if other is None else other for other in others]
        bad = [
            name
            for name, value in zip(names, values, strict=True)
            if jnp.issubdtype(value.dtype, np.floating) and not np.isfinite(np.asarray(value, dtype=float)).all()
        ]
        where = (
            f"These arrays, of the model or in theta, hold NaN or infinity: {', '.join(bad[:5])}. Restore them from a "
            f"checkpoint."
            if bad
            else "All parameters are finite: look at the data, and for log(0), division by zero or overflow."
        )
        raise NonFiniteError(f"the loss is {float(loss)}. {where}")


class _Same:
    """An immutable array, equal to itself only."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.array is other.array

    __hash__ = None  # type: ignore[assignment]


def _bytes(held: Sequence[Array], owned: Any) -> int:
    """Memory behind the arrays that would be free without them."""
    known = set(map(_address, jax.tree_util.tree_leaves(owned)))
    sizes = {_address(array): array.nbytes for array in held}
    return sum(size for address, size in sizes.items() if address not in known)


def _address(array: Any) -> int:
    # Random keys have no address of their own; few bytes, counted each time.
    return array.unsafe_buffer_pointer() if hasattr(array, "unsafe_buffer_pointer") else id(array)
