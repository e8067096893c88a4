r"""Likelihoods that a criterion is the negative logarithm of.

The losses of terms i add up to :math:`\ell = \sum_i c_i (A(z_i) - z_i^T t_i)` with the log-partition A of the family:
log-sum-exp for a categorical, softplus for a Bernoulli variable, :math:`z^2 / 2` for a Gaussian. What a criterion does
besides (means, class weights, ignored labels, label smoothing) is in the weights :math:`c_i`, and these are read off
its second derivative. Everything here is traced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

__all__ = ["Family", "Multiply", "families", "output_hessian"]

Multiply = Callable[[Array], Array]


def families(name: str, dimensions: int) -> list[Family]:
    """Return the readings of a likelihood: classes are in the last dimension or, as torch has them, in the second."""
    if name != "categorical":
        return [Family(name, 0)]
    return [Family(name, axis) for axis in ((1, dimensions - 1) if dimensions > 2 else range(dimensions)[-1:])]


def output_hessian(criterion: Callable[[Array], Array], z: Array) -> Multiply:
    """Return u -> (d^2 loss / dz^2) u."""
    # Symmetric, so that backwards will do: not every criterion has a forward derivative.
    _, pull = jax.vjp(jax.grad(criterion), z)
    return Partial(_first, pull)


@dataclass(frozen=True)
class Family:
    """Distributions with natural parameters z, the model's outputs.

    Parameters
    ----------
    name : str
    axis : int
        Dimension of the classes, if there are.
    """

    name: str
    axis: int

    def terms(self, criterion: Callable[[Array], Array], z: Array) -> tuple[Array, Array]:
        """Return the weight of each term, and whether the criterion is of this family.

        Only shape and dtype of ``z`` matter; the weights have its shape but for the axis of the classes.
        """
        weights = self._weights(criterion, jnp.zeros_like(z))
        # A point in the middle of the family, where no probability is near zero, shows what the criterion is.
        steps = jnp.arange(z.size, dtype=jnp.float32)
        point = (1.5 * jnp.sin(steps)).astype(z.dtype).reshape(z.shape)
        direction = jnp.cos(1.7 * steps).astype(z.dtype).reshape(z.shape)
        found = output_hessian(criterion, point)(direction)
        expected = self.hessian(point, weights)(direction)
        error, scale = (jnp.linalg.norm(x.reshape(-1)) for x in (found - expected, expected))
        tolerance = float(jnp.finfo(z.dtype).eps) ** 0.5
        return weights, (error <= tolerance * scale) & (weights >= 0).all()

    def hessian(self, z: Array, weights: Array) -> Multiply:
        """Return u -> M u with M of blocks c_i E[s s'], s the score of a label drawn from the model."""
        if self.name == "categorical":
            p = jax.nn.softmax(z, self.axis)
            return Partial(self._categorical, p, weights * p)
        if self.name == "bernoulli":
            return Partial(jnp.multiply, weights * jax.nn.sigmoid(z) * jax.nn.sigmoid(-z))
        return Partial(jnp.multiply, weights)

    def sampled(self, z: Array, weights: Array, noise: Array) -> Multiply:
        """Return the same with the mean over labels, drawn by the rows of `noise`."""
        scores = jax.vmap(lambda row: self._score(z, row))(noise) * jnp.sqrt(weights / len(noise))
        if self.name == "categorical":
            return Partial(self._along_scores, scores)
        # Each entry has a label of its own, independent of the others.
        return Partial(jnp.multiply, jnp.square(scores).sum(0))

    def _weights(self, criterion: Callable[[Array], Array], zero: Array) -> Array:
        if self.name == "categorical":
            # Along the first class, where all have probability 1/K.
            classes = zero.shape[self.axis]
            first = (jnp.arange(classes) == 0).astype(zero.dtype)
            direction = zero + jnp.expand_dims(first, [i for i in range(zero.ndim) if i != self.axis])
            found = jnp.take(output_hessian(criterion, zero)(direction), jnp.array([0]), axis=self.axis)
            return found / (1 / classes - 1 / classes**2)
        found = output_hessian(criterion, zero)(jnp.ones_like(zero))
        return 4 * found if self.name == "bernoulli" else found

    def _score(self, z: Array, noise: Array) -> Array:
        """Return mean minus label, for labels drawn at the outputs."""
        if self.name == "gaussian":
            return noise.astype(z.dtype).reshape(z.shape)
        if self.name == "bernoulli":
            p = jax.nn.sigmoid(z)
            return p - (noise.reshape(z.shape) < p).astype(z.dtype)
        p = jax.nn.softmax(z, self.axis)
        below = jnp.moveaxis(jnp.cumsum(p.astype(noise.dtype), self.axis), self.axis, -1)
        labels = (below < noise.reshape(below.shape[:-1])[..., None]).sum(-1).clip(max=z.shape[self.axis] - 1)
        return p - jax.nn.one_hot(labels, z.shape[self.axis], axis=self.axis, dtype=z.dtype)

    def _categorical(self, p: Array, scaled: Array, u: Array) -> Array:
        return scaled * (u - (p * u).sum(self.axis, keepdims=True))

    def _along_scores(self, scores: Array, u: Array) -> Array:
        return (scores * (scores * u).sum(self.axis + 1, keepdims=True)).sum(0)


def _first(pull: Callable[[Array], tuple[Array]], u: Array) -> Array:
    (found,) = pull(u)
    return found
