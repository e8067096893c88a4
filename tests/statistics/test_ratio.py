"""Ratios of estimates: Fieller's limits, where they have none, and what is exact."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.special import stdtrit

from specop.statistics.estimate import exact
from specop.statistics.ratio import jackknife_covariance, ratio


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


@given(
    numerator=st.floats(-5.0, 5.0),
    denominator=st.sampled_from([-2.0, -0.7, 0.7, 2.0]),
    widths=st.tuples(st.floats(0.01, 0.3), st.floats(0.01, 0.3)),
    correlation=st.floats(-0.9, 0.9),
    degrees=st.integers(3, 50),
    point=st.floats(-1.0, 1.0),
)
def test_the_interval_holds_the_ratios_that_are_not_told_from_zero(
    numerator, denominator, widths, correlation, degrees, point
):
    mixed = correlation * widths[0] * widths[1]
    covariance = np.array([[widths[0] ** 2, mixed], [mixed, widths[1] ** 2]])
    student = stdtrit(degrees, 0.95)
    assume(abs(denominator) > 1.001 * student * widths[1])
    found = ratio(numerator, denominator, covariance, degrees, 0.9)
    low, high = found.interval
    assert low <= found.estimate == numerator / denominator <= high and found.confidence == 0.9
    r = found.estimate + point * 2 * (high - low)
    defect = abs(numerator - r * denominator) / (student * (np.array([1.0, -r]) @ covariance @ [1.0, -r]) ** 0.5)
    assume(abs(defect - 1.0) > 1e-6)
    assert (low <= r <= high) == (defect < 1.0)


@pytest.mark.parametrize("unit", [1.0, 0.1])
def test_a_ratio_whose_denominator_may_be_zero_has_no_error_and_one_limit(unit):
    covariance = unit**2 * np.eye(2)
    for numerator, denominator, estimate in [
        (9.0, 0.5, 18.0),
        (-9.0, 0.5, -18.0),
        (9.0, -0.5, np.inf),
        (-9.0, -0.5, -np.inf),
        (9.0, 0.0, np.inf),
    ]:
        found = ratio(unit * numerator, unit * denominator, covariance, 20, 0.95)
        assert (found.estimate, found.standard_error) == (pytest.approx(estimate), np.inf)
        low, high = found.interval
        assert (0 < low < np.inf and high == np.inf) if numerator > 0 else (-np.inf < high < 0 and low == -np.inf)
    assert np.isnan(ratio(0.0, 0.5 * unit, covariance, 20, 0.95).estimate)
    assert ratio(3.0, -1.5, np.zeros((2, 2)), 20, 0.9) == exact(-2.0, 0.9)
    assert ratio(3.0, 0.0, np.zeros((2, 2)), 20, 0.9).interval == (-np.inf, np.inf)


@pytest.mark.parametrize("k", [1, 3])
def test_the_covariance_of_means_is_that_of_samples_over_their_number(k):
    samples = np.random.default_rng(0).normal(size=(12, k))
    without = (samples.sum(axis=0) - samples) / 11
    expected = np.atleast_2d(np.cov(samples.T)) / 12
    np.testing.assert_allclose(jackknife_covariance(without), expected)
