"""LossProgram: the compiled loss, its gradient, and products with the Hessian.

A Hessian-vector product is the derivative of the gradient along the vector, which `jax.linearize` splits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from specop.errors import InvalidInputError
from specop_jax.local import LocalProducts, are_samples_apart
from specop_jax.programs import NO_DERIVATIVE, Arguments, Product, Program
from specop_jax.residuals import Split

__all__ = ["LossProgram", "ResidualProgram"]


class LossProgram(Program):
    """Loss, gradient and Hessian."""

    def __init__(self, *facts: Any) -> None:
        super().__init__(*facts)
        self.loss = self.compiled(self._loss)
        self.gradient = self.compiled(self._gradient)
        self._linearized = Split(self._linear, self._apply, compile=self.compiled)
        self._products = {True: self.compiled(self._forward), False: self.compiled(self._reverse)}
        self._is_forward = True
        self.local = None if self.form.order is None else LocalProducts(self._slope, self.form)

    def linearize(self, arguments: Arguments, vector: Array) -> Product:
        """Return the Hessian-vector product."""
        own = self._linearize_on_each_device(arguments, vector)
        if own is not None:
            return own
        found = self._forwards(self._linearize, arguments, vector)
        if found is None:
            loss, first = self.product(*arguments, vector)
            return Product((True, loss), first, lambda other: self.product(*arguments, other)[1], arguments[2])
        return found

    def _linearize_on_each_device(self, arguments: Arguments, vector: Array) -> Product | None:
        """Return the product by the devices' own samples, or None where the loss is no mean over them."""
        if self.local is None or self.form.order is None or not are_samples_apart(self.form.order, arguments[2]):
            return None
        try:
            loss, apply, held = self.local.linearize(*arguments)
        except NO_DERIVATIVE:
            # The loss names axes of the mesh, or has no forward derivative.
            return None
        if not self.local.agrees(apply, lambda other: self.product(*arguments, other)[1]):
            return None
        return Product((True, loss), apply(vector), apply, held)

    def product(self, *arguments: Any) -> tuple[Array, Array]:
        """Return loss and Hessian-vector product, and keep nothing; the last argument is the vector."""
        found = self._forwards(self._products[True], *arguments)
        if found is not None:
            return found
        try:
            return self._products[False](*arguments)
        except NO_DERIVATIVE as error:
            raise InvalidInputError(
                f"JAX has no second derivative of an operation of the loss: {error} Replace it by others."
            ) from error

    def _linearize(self, arguments: Arguments, vector: Array) -> Product:
        loss, (apply,), held = self._linearized(*arguments)
        return Product((True, loss), apply(vector), apply, held)

    def _forwards(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function gives that differentiates the gradient forwards, or None where JAX cannot."""
        # The gradient has been traced before, so these come from its derivative: a custom_vjp inside a backward rule,
        # or an operation without a forward derivative.
        if self._is_forward:
            try:
                return function(*arguments)
            except NO_DERIVATIVE:
                self._is_forward = False
        return None

    def _loss(self, *arguments: Any) -> Array:
        return self.functions.value(*arguments).astype(self.dtype)

    def _gradient(self, *arguments: Any) -> tuple[Array, Array]:
        parts, found = self._slope(*arguments[1:])(arguments[0])
        return found, self.form.join(parts)

    def _slope(self, others: list[Any], arrays: list[Array]) -> Callable[[list[Array]], tuple[list[Array], Array]]:
        def at(points: list[Array]) -> tuple[list[Array], Array]:
            found, parts = jax.value_and_grad(self.functions.value)(points, others, arrays)
            return parts, found.astype(self.dtype)

        return at

    def _linear(self, points: list[Array], others: list[Any], arrays: list[Array]) -> tuple[Array, Any]:
        _, linear, found = jax.linearize(self._slope(others, arrays), points, has_aux=True)
        return found, linear

    def _apply(self, linear: Any, vector: Array) -> Array:
        return self.form.join(linear(self.form.split(vector)))

    def _forward(
        self, points: list[Array], others: list[Any], arrays: list[Array], vector: Array
    ) -> tuple[Array, Array]:
        along = self.form.split(vector)
        _, parts, found = jax.jvp(self._slope(others, arrays), (points,), (along,), has_aux=True)
        return found, self.form.join(parts)

    def _reverse(
        self, points: list[Array], others: list[Any], arrays: list[Array], vector: Array
    ) -> tuple[Array, Array]:
        def along(points: list[Array]) -> tuple[Array, Array]:
            parts, found = self._slope(others, arrays)(points)
            return jnp.stack([*map(jnp.vdot, parts, self.form.split(vector))]).sum(), found

        parts, found = jax.grad(along, has_aux=True)(points)
        return found, self.form.join(parts)


class ResidualProgram(LossProgram):
    """The outputs' own curvature: the derivative of J'r with the criterion's gradient r in the outputs held."""

    def _slope(self, others: list[Any], arrays: list[Array]) -> Callable[[list[Array]], tuple[list[Array], Array]]:
        def at(points: list[Array]) -> tuple[list[Array], Array]:
            z, pull = jax.vjp(lambda points: self.functions.outputs(points, others, arrays), points)
            loss, residual = jax.value_and_grad(self.functions.criterion(arrays))(jax.lax.stop_gradient(z))
            (parts,) = pull(residual)
            return parts, loss.astype(self.dtype)

        return at
