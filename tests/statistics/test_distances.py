"""Distances of spectra: in closed form, by quadrature and by SciPy."""

import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from specop.statistics.distances import common_grid, jensen_shannon, smoothed, wasserstein


@pytest.mark.parametrize("apart", [0.0, 0.3, 1.0, 4.0, 30.0])
def test_the_distance_of_two_atoms_is_that_of_two_gaussians(apart):
    grid = common_grid(0.0, apart, 1.0)
    curves = [smoothed(np.array([at]), np.ones(1), grid, 1.0) for at in (0.0, apart)]

    def integrand(x):
        p, q = scipy.stats.norm.pdf(x), scipy.stats.norm.pdf(x - apart)
        parts = [part * np.log(2 * part / (p + q)) if part > 0 else 0.0 for part in (p, q)]
        return 0.5 * sum(parts)

    exact = scipy.integrate.quad(integrand, -9, apart + 9, points=[0, apart], limit=400)[0]
    np.testing.assert_allclose(jensen_shannon(*curves) ** 2, exact, atol=1e-5)


def test_transport_is_that_of_scipy():
    rng = np.random.default_rng(0)
    x, y, p, q = rng.normal(size=7), rng.normal(size=5), rng.random(7), rng.random(5)
    p, q = p / p.sum(), q / q.sum()
    np.testing.assert_allclose(wasserstein(x, p, y, q), scipy.stats.wasserstein_distance(x, y, p, q), rtol=1e-12)
    assert wasserstein(x, p, x, p) == 0.0


def test_a_grid_has_four_points_in_each_deviation_and_five_deviations_beyond_both_ends():
    grid = common_grid(-1.0, 3.0, 0.5)
    assert (grid[0], grid[-1], len(grid)) == (-3.5, 5.5, 73)
    np.testing.assert_allclose(np.diff(grid), 0.125)


def test_distributions_that_share_nothing_are_as_far_apart_as_any():
    p, q = np.array([0.25, 0.75, 0.0, 0.0]), np.array([0.0, 0.0, 0.5, 0.5])
    assert jensen_shannon(p, q) == pytest.approx(np.log(2.0) ** 0.5) and jensen_shannon(p, p) == 0.0
    smooth = smoothed(np.array([0.0, 1.0]), np.array([3.0, 1.0]), common_grid(0.0, 1.0, 0.1), 0.1)
    assert smooth.sum() == pytest.approx(1.0) and smooth[: len(smooth) // 2].sum() == pytest.approx(0.75, abs=1e-3)


@pytest.mark.parametrize("least", [5e-324, 1e-320])
def test_the_smallest_numbers_are_no_distance(least):
    p, q = np.array([least, 1.0]), np.array([0.0, 1.0])
    assert jensen_shannon(p, q) == pytest.approx(0.0, abs=1e-150) == jensen_shannon(q, p)
