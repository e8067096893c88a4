"""What selection leaves of a normal distribution: fits of its variances along eigenvectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from specop.statistics.estimate import Estimate, with_error
from specop.statistics.numbers import Floats

__all__ = ["fitted_slope", "fitted_tilt"]

# Groups of samples that the jackknife leaves out, at most.
_GROUPS = 20


def fitted_tilt(samples: Floats, curvatures: Floats, confidence: float) -> Estimate:
    r"""Return t for variances :math:`1 / (1 + 2 t h_i)` of independent normal components, by maximum likelihood.

    Parameters
    ----------
    samples : ndarray (w, k)
        Components of each sample, in units of the deviation that they were drawn with.
    curvatures : ndarray (k,)
        Curvatures h; those that are not positive are left out.
    confidence : float
        Probability with which the interval covers the number; its standard error is the jackknife's over groups of
        samples.
    """
    some = curvatures > 0
    return _jackknifed(lambda squares: _tilt(squares.mean(axis=0), curvatures[some]), samples[:, some] ** 2, confidence)


def fitted_slope(samples: Floats, curvatures: Floats, confidence: float) -> Estimate:
    """Return the slope of the logarithm of variances over that of curvatures; NaN for a single curvature.

    Parameters
    ----------
    samples : ndarray (w, k)
        Components of each sample.
    curvatures : ndarray (k,)
        Curvatures h; those that are not positive are left out.
    confidence : float
        Probability with which the interval covers the number; its standard error is the jackknife's over groups of
        samples.
    """
    some = curvatures > 0
    x = np.log(curvatures[some])
    x = x - x.mean()
    if not np.any(np.abs(x) > 1e-6):
        return Estimate(float("nan"), float("nan"), (-float("inf"), float("inf")), confidence)

    def fit(squares: Floats) -> float:
        return float(x @ np.log(squares.mean(axis=0)) / (x @ x))

    return _jackknifed(fit, samples[:, some] ** 2, confidence)


def _tilt(variances: Floats, curvatures: Floats) -> float:
    """Return the t at which components of these curvatures are most likely to have these variances."""
    scale = float(curvatures.max())
    h = curvatures / scale

    def slope(u: float) -> float:
        # The derivative of the log-likelihood in u = 2 t max(h), without its factor.
        return float(np.sum(h * (variances - 1.0 / (1.0 + u * h))))

    # At the lower end variances are infinite, at the upper one they are zero.
    low, high = -1.0 + 1e-9, 1.0
    while slope(high) < 0 and high < 1e12:
        high *= 10.0
    if slope(high) < 0:
        return np.inf
    if slope(low) > 0:
        return low / (2 * scale)
    # Importing it takes almost half as long as all of specop.
    import scipy.optimize

    return float(scipy.optimize.brentq(slope, low, high)) / (2 * scale)


def _jackknifed(fit: Callable[[Floats], float], squares: Floats, confidence: float) -> Estimate:
    groups = np.arange(len(squares)) % min(_GROUPS, len(squares))
    count = int(groups.max()) + 1
    without = np.array([fit(squares[groups != group]) for group in range(count)])
    whole = fit(squares)
    error = float(np.sqrt((count - 1) / count * np.sum((without - without.mean()) ** 2)))
    return with_error(whole, error, count - 1, confidence)
