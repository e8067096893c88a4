"""The numbers of negative, zero and positive eigenvalues."""

from __future__ import annotations

from specop.results.fields import converted, estimated, record
from specop.results.result import Result
from specop.statistics.estimate import Estimate

__all__ = ["InertiaResult"]


@record
class InertiaResult(Result):
    """How many eigenvalues are negative, zero and positive.

    Attributes
    ----------
    negative : Estimate
        Number of eigenvalues below minus the threshold, with its interval; a whole number where it was counted.
    zero : Estimate
        Number of eigenvalues up to the threshold in size.
    positive : Estimate
        Number of eigenvalues above the threshold.
    threshold : float
        Eigenvalues up to this size count as zero.
    gap : (float, float)
        The range around the threshold in which no eigenvalue was seen, as sizes. Where no gap was found both are the
        threshold.
    method : str
        "exact", all eigenvalues outside of the gap were counted; "quadrature", their numbers were estimated.
    n : int
        Number of all eigenvalues.
    """

    negative: Estimate = estimated()
    zero: Estimate = estimated()
    positive: Estimate = estimated()
    threshold: float
    gap: tuple[float, float] = converted(tuple)
    method: str
    n: int

    def _headline(self) -> str:
        parts = []
        for name in ("negative", "zero", "positive"):
            number: Estimate = getattr(self, name)
            low, high = number.interval
            limits = "" if low == high else f" ({low:g} to {high:g})"
            parts.append(f"{number.estimate:g}{limits} {name}")
        return (
            f"{', '.join(parts)} of {self.n} eigenvalues ({100 * self.negative.confidence:g} % intervals), "
            f"{self.method}: sizes up to {self.threshold:.2g} count as zero"
        )
