"""Eigenvalues of all data from a part of them, each enclosed: intervals cover, or the result says that they cannot."""

import numpy as np
import pytest

import specop
from sample_means import KINDS, mean
from specop.errors import ConvergenceWarning, InvalidInputError, NotConvergedError


def truth(A, k, which):
    values = np.linalg.eigvalsh(A.dense)
    if which == "LM":
        return np.sort(values[np.argsort(-np.abs(values))[:k]])
    return values[:k] if which == "SA" else values[-k:]


@pytest.mark.parametrize("kind", [*KINDS, "near"])
def test_intervals_cover_each_eigenvalue(kind):
    A, k = mean(kind, samples=8000), 4
    rtol = 0.2 if kind in ("indefinite", "misled") else 0.1
    found = [specop.eigsh(A, k, rtol=rtol, data="part", seed=seed, confidence=0.95, which="LA") for seed in range(20)]
    assert all(one.converged and (one.standard_errors <= rtol * np.abs(one.eigenvalues)).all() for one in found)
    right = truth(A, k, "LA")
    covered = np.array([(one.intervals[:, 0] <= right) & (right <= one.intervals[:, 1]) for one in found])
    assert (covered.sum(axis=0) >= 17).all()
    apart = np.array([one.eigenvalues for one in found]) / right - 1.0
    assert np.abs(apart).max() < 2.5 * rtol and np.abs(apart.mean(axis=0)).max() < 0.1


@pytest.mark.parametrize("which", ["LM", "SA", "BE"])
def test_of_an_indefinite_matrix_both_ends(which):
    A, k = mean("indefinite", samples=8000), 5
    A.c -= 0.3
    values = np.linalg.eigvalsh(A.dense)
    right = np.r_[values[:2], values[-3:]] if which == "BE" else truth(A, k, which)
    found = specop.eigsh(A, k, which=which, rtol=0.2, data="part")
    # Of the largest in size two that nearly agree may be taken for each other.
    near = np.abs(found.intervals.mean(axis=1) - right) <= 0.1 * np.abs(right)
    assert ((found.intervals[:, 0] <= right) & (right <= found.intervals[:, 1]) | ~near).all()
    assert (np.diff(found.eigenvalues) >= 0).all() and found.which == which


def test_few_samples_heavier_than_all_others_suffice():
    A = mean("trained", samples=20_000)
    found = specop.eigsh(A, 3, which="LA", rtol=0.1, data="part", confidence=0.95)
    assert found.samples_used < 0.6 * A.samples and found.matvecs == -(-A.multiplied // A.samples)
    assert (found.sampling_errors > 0).all() and (found.sampling_errors <= found.standard_errors).all()
    assert np.allclose(found.bounds, np.abs(found.intervals - found.eigenvalues[:, None]).max(axis=1))
    assert f"on {found.samples_used} samples" in str(found)
    # Residuals are those of all samples, but for the choice of those that they were taken on.
    lengths = [np.linalg.norm(A.dense @ v - x * v) for x, v in zip(found.eigenvalues, found.rows, strict=True)]
    assert np.allclose(found.rows @ found.rows.T, np.eye(3), atol=1e-6)
    assert (np.array(lengths) < 2.0 * found.residuals).all() and (found.residuals < 0.5 * found.eigenvalues).all()


def test_copies_are_found():
    A = mean("even", samples=8000)
    A.x = np.eye(30)[np.random.default_rng(0).integers(0, 30, A.samples)] * np.r_[[3.0] * 3, [1.0] * 27] ** 0.5
    found = specop.eigsh(A, 4, which="LA", rtol=0.1, data="part")
    right = np.linalg.eigvalsh(A.dense)[-4:]
    assert ((found.intervals[:, 0] <= right) & (right <= found.intervals[:, 1])).all()
    assert found.eigenvalues[1] > 2.0 * found.eigenvalues[0]


@pytest.mark.parametrize("samples", [1, 3, 40, 300])
def test_of_few_samples_all_are_taken(samples):
    A = mean("even", samples=samples)
    found = specop.eigsh(A, 1, rtol=0.01, data="part", tol=1e-8)
    assert found.eigenvalues == pytest.approx(truth(A, 1, "LM"), rel=1e-5)
    assert found.sampling_errors[0] == 0.0 and found.samples_used == samples and found.converged


def test_halves_grow_where_eigenvectors_are_what_is_off():
    A = mean("near", samples=20_000)
    found = [specop.eigsh(A, 1, which="LA", rtol=0.03, data="part", seed=seed, confidence=0.95) for seed in range(10)]
    assert all(one.converged for one in found)
    # By samples beside the halves alone, until there are no more of them, it takes 28,000 each.
    assert A.multiplied < 25_000 * len(found)


def test_of_a_single_parameter():
    A = mean("trained", samples=8000, n=1)
    found = [specop.eigsh(A, 1, rtol=0.05, data="part", seed=seed, confidence=0.95) for seed in range(20)]
    assert sum(one.intervals[0, 0] <= A.dense[0, 0] <= one.intervals[0, 1] for one in found) >= 17


def test_a_limit_on_products_is_said():
    A = mean("misled", samples=8000)
    with pytest.warns(ConvergenceWarning, match="Raise max_matvecs"):
        found = specop.eigsh(A, 3, which="LA", rtol=0.001, data="part", max_matvecs=20)
    right = truth(A, 3, "LA")
    assert found.matvecs <= 20 and not found.converged
    assert ((found.intervals[:, 0] <= right) & (right <= found.intervals[:, 1])).all()
    with pytest.raises(NotConvergedError):
        specop.eigsh(A, 3, which="LA", rtol=0.001, data="part", max_matvecs=20, raise_on_failure=True)
    with pytest.raises(InvalidInputError, match="ran out before two parts"):
        specop.eigsh(mean("misled", samples=600), 3, data="part", max_matvecs=3)


@pytest.mark.parametrize(("k", "limit"), [(1, 1), (2, 3)])
def test_samples_beside_the_halves_are_looked_at_within_the_limit(k, limit):
    A = mean("even", samples=8000)
    with pytest.warns(ConvergenceWarning, match="Raise max_matvecs"):
        found = specop.eigsh(A, k, which="LA", rtol=0.012, data="part", max_matvecs=limit)
    assert A.multiplied <= limit * 8000 and found.matvecs <= limit and not found.converged
    right = truth(A, k, "LA")
    assert ((found.intervals[:, 0] <= right) & (right <= found.intervals[:, 1])).all()


def test_pairs_of_a_part_may_be_deflated_where_their_errors_do_not_enter():
    A = mean("trained", samples=8000)
    found = specop.eigsh(A, 3, which="LA", rtol=0.1, data="part")
    with pytest.raises(InvalidInputError, match="part of the data"):
        specop.trace(A, deflate=found)
    trace = specop.trace(A, deflate=found, data="part", rtol=0.05, seed=1)
    assert trace.interval[0] <= np.trace(A.dense) <= trace.interval[1]
    again = specop.eigsh(A, 3, which="LA", v0=found)
    assert again.eigenvalues == pytest.approx(truth(A, 3, "LA"), rel=1e-6)


def test_it_is_saved_and_read(tmp_path):
    A = mean("trained", samples=2000)
    found = specop.eigsh(A, 2, rtol=0.3, data="part")
    found.save(tmp_path / "eigen.npz")
    read = specop.load(tmp_path / "eigen.npz")
    assert np.array_equal(read.intervals, found.intervals) and read.samples_used == found.samples_used


def test_arguments_that_mean_nothing_are_refused():
    A = mean("even")
    for keywords in ({"which": "SM"}, {"callback": print}, {"checkpoint": "run.npz"}, {"rtol": 0.0}):
        with pytest.raises(InvalidInputError, match=next(iter(keywords))):
            specop.eigsh(A, 2, data="part", **keywords)
    with pytest.raises(InvalidInputError, match="rtol"):
        specop.eigsh(A, 2, rtol=0.1)
    with pytest.raises(InvalidInputError, match="needs a mean over data samples"):
        specop.eigsh(np.eye(30), 2, data="part")
