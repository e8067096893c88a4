"""The diagonal of all data from a part of them: its errors are those that it has."""

import numpy as np
import pytest

import specop
from sample_means import KINDS, mean
from specop.errors import ConvergenceWarning, InvalidInputError


@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_those_stated(kind):
    A = mean(kind, samples=3000)
    truth = np.diag(A.dense)
    rtol = 0.3 if kind in ("indefinite", "misled") else 0.1
    found = [specop.diagonal(A, rtol=rtol, data="part", seed=seed) for seed in range(20)]
    assert all(one.converged and one.error_norm <= rtol * one.norm for one in found)
    apart = np.array([one.x - truth for one in found])
    stated = np.mean([one.error_norm**2 for one in found]) ** 0.5
    assert 0.4 * stated < np.mean((apart**2).sum(axis=1)) ** 0.5 < 1.2 * stated
    each = np.mean([one.standard_errors**2 for one in found], axis=0) ** 0.5
    assert np.sum(each**2) == pytest.approx(stated**2, rel=0.05)
    assert np.mean(np.abs(apart) < 2.0 * each) > 0.9
    assert np.all(np.abs(apart.mean(axis=0)) < 5.0 * apart.std(axis=0) / len(apart) ** 0.5)


def test_both_errors_are_told_apart():
    A = mean("even", samples=20_000)
    one = specop.diagonal(A, rtol=0.15, data="part")
    assert one.samples_used < 0.8 * A.samples and one.matvecs == -(-A.multiplied // A.samples)
    assert 0 < one.sampling_error < one.error_norm and f"on {one.samples_used} samples" in str(one)
    # A diagonal matrix leaves nothing to random vectors.
    A.x = np.diag(np.arange(1.0, 31.0))[np.random.default_rng(0).integers(0, 30, A.samples)]
    one = specop.diagonal(A, rtol=0.05, data="part")
    assert one.sampling_error == pytest.approx(one.error_norm, rel=0.2)
    # Once all were taken nothing is left to their choice.
    A = mean("even", samples=200)
    one = specop.diagonal(A, rtol=0.02, data="part")
    assert one.sampling_error == 0.0 < one.error_norm and one.samples_used == 200
    # So it is where fewer rounds were made than there are blocks, eight in each stratum.
    A = mean("even", samples=2048)
    A.claimed = np.ones(A.samples)
    one = specop.diagonal(A, data="part", max_matvecs=6)
    assert one.sampling_error == 0.0 < one.error_norm and one.samples_used == A.samples


def test_pairs_of_a_similar_matrix_leave_less_to_chance():
    A = mean("even", samples=4000)
    deflate = specop.eigsh(A.x[:1000].T @ A.x[:1000] / 1000, k=10)
    plain, deflated = (specop.diagonal(A, rtol=0.05, data="part", deflate=one) for one in (None, deflate))
    assert np.linalg.norm(deflated.x - np.diag(A.dense)) < 3.0 * deflated.error_norm
    assert deflated.matvecs < 0.7 * plain.matvecs


def test_fewer_vectors_are_held_where_memory_is_short(monkeypatch):
    A = mean("trained", samples=4000)
    row = A.backend.row_bytes(A.domain)
    monkeypatch.setattr(type(A.backend), "free_memory", lambda self, layout: 20 * row)
    one = specop.diagonal(A, rtol=0.2, data="part")
    assert np.linalg.norm(one.x - np.diag(A.dense)) < 3.0 * one.error_norm
    monkeypatch.setattr(type(A.backend), "free_memory", lambda self, layout: 5 * row)
    with pytest.raises(specop.errors.NotEnoughMemoryError, match="Leave data= out"):
        specop.diagonal(A, rtol=0.2, data="part")


@pytest.mark.parametrize("samples", [1, 3, 17, 100])
def test_few_samples(samples):
    A = mean("even", samples=samples)
    one = specop.diagonal(A, rtol=0.2, data="part")
    assert np.linalg.norm(one.x - np.diag(A.dense)) <= 3.0 * one.error_norm


def test_limits_and_what_needs_all_data():
    A = mean("indefinite", samples=4000)
    with pytest.warns(ConvergenceWarning, match="samples"):
        one = specop.diagonal(A, rtol=1e-6, data="part", max_matvecs=3)
    assert one.matvecs <= 3 and not one.converged
    assert specop.diagonal(A, data="part", max_matvecs=2).matvecs == 2
    A.c = 1e40 * A.c
    with pytest.raises(InvalidInputError, match="leave the range"):
        specop.diagonal(A, data="part")
    for method in ("xdiag", "exact"):
        with pytest.raises(InvalidInputError, match=method):
            specop.diagonal(A, method=method, data="part")


def test_a_matrix_of_zeros_is_zeros():
    A = mean("even", samples=1000)
    A.c = np.zeros(A.samples)
    found = specop.diagonal(A, atol=1e-9, data="part")
    assert not found.x.any() and not found.standard_errors.any()
