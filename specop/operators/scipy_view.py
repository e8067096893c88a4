"""ScipyView: an operator as SciPy's own solvers take it."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse.linalg
from numpy.typing import NDArray

from specop.arrays.layout import Layout
from specop.errors import InvalidInputError

__all__ = ["ScipyView"]


class ScipyView(scipy.sparse.linalg.LinearOperator):
    """A specop operator as SciPy's: NumPy in, NumPy out, whatever the device."""

    __array_ufunc__ = None

    def __init__(self, operator: Any) -> None:
        super().__init__(operator.dtype, operator.shape)  # type: ignore[call-arg]
        self.operator = operator

    def _matvec(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._apply(self.operator.matvec, x, self.operator.domain)

    def _rmatvec(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._apply(self.operator.rmatvec, x, self.operator.codomain)

    def _adjoint(self) -> ScipyView:
        return ScipyView(self.operator.T)

    # Without it svds, lsmr, onenormest and expm_multiply fail on a real operator.
    _transpose = _adjoint

    def _apply(self, product: Any, x: NDArray[Any], layout: Layout) -> NDArray[Any]:
        # ARPACK passes views of its workspace, others float64 blocks for a float32 operator: copy and cast.
        if np.iscomplexobj(x):
            raise InvalidInputError("a real operator was given a complex vector; use a real-valued solver.")
        backend = self.operator.backend
        vector = backend.from_host(np.array(x, dtype=layout.dtype).reshape(-1), layout)
        return backend.to_numpy(product(vector))
