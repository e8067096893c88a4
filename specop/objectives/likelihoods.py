r"""The likelihood that a criterion is the negative logarithm of: told, checked, and made into matrices of the outputs.

The losses of terms i add up to :math:`\ell = \sum_i c_i (A(z_i) - z_i^T t_i)` with the log-partition A of the family:
log-sum-exp for a categorical, softplus for a Bernoulli variable, :math:`z^2 / 2` for a Gaussian. What a criterion does
besides (means, class weights, ignored labels, label smoothing, :math:`1/C` of a squared error) is in the weights
:math:`c_i`, and these are read off its second derivative: no option of any criterion has to be known.

Written on `ArrayFunctions`, so that it runs eagerly, inside a trace and under a compiler alike.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array
from specop.errors import InvalidInputError
from specop.objectives.autodiff import LIKELIHOODS, Matrix
from specop.statistics.numbers import Floats

__all__ = [
    "ArrayFunctions",
    "Likelihood",
    "by_sample",
    "candidates",
    "fits",
    "importance",
    "label_noise",
    "readings",
    "recognise",
]

Multiply = Callable[[Array], Array]

# Of a weight, that two ways to multiply with the information may differ by.
_ROUNDINGS = 8.0


@dataclass(frozen=True, kw_only=True)
class ArrayFunctions:
    """What a framework does with arrays of outputs.

    Attributes
    ----------
    multiply, subtract, divide, less : callable
        Functions of two arrays that broadcast, or of an array and a float.
    sin, sqrt, sigmoid : callable
        Entry by entry.
    softmax, cumsum : callable
        ``f(x, axis)``; axes are counted from the last one, -1.
    sum : callable
        ``sum(x, axis)``: along an axis, or a tuple of them that may be empty; each is kept with length 1.
    mean : callable
        ``mean(x)``: along the first axis, which is gone afterwards.
    norm, least : callable
        Euclidean norm and least entry of all entries, as scalars.
    zeros, steps : callable
        ``f(like)``: an array of that shape of zeros in the same dtype, or of 1, 2, 3, ... in float32.
    one_hot : callable
        ``one_hot(labels, like, axis)``: zeros of that shape and dtype with a 1 along the axis where the label says,
        and at the last place if the label lies beyond it. Labels are whole numbers in a floating dtype, and their
        array has length 1 along the axis.
    rows : callable
        ``rows(x, like)``: each row of a matrix in the shape of another array.
    cast : callable
        ``cast(x, like)``: in the dtype of another array; of a comparison, zeros and ones.
    wide : callable
        ``wide(x)``: in float32 if its own dtype is less precise.
    """

    multiply: Callable[..., Array]
    subtract: Callable[..., Array]
    divide: Callable[..., Array]
    less: Callable[..., Array]
    sin: Callable[[Array], Array]
    sqrt: Callable[[Array], Array]
    sigmoid: Callable[[Array], Array]
    softmax: Callable[[Array, int], Array]
    cumsum: Callable[[Array, int], Array]
    sum: Callable[[Array, int | tuple[int, ...]], Array]
    mean: Callable[[Array], Array]
    norm: Callable[[Array], Array]
    least: Callable[[Array], Array]
    zeros: Callable[[Array], Array]
    steps: Callable[[Array], Array]
    one_hot: Callable[[Array, Array, int], Array]
    rows: Callable[[Array, Array], Array]
    cast: Callable[[Array, Array], Array]
    wide: Callable[[Array], Array]


def recognise(
    criterion: Any, given: str | None, known: Callable[[Any], str | None] = lambda criterion: None
) -> str | None:
    """Return the likelihood that the user names, or that of a criterion of the framework's own; None for another.

    Parameters
    ----------
    criterion : callable or None
        What the user gave; functions under `functools.partial` are looked at themselves.
    given : str or None
        The name that the user gave.
    known : callable
        Returns the name for a criterion that the framework brings, or None.
    """
    if given is not None and given not in LIKELIHOODS:
        raise InvalidInputError(f"likelihood must be one of {', '.join(LIKELIHOODS)}, got {given!r}.")
    if given is not None and criterion is None:
        raise InvalidInputError("likelihood= describes a criterion, and there is none.")
    while isinstance(criterion, functools.partial):
        criterion = criterion.func
    found = known(criterion)
    if None not in (found, given) and given != found:
        raise InvalidInputError(f"the criterion's likelihood is {found}, not {given}.")
    return given or found


def candidates(name: str | None) -> Sequence[str]:
    """Return the likelihood that is known, or all that a criterion may have, to be tried in this order."""
    return LIKELIHOODS if name is None else (name,)


def readings(functions: ArrayFunctions, name: str, dimensions: int) -> Sequence[Likelihood]:
    """Return how outputs with that many dimensions can be read, to be tried in this order.

    Classes are in the last dimension, or in the second as torch has them.
    """
    both = name == "categorical" and dimensions > 2
    return [Likelihood(functions, name, axis) for axis in ((-1, 1 - dimensions) if both else (-1,))]


def label_noise(name: str, matrix: Matrix, samples: int, terms: int) -> Floats:
    """Return the random numbers that labels are drawn with: a row for each draw, an entry for each term of the loss."""
    numbers = probes.sample_normals if name == "gaussian" else probes.sample_uniforms
    places, each = range(matrix.first, matrix.first + samples), -(-terms // samples)
    drawn = (numbers(matrix.seed, draw, places, each) for draw in range(matrix.draws))
    return np.stack([of_draw.reshape(-1)[:terms] for of_draw in drawn])


def fits(measured: Sequence[Any], tolerance: float) -> bool:
    """Return whether a criterion is of a family.

    Parameters
    ----------
    measured : sequence of three scalars on the host
        What `Likelihood.terms` or `Likelihood.deviation` returned.
    tolerance : float
        Relative error allowed to second derivatives of the criterion.
    """
    error, scale, least = map(float, measured)
    return error <= tolerance * scale and least >= 0


@dataclass(frozen=True)
class Likelihood:
    """A family of distributions with natural parameters z, the model's outputs.

    Parameters
    ----------
    functions : ArrayFunctions
        Array functions of the framework that the outputs belong to.
    name : str
        One of `specop.objectives.LIKELIHOODS`.
    axis : int
        Axis of the classes, counted from the last one; families without classes ignore it.
    """

    functions: ArrayFunctions
    name: str
    axis: int

    def terms(self, curvature: Callable[[Array], Multiply], z: Array) -> tuple[Array, tuple[Array, Array, Array]]:
        """Return the weight of each term, and what `fits` looks at.

        Only shape and dtype of ``z`` matter. Weights have its shape, with length 1 along the classes.

        Parameters
        ----------
        curvature : callable
            From outputs to u -> H u with the criterion's second derivative H there.
        z : native array
            Outputs of the model.
        """
        f = self.functions
        weights = self.weights(curvature, z)
        # Points and directions are made anew each time: of a large vocabulary they take more than the products.
        expected = self.information(self._middle(z), weights)(self._aside(z))
        error = f.subtract(curvature(self._middle(z))(self._aside(z)), expected)
        return weights, (f.norm(error), f.norm(expected), f.least(weights))

    def weights(self, curvature: Callable[[Array], Multiply], z: Array) -> Array:
        """Return the weight of each term of a criterion that is of the family; see `terms`.

        It is by how much the criterion's curvature at zero is that of a single term of weight 1.
        """
        f, zero = self.functions, self.functions.zeros(z)
        found = f.wide(curvature(zero)(self._first(zero)))
        if self.name != "categorical":
            return f.cast(f.divide(found, 0.25 if self.name == "bernoulli" else 1.0), zero)
        first = f.wide(self._first(zero))
        found = f.sum(f.multiply(found, first), self.axis)
        p = f.sum(f.multiply(f.softmax(f.wide(zero), self.axis), first), self.axis)
        return f.cast(f.divide(found, f.multiply(f.multiply(p, f.subtract(p, 1.0)), -1.0)), zero)

    def _first(self, zero: Array) -> Array:
        """Return the direction of all entries, or of the first of classes that are equally probable."""
        f = self.functions
        if self.name == "categorical":
            return f.one_hot(f.sum(zero, self.axis), zero, self.axis)
        return f.cast(f.less(zero, 1.0), zero)

    def _middle(self, z: Array) -> Array:
        """Return a point in the middle of the family, where no probability is near zero, so shows what it is."""
        f = self.functions
        return f.cast(f.multiply(f.sin(f.steps(z)), 1.5), z)

    def _aside(self, z: Array) -> Array:
        """Return a direction of which no entry is like another."""
        f = self.functions
        return f.cast(f.sin(f.multiply(f.steps(z), 1.7)), z)

    def deviation(
        self, curvature: Callable[[Array], Multiply], z: Array, weights: Array, u: Array, precision: float
    ) -> tuple[Array, Array, Array]:
        """Return what `fits` looks at, of the criterion at the outputs themselves.

        A criterion may be of the family in its middle and bend away from it, as a Huber loss does.

        Parameters
        ----------
        curvature : callable
            ``curvature(outputs)`` multiplies by the criterion's second derivative, as for `terms`.
        z, weights : native array
            Outputs and the terms' weights.
        u : native array
            Array of the outputs' shape that both matrices are multiplied by.
        precision : float
            Relative rounding error of outputs.
        """
        f = self.functions
        expected = self.information(z, weights)(u)
        error = f.norm(f.subtract(curvature(z)(u), expected))
        # Where all labels are certain, both are differences of numbers that are nearly equal.
        rounding = f.multiply(f.norm(f.multiply(u, weights)), -_ROUNDINGS * precision**0.5)
        return error, f.subtract(f.norm(expected), rounding), f.least(weights)

    def information(self, z: Array, weights: Array | float) -> Multiply:
        """Return u -> M u with M of blocks c_i E[s s'], s the score of a label drawn from the model."""
        f = self.functions
        if self.name == "categorical":
            # Of a large vocabulary no array is held beside p.
            p = f.softmax(z, self.axis)
            return lambda u: f.multiply(f.multiply(f.subtract(u, f.sum(f.multiply(p, u), self.axis)), p), weights)
        if self.name == "bernoulli":
            weights = f.multiply(f.multiply(f.sigmoid(z), f.sigmoid(f.multiply(z, -1.0))), weights)
        return lambda u: f.multiply(u, weights)

    def root(self, z: Array, weights: Array) -> Multiply:
        """Return u -> L u with L L' = M, for outputs u of random signs.

        Of a categorical variable M is ``diag(p) - p p' = S (I - s s') S`` with the roots s of p and S = diag(s). The
        reflection that exchanges s and the median class leaves the other classes, which are one less than there are:
        the fewer columns, the less do signs leave to chance, and of two classes nothing.
        """
        f = self.functions
        if self.name != "categorical":
            spread = f.sqrt(self.spread(z, weights))
            return lambda u: f.multiply(u, spread)
        p = f.softmax(z, self.axis)
        s, below = f.sqrt(p), f.cumsum(f.wide(p), self.axis)
        median = f.sum(f.cast(f.less(below, 0.5), below), self.axis)
        one = f.one_hot(median, p, self.axis)
        along = f.sum(f.multiply(s, one), self.axis)

        def multiply(u: Array) -> Array:
            others = f.multiply(u, f.multiply(f.subtract(one, 1.0), -1.0))
            inner = f.divide(f.sum(f.multiply(s, others), self.axis), f.subtract(along, -1.0))
            image = f.multiply(s, f.subtract(others, f.multiply(f.subtract(s, f.multiply(one, -1.0)), inner)))
            return f.multiply(image, f.sqrt(weights))

        return multiply

    def spread(self, z: Array, weights: Array) -> Array:
        """Return the trace of each term's block of M, of the weights' shape."""
        f = self.functions
        if self.name == "categorical":
            p = f.softmax(z, self.axis)
            return f.multiply(f.sum(f.multiply(p, f.subtract(p, 1.0)), self.axis), f.multiply(weights, -1.0))
        if self.name == "bernoulli":
            return f.multiply(f.multiply(f.sigmoid(z), f.sigmoid(f.multiply(z, -1.0))), weights)
        return weights

    def sampled(self, z: Array, weights: Array, noise: Array) -> Multiply:
        """Return the same with the mean over labels instead of the expectation, one for each row of `label_noise`."""
        f = self.functions
        scores = f.multiply(self._scores(z, weights, noise), f.sqrt(weights))
        if self.name == "categorical":
            return lambda u: f.mean(f.multiply(scores, f.sum(f.multiply(scores, u), self.axis)))
        # Each entry has a label of its own, independent of the others.
        squares = f.mean(f.multiply(scores, scores))
        return lambda u: f.multiply(u, squares)

    def empirical(self, gradient: Array, weights: Array, dimensions: int) -> Multiply:
        """Return u -> M u with M of blocks r_i r_i' / c_i, r_i the part of the criterion's gradient of the term i.

        Parameters
        ----------
        gradient : native array
            Gradient of the criterion in the outputs.
        weights : native array
            Weights of the terms, as `terms` returns them.
        dimensions : int
            Number of axes of the outputs.
        """
        f = self.functions
        if self.name == "gaussian":
            # Here the criterion's factor is the variance's: what a sample's entries weigh together says which.
            one = f.cast(f.less(f.zeros(weights), 1.0), weights)
            each = f.sum(one, tuple(range(1 - dimensions, 0)))
            weights = f.multiply(weights, f.divide(each, f.sum(weights, tuple(range(-dimensions, 0)))))
        # Those that are ignored have neither weight nor gradient.
        counted = f.cast(f.less(f.multiply(weights, -1.0), 0.0), weights)
        scores = f.divide(gradient, f.sqrt(f.subtract(weights, f.subtract(counted, 1.0))))
        if self.name == "categorical":
            return lambda u: f.multiply(scores, f.sum(f.multiply(scores, u), self.axis))
        return lambda u: f.multiply(f.multiply(scores, scores), u)

    def _scores(self, z: Array, weights: Array, noise: Array) -> Array:
        """Return mean minus label, an array of the outputs' shape for each row of `noise`."""
        f = self.functions
        if self.name == "gaussian":
            return f.cast(f.rows(noise, z), z)
        if self.name == "bernoulli":
            p = f.sigmoid(z)
            exact = f.wide(p)
            return f.subtract(p, f.cast(f.less(f.cast(f.rows(noise, z), exact), exact), z))
        p = f.softmax(z, self.axis)
        below = f.cumsum(f.wide(p), self.axis)
        labels = f.sum(f.cast(f.less(below, f.cast(f.rows(noise, weights), below)), below), self.axis)
        return f.subtract(p, f.one_hot(labels, p, self.axis))


def by_sample(functions: ArrayFunctions, gradient: Array, dimensions: int) -> Multiply:
    """Return u -> M u with M of blocks r r', r the part of the gradient in the outputs that belongs to a sample."""
    rest = tuple(range(1 - dimensions, 0))
    return lambda u: functions.multiply(gradient, functions.sum(functions.multiply(gradient, u), rest))


def importance(
    functions: ArrayFunctions, gradient: Array, dimensions: int, terms: tuple[Likelihood, Array, Array] | None
) -> Array:
    r"""Return, for each row of the outputs, what it may add to the trace of a Hessian.

    Its Gauss-Newton part has the trace of M in it, the other part the criterion's gradient r: of a term of weight c
    and probabilities p with a label y, :math:`c (1 - \sum p^2) + c |p - y|`.

    Parameters
    ----------
    functions : ArrayFunctions
    gradient : native array
        Gradient of the criterion in the outputs.
    dimensions : int
        Number of axes of the outputs.
    terms : (Likelihood, native array, native array), optional
        With the outputs and the weights of the terms, as `Likelihood.terms` returns them.
    """
    f, rest = functions, tuple(range(1 - dimensions, 0))
    squares = f.multiply(gradient, gradient)
    if terms is None:
        return f.sqrt(f.sum(squares, rest))
    likelihood, z, weights = terms
    lengths = f.sqrt(f.sum(squares, likelihood.axis) if likelihood.name == "categorical" else squares)
    return f.sum(f.subtract(lengths, f.multiply(likelihood.spread(z, weights), -1.0)), rest)
