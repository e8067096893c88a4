"""The Frobenius norm of all data from a part of them, which has a larger one on average."""

import numpy as np
import pytest

import specop
from sample_means import KINDS, mean
from specop.errors import ConvergenceWarning, InvalidInputError


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_cover_it(kind):
    A = mean(kind, samples=4000)
    truth = np.linalg.norm(A.dense)
    rtol = 0.25 if kind in ("indefinite", "misled") else 0.1
    found = [specop.frobenius_norm(A, rtol=rtol, data="part", seed=seed) for seed in range(30)]
    assert all(one.converged and one.standard_error <= rtol * one.estimate for one in found)
    assert sum(one.interval[0] <= truth <= one.interval[1] for one in found) >= 26
    # The norm of a part, and the root of a mean, are off by more than this.
    squares = np.concatenate([one.estimates for one in found])
    assert abs(squares.mean() - truth**2) < 4.0 * squares.std() / len(squares) ** 0.5


def test_it_takes_few_samples_for_each_random_vector():
    A = mean("trained", samples=20_000)
    one = specop.frobenius_norm(A, rtol=0.1, data="part")
    assert A.multiplied < 2 * A.samples and one.matvecs == -(-A.multiplied // A.samples)
    assert 0 < one.sampling_error < one.standard_error and f"on {one.samples_used} samples" in str(one)


def test_parts_grow_where_the_choice_of_samples_outweighs_the_vectors():
    A = mean("misled", samples=20_000)
    # A multiple of the identity on average: random vectors have no chance in it, and its parts differ.
    A.x = np.eye(30)[np.random.default_rng(0).integers(0, 30, A.samples)]
    one = specop.frobenius_norm(A, rtol=0.02, data="part")
    assert one.interval[0] <= np.linalg.norm(A.dense) <= one.interval[1]
    assert A.multiplied > 8 * 512 and one.sampling_error > 0.6 * one.standard_error
    # Four blocks of sixteen samples of each of four strata, for a vector, were too few.
    assert A.multiplied > 300 * len(one.estimates)
    # Squared lengths of a part's products are too large on average, by as much as each scatters.
    found = [specop.frobenius_norm(A, rtol=0.05, data="part", seed=seed).estimates for seed in range(6)]
    squares = np.concatenate(found) / np.linalg.norm(A.dense) ** 2 - 1.0
    assert abs(squares.mean()) < 4.0 * squares.std() / len(squares) ** 0.5


def test_pairs_of_a_similar_matrix_leave_less_to_chance():
    A = mean("trained", samples=20_000)
    few = np.random.default_rng(0).permutation(A.samples)[:4000]
    part = A.x[few].T @ (A.c[few, None] * A.x[few]) / len(few)
    deflate = specop.eigsh(part, k=8)
    truth = np.linalg.norm(A.dense)
    plain = [specop.frobenius_norm(A, max_matvecs=1, data="part", seed=seed) for seed in range(10)]
    deflated = [specop.frobenius_norm(A, max_matvecs=1, data="part", deflate=deflate, seed=seed) for seed in range(10)]
    assert sum(one.interval[0] <= truth <= one.interval[1] for one in deflated) >= 8
    assert np.median([one.standard_error for one in deflated]) < 0.7 * np.median([one.standard_error for one in plain])


@pytest.mark.parametrize("samples", [1, 3, 17, 100])
def test_few_samples(samples):
    A = mean("even", samples=samples)
    one = specop.frobenius_norm(A, rtol=0.05, data="part")
    assert abs(one.estimate - np.linalg.norm(A.dense)) <= 4.0 * one.standard_error
    assert one.sampling_error == 0.0 or samples > 3


def test_samples_that_are_alike_leave_nothing_to_their_choice():
    A = mean("even", samples=4000)
    A.x = np.tile(A.x[0], (A.samples, 1))
    one = specop.frobenius_norm(A, rtol=0.1, data="part")
    assert one.sampling_error < 1e-6 * one.standard_error and 32 * 256 <= A.multiplied < 32 * A.samples


def test_a_single_vector_leaves_its_error_open():
    one = specop.frobenius_norm(mean("even", samples=300), data="part", max_matvecs=1)
    assert len(one.estimates) == 1 and np.isnan([one.standard_error, one.sampling_error]).all()
    assert one.interval == (0.0, np.inf)


# Some of the last vectors that a limit allows are more than are held at once.
@pytest.mark.parametrize("limit", [3, 7])
def test_limits_and_what_needs_all_data(limit):
    A = mean("indefinite", samples=4000)
    with pytest.warns(ConvergenceWarning, match="samples"):
        one = specop.frobenius_norm(A, rtol=1e-6, data="part", max_matvecs=limit)
    assert one.matvecs <= limit and not one.converged
    A.c = 1e75 * A.c
    with pytest.raises(InvalidInputError, match="leave the range"):
        specop.frobenius_norm(A, data="part")
    with pytest.raises(InvalidInputError, match="exact"):
        specop.frobenius_norm(A, method="exact", data="part")
    with pytest.raises(InvalidInputError, match="needs a mean"):
        specop.frobenius_norm(np.eye(3), data="part")
