"""The largest eigenvalue of all data from a part of them: its interval covers, or the result says that it cannot."""

import numpy as np
import pytest

import specop
from sample_means import KINDS, mean
from specop.errors import ConvergenceWarning, InvalidInputError


def norm(A):
    return np.abs(np.linalg.eigvalsh(A.dense)).max()


@pytest.mark.parametrize("kind", [*KINDS, "near"])
def test_intervals_cover_it(kind):
    A = mean(kind, samples=8000)
    truth = norm(A)
    rtol = 0.1 if kind in ("indefinite", "misled") else 0.04
    found = [specop.spectral_norm(A, rtol=rtol, data="part", seed=seed, confidence=0.95) for seed in range(20)]
    assert all(one.converged and one.standard_error <= rtol * one.estimate for one in found)
    assert sum(one.interval[0] <= truth <= one.interval[1] for one in found) >= 17
    assert all(abs(one.estimate / truth - 1.0) < 3.5 * rtol for one in found)
    # The spread of the estimates is what is stated for the choice of samples, which the interval holds.
    stated = np.mean([one.sampling_error for one in found])
    assert np.std([one.estimate for one in found]) <= 1.7 * stated + 1e-6 * truth


def test_a_start_that_misses_the_largest_is_found_out():
    # With this seed the first half's random start has next to none of the outermost eigenvector in it.
    A = mean("trained", samples=8000)
    found = specop.spectral_norm(A, rtol=0.04, data="part", seed=12, confidence=0.95)
    assert abs(found.estimate / norm(A) - 1.0) < 0.05


def test_the_largest_in_size_may_be_negative():
    A = mean("trained", samples=8000)
    A.c = -A.c
    found = specop.spectral_norm(A, rtol=0.05, data="part")
    assert found.interval[0] <= norm(A) <= found.interval[1]


def test_few_samples_heavier_than_all_others_suffice():
    A = mean("trained", samples=8000)
    found = specop.spectral_norm(A, rtol=0.05, data="part", tol=1e-2)
    assert found.samples_used < 0.6 * A.samples and found.matvecs == -(-A.multiplied // A.samples)
    assert 0 < found.sampling_error <= found.standard_error and f"{found.samples_used} of 8000" in found.message


@pytest.mark.parametrize("samples", [1, 3, 40, 300])
def test_of_few_samples_all_are_taken(samples):
    A = mean("even", samples=samples)
    found = specop.spectral_norm(A, rtol=0.01, data="part", tol=1e-8)
    assert found.estimate == pytest.approx(norm(A), rel=1e-9)
    assert found.sampling_error == 0.0 and found.samples_used == samples and found.converged


def test_parts_that_memory_cannot_hold_are_read_again():
    A, B = mean("trained", samples=4000), mean("trained", samples=4000)
    B.free = 10_000
    first, second = (specop.spectral_norm(one, rtol=0.05, data="part") for one in (A, B))
    assert first.interval == second.interval and A.multiplied == B.multiplied


def test_a_limit_on_products_is_said():
    A = mean("misled", samples=8000)
    with pytest.warns(ConvergenceWarning, match="Raise max_matvecs"):
        found = specop.spectral_norm(A, rtol=0.001, data="part", max_matvecs=6)
    assert found.matvecs <= 7 and not found.converged and found.interval[0] <= norm(A) <= found.interval[1]
    with pytest.warns(ConvergenceWarning):
        found = specop.spectral_norm(mean("even", samples=300), rtol=0.001, data="part", max_matvecs=1)
    assert not found.converged and found.interval == (0.0, np.inf)


def test_arguments_that_mean_nothing_are_refused():
    with pytest.raises(InvalidInputError, match="rtol"):
        specop.spectral_norm(np.eye(3), rtol=0.1)
    with pytest.raises(InvalidInputError, match="needs a mean over data samples"):
        specop.spectral_norm(np.eye(3), data="part")
    with pytest.raises(InvalidInputError, match="rtol"):
        specop.spectral_norm(mean("even"), data="part", rtol=0.0)
