"""What results have in common that are a single number with its error."""

from __future__ import annotations

from specop.results.fields import converted, error_of, record
from specop.results.result import Result
from specop.statistics.estimate import Estimate
from specop.statistics.numbers import Floats

__all__ = ["NumberResult"]


@record
class NumberResult(Result):
    """A number with its error: a quadratic form, and what traces, norms and sums over the spectrum have in common.

    The `method` of a quadratic form is "exact", or "groups" where samples were drawn.

    Attributes
    ----------
    estimate : float
        The number, as it was estimated.
    standard_error : float
        Standard error of the mean over random vectors, with an allowance for skewness where these are few and one
        eigenvalue may dominate; 0 where nothing is random, NaN for a single one and for a few of random signs that
        agree as they may by chance (fewer than 12 at a confidence of 95 %).
    interval : (float, float)
        Limits between which the number lies.
    confidence : float
        Probability with which the interval covers the number.
    method : str
        How the number was found.
    quantity : str
        What the number is, such as "trace".
    estimates : ndarray
        What each random vector, or each group of samples, gave; empty where nothing is random.
    sampling_error : float
        The part of the standard error that comes from looking at a part of the samples (``data="part"``), 0 where it is
        too small to be told from that of random vectors; the rest,
        ``(standard_error**2 - sampling_error**2)**0.5``, is that of random vectors. The number is that of all samples
        at hand; what others would give, were they drawn anew, is not in it.
    samples_used : int or None
        Number of different samples that were multiplied, where a part of them sufficed.
    """

    estimate: float
    standard_error: float = error_of("estimate")
    interval: tuple[float, float] = converted(tuple)
    confidence: float
    method: str
    quantity: str
    estimates: Floats
    sampling_error: float = 0.0
    samples_used: int | None = None

    @property
    def probes(self) -> int:
        """Number of random vectors behind the estimate."""
        return len(self.estimates)

    @property
    def value(self) -> Estimate:
        """The number with its standard error and interval."""
        return Estimate(self.estimate, self.standard_error, self.interval, self.confidence)

    def _headline(self) -> str:
        used = "" if self.samples_used is None else f" on {self.samples_used} samples"
        return f"{self.quantity} {self.value}, {self.method}{used}"
