"""Fits of variances along eigenvectors to samples whose variances are known."""

import numpy as np
import pytest
import scipy.stats

from specop.statistics.tilted import fitted_slope, fitted_tilt


def test_fits_recover_what_samples_were_drawn_with():
    rng, h = np.random.default_rng(0), np.array([5.0, 2.0, 1.0, 0.1])
    inside = 0
    for _ in range(100):
        samples = rng.normal(size=(60, 4)) / np.sqrt(1 + 2 * 0.3 * h)
        found = fitted_tilt(samples, h, 0.95)
        inside += found.interval[0] <= 0.3 <= found.interval[1]
    assert inside >= 88
    many = rng.normal(size=(200_000, 4))
    assert fitted_tilt(many / np.sqrt(1 + 2 * 0.3 * h), h, 0.95).estimate == pytest.approx(0.3, rel=0.02)
    assert fitted_tilt(many, h, 0.95).estimate == pytest.approx(0.0, abs=0.01)
    assert fitted_slope(many / np.sqrt(h), h, 0.95).estimate == pytest.approx(-1.0, abs=0.01)
    none = fitted_slope(many, np.ones(4), 0.95)
    assert np.isnan([none.estimate, none.standard_error]).all() and none.interval == (-np.inf, np.inf)


def samples_of(variance, count=50):
    """Samples of exactly this mean square."""
    found = np.random.default_rng(0).normal(size=(count, 1))
    return found * (variance / np.mean(found**2)) ** 0.5


@pytest.mark.parametrize("h", [0.5, 40.0])
@pytest.mark.parametrize("variance", [1e-11, 1e-3, 0.7, 1.0, 5.0, 1e8])
def test_along_one_eigenvector_the_fit_has_a_closed_form(variance, h):
    # Curvatures that are not positive are left out, whatever their variances are.
    samples = np.hstack([samples_of(variance), np.ones((50, 2))])
    found = fitted_tilt(samples, np.array([h, 0.0, -1.0]), 0.9)
    assert found.estimate == pytest.approx((1 / variance - 1) / (2 * h), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("variance", "end"), [(1e-20, np.inf), (1e12, -1.0 / 8)])
def test_variances_beyond_all_tilts_are_at_their_end(variance, end):
    with np.errstate(invalid="ignore"):
        assert fitted_tilt(samples_of(variance), np.array([4.0]), 0.9).estimate == pytest.approx(end)


@pytest.mark.parametrize("count", [7, 20, 50])
def test_errors_of_fits_are_the_jackknife_s_over_twenty_groups_at_most(count):
    h, samples = np.array([5.0, 1.0, 0.0]), np.random.default_rng(1).normal(size=(count, 3))
    groups = np.arange(count) % 20
    slopes = [
        np.log(np.divide(*np.mean(samples[chosen, :2] ** 2, axis=0))) / np.log(5.0)
        for chosen in [groups != one for one in range(min(count, 20))] + [groups >= 0]
    ]
    found, several = fitted_slope(samples, h, 0.9), len(slopes) - 1
    error = ((several - 1) * np.var(slopes[:-1])) ** 0.5
    assert (found.estimate, found.standard_error) == pytest.approx((slopes[-1], error))
    assert found.interval == pytest.approx(scipy.stats.t.interval(0.9, several - 1, slopes[-1], error))
