"""Compiled loss, gradient and Hessian-vector products of one loss for batches of one form.

The product is the derivative of the gradient along a vector. `jax.linearize` splits it: what does not depend on the
vector is computed once and kept as an array; only the linear rest runs for each further vector.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from specop.errors import InvalidInputError
from specop.objectives.refusals import refusing_global_draws
from specop_jax.models import Loss
from specop_jax.residuals import Residuals
from specop_jax.structures import Frame, checksum

__all__ = ["KEPT", "NO_DERIVATIVE", "Form", "Program", "Unhashed", "find_program", "join", "mean", "split", "trace"]

Form = tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]
"""Shapes and dtypes of the selected parameters, in the order of the vector."""

Captured = tuple[tuple[int, int | None], ...]
"""Identities of captured arrays, and of those that can be written into a checksum."""

# How many programs outlive their objective. They hold what the user's function captured.
KEPT = 16
# What JAX raises where an operation has no derivative of the kind it is asked for.
NO_DERIVATIVE = (TypeError, ValueError, NotImplementedError)


def find_program(
    loss: Loss,
    frame: Frame,
    form: Form,
    dtype: np.dtype[Any],
    points: Sequence[Any],
    others: Sequence[Any],
    arrays: Sequence[Any],
) -> Program:
    """Return the program of a loss for batches of this form: that of an earlier objective if it is the same.

    The same function need not compute the same again: it may read a variable that has changed. Its trace decides,
    which takes a small part of the time of compilation.

    Parameters
    ----------
    loss : callable
        ``loss(leaves, batch)``: hashable, without arrays of its own.
    frame : Frame
        Puts a batch together.
    form, dtype
        Of the parameters and of the vectors.
    points, others, arrays : sequences of arrays
        Selected leaves, all leaves with None for the selected ones, and those of the batch; only shapes matter.
    """
    value = _loss_of(loss, frame)
    text, captured, constants, _ = trace(value, jax.value_and_grad(value), points, others, arrays)
    return _program(loss, form, dtype, text, captured, Unhashed((frame, constants)))


def trace(
    value: Callable[..., Any],
    gradient: Callable[..., Any],
    points: Sequence[Any],
    others: Sequence[Any],
    arrays: Sequence[Any],
) -> tuple[str, Captured, Any, Any]:
    """Return what a loss's gradient computes, as text; what it captured, first as identities; and what it returns."""
    shapes = jax.tree_util.tree_map(_shape, (list(points), list(others), list(arrays)))
    try:
        with refusing_global_draws():
            found, returned = jax.make_jaxpr(gradient, return_shape=True)(*shapes)
    except jax.errors.JAXTypeError as error:
        raise InvalidInputError(
            f"the loss cannot be compiled by jax.jit, which specop needs it to be: {error} Write branches on values "
            f"with jax.numpy.where or jax.lax.cond, and compute with jax.numpy instead of NumPy."
        ) from error
    except NO_DERIVATIVE as error:
        # An exception of the loss itself is its author's: it comes again, and as it is.
        jax.make_jaxpr(value)(*shapes)
        raise InvalidInputError(
            f"JAX has no gradient of the loss: {error} Replace that operation by others."
        ) from error
    # JAX's own arrays are immutable; a NumPy array may have been written into.
    captured = tuple((id(c), None if isinstance(c, Array) else checksum(c)) for c in found.consts)
    return str(found.jaxpr), captured, found.consts, returned


class Program:
    """Functions of (points, others, arrays): selected leaves, all leaves with None for those, leaves of the batch."""

    def __init__(self, value: Callable[..., Array], form: Form, dtype: np.dtype[Any], captured: Any) -> None:
        self.captured = captured  # alive as long as their identities tell programs apart
        self._forward = True

        def loss(points: list[Array], others: list[Any], arrays: list[Array]) -> Array:
            return value(points, others, arrays).astype(dtype)

        def gradient(points: list[Array], others: list[Any], arrays: list[Array]) -> tuple[Array, Array]:
            found, parts = jax.value_and_grad(value)(points, others, arrays)
            return found.astype(dtype), _join(parts, dtype)

        def slope(others: list[Any], arrays: list[Array]) -> Callable[[list[Array]], tuple[list[Array], Array]]:
            def at(points: list[Array]) -> tuple[list[Array], Array]:
                found, parts = jax.value_and_grad(value)(points, others, arrays)
                return parts, found

            return at

        def linearize(points: list[Array], others: list[Any], arrays: list[Array]) -> tuple[Array, Residuals]:
            _, linear, found = jax.linearize(slope(others, arrays), points, has_aux=True)
            return found.astype(dtype), Residuals.of(linear, (points, others, arrays))

        def apply(residuals: Residuals, given: list[Array], vector: Array) -> Array:
            return _join(residuals.linear(given)(_split(vector, form)), dtype)

        def forward(points: list[Array], others: list[Any], arrays: list[Array], vector: Array) -> tuple[Array, Array]:
            _, parts, found = jax.jvp(slope(others, arrays), (points,), (_split(vector, form),), has_aux=True)
            return found.astype(dtype), _join(parts, dtype)

        def reverse(points: list[Array], others: list[Any], arrays: list[Array], vector: Array) -> tuple[Array, Array]:
            def along(points: list[Array]) -> tuple[Array, Array]:
                parts, found = slope(others, arrays)(points)
                return _dot(parts, _split(vector, form)), found

            parts, found = jax.grad(along, has_aux=True)(points)
            return found.astype(dtype), _join(parts, dtype)

        self.loss = jax.jit(loss)
        self.gradient = jax.jit(gradient)
        self._apply = jax.jit(apply)
        self._linearize = jax.jit(linearize)
        self._products = {True: jax.jit(forward), False: jax.jit(reverse)}

    def linearize(self, *arguments: Any) -> tuple[Array, Array, Callable[[Array], Array], list[Array]] | None:
        """Return loss, Hessian-vector product, what multiplies further vectors, and the arrays which that holds.

        The last argument is the vector. None where JAX cannot differentiate the gradient forwards.
        """
        return self._forwards(self._linearize_and_apply, *arguments)

    def product(self, *arguments: Any) -> tuple[Array, Array]:
        """Return loss and Hessian-vector product; the last argument is the vector."""
        found = self._forwards(self._products[True], *arguments)
        if found is not None:
            return found
        try:
            return self._products[False](*arguments)
        except NO_DERIVATIVE as error:
            raise InvalidInputError(
                f"JAX has no second derivative of an operation of the loss: {error} Replace it by others."
            ) from error

    def _linearize_and_apply(self, *arguments: Any) -> tuple[Array, Array, Callable[[Array], Array], list[Array]]:
        *point, vector = arguments
        loss, residuals = self._linearize(*point)
        given = residuals.choose(point)
        apply = functools.partial(self._apply, residuals, given)
        return loss, apply(vector), apply, [*residuals.arrays, *given]

    def _forwards(self, function: Callable[..., Any], *arguments: Any) -> Any:
        # The gradient has been traced before, so these come from its derivative: a custom_vjp inside a backward rule,
        # or an operation without a forward derivative.
        if self._forward:
            try:
                return function(*arguments)
            except NO_DERIVATIVE:
                self._forward = False
        return None


@functools.partial(jax.jit, static_argnums=1)
def split(vector: Array, form: Form) -> list[Array]:
    """Return the parts of a vector as the parameters' shapes and dtypes."""
    return _split(vector, form)


@functools.partial(jax.jit, static_argnums=1)
def join(parts: list[Array], dtype: np.dtype[Any]) -> Array:
    """Return the parts as one vector."""
    return _join(parts, dtype)


class Unhashed:
    """An argument that does not tell calls of a cached function apart."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unhashed)

    def __hash__(self) -> int:
        return 0


@functools.lru_cache(KEPT)
def _program(
    loss: Loss,
    form: Form,
    dtype: np.dtype[Any],
    text: str,
    captured: Captured,
    kept: Unhashed,
) -> Program:
    # Frames with the same trace differ in constants that the loss does not use, such as file names.
    frame, constants = kept.value
    return Program(_loss_of(loss, frame), form, dtype, constants)


def _loss_of(loss: Loss, frame: Frame) -> Callable[..., Array]:
    def value(points: list[Array], others: list[Any], arrays: list[Array]) -> Array:
        chosen = iter(points)
        leaves = [next(chosen) if other is None else other for other in others]
        return mean(loss(leaves, frame.fill(arrays)))

    return value


def mean(found: Any) -> Array:
    """Return a loss as a scalar, or raise InvalidInputError unless it is one real number."""
    shape = getattr(found, "shape", () if isinstance(found, float) else None)
    if shape is None or np.prod(shape) != 1 or not jnp.issubdtype(jnp.result_type(found), np.floating):
        what = type(found).__name__ if shape is None else f"{jnp.result_type(found)} of shape {tuple(shape)}"
        raise InvalidInputError(
            f"the loss must be one real number, the mean over the batch; got {what}. Use a criterion that takes "
            f"the mean, or return loss.mean()."
        )
    return jnp.reshape(found, ())


def _shape(array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, weak_type=getattr(array, "weak_type", False))


def _split(vector: Array, form: Form) -> list[Array]:
    sizes = [int(np.prod(shape)) for shape, _ in form]
    pieces = jnp.split(vector, np.cumsum(sizes)[:-1])
    return [piece.reshape(shape).astype(dtype) for piece, (shape, dtype) in zip(pieces, form, strict=True)]


def _dot(left: Sequence[Array], right: Sequence[Array]) -> Array:
    return jnp.stack([jnp.vdot(a, b) for a, b in zip(left, right, strict=True)]).sum()


def _join(parts: Sequence[Array], dtype: np.dtype[Any]) -> Array:
    # A copy, because a compiled function hands an argument that it returns straight through, and the caller writes
    # into what it gets.
    return jnp.copy(jnp.concatenate([part.reshape(-1).astype(dtype) for part in parts]))
