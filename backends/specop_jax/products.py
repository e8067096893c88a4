"""Compiled products with the outputs' Jacobian J and with matrices J' M J, for one loss and batches of one form.

Backwards differentiation of the outputs gives J', and its transpose J, so that operations need no forward derivative.
As for the Hessian, what does not depend on the vector is computed once and kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial

from specop.errors import InvalidInputError
from specop_jax.likelihoods import Family, families, output_hessian
from specop_jax.models import Loss
from specop_jax.programs import KEPT, NO_DERIVATIVE, Form, Unhashed, join, mean, split, trace
from specop_jax.residuals import Residuals
from specop_jax.structures import Frame

__all__ = ["OutputProgram", "Variant", "find_output_program"]


def find_output_program(
    loss: Loss,
    frame: Frame,
    form: Form,
    dtype: np.dtype[Any],
    points: Sequence[Any],
    others: Sequence[Any],
    arrays: Sequence[Any],
) -> OutputProgram:
    """Return the output program of a loss: as `programs.find_program`, that of an earlier objective if it is the same.

    Parameters
    ----------
    loss, frame, form, dtype, points, others, arrays
        As for `programs.find_program`.
    """
    functions = _Functions(loss, frame)

    def value(points: list[Array], others: list[Any], arrays: list[Array]) -> tuple[Array, Array]:
        z = functions.outputs(points, others, arrays)
        return functions.criterion(arrays)(z), z

    gradient = jax.value_and_grad(value, has_aux=True)
    text, captured, constants, returned = trace(value, gradient, points, others, arrays)
    (_, z), _ = returned
    return _program(loss, form, dtype, text, captured, Unhashed((frame, constants, z)))


@dataclass(frozen=True)
class Variant:
    """What one compiled product serves: a kind of matrix, for the Fisher information of a family."""

    kind: str
    family: Family | None = None


class OutputProgram:
    """Functions of (points, others, arrays), as in `programs.Program`.

    They return their result after a status: whether all outputs are finite, and the loss if the result depends on it.

    Attributes
    ----------
    outputs : jax.ShapeDtypeStruct
        Their shape and dtype.
    """

    def __init__(
        self, functions: _Functions, form: Form, dtype: np.dtype[Any], outputs: jax.ShapeDtypeStruct, captured: Any
    ) -> None:
        self.captured = captured  # alive as long as their identities tell programs apart
        self.outputs = outputs
        self._functions = functions
        self._form = form
        self._dtype = dtype
        self._forward = jax.jit(self._linear)
        self._push = jax.jit(self._pushed)
        self._pull = jax.jit(self._pulled)
        self._compiled: dict[Any, Any] = {}

    def linearize(
        self, variant: Variant, arguments: tuple[Any, ...], extra: tuple[Array, ...], vector: Array
    ) -> tuple[tuple[Array, Array], Array, Callable[[Array], Array], list[Array]]:
        """Return status, product, what multiplies further vectors, and the arrays which that holds.

        Parameters
        ----------
        variant : Variant
        arguments : tuple
            (points, others, arrays).
        extra : tuple of arrays
            What the matrix needs besides: weights of the loss terms, and noise to draw labels with.
        vector : array
        """
        # J and J' are compiled once for all kinds of matrices.
        finite, z, residuals = self._differentiated(self._forward, *arguments)
        given = residuals.choose(arguments)
        held, loss = [*residuals.arrays, *given], jnp.zeros(())
        push, pull = (functools.partial(way, residuals, given) for way in (self._push, self._pull))
        multiply: Callable[[Array], Array]
        if variant.kind == "jacobian":
            multiply = _Chain((push, self._flat))
        elif variant.kind == "transposed jacobian":
            multiply = pull
        else:
            loss, middle, kept = self._middle(variant, z, arguments[2], extra)
            multiply = _Chain((push, middle, pull))
            held += kept
        return (finite, loss), self._differentiated(multiply, vector), multiply, held

    def terms(self, name: str, arrays: list[Array]) -> tuple[Family, Array] | None:
        """Return the reading of a likelihood that fits the criterion, and the terms' weights; None if there is none."""

        def terms(family: Family, arrays: list[Array]) -> tuple[Array, Array]:
            return family.terms(self._functions.criterion(arrays), jnp.zeros(self.outputs.shape, self.outputs.dtype))

        for family in families(name, self.outputs.ndim):
            compiled = self._jit(("terms", family), functools.partial(terms, family))
            weights, fits = self._differentiated(compiled, arrays)
            if fits:
                return family, weights
        return None

    def slopes(self, *arguments: Any) -> tuple[tuple[Array, Array], Array, Array]:
        """Return status, outputs, and the gradient of the loss in them."""

        def slopes(points: list[Array], others: list[Any], arrays: list[Array]) -> Any:
            z = self._functions.outputs(points, others, arrays)
            loss, gradient = jax.value_and_grad(self._functions.criterion(arrays))(z)
            return (jnp.isfinite(z).all(), loss), z, gradient

        found: tuple[tuple[Array, Array], Array, Array] = self._jit("slopes", slopes)(*arguments)
        return found

    def rows(self, count: int, *arguments: Any) -> tuple[Array, Array]:
        """Return what `count` samples add to the gradient, and by how much their outputs depend on the others.

        Arguments are (points, others, arrays, outputs, gradient in the outputs, number of the first sample). With
        outputs z and r = d loss / d z, sample i adds d(z_i . r_i) / d theta.
        """

        def rows(
            points: list[Array], others: list[Any], arrays: list[Array], z: Array, gradient: Array, start: Array
        ) -> tuple[Array, Array]:
            sliced = [i for i, array in enumerate(arrays) if array.ndim and array.shape[0] == len(z)]

            def weighted(points: list[Array], sample: list[Array], weight: Array) -> tuple[Array, Array]:
                alone = dict(zip(sliced, sample, strict=True))
                batch = [alone.get(i, array) for i, array in enumerate(arrays)]
                found = self._functions.outputs(points, others, batch)
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
            flat = jnp.concatenate([part.reshape(count, -1).astype(self._dtype) for part in parts], axis=1)
            expected = pieces(z)
            lengths = [jnp.linalg.norm(x.reshape(-1).astype(self._dtype)) for x in (found - expected, expected)]
            return flat, jnp.stack(lengths)

        block: tuple[Array, Array] = self._jit(("rows", count), rows)(*arguments)
        return block

    def _jit(self, key: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        return self._compiled.setdefault(key, jax.jit(function))

    def _differentiated(self, function: Callable[..., Any], *arguments: Any) -> Any:
        # The outputs and the criterion have been differentiated before, so these come from the second derivative.
        try:
            return function(*arguments)
        except NO_DERIVATIVE as error:
            raise InvalidInputError(
                f"JAX has no derivative that this matrix needs of an operation of the outputs or of the criterion: "
                f"{error} Replace it by others."
            ) from error

    def _linear(self, points: list[Array], others: list[Any], arrays: list[Array]) -> tuple[Array, Array, Residuals]:
        """Return whether the outputs are finite, the outputs, and u -> J'u."""
        z, pull = jax.vjp(lambda points: self._functions.outputs(points, others, arrays), points)
        return jnp.isfinite(z).all(), z, Residuals.of(pull, (points, others, arrays))

    def _pushed(self, residuals: Residuals, given: list[Array], vector: Array) -> Array:
        pull = residuals.linear(given)
        (along,) = jax.linear_transpose(pull, self.outputs)((split(vector, self._form),))
        return along

    def _pulled(self, residuals: Residuals, given: list[Array], u: Array) -> Array:
        (parts,) = residuals.linear(given)(u.reshape(self.outputs.shape).astype(self.outputs.dtype))
        return join(parts, self._dtype)

    def _flat(self, u: Array) -> Array:
        return join([u], self._dtype)

    def _middle(
        self, variant: Variant, z: Array, arrays: list[Array], extra: Any
    ) -> tuple[Array, Callable[[Array], Array], list[Array]]:
        """Return the loss, u -> M u, and the arrays which that holds."""

        def made(z: Array, arrays: list[Array], extra: Any) -> tuple[Array, Residuals]:
            criterion = self._functions.criterion(arrays)
            loss, gradient = jax.value_and_grad(criterion)(z)
            if variant.kind == "ggn":
                linear = output_hessian(criterion, z)
            elif variant.kind == "empirical fisher":
                linear = Partial(_by_sample, gradient)
            else:
                assert variant.family is not None
                make = variant.family.hessian if variant.kind == "fisher" else variant.family.sampled
                linear = make(z, *extra)
            return loss, Residuals.of(linear, (z, arrays, extra))

        def apply(residuals: Residuals, given: list[Array], u: Array) -> Array:
            found: Array = residuals.linear(given)(u)
            return found

        loss, residuals = self._differentiated(self._jit(("middle", variant), made), z, arrays, extra)
        given = residuals.choose((z, arrays, extra))
        multiply = functools.partial(self._jit(("apply", variant), apply), residuals, given)
        return loss, multiply, [*residuals.arrays, *given]


@dataclass(frozen=True)
class _Chain:
    """Linear functions, one after the other."""

    parts: tuple[Callable[[Array], Array], ...]

    def __call__(self, vector: Array) -> Array:
        for part in self.parts:
            vector = part(vector)
        return vector


@functools.lru_cache(KEPT)
def _program(loss: Loss, form: Form, dtype: np.dtype[Any], text: str, captured: Any, kept: Unhashed) -> OutputProgram:
    frame, constants, z = kept.value
    return OutputProgram(_Functions(loss, frame), form, dtype, jax.ShapeDtypeStruct(z.shape, z.dtype), constants)


@dataclass(frozen=True)
class _Functions:
    """Outputs and criterion of a loss for a batch in a frame."""

    loss: Loss
    frame: Frame

    def outputs(self, points: list[Array], others: list[Any], arrays: list[Array]) -> Array:
        chosen = iter(points)
        leaves = [next(chosen) if other is None else other for other in others]
        found = self.loss.outputs(leaves, self.frame.fill(arrays))
        if not isinstance(found, Array) or not jnp.issubdtype(found.dtype, np.floating) or found.size == 0:
            what = f"{found.dtype} of shape {found.shape}" if isinstance(found, Array) else type(found).__name__
            raise InvalidInputError(
                f"the outputs must be one real array, got {what}. Let forward=lambda model, batch: ... return the "
                f"logits alone."
            )
        return found

    def criterion(self, arrays: list[Array]) -> Callable[[Array], Array]:
        return lambda z: mean(self.loss.compare(z, self.frame.fill(arrays)))


def _by_sample(gradient: Array, u: Array) -> Array:
    rows = gradient.reshape(len(gradient), -1)
    return (rows * (rows * u.reshape(rows.shape)).sum(1, keepdims=True)).reshape(u.shape)
