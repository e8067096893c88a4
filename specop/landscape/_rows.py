"""read_rows: one pass over the gradients of samples, and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array, Backend, numbers_of
from specop.errors import InvalidInputError, NonFiniteError
from specop.landscape._units import Units
from specop.statistics.numbers import Floats

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["Rows", "random_signs", "read_rows"]

# Index of the signs, far from those of other probes.
_SIGNS = 1 << 36


@dataclass(frozen=True, eq=False)
class Rows:
    """What one pass over the units' gradients leaves: squared norms, products with the mean, and combinations."""

    mean: Array
    squares: Floats
    along: Floats
    combined: list[Array]

    @property
    def squared_mean(self) -> float:
        return float(self.along.mean())


def read_rows(backend: Backend, objective: Objective, theta: Array | None, units: Units, coefficients: Floats) -> Rows:
    """Read the units' gradients once; `coefficients` (m, k) are those of k combinations of them."""
    mean = objective.gradient(theta)
    layout = backend.layout(mean)
    ones = backend.from_host(np.ones(layout.n, layout.dtype), layout)
    squares, along = np.full(units.count, np.nan), np.full(units.count, np.nan)
    combined, seen = None, 0
    for numbers, block in units.rows:
        norms = backend.apply_rows(backend.multiply(block, block), ones)
        along[numbers], squares[numbers] = backend.to_host(backend.apply_rows(block, mean), norms)
        weights = coefficients[numbers].astype(layout.dtype)
        mixed = backend.combine_rows(block, backend.from_host(weights, layout.of_length(len(numbers))))
        columns = backend.columns(mixed)
        combined = (
            columns
            if combined is None
            else [backend.axpy_(total, 1.0, one) for total, one in zip(combined, columns, strict=True)]
        )
        seen += len(numbers)
    if seen != units.count or combined is None:
        raise InvalidInputError(
            f"{seen} of {units.count} samples have gradients: batches whose weight is zero hold the others. Leave "
            f"those batches out of the data."
        )
    rows = Rows(mean, squares, along, combined)
    bad = np.flatnonzero(~np.isfinite(rows.squares + rows.along))
    if len(bad):
        raise NonFiniteError(
            f"the gradients of {len(bad)} of {units.count} samples are not finite, such as that of number {bad[0]}. "
            f"Look at their data, and for log(0), division by zero or overflow."
        )
    (length,) = numbers_of(backend, backend.norm(mean))
    size = float(np.sqrt(np.mean(rows.squares)))
    if abs(rows.squared_mean - length**2) > 10.0 * layout.epsilon**0.5 * length * size:
        raise InvalidInputError(
            f"the samples' gradients do not have the loss's gradient as their mean: along it they have "
            f"{rows.squared_mean / length:.6g}, where its norm is {length:.6g}. The loss is no mean over samples; "
            f"return the mean of the samples' losses, or pass model and criterion apart."
        )
    return rows


def random_signs(seed: int, count: int, columns: int) -> Floats:
    """Return random signs for so many units, in columns."""
    drawn = [probes.sample_uniforms(seed, _SIGNS + column, range(count), 1)[:, 0] for column in range(columns)]
    return np.where(np.stack(drawn, axis=1) < 0.5, -1.0, 1.0)
