"""Strata: each sample once, drawn with the probability that it is weighted by; sums from blocks with their errors."""

import numpy as np
import pytest

from specop.statistics.group_sums import GroupSum
from specop.statistics.strata import stratified


def heavy(samples=1003):
    rng = np.random.default_rng(0)
    return rng.exponential(1.0, samples) ** 3


@pytest.mark.parametrize(("samples", "size", "count"), [(1003, 16, 8), (7, 3, 8), (5, 8, 3), (1, 1, 8), (64, 8, 1)])
def test_each_sample_is_in_one_block(samples, size, count):
    strata = stratified(heavy(samples), size, count, 0)
    blocks = [block for stratum in strata for block in stratum.blocks]
    assert sorted(np.concatenate(blocks)) == list(range(samples))
    assert all(len(block) == len(stratum.blocks[0]) for stratum in strata for block in stratum.blocks)


@pytest.mark.parametrize("each", [1, 3, 100])
def test_coarser_blocks_have_the_same_samples_in_the_same_order(each):
    for stratum in stratified(heavy(), 16, 4, 0):
        coarse = stratum.coarser(each)
        assert np.concatenate(coarse.blocks).tolist() == np.concatenate(stratum.blocks).tolist()
        size = each * len(stratum.blocks[0])
        assert {len(block) for block in coarse.blocks[:-1]} <= {size} and len(coarse.blocks[-1]) <= size


@pytest.mark.parametrize("weights", [np.repeat([1.0, 0.0], 200), np.linspace(0.0, 1.0, 403)], ids=["half", "line"])
def test_strata_end_before_their_share_of_the_weight_does(weights):
    raised = weights + 0.1 * weights.mean()
    strata = stratified(weights, 8, 5, 0)
    rest = len(weights) % 8
    if rest:
        assert sorted(strata[0].blocks[0]) == list(range(len(weights) - rest, len(weights))) and len(strata[0]) == 1
    samples = [np.concatenate(stratum.blocks) for stratum in strata[bool(rest) :]]
    total = sum(raised[some].sum() for some in samples)
    reached = np.cumsum([raised[some].sum() for some in samples])
    assert len(samples) == 5
    for i in range(4):
        share = (i + 1) * total / 5
        assert reached[i] <= share * (1 + 1e-12)
        assert reached[i] + np.sort(raised[samples[i + 1]])[-8:].sum() >= share * (1 - 1e-12)
        assert raised[samples[i]].min() >= raised[samples[i + 1]].max()


def test_a_block_has_a_sample_of_each_run_of_neighbours():
    weights = np.random.default_rng(2).permutation(np.arange(400.0))
    for stratum in stratified(weights, 8, 3, 0):
        runs = np.sort(np.concatenate([weights[block] for block in stratum.blocks])).reshape(8, -1)
        found = np.searchsorted(runs[:, 0], [weights[block] for block in stratum.blocks], side="right") - 1
        np.testing.assert_array_equal(np.sort(found, axis=1), np.tile(np.arange(8), (len(stratum), 1)))
    assert not np.array_equal(*(stratified(np.ones(64), 8, 1, seed)[0].blocks[0] for seed in (0, 1)))


def test_without_weights_strata_are_of_equal_length():
    assert [len(stratum) for stratum in stratified(np.zeros(64), 4, 4, 0)] == [3, 4, 4, 5]


def test_the_mean_of_2000_draws_is_the_sum():
    weights = heavy()
    values = weights * (1.0 + 0.3 * np.random.default_rng(1).standard_normal(len(weights)))
    drawn = np.zeros(2000)
    for seed in range(len(drawn)):
        for stratum in stratified(weights, 16, 8, seed):
            some = stratum.blocks[:2]
            drawn[seed] += len(stratum) / len(some) * sum(values[block].sum() for block in some)
    assert abs(drawn.mean() - values.sum()) < 3.0 * drawn.std() / len(drawn) ** 0.5
    # A uniform draw of as many samples has ten times the deviation.
    assert drawn.std() < 0.02 * values.sum()


def test_each_sample_is_drawn_as_often_as_it_is_weighted_for():
    weights, drawn = heavy(200), np.zeros(200)
    for seed in range(3000):
        for stratum in stratified(weights, 8, 4, seed):
            drawn[stratum.blocks[0]] += len(stratum)
    # In 3,000 draws with probability 1/K.
    chance = 1.0 / np.array([len(s) for s in stratified(weights, 8, 4, 0) for b in s.blocks for _ in b])
    numbers = np.concatenate([b for s in stratified(weights, 8, 4, 0) for b in s.blocks])
    error = ((1.0 / chance - 1.0) / 3000.0) ** 0.5
    apart = np.abs(drawn[numbers] / 3000.0 - 1.0)
    # Ties at a border of strata may fall on either side.
    assert np.mean(apart <= 4.0 * error + 1e-12) > 0.97


def test_a_sum_over_all_blocks_is_exact_and_says_so():
    weights = heavy(320)
    strata = stratified(weights, 8, 4, 0)
    total = GroupSum(strata, is_noisy=False)
    for i, stratum in enumerate(strata):
        for block in stratum.blocks:
            total.add(i, weights[block].sum())
    value, sampling_error = total.estimate(0.95)
    assert value.estimate == pytest.approx(weights.sum())
    assert value.standard_error == sampling_error == 0.0


def test_errors_of_sums_are_those_of_draws():
    weights = heavy(2000)
    values = np.random.default_rng(3).standard_normal(2000) * weights + weights
    apart, errors, covered = [], [], 0
    for seed in range(400):
        strata = stratified(weights, 8, 6, seed)
        total = GroupSum(strata, is_noisy=False)
        for i, stratum in enumerate(strata):
            for block in stratum.blocks[: max(8, len(stratum) // 2)]:
                total.add(i, values[block].sum())
        value, _ = total.estimate(0.95)
        apart.append(value.estimate - values.sum())
        errors.append(value.standard_error)
        covered += value.interval[0] <= values.sum() <= value.interval[1]
    # Half of the larger strata: without the correction for what is left the error would be 1.4 times as large.
    assert np.mean(np.square(errors)) == pytest.approx(np.mean(np.square(apart)), rel=0.25)
    assert covered >= 360


def test_once_all_blocks_are_taken_only_random_vectors_are_left():
    weights, rng = heavy(640), np.random.default_rng(5)
    strata, apart = stratified(weights, 8, 4, 0), []
    for rounds in (1, 1, 3):
        for _ in range(300):
            total = GroupSum(strata, is_noisy=True)
            for _ in range(rounds):
                for i, stratum in enumerate(strata):
                    for block in stratum.blocks:
                        total.add(i, weights[block].sum() + 0.5 * rng.standard_normal(), 0.25)
            value, sampling_error = total.estimate(0.95)
            assert sampling_error == 0.0
            apart.append((value.estimate - weights.sum()) / value.standard_error)
    assert 0.9 < np.std(apart) < 1.15
