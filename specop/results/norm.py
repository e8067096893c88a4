"""A norm of a matrix, or a ratio of norms."""

from __future__ import annotations

from specop.results.fields import record
from specop.results.number import NumberResult

__all__ = ["NormResult"]


@record
class NormResult(NumberResult):
    """A Frobenius norm, spectral norm or condition number with its error.

    `quantity` says which of them. `method` is "hutchinson", "exact" or "orthogonal", where
    the last probes are orthogonal to each other and weigh more, for a Frobenius norm, whose `estimates` are
    unbiased ones of the squared norm, and "eigenvalues" for the others, which have no random part: their interval is
    that of the eigenvalues' bounds, and `confidence` that of the check that no eigenvalue was missed.
    """
