"""Orthogonality: when rows that are made orthogonal to their neighbours must be made orthogonal to all others."""

from __future__ import annotations

from typing import Any

import numpy as np

from specop.krylov.projected import ProjectedMatrix
from specop.statistics.numbers import Floats

__all__ = ["Orthogonality"]

# Far below the root of the rounding error, up to which the projected matrix is as exact as that of orthonormal rows:
# here Ritz vectors and their residuals are too. What is predicted exceeds what is true a hundredfold.
_LARGEST_OVERLAP = 1e-12
# A pass over so few entries takes no longer than what would show that it is not needed.
_SMALL_BASIS = 2**18
# Such a pass also shows that a matrix is not symmetric: it is never put off for long.
_LONGEST_WAIT = 16
# The last two rows carry overlaps on: where they have grown, both are renewed.
_PASSES = 2


class Orthogonality:
    r"""Overlaps E = V V' - I of rows V most of which were made orthogonal to their neighbours only.

    With :math:`A v_i = \sum_l G_{li} v_l` for the rows that were multiplied, and a new row v from
    :math:`A v_j = \sum_l G_{lj} v_l + \beta v`, symmetry gives

    .. math:: \beta \langle v_i, v \rangle = (G E)_{ij} - (E G)_{ij}

    and the rounding error of a product: the recurrence of Simon [1]_, for any G.

    Parameters
    ----------
    capacity : int
        Largest number of rows.
    n : int
        Length of a row.
    precision : float
        Relative rounding error of a product.

    References
    ----------
    .. [1] H. Simon, The Lanczos algorithm with partial reorthogonalization, Math. Comp. 42 (1984), 115-142.
    """

    def __init__(self, capacity: int, n: int, precision: float) -> None:
        self._n = n
        self._precision = precision
        # Rows that may come to span the whole space are held to rounding: what is left of it is told by that.
        self._is_allowed = capacity < n and precision < _LARGEST_OVERLAP
        self._overlaps = np.zeros((capacity + 1, capacity + 1))
        self._waited = 0
        self._due = 0

    def may_wait(self, size: int) -> bool:
        """Whether to make a product orthogonal to its neighbours among the rows only, and then to ask `accept`."""
        self._waited += 1
        is_worth_it = self._is_allowed and size * self._n > _SMALL_BASIS
        return is_worth_it and not self._due and self._waited < _LONGEST_WAIT

    def accept(self, G: ProjectedMatrix, row: int, near: list[int], column: Floats, beta: float, noise: float) -> bool:
        """Return whether the next row overlaps the others by little; if so, take it in.

        Parameters
        ----------
        G : ProjectedMatrix
            A projected on the rows.
        row : int
            The row that was multiplied.
        near : list of int
            The rows that its product was made orthogonal to.
        column : ndarray (size,)
            What it has along the rows; zero but for those.
        beta : float
            Norm of what is left of the product.
        noise : float
            Rounding error of the product.
        """
        E = self._overlaps[: G.size, : G.size]
        # Rows for columns of a symmetric matrix; no BLAS, whose threads would spin beside those of a framework.
        carried = G.multiply(E[row])
        for i in near:
            carried -= column[i] * E[i]
        carried[near] = 0.0
        if not float(np.abs(carried).max()) + noise < _LARGEST_OVERLAP * beta:
            self._due = _PASSES
            return False
        self._set(G.size, (carried + np.copysign(noise, carried)) / beta)
        return True

    def renew(self, size: int) -> None:
        """Note that the next row was made orthogonal to all rows."""
        self._waited = 0
        self._due = max(0, self._due - 1)
        self._set(size, self._precision)

    def combine(self, change: Floats, first: int) -> None:
        """Follow the rows from `first` on through ``rows <- change.T @ rows``; those behind are forgotten."""
        last = first + len(change)
        turn = np.zeros((last, first + change.shape[1]))
        turn[range(first), range(first)] = 1.0
        turn[first:, first:] = change
        turned = turn.T @ self._overlaps[:last, :last] @ turn
        self._overlaps[: len(turned), : len(turned)] = turned
        self._due = _PASSES

    def state(self, size: int) -> dict[str, Any]:
        """Return what `restore` needs, as plain values and arrays."""
        return {"overlaps": self._overlaps[:size, :size], "waited": self._waited, "due": self._due}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        size = len(state["overlaps"])
        self._overlaps[:size, :size] = state["overlaps"]
        self._waited, self._due = state["waited"], state["due"]

    def _set(self, row: int, overlaps: Any) -> None:
        self._overlaps[row, :row] = self._overlaps[:row, row] = overlaps
