"""A diagonal that random probes estimate."""

from __future__ import annotations

from specop.arrays.backend import Array, shape_of
from specop.results.result import Result, error_of, record, vector

__all__ = ["DiagonalResult"]


@record
class DiagonalResult(Result):
    """A diagonal with its error.

    Attributes
    ----------
    x : native vector (n,)
        The diagonal, in the operator's framework and on its device.
    standard_errors : native vector (n,)
        Standard error of each entry.
    norm : float
        Euclidean norm of the diagonal.
    error_norm : float
        Standard error of the whole diagonal: the root of the expected squared distance to the true one.
    method : str
        How it was found: "bekas", "xdiag" or "exact".
    """

    x: Array = vector()
    standard_errors: Array = vector()
    norm: float
    error_norm: float = error_of("norm")
    method: str

    def _headline(self) -> str:
        return (
            f"diagonal of {shape_of(self.x)[0]} entries, norm {self.norm:.6g} +- {self.error_norm:.2g}, {self.method}"
        )
