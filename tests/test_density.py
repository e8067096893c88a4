"""spectral_density: Gauss quadrature for each probe, known weights for outliers, nothing cut off."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

import specop
import spectra
from cases import each_case
from specop.errors import InvalidInputError
from specop.probes import sphere


def distance(density, values):
    """Wasserstein-1 distance to the exact spectrum over its spread."""
    return wasserstein_distance(density.nodes, values, density.weights) / np.ptp(values)


@each_case
def test_moments_of_one_probe_are_exact_to_degree_2m_minus_1(case):
    # Clustered at 1 so that no Ritz value resolves, and the raw quadrature stands.
    matrix = spectra.with_spectrum(1 + 0.2 * np.random.default_rng(1).normal(size=200)).astype(case.dtype)
    density = specop.spectral_density(case.array(matrix), steps=4, seed=2)
    probe = sphere(case.backend, case.layout(200), 2, 0)
    vector, power = case.numpy(probe).astype(float), None
    for j in range(8):
        power = vector if power is None else matrix.astype(float) @ power
        np.testing.assert_allclose(density.moment(j).estimate, vector @ power / 200, rtol=max(1e-10, 100 * case.eps))


def test_full_steps_give_the_exact_nodes():
    values = np.sort(np.random.default_rng(0).normal(size=30))
    density = specop.spectral_density(spectra.with_spectrum(values), steps=30)
    np.testing.assert_allclose(density.nodes, values, atol=1e-10)


def test_accuracy_of_variance_reduced_weights():
    values = spectra.geo10()
    operator = specop.DiagonalOperator(values)
    errors = [distance(specop.spectral_density(operator, steps=30, seed=seed), values) for seed in range(20)]
    assert np.mean(errors) < 3e-4
    assert all(specop.spectral_density(operator, seed=seed).weights.sum() == pytest.approx(1) for seed in range(3))


def test_deflation_counts_copies():
    values = spectra.mult9()
    operator = specop.DiagonalOperator(values)
    density = specop.spectral_density(operator, deflate=specop.eigsh(operator, k=9), seed=1)
    assert density.count(9, 11).estimate == pytest.approx(9)


@each_case
def test_multiple_eigenvalues_keep_their_weight(case):
    identity = specop.spectral_density(case.array(np.eye(40).astype(case.dtype)))
    np.testing.assert_allclose((identity.nodes, identity.weights), [[1], [1]], rtol=1e-5)
    projection = specop.DiagonalOperator(case.array(np.repeat([0.0, 1.0], 500)))
    density = specop.spectral_density(projection, probes=20)
    assert abs(density.cdf(0.5) - 0.5) < 0.05 and density.matvecs <= 60


@given(seed=st.integers(0, 1000), probes=st.integers(1, 4), steps=st.integers(1, 25))
def test_laws(seed, probes, steps):
    values = np.random.default_rng(seed).normal(size=25) ** 3
    density = specop.spectral_density(spectra.with_spectrum(values), steps=steps, probes=probes, seed=seed)
    assert density.weights.min() >= 0 and density.weights.sum() == pytest.approx(1)
    assert (np.diff(density.nodes) >= 0).all()
    slack = 1e-9 * np.abs(values).max()
    assert density.nodes[0] >= values.min() - slack and density.nodes[-1] <= values.max() + slack
    assert density.cdf(density.nodes[-1]) == pytest.approx(1) and density.matvecs <= probes * steps


def test_intervals_of_integrals_cover_the_truth():
    values = np.linspace(0, 1, 300) ** 2
    matrix = spectra.with_spectrum(values)
    covered = 0
    for seed in range(100):
        low, high = specop.spectral_density(matrix, steps=12, probes=8, seed=seed).integrate(np.sqrt).interval
        covered += low <= np.sqrt(values).mean() <= high
    assert covered >= 90


@each_case
def test_same_seed_gives_the_same_bits(case):
    operator = specop.DiagonalOperator(case.array(spectra.power1()))
    first, second = (specop.spectral_density(operator, probes=2, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.nodes, second.nodes)
    np.testing.assert_array_equal(first.weights, second.weights)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"steps": 0}, "steps must lie"),
        ({"steps": 9}, "1..n=5"),
        ({"probes": 0}, "probes"),
        ({"confidence": 2}, "0 and 1"),
    ],
)
def test_bad_arguments(arguments, text):
    with pytest.raises(InvalidInputError, match=text):
        specop.spectral_density(np.eye(5), **arguments)
