"""CentralDifferences: what differences of gradients, outputs and the criterion say of a matrix's product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array
from specop.objectives.agreement import WRONG, Verdict, length
from specop.objectives.autodiff import Autodiff, Matrix
from specop.statistics.numbers import Floats

__all__ = ["PROBE", "CentralDifferences"]

PROBE = 1 << 34
"""Index of the first random vector, far from those of other probes."""

# A step relative to the point's length, in float64.
_STEP = 1e-6
# How far to go, relative to the point's length, where a derivative jumps.
_BESIDE = 1e-2

_JACOBIAN = Matrix("jacobian")


class CentralDifferences:
    r"""What differences of gradients, or of outputs and the criterion's gradient in them, say of a product.

    .. math:: F'(x) v \approx \frac{1}{2h} (F(x + h v) - F(x - h v))

    Parameters
    ----------
    autodiff : Autodiff
    theta : native vector (n,)
        Parameters at which the gradient is differenced.
    batch : batch
    matrix : Matrix
    vector : native vector
        What is multiplied.
    """

    def __init__(self, autodiff: Autodiff, theta: Array, batch: Any, matrix: Matrix, vector: Array) -> None:
        self.autodiff, self.theta, self.batch, self.matrix, self.vector = autodiff, theta, batch, matrix, vector
        self.along = vector
        if matrix.kind == "transposed jacobian":
            self.along = autodiff.moving(probes.normal(autodiff.backend, autodiff.layout, 0, PROBE + 1))

    def beside(self) -> CentralDifferences:
        """Return the same a little away from the point."""
        backend = self.autodiff.backend
        shift = self.autodiff.moving(probes.normal(backend, self.autodiff.layout, 0, PROBE + 2))
        theta = backend.axpy_(backend.copy(self.theta), self._step(shift, _BESIDE), shift)
        return CentralDifferences(self.autodiff, theta, self.batch, self.matrix, self.vector)

    def again(self) -> Floats:
        """Return what a new product says."""
        return self.told(self.autodiff.product(self.theta, self.batch, self.vector, self.matrix))

    def told(self, image: Array) -> Floats:
        """Return what a product says of that which is measured: its entries, or its product with a vector."""
        found = self._host(image)
        return found if self.matrix.kind in ("hessian", "jacobian") else np.array([found @ self._host(self.along)])

    def measure(self, ratio: float) -> tuple[Floats, float]:
        """Return the same by differences, and what rounding or chance may make of it.

        Parameters
        ----------
        ratio : float
            Ratio of the step to the point's length.
        """
        moved, noise, step = self._slope(self.along, ratio)
        if self.matrix.kind in ("hessian", "jacobian"):
            return moved, noise
        if self.matrix.kind == "transposed jacobian":
            # w'(J'u) = u'(J w), which is small by chance.
            u = self._host(self.vector)
            return np.array([u @ moved]), float(np.linalg.norm(u)) * max(noise, length(moved) / len(u) ** 0.5)
        if self.matrix.kind == "empirical fisher of samples":
            # v'(J'M J v) with a block r r' for each sample.
            r = self._output_gradient(moved, 0.0)
            parts = (r * moved).reshape(self.autodiff.count(self.batch), -1).sum(axis=1)
            return np.array([parts @ parts]), 2.0 * length(parts) * length(r) * noise
        bent, rounding = _central(lambda h: self._output_gradient(moved, h), step, self.autodiff.precision)
        return np.array([moved @ bent]), length(moved) * rounding + length(bent) * noise

    def where(self, deviation: float) -> Verdict:
        """Return the verdict on a wrong product with the parameters whose columns are off.

        Parameters
        ----------
        deviation : float
            How far the whole product is off.
        """
        autodiff, ends = self.autodiff, np.cumsum(self.autodiff.sizes)
        matrix = self.matrix if self.matrix.kind == "hessian" else _JACOBIAN
        along, off, moving = self._host(self.along), [], 0.0
        for name, size, end in zip(autodiff.names, autodiff.sizes, ends, strict=True):
            part = np.zeros(autodiff.layout.n)
            part[end - size : end] = along[end - size : end]
            vector = autodiff.backend.from_host(part, autodiff.layout)
            told = self._host(autodiff.product(self.theta, self.batch, vector, matrix))
            found = self._slope(vector, _STEP)[0]
            if told.any() and not found.any():
                return Verdict(reason=f"what depends on {name!r} is rounded coarsely inside of the model")
            off.append(length(told - found))
            moving = max(moving, length(found))
        if max(off) <= WRONG * moving:
            return Verdict(deviation, wrong="in what the criterion adds")
        order = [int(i) for i in np.argsort(off)[:-4:-1] if off[i] > 0.1 * max(off)]
        return Verdict(deviation, wrong=f"in the columns of {', '.join(repr(autodiff.names[i]) for i in order)}")

    def jump(self) -> float:
        """Return by how much the derivative differs between both sides of the point, relative to itself."""
        here, step = self._field(self.along, 0.0), self._step(self.along, _STEP)
        (wide, across), (narrow, _) = (self._bend(here, h) for h in (step, step / 10.0))
        # What does not fall with the step is a value that is wrong at the very point.
        return 2.0 * wide / across if narrow < 0.5 * wide and across else 0.0

    def _bend(self, here: Floats, h: float) -> tuple[float, float]:
        behind, ahead = self._field(self.along, -h), self._field(self.along, h)
        return length(ahead - 2.0 * here + behind), length(ahead - behind)

    def _slope(self, along: Array, ratio: float) -> tuple[Floats, float, float]:
        """Return the derivative of the gradient, or else of the outputs, along a vector, its rounding, and the step."""
        step = self._step(along, ratio)
        return *_central(lambda h: self._field(along, h), step, self.autodiff.precision), step

    def _field(self, along: Array, h: float) -> Floats:
        at = self.autodiff.backend.axpy_(self.autodiff.backend.copy(self.theta), h, along)
        if self.matrix.kind == "hessian":
            return self._host(self.autodiff.gradient(at, self.batch)[1])
        return self._host(self.autodiff.outputs(at, self.batch))

    def _step(self, along: Array, ratio: float) -> float:
        return ratio * (length(self._host(self.theta)) or 1.0) / (length(self._host(along)) or 1.0)

    def _output_gradient(self, along: Floats, h: float) -> Floats:
        layout, from_host = self.autodiff.layout.of_length(len(along)), self.autodiff.backend.from_host
        return self._host(self.autodiff.output_gradient(self.theta, self.batch, from_host(h * along, layout)))

    def _host(self, vector: Array) -> Floats:
        return np.asarray(self.autodiff.backend.to_numpy(vector), dtype=np.float64)


def _central(field: Callable[[float], Floats], step: float, precision: float) -> tuple[Floats, float]:
    ahead, behind = field(step), field(-step)
    rounding = precision * max(length(ahead), length(behind)) / step
    # In place: of a large vocabulary such arrays are what takes most memory.
    ahead -= behind
    ahead /= 2.0 * step
    return ahead, rounding
