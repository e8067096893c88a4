"""Random vectors: the same everywhere, positioned anywhere, and random."""

import random

import numpy as np
import pytest
from scipy import stats

from cases import CASES, each_case
from specop.arrays.probes import check_seed, normal, rademacher, sample_normals, sample_signs, sample_uniforms, sphere
from specop.errors import InvalidInputError

BLOCK = 65_536
each_kind = pytest.mark.parametrize("kind", [rademacher, normal], ids=lambda kind: kind.__name__)


def draw(kind, case, n, seed=0, index=0):
    return case.numpy(kind(case.backend, case.layout(n), seed, index))


def reference(kind, n, seed=0, index=0):
    (case,) = [case for case in CASES if str(case) == "numpy-float64"]
    return draw(kind, case, n, seed, index)


@each_kind
@each_case
def test_same_bits_in_every_framework(case, kind):
    expected = reference(kind, BLOCK + 77, seed=5, index=3).astype(case.dtype)
    np.testing.assert_array_equal(draw(kind, case, BLOCK + 77, seed=5, index=3), expected)


def test_probes_do_not_change_between_versions():
    # Results name a seed: these numbers are part of what that seed means.
    assert reference(rademacher, 16).tolist() == [1, 1, -1, 1, 1, -1, -1, 1, -1, -1, -1, 1, 1, -1, 1, 1]
    np.testing.assert_allclose(reference(normal, 4), [-0.531828, -0.673634, 1.013050, 0.427306], atol=1e-6)


def test_a_block_of_65536_entries_is_a_counter_of_philox():
    # What a seed means, written down: key (seed, index), and a counter of words, block and kind.
    words = [np.random.Philox(counter=[0, block, 0, 0], key=[5, 3]).random_raw(BLOCK // 64) for block in (0, 1)]
    bits = np.unpackbits(np.concatenate(words).astype("<u8").view(np.uint8), bitorder="little")
    np.testing.assert_array_equal(reference(rademacher, 2 * BLOCK, seed=5, index=3), 2.0 * bits - 1.0)


@each_kind
def test_a_longer_probe_starts_like_a_shorter_one(kind):
    longest = reference(kind, 2 * BLOCK + 3)
    for n in (1, 2, 63, 64, 65, 1000, BLOCK - 1, BLOCK, BLOCK + 1):
        np.testing.assert_array_equal(reference(kind, n), longest[:n])


@each_kind
def test_global_random_states_are_neither_used_nor_moved(kind):
    random.seed(1)
    np.random.seed(1)
    first = reference(kind, 50)
    moved = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    assert (random.random(), np.random.random()) == moved
    np.testing.assert_array_equal(reference(kind, 50), first)


@each_kind
def test_seed_and_index_both_matter(kind):
    draws = [reference(kind, 4096, seed, index) for seed, index in [(0, 0), (0, 1), (1, 0), (1, 1), (2**64 - 1, 0)]]
    correlations = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlations).max() < 5 / np.sqrt(4096)


@each_kind
def test_blocks_of_one_probe_differ(kind):
    first, second = reference(kind, 2 * BLOCK).reshape(2, BLOCK)
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(BLOCK)


def test_moments():
    signs, normals = reference(rademacher, 3 * BLOCK), reference(normal, 3 * BLOCK)
    bound = 5 / np.sqrt(3 * BLOCK)
    assert set(signs) == {-1.0, 1.0}
    assert abs(signs.mean()) < bound
    assert abs(np.mean(signs[::2] * signs[1::2])) < np.sqrt(2) * bound
    assert stats.kstest(normals, "norm").pvalue > 1e-4
    # The two normals of one Box-Muller pair are independent.
    assert abs(np.mean(normals[::2] * normals[1::2])) < np.sqrt(2) * bound
    assert abs(np.mean(normals[::2] ** 2 * normals[1::2] ** 2) - 1) < 10 * np.sqrt(2) * bound


def test_kinds_with_the_same_seed_are_independent():
    signs, normals = reference(rademacher, BLOCK), reference(normal, BLOCK)
    assert abs(np.mean(signs * normals)) < 5 / np.sqrt(BLOCK)
    assert abs(np.mean(signs * np.abs(normals))) < 5 / np.sqrt(BLOCK)


@pytest.mark.parametrize("n", [1, 2, 1000])
@each_case
def test_sphere_has_radius_root_n(case, n):
    vector = draw(sphere, case, n, seed=4)
    assert np.linalg.norm(vector.astype(float)) == pytest.approx(np.sqrt(n), rel=1e-6)
    expected = reference(normal, n, seed=4)
    case.close(case.array(vector), expected * np.sqrt(n) / np.linalg.norm(expected))


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1, np.int64(3)])
def test_seeds_that_fit(seed):
    assert check_seed(seed) == seed and type(check_seed(seed)) is int


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, True, None, "0"])
def test_seeds_that_do_not(seed):
    with pytest.raises(InvalidInputError, match=r"seed must be an integer from 0 to 2\*\*64 - 1, got"):
        check_seed(seed)


# --- Numbers that belong to data samples ------------------------------------------------------------------------------

DRAWS = [sample_uniforms, sample_normals]


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_draws_belong_to_the_sample(draw, count):
    whole = draw(5, 1, range(40), count)
    assert whole.shape == (40, count) and len(np.unique(whole)) == 40 * count
    for start, stop in [(0, 1), (1, 2), (3, 17), (39, 40)]:
        np.testing.assert_array_equal(draw(5, 1, range(start, stop), count), whole[start:stop])
    for other in (draw(6, 1, range(40), count), draw(5, 2, range(40), count), draw(5, 1, range(40), count + 2)):
        assert not np.isin(other, whole).any()


def test_draws_have_their_distribution():
    uniforms = sample_uniforms(0, 0, range(20_000), 3).reshape(-1)
    assert uniforms.min() >= 0 and uniforms.max() < 1
    assert stats.kstest(uniforms, "uniform").pvalue > 1e-3
    assert stats.kstest(sample_normals(0, 0, range(20_000), 3).reshape(-1), "norm").pvalue > 1e-3


def raw(kind, per_sample, samples):
    """Words of samples: a stream for each kind and number of them, under the key of seed and index."""
    words = np.random.Philox(counter=[0, per_sample, kind, 0], key=[5, 3]).random_raw(per_sample * samples.stop)
    return words.reshape(samples.stop, per_sample)[samples.start :]


@pytest.mark.parametrize("samples", [range(4), range(3, 8)])
@pytest.mark.parametrize("count", [1, 2, 3, 65])
def test_draws_of_a_sample_are_words_of_philox(count, samples):
    bits = np.unpackbits(raw(4, -(-count // 64), samples).astype("<u8").view(np.uint8), axis=1, bitorder="little")
    assert sample_signs(5, 3, samples, count).tolist() == (2 * bits[:, :count].astype(int) - 1).tolist()
    uniforms = (raw(2, count, samples) >> np.uint64(11)) / 2.0**53
    assert sample_uniforms(5, 3, samples, count).tolist() == uniforms.tolist()
    # Box and Muller's two from the halves of a word.
    halves = raw(3, -(-count // 2), samples).astype("<u8").view("<u4").reshape(len(samples), -1, 2) / 2.0**32
    radius, angle = np.sqrt(-2 * np.log(halves[..., 0] + 2.0**-33)), 2 * np.pi * halves[..., 1]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1).reshape(len(samples), -1)
    np.testing.assert_allclose(sample_normals(5, 3, samples, count), pairs[:, :count], atol=1e-5)
