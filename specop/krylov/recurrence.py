"""Recurrence: the tridiagonal matrix of a Lanczos run, and what one eigenvalue of it costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from scipy.linalg import lapack

from specop.statistics.numbers import Floats

__all__ = ["Recurrence", "eigenpairs"]

_LARGEST = float(np.finfo(float).max)


@dataclass(frozen=True)
class Recurrence:
    r"""The recurrence of m Lanczos steps.

    .. math:: A v_j = b_{j-1} v_{j-1} + a_j v_j + b_j v_{j+1}.

    Attributes
    ----------
    diagonal : ndarray (m,)
        The coefficients a.
    beside : ndarray (m - 1,)
        The coefficients b but for the last one.
    coupling : float
        The last b: the length of what the newest product has outside of all rows that were multiplied; zero where the
        rows span an invariant subspace.
    """

    diagonal: Floats
    beside: Floats
    coupling: float

    def pair(self, side: int, rank: int) -> tuple[float, float] | None:
        """Return one Ritz value and its residual, or None where there is none of that number or LAPACK finds none.

        Parameters
        ----------
        side : int
            1 to count from the largest Ritz value, -1 from the smallest.
        rank : int
            Number of the Ritz value, counted from 1 at that side.
        """
        m = len(self.diagonal)
        if rank > m:
            return None
        wanted = m + 1 - rank if side > 0 else rank
        found, values, block, split, failed = lapack.dstebz(
            self.diagonal, _padded(self.beside), 2, 0.0, 0.0, wanted, wanted, 0.0, b"B"
        )
        if found != 1 or failed:
            return None
        vector, failed = lapack.dstein(self.diagonal, _padded(self.beside), values[:1], block, split)
        return None if failed else (float(values[0]), abs(self.coupling * float(vector[-1, 0])))

    def count(self, side: int, value: float) -> int:
        """Return the number of Ritz values above a value (side 1) or below it (side -1)."""
        low, high = (value, np.inf) if side > 0 else (-np.inf, value)
        # A tolerance that is never missed: Sturm sequences count, and nothing is bisected.
        return int(lapack.dstebz(self.diagonal, _padded(self.beside), 1, low, high, 0, 0, _LARGEST, b"E")[0])

    def christoffel(self, x: float) -> float:
        r"""Return the largest weight that the start vector can have at an eigenvalue x, as `measure.christoffel` does.

        That is :math:`1 / \sum_{j \le m} p_j(x)^2` with the polynomials of the recurrence: they solve
        :math:`(T - x) p = -b_m p_m(x) e_m`. It takes as long as a few steps of the recurrence, and no eigenproblem.
        """
        b, right = self.coupling, np.zeros(len(self.diagonal))
        right[-1] = b
        if len(right) == 1:
            return float(b**2 / (b**2 + (self.diagonal[0] - x) ** 2))
        *_, resolvent, is_singular = lapack.dgtsv(self.beside, self.diagonal - x, self.beside, right)
        # The point is a Ritz value, to the last bit.
        return 1.0 if is_singular else float(resolvent[0] ** 2 / (resolvent @ resolvent + 1.0))

    def drift(self, values: Floats, noise: float) -> Floats:
        """Return what rounding may have put into the rows of eigenvectors that the start vector has nothing of.

        Such an eigenvector, a copy of a Ritz value's, has no part in the rows but for rounding, which the recurrence
        carries on: once that eigenvalue has converged, it grows as the residual falls.

        Parameters
        ----------
        values : ndarray (k,)
            Eigenvalues.
        noise : float
            Rounding error of a product.

        Returns
        -------
        ndarray (rows, k)
            About the largest coordinates along each row, the one that is not multiplied included; of no meaning beyond
            1, but for their ratios.
        """
        beside = np.append(self.beside, self.coupling) if self.coupling else self.beside
        drift = np.zeros((len(beside) + 1, len(values)))
        for j in range(1, len(drift)):
            carried = (values - self.diagonal[j - 1]) * drift[j - 1]
            if j > 1:
                carried -= beside[j - 2] * drift[j - 2]
            drift[j] = (carried + np.copysign(noise, carried)) / beside[j - 1]
            drift[: j + 1] /= np.where(np.abs(drift[j]) > 1e100, 1e50, 1.0)
        return drift


def eigenpairs(diagonal: Floats, beside: Floats) -> tuple[Floats, Floats]:
    """Return the eigenvalues of a symmetric tridiagonal matrix, ascending, and its eigenvectors in columns.

    LAPACK itself: what `scipy.linalg.eigh_tridiagonal` looks at before it takes as long as forty rows.
    """
    m = len(diagonal)
    if m < 2:
        return np.array(diagonal), np.ones((m, m))
    # Older SciPy has no divide and conquer here.
    values, vectors, failed = getattr(lapack, "dstevd", lapack.dstev)(diagonal, beside)
    if failed:
        values, vectors = scipy.linalg.eigh_tridiagonal(diagonal, beside, lapack_driver="stev", check_finite=False)
    return np.asarray(values, dtype=np.float64), np.asarray(vectors, dtype=np.float64)


def _padded(beside: Floats) -> Floats:
    # SciPy wants an entry that LAPACK does not read.
    return beside if len(beside) else np.zeros(1)
