"""Parameters without some samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from specop.arrays.backend import Array, backend_of, shape_of
from specop.results.fields import column, record, structured, vector
from specop.results.result import Result
from specop.results.structure import Structure
from specop.statistics.numbers import Floats, Integers

__all__ = ["LeaveOneOutResult"]


@record
class LeaveOneOutResult(Result):
    """How the parameters change when groups of samples are left out of training.

    Attributes
    ----------
    changes : native array (n, k)
        Change of the parameters, in a column for each group.
    indices : ndarray
        Numbers of the samples of all groups, one group after the other.
    sizes : ndarray (k,)
        Number of samples in each group.
    newton : bool
        Whether the matrix is that of the remaining data.
    damping : float
        Strength of the L2 penalty, which stays.
    matrix : str
        "hessian", "ggn", "fisher" or "empirical fisher".
    residuals : ndarray (k,)
        Norms of b - A x for the solve of each group.
    """

    changes: Array = vector()
    indices: Integers
    sizes: Integers = column()
    newton: bool
    damping: float
    matrix: str
    residuals: Floats = column()
    structure: Structure = structured()

    @property
    def groups(self) -> list[Integers]:
        """Numbers of the samples that were left out together."""
        return np.split(self.indices, np.cumsum(self.sizes)[:-1])

    def change(self, i: int) -> Array:
        """Return the change without group i as a native vector (n,), to be added to the parameters."""
        backend = backend_of(self.changes)
        return backend.index(backend.transpose(self.changes), i)

    def change_tree(self, i: int) -> Any:
        """Return that change in the structure of the parameters; from a file, a dict of arrays by name."""
        return self.structure(self.change(i))

    def _lines(self) -> list[str]:
        return [*super()._lines(), *self._remark()]

    def _headline(self) -> str:
        kind = "one Newton step" if self.newton else "first order"
        sizes = f"{self.sizes.min()}" if np.ptp(self.sizes) == 0 else f"{self.sizes.min()} to {self.sizes.max()}"
        return (
            f"change of {shape_of(self.changes)[0]} parameters without {len(self.sizes)} groups of {sizes} sample(s), "
            f"{kind}, {self.matrix} of the mean loss with damping {self.damping:g}"
        )
