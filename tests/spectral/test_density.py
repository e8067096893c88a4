"""spectral_density: Gauss quadrature for each probe, known weights for outliers, nothing cut off."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

import specop
import spectra
from cases import each_algorithm_case
from specop.arrays.probes import sphere
from specop.errors import ConvergenceWarning, InvalidInputError, NotConvergedError


def distance(density, values):
    """Wasserstein-1 distance to the exact spectrum over its spread."""
    return wasserstein_distance(density.nodes, values, density.weights) / np.ptp(values)


@each_algorithm_case
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
    assert np.mean(errors) < 2.5e-4
    assert all(specop.spectral_density(operator, seed=seed).weights.sum() == pytest.approx(1) for seed in range(3))


def test_deflation_counts_copies():
    values = spectra.mult9()
    operator = specop.DiagonalOperator(values)
    density = specop.spectral_density(operator, deflate=specop.eigsh(operator, k=9), seed=1)
    assert density.count(9, 11).estimate == pytest.approx(9)


@each_algorithm_case
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


SPECTRA = {
    "spiked": np.concatenate([100 * 0.75 ** np.arange(10), spectra.bulk()[:490]]),
    "power": 100 / np.arange(1.0, 501),
    "flat": np.linspace(1, 3, 500),
    "low rank": np.concatenate([np.linspace(1, 5, 20), np.zeros(480)]),
}


@pytest.mark.parametrize("steps", [4, 8, 30])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_interval_of_a_single_probe_covers_the_truth(name, steps):
    values, covered = SPECTRA[name], []
    for seed in range(40):
        density = specop.spectral_density(specop.DiagonalOperator(values), steps=steps, probes=1, seed=seed)
        for f in (lambda x: x, lambda x: x**2):
            low, high = density.integrate(f).interval
            covered.append(low <= f(values).mean() <= high)
    assert np.mean(covered) >= 0.9
    assert "nan" not in str(density)


def covered_shares(values, runs, probes):
    """Runs in which the limits hold at one point, for the worst of several points."""
    points = np.concatenate([np.quantile(values, [0.1, 0.5, 0.9]) + 1e-3, [-0.5, 0.5, 30.0]])
    truth = (values[:, None] <= points).mean(axis=0)
    held = np.zeros(len(points))
    for seed in range(runs):
        density = specop.spectral_density(specop.DiagonalOperator(values), steps=15, probes=probes, seed=seed)
        low, high = density.cdf_interval(points)
        held += (low <= truth + 1e-12) & (truth <= high + 1e-12)
        assert ((low <= density.cdf(points)) & (density.cdf(points) <= high)).all()
    return held.min()


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("probes", [1, 4])
def test_limits_of_the_share_cover_in_a_few_runs(name, probes):
    assert covered_shares(SPECTRA[name], 20, probes) >= 17


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("probes", [1, 4])
def test_limits_of_the_share_cover_in_many_runs(name, probes):
    assert covered_shares(SPECTRA[name], 200, probes) >= 180


def test_limits_close_in_a_gap_and_narrow_with_steps():
    values = SPECTRA["low rank"]
    operator = specop.DiagonalOperator(values)
    low, high = specop.spectral_density(operator, probes=10).cdf_interval([-1.0, 0.5, 9.0])
    assert high[0] < 1e-6 and low[2] > 1 - 1e-6 and 0.9 < low[1] < 0.96 < high[1] < 1
    widths = [np.subtract(*specop.spectral_density(SPECTRAL, steps=m).cdf_interval(0.5)[::-1]) for m in (5, 40)]
    assert widths[1] < 0.5 * widths[0]


SPECTRAL = specop.DiagonalOperator(np.linspace(0, 1, 3000))


def test_counts_allow_for_copies():
    # One probe cannot tell how often 10 occurs: the estimate may be one, the interval must hold nine.
    operator = specop.DiagonalOperator(spectra.mult9())
    found = [specop.spectral_density(operator, seed=seed).count(9, 11) for seed in range(20)]
    assert sum(value.interval[0] <= 9 <= value.interval[1] for value in found) >= 18
    assert all(value.interval[0] >= 1 for value in found)
    known = specop.spectral_density(operator, deflate=specop.eigsh(operator, k=9))
    assert known.count(9, 11).interval == (9, 9)
    none = known.count(20, 30)
    assert (none.estimate, none.interval) == (0, (0, 0))
    with pytest.raises(InvalidInputError, match="a <= b"):
        known.count(2, 1)


@pytest.mark.parametrize("name", ["geo10", "power1"])
def test_accuracy_on_request(name):
    values = getattr(spectra, name)()
    operator = specop.DiagonalOperator(values)
    taken = []
    for rtol in (3e-3, 1e-3, 4e-4):
        density = specop.spectral_density(operator, rtol=rtol)
        assert density.converged and density.error <= rtol and distance(density, values) <= rtol
        taken.append(density.matvecs)
    assert taken == sorted(taken) and taken[-1] < 60


def test_accuracy_that_takes_probes():
    values = np.linspace(1, 3, 400)
    density = specop.spectral_density(specop.DiagonalOperator(values), rtol=0.03)
    assert density.probes > 1 and distance(density, values) < 0.03
    with pytest.warns(ConvergenceWarning, match="above rtol"):
        stopped = specop.spectral_density(specop.DiagonalOperator(values), rtol=1e-4, max_matvecs=20)
    assert stopped.matvecs <= 20 and stopped.error > 1e-4
    with pytest.raises(NotConvergedError, match="Raise rtol"):
        specop.spectral_density(SPECTRAL, rtol=1e-4, max_matvecs=20, raise_on_failure=True)


def test_a_limit_alone_is_spent():
    found = specop.spectral_density(SPECTRAL, max_matvecs=100)
    assert (found.matvecs, found.probes, found.steps) == (90, 3, 30)
    found = specop.spectral_density(SPECTRAL, steps=10, max_matvecs=45)
    assert (found.matvecs, found.probes) == (40, 4)
    found = specop.spectral_density(SPECTRAL, probes=2, max_matvecs=60)
    assert (found.matvecs, found.probes) == (60, 2)
    found = specop.spectral_density(SPECTRAL, max_matvecs=7)
    assert (found.matvecs, found.probes, found.steps) == (7, 1, 7)
    known = specop.eigsh(SPECTRAL, 3, tol=1e-2)
    assert specop.spectral_density(SPECTRAL, max_matvecs=31, deflate=known).matvecs == 31


def is_exact(density, values):
    np.testing.assert_allclose(density.nodes, np.sort(values), atol=1e-9 * np.abs(values).max())
    np.testing.assert_array_equal(density.weights, np.full(len(values), 1 / len(values)))
    middle = np.median(values) + 1e-3
    assert density.count(-np.inf, middle).interval == (np.sum(values <= middle),) * 2
    return density.probes == 0 and density.error == 0 and "all eigenvalues" in density.message


@each_algorithm_case
@pytest.mark.parametrize("n", [1, 2, 9, 30])
def test_a_tiny_matrix_has_its_own_eigenvalues(case, n):
    values = np.repeat(np.random.default_rng(n).normal(size=(n + 1) // 2), 2)[:n]
    found = specop.spectral_density(case.array(np.diag(values)))
    assert found.matvecs == n and found.probes == 0
    np.testing.assert_allclose(found.nodes, np.sort(values), atol=100 * case.eps)
    np.testing.assert_array_equal(found.weights, np.full(n, 1 / n))


@pytest.mark.parametrize("limit", [200, 201, 230, 300, None])
def test_all_eigenvalues_where_a_goal_takes_more_products(limit):
    values = np.random.default_rng(1).normal(size=200) ** 3
    found = specop.spectral_density(spectra.with_spectrum(values), rtol=1e-3, max_matvecs=limit)
    assert found.converged and found.matvecs == 200 and is_exact(found, values)


def test_known_eigenpairs_are_not_used_for_all_eigenvalues():
    values = np.random.default_rng(1).normal(size=200) ** 3
    matrix = spectra.with_spectrum(values)
    found = specop.spectral_density(matrix, rtol=1e-3, deflate=specop.eigsh(matrix, 3, tol=0.1))
    assert is_exact(found, values) and 200 < found.matvecs < 300


@pytest.mark.parametrize("arguments", [{"steps": 30}, {"probes": 1}, {"steps": 30, "probes": 2}])
def test_what_is_asked_for_is_done(arguments):
    found = specop.spectral_density(np.diag(np.arange(30.0)), **arguments)
    assert found.probes >= 1
    # As many nodes as eigenvalues leave no weight to chance.
    np.testing.assert_allclose(found.weights, 1 / 30 / found.probes)


@each_algorithm_case
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
        ({"rtol": 0}, "rtol must"),
        ({"max_matvecs": 0}, "an integer of at least 1"),
        ({"steps": 3, "probes": 2, "max_matvecs": 5}, "2 probes of 3 steps take 6 products, above max_matvecs=5"),
    ],
)
def test_bad_arguments(arguments, text):
    with pytest.raises(InvalidInputError, match=text):
        specop.spectral_density(np.eye(5), **arguments)


def test_counts_of_known_eigenvalues_are_as_sharp_as_their_rounding():
    found = specop.spectral_density(np.diag([1.0, 2.0, 2.0, 3.0]))
    assert (found.count(1.5, 2.5).estimate, found.count(1.5, 2.5).interval) == (2, (2, 2))
    assert found.count(0.5, 2.0).interval == (1, 3) and found.count(2.0, 2.0).interval == (0, 2)
    assert found.count(2.0, 3.5).interval == (1, 3) and found.count(-np.inf, np.inf).interval == (4, 4)
