"""OutputProgram: the compiled outputs, and products with their Jacobian J and with matrices J' M J.

Backwards differentiation of the outputs gives J', and its transpose J, so that operations need no forward derivative.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from specop.errors import InvalidInputError
from specop.objectives.likelihoods import Likelihood, by_sample, fits, importance, readings
from specop_jax.likelihoods import FUNCTIONS, output_hessian
from specop_jax.local import LocalJacobian, are_samples_apart
from specop_jax.programs import NO_DERIVATIVE, Arguments, Multiply, Product, Program, Status
from specop_jax.residuals import Split

__all__ = ["OutputProgram", "Variant"]


@dataclass(frozen=True)
class Variant:
    """What one compiled product serves: a kind of matrix, for the Fisher information of a likelihood."""

    kind: str
    likelihood: Likelihood | None = None


class OutputProgram(Program):
    """Outputs, their Jacobian, and matrices made of it."""

    needs_outputs = True

    def __init__(self, *facts: Any) -> None:
        super().__init__(*facts)
        self._jacobian = Split(self._linear, self._push, self._pull, compile=self.compiled)
        self._local = (
            None if self.form.order is None else LocalJacobian(self.functions.outputs, self.outputs, self.form)
        )
        self._compiled: dict[Any, Any] = {}

    def linearize(
        self, arguments: Arguments, vector: Array, variant: Variant, extra: tuple[Array, ...] = ()
    ) -> Product:
        """Return the product with a matrix.

        Parameters
        ----------
        arguments : tuple
            (points, others, arrays).
        vector : array
        variant : Variant
        extra : tuple of arrays
            What the matrix needs besides: weights of the loss terms, and noise to draw labels with.
        """
        # J and J' are compiled once for all kinds of matrices.
        own = None if variant.kind == "transposed jacobian" else self._on_each_device(arguments)
        (finite, z), (push, pull), held = own or _differentiated(self._jacobian, *arguments)
        loss: Array | float = 0.0
        multiply: Multiply
        if variant.kind == "jacobian":
            multiply = _Chain((push, self.compiled(self.form.flat)))
        elif variant.kind == "transposed jacobian":
            multiply = pull
        else:
            make = functools.partial(self._middle, variant)
            middle = self._once(variant, lambda: Split(make, _apply, compile=self.compiled, consumes=True))
            loss, (between,), kept = _differentiated(middle, z, arguments[2], extra)
            # Of a large vocabulary they would be one array more during the first product.
            del z
            multiply, held = _Chain((push, between, pull)), held + kept
        return Product((finite, loss), _differentiated(multiply, vector), multiply, held)

    def _on_each_device(self, arguments: Arguments) -> Any:
        """Return what `_jacobian` does, by the devices' own samples, or None where outputs depend on others too."""
        order = self.form.order
        if self._local is None or order is None or not are_samples_apart(order, arguments[2]):
            return None
        try:
            found = self._local(*arguments)
        except NO_DERIVATIVE:
            # The outputs do not come sample by sample, or the model names axes of the mesh.
            return None

        def distance(z: Array, *arguments: Any) -> tuple[Array, Array]:
            expected = self.functions.outputs(*arguments)
            return jnp.abs(z - expected).max(), jnp.abs(expected).max()

        far, size = self._once("distance", lambda: self.compiled(distance))(found[0][1], *arguments)
        tolerance = float(jnp.finfo(self.outputs.dtype).eps) ** (2 / 3)
        return found if float(far) <= tolerance * float(size) else None

    def terms(self, name: str, arrays: list[Array]) -> tuple[Likelihood, Array] | None:
        """Return the reading of a likelihood that fits the criterion, and the terms' weights; None if there is none."""

        def measured(likelihood: Likelihood, arrays: list[Array]) -> tuple[Array, tuple[Array, Array, Array]]:
            curvature = functools.partial(output_hessian, self.functions.criterion(arrays))
            return likelihood.terms(curvature, jnp.zeros(self.outputs.shape, self.outputs.dtype))

        tolerance = float(jnp.finfo(self.outputs.dtype).eps) ** 0.5
        for likelihood in readings(FUNCTIONS, name, self.outputs.ndim):
            compiled = self._once("terms", lambda: self.compiled(measured, static_argnums=0))
            weights, found = _differentiated(compiled, likelihood, arrays)
            if fits(found, tolerance):
                return likelihood, weights
        return None

    def flat(self, *arguments: Any) -> Array:
        """Return the outputs as a vector."""

        def flat(*arguments: Any) -> Array:
            return self.form.flat(self.functions.outputs(*arguments))

        return self._once("flat", lambda: self.compiled(flat))(*arguments)

    def flatten(self, z: Array) -> Array:
        """Return an array of the outputs' shape as a vector."""
        return self._once("flatten", lambda: self.compiled(self.form.flat))(z)

    def slopes(self, *arguments: Any) -> tuple[Status, Array, Array]:
        """Return status, outputs moved by the last argument, a vector or None, and the gradient of the loss in them."""

        def slopes(points: list[Array], others: list[Any], arrays: list[Array], shift: Array | None) -> Any:
            z = self.functions.outputs(points, others, arrays)
            if shift is not None:
                z = z + self.form.shaped(shift, self.outputs)
            loss, gradient = jax.value_and_grad(self.functions.criterion(arrays))(z)
            return (jnp.isfinite(z).all(), loss), z, gradient

        return self._once("slopes", lambda: self.compiled(slopes))(*arguments)

    def importance(self, terms: tuple[Likelihood, Array] | None, *arguments: Any) -> tuple[Status, Array]:
        """Return status, and what each row of the outputs may add to curvature."""
        likelihood, weights = (None, None) if terms is None else terms

        def rows(points: list[Array], others: list[Any], arrays: list[Array], weights: Array | None) -> Any:
            z = self.functions.outputs(points, others, arrays)
            loss, gradient = jax.value_and_grad(self.functions.criterion(arrays))(z)
            known = None if likelihood is None else (likelihood, z, weights)
            found = importance(FUNCTIONS, gradient, z.ndim, known)
            return (jnp.isfinite(z).all(), loss), found.reshape(-1).astype(self.dtype)

        return self._once(("importance", likelihood), lambda: self.compiled(rows))(*arguments, weights)

    def roots(
        self, terms: tuple[Likelihood, Array], points: list[Array], others: list[Any], arrays: list[Array], signs: Array
    ) -> tuple[Status, Array, Array, tuple[Array, Array, Array]]:
        """Return status, outputs z, L u for random signs u, and what tells whether the likelihood fits at z.

        L L' is the information of the likelihood.
        """
        likelihood, weights = terms
        precision = float(jnp.finfo(self.outputs.dtype).eps)

        def roots(points: list[Array], others: list[Any], arrays: list[Array], weights: Array, signs: Array) -> Any:
            z = self.functions.outputs(points, others, arrays)
            criterion, drawn = self.functions.criterion(arrays), signs.astype(z.dtype)
            curvature = functools.partial(output_hessian, criterion)
            measured = likelihood.deviation(curvature, z, weights, drawn, precision)
            return (jnp.isfinite(z).all(), criterion(z)), z, likelihood.root(z, weights)(drawn), measured

        return self._once(("roots", likelihood), lambda: self.compiled(roots))(points, others, arrays, weights, signs)

    def rows(self, count: int, *arguments: Any) -> tuple[Array, Array]:
        """Return what `count` samples add to the gradient, and by how much their outputs depend on the others.

        Arguments are (points, others, arrays, outputs, gradient in the outputs, number of the first sample). With
        outputs z and r = d loss / d z, sample i adds d(z_i . r_i) / d theta.
        """
        return self._of_samples("rows", self.form.join_rows, count, *arguments)

    def squares(self, count: int, *arguments: Any) -> tuple[Array, Array]:
        """Return the squared lengths of `rows`, and the same beside them."""

        def squares(parts: list[Array]) -> Array:
            each = [jnp.square(part.astype(self.dtype)).reshape(count, -1).sum(axis=1) for part in parts]
            return jnp.stack(each).sum(axis=0)

        return self._of_samples("squares", squares, count, *arguments)

    def _of_samples(
        self, name: str, reduce: Callable[[list[Array]], Array], count: int, *arguments: Any
    ) -> tuple[Array, Array]:
        def of_samples(
            points: list[Array], others: list[Any], arrays: list[Array], z: Array, gradient: Array, start: Array
        ) -> tuple[Array, Array]:
            sliced = [i for i, array in enumerate(arrays) if array.ndim and array.shape[0] == len(z)]

            def weighted(points: list[Array], sample: list[Array], weight: Array) -> tuple[Array, Array]:
                alone = dict(zip(sliced, sample, strict=True))
                batch = [alone.get(i, array) for i, array in enumerate(arrays)]
                found = self.functions.outputs(points, others, batch)
                if found.shape != weight.shape:
                    raise InvalidInputError(
                        f"the outputs of a single sample have shape {found.shape}, those in its batch {weight.shape}: "
                        f"gradients of single samples do not exist."
                    )
                return (found * weight).sum(), found

            def pieces(array: Array) -> Array:
                return jax.lax.dynamic_slice_in_dim(array, start, count)[:, None]

            samples = [pieces(arrays[i]) for i in sliced]
            parts, found = jax.vmap(jax.grad(weighted, has_aux=True), (None, 0, 0))(points, samples, pieces(gradient))
            expected = pieces(z)
            lengths = [jnp.linalg.norm(x.reshape(-1).astype(self.dtype)) for x in (found - expected, expected)]
            return reduce(parts), jnp.stack(lengths)

        return _differentiated(self._once((name, count), lambda: self.compiled(of_samples)), *arguments)

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._compiled:
            self._compiled[key] = make()
        return self._compiled[key]

    def _linear(self, points: list[Array], others: list[Any], arrays: list[Array]) -> tuple[tuple[Array, Array], Any]:
        """Return whether the outputs are finite, the outputs, and u -> J'u."""
        z, pull = jax.vjp(lambda points: self.functions.outputs(points, others, arrays), points)
        return (jnp.isfinite(z).all(), z), pull

    def _push(self, pull: Any, vector: Array) -> Array:
        (along,) = jax.linear_transpose(pull, self.outputs)((self.form.split(vector),))
        return along

    def _pull(self, pull: Any, u: Array) -> Array:
        (parts,) = pull(self.form.shaped(u, self.outputs))
        return self.form.join(parts)

    def _middle(self, variant: Variant, z: Array, arrays: list[Array], extra: Any) -> tuple[Array, Multiply]:
        """Return the loss and u -> M u."""
        criterion = self.functions.criterion(arrays)
        loss, gradient = jax.value_and_grad(criterion)(z)
        if variant.kind == "ggn":
            return loss, output_hessian(criterion, z)
        if variant.kind == "empirical fisher of samples":
            multiply = by_sample(FUNCTIONS, gradient, z.ndim)
        elif variant.kind == "empirical fisher of terms":
            assert variant.likelihood is not None
            multiply = variant.likelihood.empirical(gradient, extra[0], z.ndim)
        else:
            assert variant.likelihood is not None
            exact = variant.kind == "fisher"
            multiply = (variant.likelihood.information if exact else variant.likelihood.sampled)(z, *extra)
        # The derivative of a linear function is that function; JAX knows which arrays it reads.
        _, linear = jax.linearize(multiply, z)
        return loss, linear


@dataclass(frozen=True)
class _Chain:
    """Linear functions, one after the other."""

    parts: tuple[Multiply, ...]

    def __call__(self, vector: Array) -> Array:
        for part in self.parts:
            vector = part(vector)
        return vector


def _apply(linear: Multiply, u: Array) -> Array:
    return linear(u)


def _differentiated(function: Callable[..., Any], *arguments: Any) -> Any:
    # The outputs and the criterion have been differentiated before, so these come from the second derivative.
    try:
        return function(*arguments)
    except InvalidInputError:
        raise
    except NO_DERIVATIVE as error:
        raise InvalidInputError(
            f"JAX has no derivative that this matrix needs of an operation of the outputs or of the criterion: "
            f"{error} Replace it by others."
        ) from error
