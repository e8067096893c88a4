"""Eigenpairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from specop.arrays.backend import Array, backend_of
from specop.errors import InvalidInputError
from specop.results.result import Result, record, unsaved, vector

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["EigenResult"]


@record
class EigenResult(Result):
    """Eigenvalues in ascending order, their vectors and their errors.

    Attributes
    ----------
    eigenvalues : ndarray (k,), float64
        Ascending.
    rows : native array (k, n)
        Eigenvectors as orthonormal rows, in the operator's framework and on its device.
    residuals : ndarray (k,)
        Norms of A x - lambda x; some eigenvalue of A lies within that distance.
    bounds : ndarray (k,)
        Bounds of the eigenvalues' errors: the residual, or its square over the gap where that is smaller.
    check_matvecs : int
        Those of `matvecs` that the multiplicity check took.
    which, tol : str, float
        As asked for.
    """

    eigenvalues: NDArray[np.float64]
    rows: Array = vector()
    residuals: NDArray[np.float64]
    bounds: NDArray[np.float64]
    check_matvecs: int
    which: str
    tol: float
    unflatten: Callable[[Array], Any] | None = unsaved(default=None)

    @property
    def eigenvectors(self) -> Array:
        """Eigenvectors as SciPy has them: a native (n, k) array with one in each column."""
        return backend_of(self.rows).transpose(self.rows)

    def eigenvector(self, i: int) -> Array:
        """Return eigenvector i, that of ``eigenvalues[i]``, as a contiguous native vector."""
        return self.rows[i]

    def eigenvector_tree(self, i: int) -> Any:
        """Return eigenvector i in the structure of the parameters."""
        if self.unflatten is None:
            raise InvalidInputError("this result was loaded from a file, or its operator has no parameter structure.")
        return self.unflatten(self.eigenvector(i))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the eigenvalues with their error bars; needs matplotlib."""
        from specop.plotting.spectra import plot_eigenvalues

        title = f"{len(self.eigenvalues)} eigenvalues ({self.which}), with error bounds"
        return plot_eigenvalues(self.eigenvalues, self.bounds, title, ax)

    def __str__(self) -> str:
        lines = [f"{len(self.eigenvalues)} eigenvalues ({self.which}), {self._provenance()}"]
        lines.append(f"{'eigenvalue':>16}  {'error <=':>9}  {'residual':>9}")
        for value, bound, residual in zip(self.eigenvalues, self.bounds, self.residuals, strict=True):
            lines.append(f"{value:16.8g}  {bound:9.1e}  {residual:9.1e}")
        return "\n".join(lines)
