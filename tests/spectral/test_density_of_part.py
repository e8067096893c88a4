"""The spectrum of all data from a part of them: the distance that is said is true, and limits hold for all."""

import numpy as np
import pytest

import specop
from sample_means import KINDS, mean
from specop.errors import ConvergenceWarning, InvalidInputError


def distance(density, values):
    """The Wasserstein-1 distance to the true eigenvalues."""
    points = np.sort(np.concatenate([density.nodes, values]))
    apart = density.cdf(points[:-1]) - np.searchsorted(np.sort(values), points[:-1], side="right") / len(values)
    return float(np.abs(apart) @ np.diff(points))


@pytest.mark.parametrize("kind", KINDS)
def test_the_distance_is_at_most_what_is_said(kind):
    A = mean(kind, samples=4000)
    values = np.linalg.eigvalsh(A.dense)
    rtol = 0.15 if kind in ("indefinite", "misled") else 0.05
    for seed in range(8):
        found = specop.spectral_density(A, rtol=rtol, data="part", seed=seed)
        assert found.converged and found.error <= rtol and found.samples == A.samples
        assert distance(found, values) <= found.error * found.spread
        for a, b in ((0.3 * values[-1], np.inf), (-np.inf, values[15]), (values[10], values[20])):
            low, high = found.count(a, b).interval
            assert low <= np.sum((values > a) & (values <= b)) <= high
        low, high = found.cdf_interval(values)
        shares = np.searchsorted(values, values, side="right") / len(values)
        assert (low <= shares + 1e-12).all() and (shares <= high + 1e-12).all()
        for f in (lambda x: x, lambda x: x**2):
            integral = found.integrate(f)
            assert integral.interval[0] <= f(values).mean() <= integral.interval[1]


def test_both_distances_together_are_within_the_goal():
    # The density's own is two thirds of it.
    found = specop.spectral_density(mean("even", samples=8000, n=200), rtol=0.01, data="part")
    own = found.error - found.sampling_error / found.spread
    assert found.converged and found.error <= 0.01 and own > 0.005


def test_limits_close_where_the_distance_is_small():
    A = mean("even", samples=20_000)
    # Three eigenvalues stand apart.
    A.x = 0.1 * A.x
    A.x[:, :3] = np.random.default_rng(0).standard_normal((A.samples, 3)) * np.array([3.0, 2.5, 2.0])
    found = specop.spectral_density(A, rtol=0.02, data="part")
    assert found.count(2.0, np.inf).interval == (3.0, 3.0)
    assert found.samples_used < A.samples and f"on {found.samples_used} samples" in str(found)
    assert 0 < found.sampling_error <= 0.02 * found.spread
    assert found.matvecs == -(-A.multiplied // A.samples)


@pytest.mark.parametrize("samples", [1, 3, 100])
def test_of_few_samples_all_are_taken(samples):
    A = mean("even", samples=samples)
    found, same = (specop.spectral_density(A, data=data) for data in ("part", "all"))
    assert found.sampling_error == 0.0 and found.samples_used == samples
    assert np.allclose(found.nodes, same.nodes, atol=1e-8) and found.error == pytest.approx(same.error, abs=1e-8)


def test_a_limit_on_products_is_said():
    A = mean("misled", samples=8000)
    with pytest.warns(ConvergenceWarning, match="Raise max_matvecs"):
        found = specop.spectral_density(A, rtol=1e-4, data="part", max_matvecs=15)
    assert found.matvecs <= 15 and not found.converged
    with pytest.raises(InvalidInputError, match="too little"):
        specop.spectral_density(A, data="part", max_matvecs=1)


def test_a_first_look_takes_eight_products_for_the_distance_and_one_for_the_density():
    """Of 3,088 samples in both halves, where 5,000 make a product."""
    with pytest.raises(InvalidInputError, match="too little"):
        specop.spectral_density(mean("even", samples=5000), data="part", max_matvecs=5)
    with pytest.warns(ConvergenceWarning, match="Raise max_matvecs"):
        found = specop.spectral_density(mean("even", samples=5000), data="part", max_matvecs=6)
    assert found.matvecs == 6 and found.samples_used < 5000
    # A single node has no spread that a distance would be small beside.
    assert len(found.nodes) == 1 and found.error == np.inf and 0 < found.sampling_error < np.inf


def test_what_means_nothing_is_refused():
    A = mean("even", samples=2000)
    with pytest.raises(InvalidInputError, match="deflate"):
        specop.spectral_density(A, data="part", deflate=specop.eigsh(A, 2))
    with pytest.raises(InvalidInputError, match="needs a mean over data samples"):
        specop.spectral_density(np.eye(30), data="part")
    found = specop.spectral_density(A, rtol=0.1, data="part")
    with pytest.raises(InvalidInputError, match="between the nodes"):
        found.integrate(lambda x: np.where(np.isin(x, found.nodes), x, np.nan))


def test_it_is_saved_and_read(tmp_path):
    found = specop.spectral_density(mean("trained", samples=2000), rtol=0.1, data="part")
    found.save(tmp_path / "density.npz")
    assert specop.load(tmp_path / "density.npz").count(0.0, 1.0) == found.count(0.0, 1.0)
