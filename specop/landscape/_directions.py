"""What the directions of a slice may be: eigenvectors, gradients, normalized random ones, vectors, other points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array, add_, backend_of, lengths_of, shape_of
from specop.errors import InvalidInputError, NonFiniteError
from specop.krylov.known import eigenvectors_for
from specop.operators.operator import LinearOperator
from specop.results.eigen import EigenResult
from specop.spectral.eigsh import eigsh
from specop.statistics.numbers import Floats

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = [
    "Direction",
    "as_vector",
    "check_filter_axis",
    "check_independent",
    "directions_of",
    "directions_to",
    "filter_axis_of",
]

_NAMED = ("gradient", "random")
# Cosine from which on two directions are one.
_PARALLEL = 0.999
# What the last part of a parameter's name says of its layout: kernels have the outputs last, weights and rows of
# embeddings first, whatever the framework.
_AXES = {"kernel": -1, "weight": 0, "embedding": 0, "embeddings": 0}


class Direction(NamedTuple):
    """A direction and what to call it.

    Attributes
    ----------
    label : str
    vector : native vector (n,)
    reach : float or None
        How far it is natural to go; None where the loss has to tell.
    """

    label: str
    vector: Array
    reach: float | None = None


def directions_of(
    objective: Objective,
    given: Any,
    theta: Array,
    hessian: LinearOperator,
    *,
    filter_axis: int | None,
    seed: int,
) -> list[Direction]:
    """Return the one or two directions that `slices` was given.

    Parameters
    ----------
    objective, given, filter_axis, seed
        The arguments of `slices`, where `given` is called `directions`.
    theta : native vector (n,)
        Parameters at the origin of the slice.
    hessian : LinearOperator
        The Hessian at these parameters.
    """
    if isinstance(given, (int, np.integer)) and not isinstance(given, bool):
        if given not in (1, 2):
            raise InvalidInputError(f"directions={given!r}: a slice has one or two eigenvectors; 1 or 2.")
        given = eigsh(hessian, int(given), which="LA", seed=seed)
    if isinstance(given, EigenResult):
        found = _eigenvectors(given, hessian)
    else:
        items = list(given) if isinstance(given, (list, tuple)) else [given]
        if isinstance(given, hessian.backend.array_type) and len(hessian.backend.shape(given)) == 2:
            items = hessian.backend.columns(given)
        if not 1 <= len(items) <= 2:
            raise InvalidInputError(f"a slice has one or two directions, got {len(items)}.")
        # Two random directions must not be the same one.
        found = [
            _one(objective, item, theta, filter_axis=filter_axis, seed=seed, number=number)
            for number, item in enumerate(items)
        ]
    return found


def directions_to(objective: Objective, to: Any, theta: Array) -> list[Direction]:
    """Return the directions that lead from one point to another one, or to two of them."""
    points = list(to) if isinstance(to, (list, tuple)) and _are_points(objective, to) else [to]
    found = []
    for number, point in enumerate(points):
        away = add_(backend_of(theta), as_vector(objective, point, "to"), [-1.0], [theta])
        label = "to the other point" if len(points) == 1 else f"to point {number + 1}"
        found.append(Direction(label, away, 1.0))
    return found


def as_vector(objective: Objective, point: Any, what: str) -> Array:
    """Return a point, given as a native vector or as a parameter structure, as a vector of its own."""
    own = objective.theta
    backend = backend_of(own)
    if shape_of(point):
        backend.check_vector(point, backend.layout(own), what)
        return backend.copy(point)
    if isinstance(point, Mapping) and set(objective.names) <= set(point):
        # A checkpoint holds buffers and frozen parameters as well.
        point = {name: point[name] for name in objective.names}
    return objective.flatten(point)


def check_independent(found: list[Direction]) -> None:
    """Raise unless directions are finite, not zero, and not the same."""
    backend = backend_of(found[0].vector)
    lengths = lengths_of(backend, *(one.vector for one in found))
    for one, length in zip(found, lengths, strict=True):
        if not np.isfinite(length):
            raise NonFiniteError(f"the direction '{one.label}' holds NaN or infinity.")
        if length == 0:
            raise InvalidInputError(
                f"the direction '{one.label}' is zero: the loss does not change along it. For the gradient this is a "
                f"critical point; for another point, it is where the slice begins."
            )
    if len(found) == 2:
        (product,) = backend.to_host(backend.dot(found[0].vector, found[1].vector))
        cosine = float(product) / (lengths[0] * lengths[1])
        if abs(cosine) > _PARALLEL:
            raise InvalidInputError(
                f"the two directions are the same up to a factor: the cosine between '{found[0].label}' and "
                f"'{found[1].label}' is {cosine:.6f}. Pass one of them."
            )


def _eigenvectors(eigen: EigenResult, hessian: LinearOperator) -> list[Direction]:
    """Return the eigenvectors of the one or two eigenvalues that are largest in size, the largest first."""
    order = np.argsort(-np.abs(eigen.eigenvalues), kind="stable")[:2]
    vectors = eigenvectors_for(eigen, hessian.backend, hessian.domain, "directions")
    return [Direction(f"eigenvector of {eigen.eigenvalues[i]:.4g}", vectors[i]) for i in order]


def _one(
    objective: Objective, given: Any, theta: Array, *, filter_axis: int | None, seed: int, number: int
) -> Direction:
    backend = backend_of(theta)
    if isinstance(given, str):
        if given not in _NAMED:
            raise InvalidInputError(f"a direction is named 'gradient' or 'random', got {given!r}.")
        if given == "random":
            return Direction("random", _filter_normalized(objective, theta, filter_axis, seed, number), 1.0)
        gradient = objective.gradient(theta)
        (length,) = lengths_of(backend, gradient)
        return Direction("gradient", backend.scale_(gradient, 1.0 / length) if length > 0 else gradient)
    if isinstance(given, EigenResult):
        raise InvalidInputError("in a list pass eigenvectors, such as result.eigenvector(0), not their result.")
    return Direction(f"direction {number + 1}", as_vector(objective, given, f"direction {number + 1}"))


def _filter_normalized(objective: Objective, theta: Array, filter_axis: int | None, seed: int, number: int) -> Array:
    """Return a random direction in which each output filter is as long as the parameters' own; all else is zero."""
    backend = backend_of(theta)
    layout = backend.layout(theta)
    # Once for a slice: no product waits for it.
    values, noise = backend.to_host(theta, probes.normal(backend, layout, seed, number))
    direction = np.zeros(layout.n)
    matrices = {name: shape for name, shape in objective.shapes.items() if len(shape) >= 2}
    for name, shape in matrices.items():
        where = objective.slices[name]
        axis = filter_axis_of(name, objective) if filter_axis is None else filter_axis
        others = tuple(i for i in range(len(shape)) if i != axis % len(shape))
        wanted, drawn = (_norms(part[where].reshape(shape), others) for part in (values, noise))
        direction[where] = (noise[where].reshape(shape) * (wanted / drawn)).reshape(-1)
    if not direction.any():
        held = "all weights are zero" if matrices else f"there are only {', '.join(objective.names)}"
        raise InvalidInputError(
            f"'random' is zero here: it has the length of each output filter of the parameters of two or more "
            f"dimensions, nothing along biases and factors of norms, and {held}. Pass a vector of your own instead."
        )
    return backend.from_host(direction.astype(layout.dtype), layout)


def check_filter_axis(filter_axis: Any, shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise InvalidInputError unless it is None or an axis of each parameter of two or more dimensions."""
    if filter_axis is None:
        return
    if isinstance(filter_axis, bool) or not isinstance(filter_axis, (int, np.integer)):
        raise InvalidInputError(f"filter_axis must be the number of an axis, such as 0 or -1, got {filter_axis!r}.")
    for name, shape in shapes.items():
        if len(shape) >= 2 and not -len(shape) <= filter_axis < len(shape):
            raise InvalidInputError(
                f"filter_axis={filter_axis} is no axis of {name}, which has the shape {tuple(shape)}."
            )


def filter_axis_of(name: str, objective: Objective) -> int:
    """Return the axis of a parameter that its outputs lie along."""
    return _AXES.get(name.replace("/", ".").rpartition(".")[2].strip("[]'\""), objective.output_axis)


def _norms(values: Floats, axes: tuple[int, ...]) -> Floats:
    return np.asarray(np.sqrt((values**2).sum(axis=axes, keepdims=True)))


def _are_points(objective: Objective, to: Any) -> bool:
    """Whether a list holds two points, and is not itself a parameter structure."""
    kind = objective.backend.array_type
    whole = (objective.n,)
    return len(to) == 2 and all(
        isinstance(one, Mapping) or (isinstance(one, kind) and shape_of(one) == whole) for one in to
    )
