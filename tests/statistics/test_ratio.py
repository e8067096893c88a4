"""Ratios of estimates: Fieller's limits, where they have none, and what is exact."""

import numpy as np
import pytest
from scipy.special import stdtrit

from specop.statistics.ratio import ratio


def test_limits_of_a_ratio_are_where_its_defect_is_not_told_from_zero():
    covariance, student = np.array([[0.3, 0.05], [0.05, 0.04]]), stdtrit(20, 0.975)
    for numerator, denominator in [(3.0, 1.5), (3.0, 0.1), (-3.0, 0.1), (3.0, -1.5)]:
        found = ratio(numerator, denominator, covariance, 20, 0.95)
        if abs(denominator) > 1:
            slope = np.array([1.0, -numerator / denominator])
            assert found.standard_error == pytest.approx((slope @ covariance @ slope) ** 0.5 / abs(denominator))
        ends = [end for end in found.interval if np.isfinite(end)]
        assert len(ends) == (2 if abs(denominator) > 1 else 1)
        for end in ends:
            variance = np.array([1.0, -end]) @ covariance @ [1.0, -end]
            assert abs(numerator - end * denominator) == pytest.approx(student * variance**0.5, rel=1e-9)
    assert ratio(0.1, 0.1, covariance, 20, 0.95).interval == (-np.inf, np.inf)
