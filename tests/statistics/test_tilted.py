"""Fits of variances along eigenvectors to samples whose variances are known."""

import numpy as np
import pytest

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
    assert np.isnan(fitted_slope(many, np.ones(4), 0.95).estimate)
