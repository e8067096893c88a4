"""JacobianOperator: the Jacobian of all outputs in the parameters, and its products."""

from __future__ import annotations

import numpy as np

from specop.arrays.backend import Array
from specop.objectives.autodiff import Matrix
from specop.objectives.curvature import Watched
from specop.objectives.point import Point
from specop.objectives.products import Products, accumulate, are_adjoint
from specop.objectives.splitting import fitting
from specop.statistics.numbers import Integers

__all__ = ["JacobianOperator", "JacobianProducts"]


class JacobianOperator(Watched):
    """Jacobian of all outputs of an objective at one point, outputs x parameters.

    Parameters
    ----------
    point : Point
    """

    def __init__(self, point: Point) -> None:
        forward, transposed = (JacobianProducts(point, Matrix(kind)) for kind in ("jacobian", "transposed jacobian"))
        forward.transposed, transposed.transposed = transposed, forward
        super().__init__(point, forward, transposed, codomain=forward.outputs)

    def _matvec(self, x: Array) -> Array:
        return self.products[0](x)

    def _rmatvec(self, y: Array) -> Array:
        return self.products[1](y)


class JacobianProducts(Products):
    """Products with the Jacobian of all outputs, or with its transpose.

    Parameters
    ----------
    point : Point
        Parameters, data and derivatives; its budget says how much memory linearizations may take.
    matrix : Matrix
        Jacobian or transposed Jacobian.

    Attributes
    ----------
    outputs : Layout
        Layout of the vector of all outputs.
    transposed : JacobianProducts
        Products with the transposed matrix.
    """

    transposed: JacobianProducts

    def __init__(self, point: Point, matrix: Matrix) -> None:
        super().__init__(point, matrix)
        self._rows: dict[int, Integers] = {}
        self._rows_cut = point.data.cut
        self.outputs = point.autodiff.layout.of_length(fitting(point, self._find_rows))

    def _find_rows(self) -> int:
        """Find which outputs belong to which batch, and return their number."""
        self._rows.clear()
        end = 0
        with self.point.data.reading() as batches:
            for batch, _, first in batches:
                start, end = (
                    end,
                    end + self.point.backend.layout(self.point.autodiff.outputs(self.point.theta, batch)).n,
                )
                self._rows[first] = np.arange(start, end, dtype=np.intp)
        self._rows_cut = self.point.data.cut
        return end

    def _rows_of(self, first: int) -> Integers:
        if self._rows_cut != self.point.data.cut:
            self._find_rows()
        return self._rows[first]

    def _operand(self, vector: Array, first: int) -> Array:
        if self.matrix.kind == "jacobian":
            return vector
        return self.point.backend.gather(vector, self._rows_of(first))

    def _add(self, total: Array | None, share: float, first: int, part: Array) -> Array:
        if self.matrix.kind == "jacobian":
            part = self.point.backend.scatter(part, self._rows_of(first), self.outputs)
        return accumulate(self.point.backend, total, 1.0, part)

    def _agrees(self, vector: Array, product: Array, witness: Array, witnessed: Array) -> bool:
        # What was recorded is of this matrix, not of its transpose: that takes one product more.
        return are_adjoint(self.point, vector, product, product, self.transposed.recomputed(product))
