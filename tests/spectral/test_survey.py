"""survey: both ends, trace and density from one Krylov space, against dense matrices."""

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

import specop
import spectra
from cases import each_algorithm_case
from specop.errors import InvalidInputError
from specop.spectral.survey import survey

SETTINGS = {"tol": 1e-3, "trace_rtol": 0.02, "steps": 30, "probes": 3}
BULK = np.random.default_rng(0).exponential(0.1, 392) - 0.02
VALUES = np.sort(np.concatenate([BULK, 100 * 0.6 ** np.arange(8)]))


@each_algorithm_case
def test_it_agrees_with_the_dense_matrix(case):
    A = case.array(spectra.with_spectrum(VALUES).astype(case.dtype))
    found = survey(A, 6, 3, **SETTINGS)
    np.testing.assert_allclose(found.largest.eigenvalues, VALUES[-6:], rtol=1e-5)
    # An eigenvalue lies within the bound of each, which is a thousandth of the largest.
    assert found.smallest.bounds.max() <= 1.01e-3 * 100
    nearest = np.abs(found.smallest.eigenvalues[:, None] - VALUES).min(axis=1)
    assert (nearest <= found.smallest.bounds + 1e-5).all()
    error = found.trace.standard_error
    assert abs(found.trace.estimate - VALUES.sum()) < 5 * error and error < 0.02 * VALUES.sum()
    distance = wasserstein_distance(found.density.nodes, VALUES, found.density.weights)
    assert distance / np.ptp(VALUES) < 2e-3


def test_every_product_is_counted_once():
    matrix, products = spectra.with_spectrum(VALUES), []

    def multiply(x):
        products.append(1)
        return matrix @ x

    A = specop.FunctionOperator(multiply, matrix.shape, like=matrix, is_symmetric=True)
    found = survey(A, 6, 3, **SETTINGS)
    parts = [found.largest.matvecs, found.smallest.matvecs, found.trace.matvecs, found.density.matvecs]
    assert sum(parts) == len(products)
    # The first probe is the rest of the start vector: two of thirty steps are left, and five products for the trace.
    assert parts[1:] == [0, 5, 60] and parts[0] < 45
    apart = specop.eigsh(matrix, 6, which="LA").matvecs + specop.spectral_density(matrix, steps=30, probes=3).matvecs
    assert len(products) < apart


def test_intervals_of_the_trace_cover_it():
    matrix = spectra.with_spectrum(VALUES)
    runs = [survey(matrix, 3, 0, tol=1e-3, trace_rtol=0.5, steps=12, probes=2, seed=seed) for seed in range(60)]
    covered = [found.trace.interval[0] <= VALUES.sum() <= found.trace.interval[1] for found in runs]
    assert np.mean(covered) >= 0.88
    errors = np.array([found.trace.estimate - VALUES.sum() for found in runs])
    stated = np.array([found.trace.standard_error for found in runs])
    assert abs(errors.mean()) < 3 * errors.std() / 60**0.5 and 0.7 < errors.std() / stated.mean() < 1.4
    # That of the first probe alone, the rest of the start vector, is right on average as well.
    first = np.array([found.trace.estimates[0] for found in runs]) - VALUES.sum()
    others = np.array([found.trace.estimates[1] for found in runs]) - VALUES.sum()
    assert abs(first.mean()) < 3 * first.std() / 60**0.5 and 0.6 < first.std() / others.std() < 1.7


def test_copies_of_the_largest_are_found_and_not_lost_in_the_density():
    matrix = spectra.with_spectrum(np.concatenate([np.full(9, 10.0), np.linspace(0.0, 1.0, 191)]))
    found = survey(matrix, 4, 1, **SETTINGS)
    np.testing.assert_allclose(found.largest.eigenvalues, 10.0, rtol=1e-6)
    count = found.density.count(5.0, 20.0)
    assert count.interval[0] <= 9 <= count.interval[1]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_copies_beyond_the_number_asked_for_are_in_trace_and_density(k):
    """The rest of the start vector has no part along copies of what it has found."""
    values = np.concatenate([[10.0, 5.0, 5.0, 5.0], np.linspace(0.0, 1.0, 196)])
    covered = 0
    for seed in range(20):
        found = survey(spectra.with_spectrum(values), k, 1, **SETTINGS | {"steps": 20}, seed=seed)
        count = found.density.count(4.0, 20.0)
        low, high = found.trace.interval
        covered += int(count.interval[0] <= 4 <= count.interval[1]) + int(low <= values.sum() <= high)
    assert covered >= 36


@pytest.mark.parametrize(("n", "k", "k_low"), [(1, 1, 1), (5, 5, 5), (12, 3, 0), (12, 10, 4), (40, 3, 2)])
def test_small_matrices_are_known_whole(n, k, k_low):
    values = np.linspace(-1.0, 2.0, n)
    found = survey(spectra.with_spectrum(values), k, k_low, **SETTINGS)
    np.testing.assert_allclose(found.largest.eigenvalues, values[-k:], atol=1e-5)
    assert found.density.weights.sum() == pytest.approx(1)
    if n <= 30:
        assert found.trace.method == "exact" and found.trace.estimate == pytest.approx(values.sum(), abs=1e-9)
        assert (found.smallest is None) == (k_low == 0)
        if k_low:
            np.testing.assert_allclose(found.smallest.eigenvalues, values[:k_low], atol=1e-9)


def test_zero_and_low_rank():
    for values in (np.zeros(60), np.r_[np.zeros(57), 1.0, 2.0, 3.0]):
        found = survey(spectra.with_spectrum(values), 5, 2, **SETTINGS)
        np.testing.assert_allclose(found.largest.eigenvalues, np.sort(values)[-5:], atol=1e-9)
        np.testing.assert_allclose(found.trace.estimate, values.sum(), atol=1e-9)


def test_more_eigenvalues_than_there_are_are_refused():
    for k, k_low, told in ((6, 1, "k must be .* n=5"), (1, 6, "k_low must be .* n=5")):
        with pytest.raises(InvalidInputError, match=told):
            survey(np.eye(5), k, k_low, **SETTINGS)
