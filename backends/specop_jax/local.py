"""Hessian-vector products of a mean over devices: each differentiates the mean over its own samples.

One program for all devices adds up each product of two factors over the devices by itself, 1.7 n numbers for a small
network on a processor. Where every device has as many samples as the others, and the loss is the mean over them, a
product is one gathering of the vector and one sum that leaves each device its part: n numbers each. Whether the loss is
such a mean is seen by one product with a random vector.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import NamedSharding, PartitionSpec

from specop_jax.compiled import compiled
from specop_jax.finding import backend_on
from specop_jax.form import Form, joined, pieces_of
from specop_jax.order import Order, names_by_dimension
from specop_jax.residuals import Residuals
from specop_jax.spread import SpreadArray, wrapped

__all__ = ["LocalProducts", "are_samples_apart"]

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


class LocalProducts:
    """Products with the Hessian, linearized on each device.

    Parameters
    ----------
    slope : callable
        ``slope(others, arrays)(points)`` returns gradient and loss.
    form : Form
        Of vectors, on a mesh.
    """

    def __init__(self, slope: Slope, form: Form) -> None:
        assert form.order is not None
        self._slope = slope
        self._form = form
        self._order = form.order
        self._vectors = PartitionSpec(form.order.axes)
        self._compiled: dict[Any, tuple[Any, Any]] = {}

    def linearize(
        self, points: list[Array], others: list[Any], arrays: list[Array]
    ) -> tuple[Array, Callable[[Any], Any], list[Any]]:
        """Return the loss, what multiplies vectors, and the arrays that this holds."""
        missing = tuple(other is None for other in others)
        held = [other for other in others if other is not None]
        specs = tuple(map(_spec_of, [*points, *held, *arrays]))
        key = (missing, specs, len(points), len(held))
        if key not in self._compiled:
            self._compiled[key] = self._compile(*key)
        make, apply = self._compiled[key]
        loss, residuals = make([*points, *held, *arrays])
        given = residuals.choose([*points, *held, *arrays])
        return loss, functools.partial(apply, residuals, given), [*residuals.arrays, *given]

    def agrees(self, apply: Callable[[Any], Any], product: Callable[[Any], Any]) -> bool:
        """Whether a product with a random vector is what another function says."""
        order = self._order
        backend = backend_on(order.mesh)
        entries = order.to_physical(np.random.default_rng(0).standard_normal(order.n).astype(self._form.dtype))
        rows = jax.make_array_from_callback(entries.shape, order.sharding(), lambda place: entries[place])
        vector = wrapped(rows, order)
        found, expected = apply(vector), product(vector)
        size = backend.norm(expected)
        left, right = backend.to_host(backend.norm(backend.axpy_(found, -1.0, expected)), size)
        # Two programs round differently, and a batch that couples its samples differs by far more.
        return bool(left <= float(np.finfo(self._form.dtype).eps) ** (2 / 3) * right)

    def _compile(
        self, missing: tuple[bool, ...], specs: tuple[PartitionSpec, ...], points: int, held: int
    ) -> tuple[Any, Any]:
        mesh, axes, form = self._order.mesh, self._order.axes, self._form
        devices = int(mesh.devices.size)

        def whole(arrays: list[Array]) -> list[Array]:
            own = arrays[:points] if self._order.is_plain else self._order.gather_pieces(arrays[:points])
            constants = [
                _gathered(array, spec)
                for array, spec in zip(arrays[points : points + held], specs[points:], strict=False)
            ]
            return [*own, *constants, *arrays[points + held :]]

        def make(arrays: list[Array]) -> tuple[Array, Residuals]:
            arrays = whole(arrays)
            waiting = iter(arrays[points : points + held])
            others = [None if gone else next(waiting) for gone in missing]
            at = self._slope(others, arrays[points + held :])
            _, linear, loss = jax.linearize(at, arrays[:points], has_aux=True)
            residuals = Residuals.of(linear, arrays)
            kept = [jnp.asarray(leaf)[None] for leaf in residuals.arrays]
            return lax.psum(loss, axes) / devices, replace(residuals, arrays=kept)

        def apply(residuals: Residuals, given: list[Array], local: Array) -> Array:
            residuals = replace(residuals, arrays=[leaf[0] for leaf in residuals.arrays])
            pieces = pieces_of(local, form)
            along = pieces if self._order.is_plain else self._order.gather_pieces(pieces)
            places = [place for place in residuals.sources if place is not None]
            given = [
                _gathered(array, specs[place]) if place < points + held else array
                for array, place in zip(given, places, strict=True)
            ]
            sums = residuals.linear(given)(along)
            parts = sums if self._order.is_plain else self._order.scatter_sums(sums)
            return joined(parts, form, is_sum=True) / devices

        def applied(residuals: Residuals, given: list[Array], vector: Any) -> Any:
            rows = vector.rows if isinstance(vector, SpreadArray) else vector
            chosen = [specs[place] for place in residuals.sources if place is not None]
            run = jax.shard_map(
                apply,
                mesh=mesh,
                in_specs=(self._vectors, chosen, self._vectors),
                out_specs=self._vectors,
                check_vma=False,
            )
            return wrapped(run(residuals, given, rows), self._order)

        made = jax.shard_map(
            make,
            mesh=mesh,
            in_specs=([*specs],),
            out_specs=(PartitionSpec(), self._vectors),
            check_vma=False,
        )
        return compiled(made, mesh), compiled(applied, mesh)


def _gathered(array: Array, spec: PartitionSpec) -> Array:
    for dimension, names in enumerate(names_by_dimension(spec, array.ndim)):
        if names:
            array = lax.all_gather(array, names, axis=dimension, tiled=True)
    return array


def _spec_of(array: Any) -> PartitionSpec:
    sharding = getattr(array, "sharding", None)
    return sharding.spec if isinstance(sharding, NamedSharding) else PartitionSpec()
