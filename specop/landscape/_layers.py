"""Measures that a rescaling of layers leaves: the relative flatness of a layer, and the Fisher-Rao norm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specop.arrays.backend import numbers_of
from specop.errors import InvalidInputError
from specop.landscape._directions import filter_axis_of
from specop.landscape._point import PointOfLoss
from specop.landscape._rows import random_signs
from specop.landscape._units import units_of
from specop.operators.operator import LinearOperator
from specop.statistics.estimate import Estimate, estimate_from_samples, exact
from specop.statistics.numbers import Floats

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["fisher_rao", "layer_named", "relative_flatness"]

# Unit vectors of so many entries are no more than a few probes.
_EXACT = 64
# Gradients of samples one by one, where a loss tells no outputs.
_ONE_BY_ONE = 1000


def layer_named(objective: Objective, layer: str | None) -> str | None:
    """Return a parameter of two or more dimensions, by default the last one; None if there is none."""
    matrices = [name for name, shape in objective.shapes.items() if len(shape) >= 2]
    if layer is None:
        return matrices[-1] if matrices else None
    if layer not in matrices:
        raise InvalidInputError(
            f"layer must name a parameter of two or more dimensions, got {layer!r}. There are {', '.join(matrices[:8])}"
            f"{', ...' * (len(matrices) > 8)}."
        )
    return layer


def relative_flatness(
    objective: Objective,
    point: PointOfLoss,
    hessian: LinearOperator,
    layer: str,
    filter_axis: int | None,
    draws: int,
    confidence: float,
    seed: int,
) -> Estimate:
    r"""Return the sum over rows s, t of a layer's weights of <w_s, w_t> tr H_st.

    It is the trace of B H B for B = (W W')^(1/2) on rows and the identity along them, from unit vectors where these are
    few and from vectors of random signs elsewhere.
    """
    backend, layout = point.backend, point.backend.layout(point.theta)
    where, shape = objective.slices[layer], objective.shapes[layer]
    axis = filter_axis_of(layer, objective) if filter_axis is None else filter_axis
    (values,) = backend.to_host(backend.section(point.theta, where.start, where.stop))
    rows = np.moveaxis(values.reshape(shape), axis, 0)
    moved = rows.shape
    left, sizes, _ = np.linalg.svd(rows.reshape(len(rows), -1), full_matrices=False)
    root = (left * sizes) @ left.T
    width = rows.size // len(rows)
    is_exact = rows.size <= _EXACT

    def form(matrix: Floats) -> float:
        entries = np.zeros(layout.n)
        entries[where] = np.moveaxis((root @ matrix).reshape(moved), 0, axis).reshape(-1)
        vector = backend.from_host(entries.astype(layout.dtype), layout)
        return numbers_of(backend, backend.dot(vector, hessian.matvec(vector)))[0]

    if is_exact:
        units = np.eye(rows.size).reshape(rows.size, len(rows), width)
        total = sum(form(unit) for unit in units)
        return exact(total, confidence)
    signs = random_signs(seed, rows.size, draws).T.reshape(draws, len(rows), width)
    return estimate_from_samples(np.array([form(one) for one in signs]), confidence)


def fisher_rao(objective: Objective, point: PointOfLoss) -> tuple[float | None, str]:
    """Return theta'F theta and which F it is of; None and the reason where there is none."""
    backend, theta = point.backend, point.theta
    try:
        fisher = objective.fisher(theta)
    except InvalidInputError:
        # No likelihood is known: the labels of the data stand in for those that the model would draw.
        pass
    else:
        try:
            return numbers_of(backend, backend.dot(theta, fisher.matvec(theta)))[0], "the exact Fisher matrix"
        except InvalidInputError as error:
            # What is wrong with its products is no reason for another matrix.
            return None, str(error)
    try:
        units = units_of(objective, theta)
    except InvalidInputError as error:
        return None, str(error)
    if units.size > 1:
        return None, units.note
    squares, seen = 0.0, 0
    for _, block in units.rows:
        (along,) = backend.to_host(backend.apply_rows(block, theta))
        squares += float(along @ along)
        seen += len(along)
        if seen >= _ONE_BY_ONE and seen < units.count and backend.shape(block)[0] == 1:
            return None, f"{units.count} samples would take as many gradients, because the loss tells no outputs"
    return squares / seen, "the empirical Fisher matrix of samples"
