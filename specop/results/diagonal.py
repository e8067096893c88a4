"""A diagonal that random probes estimate."""

from __future__ import annotations

from specop.arrays.backend import Array, shape_of
from specop.results.fields import error_of, record, vector
from specop.results.result import Result

__all__ = ["DiagonalResult"]


@record
class DiagonalResult(Result):
    """A diagonal with its error.

    Attributes
    ----------
    x : native vector (n,)
        The diagonal, in the operator's framework and on its device.
    standard_errors : native vector (n,)
        Standard error of each entry; NaN for those on which two to five vectors of random signs agree, which happens by
        chance as well. With ``data="part"`` it is NaN where the limit leaves some samples a single random vector.
    norm : float
        Euclidean norm of the diagonal.
    error_norm : float
        Standard error of the whole diagonal: the root of the expected squared distance to the true one.
    method : str
        How it was found: "bekas", "xdiag" or "exact".
    sampling_error : float
        The part of `error_norm` that comes from looking at a part of the samples (``data="part"``); the rest,
        ``(error_norm**2 - sampling_error**2)**0.5``, is that of random vectors.
    samples_used : int or None
        Number of different samples that were multiplied, where a part of them sufficed.
    """

    x: Array = vector()
    standard_errors: Array = vector()
    norm: float
    error_norm: float = error_of("norm")
    method: str
    sampling_error: float = 0.0
    samples_used: int | None = None

    def _headline(self) -> str:
        used = "" if self.samples_used is None else f" on {self.samples_used} samples"
        entries = shape_of(self.x)[0]
        return f"diagonal of {entries} entries, norm {self.norm:.6g} +- {self.error_norm:.2g}, {self.method}{used}"
