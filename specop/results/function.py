"""A function of a matrix times a vector."""

from __future__ import annotations

from dataclasses import dataclass

from specop.arrays.backend import Array
from specop.results.result import Result

__all__ = ["FunctionResult"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FunctionResult(Result):
    """A function of a matrix times a vector, with its error.

    Attributes
    ----------
    x : native vector (n,)
        f(A) v, in the operator's framework and on its device.
    error : float
        Estimated norm of the error of x.
    tol : float
        As asked for.
    """

    x: Array
    error: float
    tol: float

    def __str__(self) -> str:
        return f"f(A) v with error {self.error:.1e}, {self._provenance()}"

    __repr__ = __str__
