"""The array functions of JAX that the core's likelihoods are computed with, and derivatives of a criterion."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from specop.objectives.likelihoods import ArrayFunctions

__all__ = ["FUNCTIONS", "output_hessian"]


def output_hessian(criterion: Callable[[Array], Array], z: Array) -> Callable[[Array], Array]:
    """Return u -> (d^2 loss / dz^2) u, which is a pytree."""
    # Symmetric, so that backwards will do: not every criterion has a forward derivative.
    _, pull = jax.vjp(jax.grad(criterion), z)
    return Partial(_first, pull)


def _first(pull: Callable[[Array], tuple[Array]], u: Array) -> Array:
    (found,) = pull(u)
    return found


def _freely(function: Callable[..., Array]) -> Callable[..., Array]:
    """Return a function that broadcasts and promotes whatever the user's own code is to be kept from."""

    @functools.wraps(function)
    def called(*arguments: Any) -> Array:
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return function(*arguments)

    return called


def _zeros(like: Array) -> Array:
    return jnp.broadcast_to(_unknown(jnp.zeros((), like.dtype)), like.shape)


def _steps(like: Array) -> Array:
    return _unknown(jnp.ones((), jnp.float32)) + jnp.arange(like.size, dtype=jnp.float32).reshape(like.shape)


def _unknown(number: Array) -> Array:
    """Return a number that the compiler does not know: it would compute all that follows from it, on one thread."""
    found: Array = jax.lax.optimization_barrier(number)
    return found


@_freely
def _one_hot(labels: Array, like: Array, axis: int) -> Array:
    classes = like.shape[axis]
    places = jnp.expand_dims(jnp.arange(classes), [*range(axis + 1, 0)])
    return (jnp.minimum(labels, classes - 1) == places).astype(like.dtype)


FUNCTIONS = ArrayFunctions(
    multiply=_freely(jnp.multiply),
    subtract=_freely(jnp.subtract),
    divide=_freely(jnp.divide),
    less=_freely(jnp.less),
    sin=jnp.sin,
    sqrt=jnp.sqrt,
    sigmoid=jax.nn.sigmoid,
    softmax=jax.nn.softmax,
    cumsum=jnp.cumsum,
    sum=lambda x, axis: jnp.sum(x, axis, keepdims=True),
    mean=lambda x: jnp.mean(x, 0),
    norm=lambda x: jnp.linalg.norm(x.reshape(-1)),
    least=jnp.min,
    zeros=_zeros,
    steps=_steps,
    one_hot=_one_hot,
    rows=lambda x, like: x.reshape(-1, *like.shape),
    cast=lambda x, like: x.astype(like.dtype),
    wide=_freely(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32))),
)
