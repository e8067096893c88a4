"""Eigenpairs."""

from __future__ import annotations

from typing import Any

import numpy as np

from specop.arrays.backend import Array, backend_of
from specop.errors import InvalidInputError
from specop.plotting.axes import Axes, Place
from specop.results.fields import column, error_of, record, structured, vector
from specop.results.plotted import Plotted
from specop.results.result import Result
from specop.results.structure import Structure
from specop.results.tables import Column
from specop.statistics.numbers import Booleans, Floats

__all__ = ["EigenResult"]


@record
class EigenResult(Plotted, Result):
    """Eigenvalues in ascending order, their vectors and their errors.

    `plot` draws the eigenvalues by rank, with their error bounds.

    Attributes
    ----------
    eigenvalues : ndarray (k,), float64
        Eigenvalues, ascending.
    rows : native array (k, n)
        Eigenvectors as orthonormal rows, in the operator's framework and on its device.
    bounds : ndarray (k,)
        Bounds of the distances to the eigenvalues of these numbers, copies counted: the residual, or its square over
        the gap where that is smaller. Infinite where the search ended before the check for missed ones had; without
        such a check, to some eigenvalue.
    residuals : ndarray (k,)
        Norms of A x - lambda x; some eigenvalue of A lies within that distance, whatever its number.
    check_matvecs : int
        Number of the `matvecs` that the multiplicity check took.
    which, tol : str, float
        Which eigenvalues, and the relative residual at which a pair has converged, as they were asked for.
    goals : ndarray (k,) or None
        Norms of residuals at which pairs count as converged, with what rounding makes of products.
    intervals : ndarray (k, 2) or None
        With ``data="part"``: limits between which each eigenvalue of all samples lies; `bounds`
        are then their distances from the estimates, and `residuals` those of eigenvectors of some samples on others.
    standard_errors, sampling_errors : ndarray (k,) or None
        With ``data="part"``: the standard error of a normal number with such an interval, and the part of it that the
        choice of samples has; the rest is the distance between what is too small and what is too large.
    confidence : float or None
        Probability with which an eigenvalue lies within its interval.
    samples_used : int or None
        Number of different samples that were multiplied, where a part of them sufficed.
    """

    eigenvalues: Floats = column("eigenvalue", ".8g")
    rows: Array = vector()
    bounds: Floats = error_of("eigenvalues", "error <=", ".1e")
    residuals: Floats = column("residual", ".1e")
    check_matvecs: int
    which: str
    tol: float
    structure: Structure | None = structured(default=None)
    goals: Floats | None = None
    intervals: Floats | None = None
    standard_errors: Floats | None = None
    sampling_errors: Floats | None = None
    confidence: float | None = None
    samples_used: int | None = None

    @property
    def eigenvectors(self) -> Array:
        """Eigenvectors as SciPy has them: a native (n, k) array with one in each column."""
        return backend_of(self.rows).transpose(self.rows)

    @property
    def converged_pairs(self) -> Booleans:
        """Whether each pair converged, an array (k,); `converged` says it of all, and of the check for copies."""
        return np.full(len(self.eigenvalues), self.converged) if self.goals is None else self.residuals <= self.goals

    def eigenvector(self, i: int) -> Array:
        """Return eigenvector i, that of ``eigenvalues[i]``, as a contiguous native vector."""
        return backend_of(self.rows).index(self.rows, i)

    def eigenvector_tree(self, i: int) -> Any:
        """Return eigenvector i in the structure of the parameters; from a file, a dict of arrays by name."""
        if self.structure is None:
            raise InvalidInputError("the operator of this result has no parameter structure.")
        return self.structure(self.eigenvector(i))

    def _draw(self, place: Place) -> Axes:
        from specop.plotting.pictures import plot_eigenvalues

        title = f"{len(self.eigenvalues)} eigenvalues ({self.which}), with error bounds"
        return plot_eigenvalues(self.eigenvalues, self.bounds, title, place)

    def _columns(self) -> dict[str, Column]:
        found = super()._columns()
        if self.goals is None:
            return found
        return found | {"converged": Column(self.converged_pairs, "" if self.converged else "converged")}

    def _headline(self) -> str:
        used = "" if self.samples_used is None else f" on {self.samples_used} samples"
        return f"{len(self.eigenvalues)} eigenvalues ({self.which}){used}"
