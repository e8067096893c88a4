"""Products that each device of a mesh computes for its own samples: with the Hessian of a mean, and with a Jacobian.

One program for all devices adds up each product of two factors over the devices by itself, 1.7 n numbers for a Hessian
of a small network on a processor, and leaves each device all of a sum of which it needs a part. Where every device has
as many samples as the others, a product is one gathering of the vector and one sum that leaves each device its part: n
numbers each. Whether the loss is the mean over the devices' own, and whether outputs depend on no other device's
samples, is seen at each linearization.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import NamedSharding, PartitionSpec

from specop_jax.compiled import compiled
from specop_jax.finding import backend_on
from specop_jax.form import Form, constrained, joined, pieces_of
from specop_jax.order import Order, names_by_dimension
from specop_jax.residuals import Residuals
from specop_jax.spread import SpreadArray, wrapped

__all__ = ["LocalJacobian", "LocalProducts", "are_samples_apart"]

Slope = Callable[[list[Any], list[Array]], Callable[[list[Array]], tuple[list[Array], Array]]]


def are_samples_apart(order: Order, arrays: Sequence[Any]) -> bool:
    """Whether each device of a mesh has its own samples of a batch, and no more of it than all have."""
    cuts = [names_by_dimension(array.sharding.spec, array.ndim) for array in arrays]
    own = [bool(cut) and cut[0] == order.axes and not any(cut[1:]) for cut in cuts]
    return (
        order.mesh.devices.size > 1
        and any(own)
        and all(mine or not any(cut) for mine, cut in zip(own, cuts, strict=True))
    )


@dataclass(frozen=True)
class _Given:
    """How parameters, constants and the arrays of a batch are cut, and which of the model's arrays are parameters.

    Parameters
    ----------
    form : Form
        Form of vectors on a mesh.
    missing : tuple of bool
        For each of the model's arrays, whether it is a parameter.
    specs : tuple of PartitionSpec
        Specs of parameters, constants and the batch, in this order.
    points, held : int
        Numbers of parameters and of constants.
    """

    form: Form
    missing: tuple[bool, ...]
    specs: tuple[PartitionSpec, ...]
    points: int
    held: int

    @classmethod
    def of(cls, form: Form, points: list[Array], others: list[Any], arrays: list[Array]) -> tuple[_Given, list[Any]]:
        """Return this and the arrays themselves."""
        held = [other for other in others if other is not None]
        given = [*points, *held, *arrays]
        missing = tuple(other is None for other in others)
        return cls(form, missing, tuple(map(_spec_of, given)), len(points), len(held)), given

    @property
    def order(self) -> Order:
        """Where the entries of vectors lie."""
        assert self.form.order is not None
        return self.form.order

    @property
    def vectors(self) -> PartitionSpec:
        """How a vector is cut, and what each device has of its own."""
        return PartitionSpec(self.order.axes)

    def mapped(self, function: Callable[..., Any], given: Any, made: Any) -> Callable[..., Any]:
        """Return a function that each device runs on its parts."""
        return jax.shard_map(function, mesh=self.order.mesh, in_specs=given, out_specs=made, check_vma=False)

    # On each device
    def whole(self, arrays: list[Array]) -> tuple[list[Array], list[Any], list[Array]]:
        """Return parameters, the model's other arrays, and the device's own batch."""
        last = self.points + self.held
        own = arrays[: self.points] if self.order.is_plain else self.order.gather_pieces(arrays[: self.points])
        pairs = zip(arrays[self.points : last], self.specs[self.points : last], strict=True)
        constants = [_gathered(array, spec) for array, spec in pairs]
        waiting = iter(constants)
        others = [None if gone else next(waiting) for gone in self.missing]
        return own, others, arrays[last:]

    def again(self, residuals: Residuals, given: list[Array]) -> list[Array]:
        """Return those arrays that linear functions read, as `whole` gives them."""
        places = [place for place in residuals.sources if place is not None]
        return [
            _gathered(array, self.specs[place]) if place < self.points + self.held else array
            for array, place in zip(given, places, strict=True)
        ]

    def chosen(self, residuals: Residuals) -> list[PartitionSpec]:
        """Return how the arrays are cut that linear functions read."""
        return [self.specs[place] for place in residuals.sources if place is not None]

    def along(self, local: Array) -> list[Array]:
        """Return the whole parts of a vector, from the device's part of it."""
        pieces = pieces_of(local, self.form)
        return pieces if self.order.is_plain else self.order.gather_pieces(pieces)

    def added(self, parts: list[Array]) -> Array:
        """Return the device's part of the sum over devices of parts of a vector."""
        return joined(parts if self.order.is_plain else self.order.scatter_sums(parts), self.form, is_sum=True)


class LocalProducts:
    """Products with the Hessian of a loss that is the mean over the devices' own samples.

    Parameters
    ----------
    slope : callable
        ``slope(others, arrays)(points)`` returns gradient and loss.
    form : Form
        Form of vectors on a mesh.
    """

    def __init__(self, slope: Slope, form: Form) -> None:
        self._slope = slope
        self._form = form
        self._compiled: dict[_Given, tuple[Any, Any]] = {}

    def linearize(
        self, points: list[Array], others: list[Any], arrays: list[Array]
    ) -> tuple[Array, Callable[[Any], Any], list[Any]]:
        """Return the loss, what multiplies vectors, and the arrays that this holds."""
        form, given = _Given.of(self._form, points, others, arrays)
        if form not in self._compiled:
            self._compiled[form] = self._compile(form)
        make, apply = self._compiled[form]
        loss, residuals = make(given)
        read = residuals.choose(given)
        return loss, functools.partial(apply, residuals, read), [*residuals.arrays, *read]

    def agrees(self, apply: Callable[[Any], Any], product: Callable[[Any], Any]) -> bool:
        """Whether a product with a random vector is what another function says."""
        order = self._form.order
        assert order is not None
        backend = backend_on(order.mesh)
        entries = order.to_physical(np.random.default_rng(0).standard_normal(order.n).astype(self._form.dtype))
        rows = jax.make_array_from_callback(entries.shape, order.sharding(), lambda place: entries[place])
        vector = wrapped(rows, order)
        found, expected = apply(vector), product(vector)
        size = backend.norm(expected)
        left, right = backend.to_host(backend.norm(backend.axpy_(found, -1.0, expected)), size)
        # Two programs round differently, and a batch that couples its samples differs by far more.
        return bool(left <= float(np.finfo(self._form.dtype).eps) ** (2 / 3) * right)

    def _compile(self, form: _Given) -> tuple[Any, Any]:
        mesh, axes = form.order.mesh, form.order.axes
        devices = int(mesh.devices.size)

        def make(arrays: list[Array]) -> tuple[Array, Residuals]:
            loss, residuals = Residuals.of(linearize, form.whole(arrays))
            return lax.psum(loss, axes) / devices, _kept(residuals)

        def linearize(points: list[Array], others: list[Any], batch: list[Array]) -> tuple[Array, Any]:
            _, linear, loss = jax.linearize(self._slope(others, batch), points, has_aux=True)
            return loss, linear

        def apply(residuals: Residuals, given: list[Array], local: Array) -> Array:
            linear = _own(residuals).linear(form.again(residuals, given))
            return form.added(linear(form.along(local))) / devices

        def applied(residuals: Residuals, given: list[Array], vector: Any) -> Any:
            specs = (form.vectors, form.chosen(residuals), form.vectors)
            return wrapped(form.mapped(apply, specs, form.vectors)(residuals, given, _rows(vector)), form.order)

        made = form.mapped(make, ([*form.specs],), (PartitionSpec(), form.vectors))
        return compiled(made, mesh), compiled(applied, mesh)


class LocalJacobian:
    """Products with the Jacobian of outputs that come sample by sample, and with its transpose.

    Parameters
    ----------
    function : callable
        ``function(points, others, arrays)`` returns the outputs.
    outputs : jax.ShapeDtypeStruct
        Shape and dtype of the outputs of all devices.
    form : Form
        Form of vectors on a mesh.
    """

    def __init__(self, function: Callable[..., Array], outputs: Any, form: Form) -> None:
        assert form.order is not None
        self._function = function
        self._form = form
        count, *shape = outputs.shape or (0,)
        self._own = jax.ShapeDtypeStruct((count // int(form.order.mesh.devices.size), *shape), outputs.dtype)
        self._compiled: dict[_Given, tuple[Any, ...]] = {}

    def __call__(
        self, points: list[Array], others: list[Any], arrays: list[Array]
    ) -> tuple[tuple[Array, Array], list[Callable[[Any], Any]], list[Any]]:
        """Return (whether all outputs are finite, outputs), what multiplies by J and by J', and the arrays held."""
        form, given = _Given.of(self._form, points, others, arrays)
        if form not in self._compiled:
            self._compiled[form] = self._compile(form)
        make, *uses = self._compiled[form]
        facts, residuals = make(given)
        read = residuals.choose(given)
        return facts, [functools.partial(use, residuals, read) for use in uses], [*residuals.arrays, *read]

    def _compile(self, form: _Given) -> tuple[Any, ...]:
        mesh, axes = form.order.mesh, form.order.axes

        def make(arrays: list[Array]) -> tuple[tuple[Array, Array], Residuals]:
            z, residuals = Residuals.of(linear, form.whole(arrays))
            if z.shape != self._own.shape:
                raise ValueError(f"outputs of shape {z.shape} on each device, where {self._own.shape} were expected")
            finite = lax.psum((~jnp.isfinite(z).all()).astype(jnp.int32), axes) == 0
            return (finite, z), _kept(residuals)

        def linear(points: list[Array], others: list[Any], batch: list[Array]) -> tuple[Array, Any]:
            return jax.vjp(lambda points: self._function(points, others, batch), points)

        def push(residuals: Residuals, given: list[Array], local: Array) -> Array:
            pull = _own(residuals).linear(form.again(residuals, given))
            (found,) = jax.linear_transpose(pull, self._own)((form.along(local),))
            return found

        def pull(residuals: Residuals, given: list[Array], u: Array) -> Array:
            (parts,) = _own(residuals).linear(form.again(residuals, given))(u)
            return form.added(parts)

        def pushed(residuals: Residuals, given: list[Array], vector: Any) -> Array:
            specs = (form.vectors, form.chosen(residuals), form.vectors)
            found: Array = form.mapped(push, specs, form.vectors)(residuals, given, _rows(vector))
            return found

        def pulled(residuals: Residuals, given: list[Array], u: Array) -> Any:
            specs = (form.vectors, form.chosen(residuals), form.vectors)
            u = constrained(u, NamedSharding(mesh, form.vectors))
            return wrapped(form.mapped(pull, specs, form.vectors)(residuals, given, u), form.order)

        made = form.mapped(make, ([*form.specs],), ((PartitionSpec(), form.vectors), form.vectors))
        return compiled(made, mesh), compiled(pushed, mesh), compiled(pulled, mesh)


def _kept(residuals: Residuals) -> Residuals:
    """Return linear functions of one device with a leading dimension for the devices."""
    return replace(residuals, arrays=[jnp.asarray(leaf)[None] for leaf in residuals.arrays])


def _own(residuals: Residuals) -> Residuals:
    return replace(residuals, arrays=[leaf[0] for leaf in residuals.arrays])


def _rows(vector: Any) -> Array:
    return vector.rows if isinstance(vector, SpreadArray) else vector


def _gathered(array: Array, spec: PartitionSpec) -> Array:
    for dimension, names in enumerate(names_by_dimension(spec, array.ndim)):
        if names:
            array = lax.all_gather(array, names, axis=dimension, tiled=True)
    return array


def _spec_of(array: Any) -> PartitionSpec:
    sharding = getattr(array, "sharding", None)
    return sharding.spec if isinstance(sharding, NamedSharding) else PartitionSpec()
