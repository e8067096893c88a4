"""A ratio of two estimates, with an interval that has no end where the denominator may be zero."""

from __future__ import annotations

import numpy as np
import scipy.special

from specop.statistics.estimate import Estimate, exact
from specop.statistics.numbers import Floats

__all__ = ["jackknife_covariance", "ratio"]


def jackknife_covariance(without: Floats) -> Floats:
    """Return the covariance of k estimates from c groups of data.

    Parameters
    ----------
    without : ndarray (c, k)
        Estimates from all groups but one, for each group.
    """
    count = len(without)
    return np.atleast_2d(np.cov(without.T, ddof=1)) * (count - 1) ** 2 / count


def ratio(numerator: float, denominator: float, covariance: Floats, degrees: int, confidence: float) -> Estimate:
    r"""Return the ratio of two estimates with Fieller's interval [1]_.

    It holds all ratios r at which :math:`N - r D` is not told from zero. Where D itself is not told from zero it has no
    end: above its lower limit anything goes, or, where N is not told from zero either, anything at all.

    Parameters
    ----------
    numerator, denominator : float
        Unbiased estimates of the numerator N and the denominator D.
    covariance : ndarray (2, 2)
        Covariance of N and D; of zeros, the ratio is exact.
    degrees : int
        Degrees of freedom of the covariance.
    confidence : float
        Probability with which the interval covers the ratio of the means.

    References
    ----------
    .. [1] E. C. Fieller, Some problems in interval estimation, J. R. Stat. Soc. B 16 (1954), 175-185.
    """
    numerator, denominator = float(numerator), float(denominator)
    student = float(scipy.special.stdtrit(degrees, 0.5 + confidence / 2))
    (variance, mixed), (_, below) = student**2 * np.asarray(covariance, dtype=np.float64)
    a, b, c = denominator**2 - below, numerator * denominator - mixed, numerator**2 - variance
    infinity = float("inf")
    if a <= 0:
        root = np.sqrt(max(b * b - a * c, 0.0))
        if c <= 0 or a == 0:
            interval = (-infinity, infinity)
        elif numerator > 0:
            interval = (float((b - root) / a), infinity)
        else:
            interval = (-infinity, float((b + root) / a))
        estimate = numerator / denominator if denominator > 0 else float(np.copysign(infinity, numerator))
        return Estimate(estimate if numerator else float("nan"), infinity, interval, confidence)
    estimate = numerator / denominator
    if not covariance.any():
        return exact(estimate, confidence)
    root = np.sqrt(max(b * b - a * c, 0.0))
    error = np.sqrt(max(variance - 2 * estimate * mixed + estimate**2 * below, 0.0)) / (student * abs(denominator))
    return Estimate(estimate, float(error), (float((b - root) / a), float((b + root) / a)), confidence)
