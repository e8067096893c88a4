"""A function of a matrix times a vector."""

from __future__ import annotations

from specop.arrays.backend import Array
from specop.results.fields import record, vector
from specop.results.result import Result

__all__ = ["FunctionResult"]


@record
class FunctionResult(Result):
    """A function of a matrix times a vector, with its error.

    Attributes
    ----------
    x : native vector (n,)
        f(A) v, in the operator's framework and on its device.
    error : float
        Estimated norm of the error of x.
    """

    x: Array = vector()
    error: float

    def _headline(self) -> str:
        return f"f(A) v with error {self.error:.1e}"
