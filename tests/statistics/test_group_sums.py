"""GroupSum: numbers of values and errors by their formulas."""

import math

import numpy as np
import pytest
import scipy.stats

from specop.statistics.group_sums import GroupSum, added_up
from specop.statistics.strata import Stratum


def of_lengths(*lengths, samples=4):
    return [Stratum(tuple(np.arange(samples) for _ in range(length))) for length in lengths]


def filled(total, *strata, noises=None):
    for i, values in enumerate(strata):
        for j, value in enumerate(values):
            total.add(i, value, *([noises[i][j]] if noises else []))
    return total


@pytest.mark.parametrize(
    ("is_noisy", "samples", "counts"),
    [
        # Sixteen of each, or all.
        (False, 116, [16, 10, 3]),
        (False, 115, [8, 8, 3]),
        (False, 1, [1, 1, 1]),
        # Where random vectors are left to scatter, whole rounds of twice as many.
        (True, 356, [16, 40, 33]),
        (True, 355, [8, 8, 18]),
        (True, 136, [8, 8, 18]),
        (True, 1, [1, 1, 1]),
    ],
)
def test_first_values(is_noisy, samples, counts):
    assert GroupSum(of_lengths(40, 10, 3), is_noisy).first(samples) == counts


def test_a_stratum_of_one_short_block_counts_as_that():
    total = GroupSum([*of_lengths(1, samples=3), *of_lengths(40, samples=8)], is_noisy=False)
    assert (total.first(131), total.first(130)) == ([1, 16], [1, 8])


@pytest.mark.parametrize(
    ("is_noisy", "count", "allowed"),
    [(False, 9, 9), (False, 12, 10), (True, 9, 9), (True, 10, 40), (True, 40, 40), (True, 41, 50)],
)
def test_a_sum_has_fewer_values_than_blocks_or_whole_rounds(is_noisy, count, allowed):
    assert GroupSum(of_lengths(10), is_noisy).allowed(0, count) == allowed


SMALL, LARGE = [1.0, -1.0] * 8, [5.0, -5.0] * 16


def test_values_that_are_asked_for_are_shared_out_by_what_the_strata_scatter():
    """Neyman's allocation: in proportion to the scatter, with ten percent more than the error needs."""
    total = filled(GroupSum(of_lengths(300, 500), is_noisy=False), SMALL, LARGE)
    scatter = np.array([300 * np.std(SMALL, ddof=1), 500 * np.std(LARGE, ddof=1)])
    np.testing.assert_allclose(total.scatter(), scatter)
    assert total.reachable(12) == pytest.approx(scatter.sum() / 60**0.5)
    error = scatter.sum() / 100**0.5
    needed = 100 * scatter / scatter.sum()
    assert total.wanted(error) == [max(16, np.ceil(1.1 * needed[0])), np.ceil(1.1 * needed[1])]
    # At once four times as many at most, and one more at least, where it lessens the error most.
    assert total.wanted(1e-3) == total.wanted(0.0) == [64, 128]
    assert total.wanted(1e9) == [16, 33]
    few = filled(GroupSum(of_lengths(500, 300), is_noisy=False), SMALL, [2.0, -2.0] * 100)
    assert few.scatter()[1] > few.scatter()[0] and few.wanted(1e9) == [17, 200]


def test_all_blocks_are_all_there_is():
    total = filled(GroupSum(of_lengths(16, 33), is_noisy=False), SMALL, LARGE)
    assert total.scatter()[0] == 0 and total.wanted(0.0) == [16, 33]


@pytest.mark.parametrize("is_noisy", [False, True])
def test_the_variance_of_a_sum_is_that_of_its_formula(is_noisy):
    rng = np.random.default_rng(0)
    values = [rng.normal(size=8), rng.normal(size=5), np.array([1.0, 4.0])]
    noises = [rng.uniform(0.1, 0.3, len(y)) for y in values] if is_noisy else None
    total = filled(GroupSum(of_lengths(32, 7, 9), is_noisy), *values, noises=noises)
    sizes, variances, sampled, degrees = (32, 7, 9), [], [], []
    for i, (K, y) in enumerate(zip(sizes, values, strict=True)):
        p, k = np.mean(noises[i]) if is_noisy else 0.0, len(y)
        sampled.append(K**2 * (1 - k / K) * (np.var(y, ddof=1) - p) / k)
        variances.append(sampled[-1] + K**2 * p / k)
        # Squares of normal numbers scatter seven times as much.
        degrees.append(max(1, (k - 1) / 7) if is_noisy else k - 1)
        np.testing.assert_allclose(total.scatter()[i], K * np.std(y, ddof=1))
    found, of_blocks = total.estimate(0.9)
    assert found.estimate == pytest.approx(32 * np.mean(values[0]) + 7 * np.mean(values[1]) + 9 * 2.5)
    assert found.standard_error == pytest.approx(sum(variances) ** 0.5)
    assert of_blocks == pytest.approx(sum(sampled) ** 0.5)
    freedom = sum(variances) ** 2 / np.sum(np.square(variances) / degrees)
    half = scipy.stats.t.ppf(0.95, freedom) * found.standard_error
    assert found.interval == pytest.approx((found.estimate - half, found.estimate + half))
    assert np.mean(total.shown()) == pytest.approx(found.estimate)
    np.testing.assert_allclose(total.shown()[:8], 15 * 32 / 8 * values[0])


def test_what_random_vectors_add_is_read_off_rounds_where_there_are_two():
    rng = np.random.default_rng(1)
    values, noises = [rng.normal(size=(3, 4))], [np.full(12, 5.0)]
    total = filled(GroupSum(of_lengths(4), is_noisy=True), *map(np.ravel, values), noises=noises)
    p = np.mean(np.var(values[0], axis=0, ddof=1))
    found, of_blocks = total.estimate(0.9)
    assert of_blocks == 0 and found.standard_error == pytest.approx((4**2 * p / 12) ** 0.5)
    np.testing.assert_allclose(total.scatter(), 4 * p**0.5)
    half = scipy.stats.t.ppf(0.95, 8 / 7) * found.standard_error
    assert found.interval[1] - found.estimate == pytest.approx(half)
    # One round: the bounds that came with the values are all that is known.
    once = filled(GroupSum(of_lengths(12), is_noisy=True), *map(np.ravel, values), noises=noises)
    assert once.estimate(0.9)[0].standard_error == pytest.approx((12**2 * 5.0 / 12) ** 0.5)


@pytest.mark.parametrize("are_bounds_loose", [False, True])
def test_bounds_far_above_the_variance(are_bounds_loose):
    values, noises = [[1.0, 4.0]], [[100.0] * 2]
    total = filled(GroupSum(of_lengths(8), is_noisy=True, are_bounds_loose=are_bounds_loose), *values, noises=noises)
    p = np.var(values, ddof=1) if are_bounds_loose else 100.0
    found, of_blocks = total.estimate(0.9)
    assert of_blocks == 0 and found.standard_error == pytest.approx((8**2 * p / 2) ** 0.5)
    np.testing.assert_allclose(total.scatter(), 8 * p**0.5)
    one = filled(GroupSum(of_lengths(8), is_noisy=True, are_bounds_loose=are_bounds_loose), [1.0], noises=[[9.0]])
    assert one.estimate(0.9)[0].standard_error == pytest.approx(8 * 3.0) and one.scatter()[0] == pytest.approx(24)


def test_sums_add_up_and_an_exact_one_adds_nothing():
    sure = filled(GroupSum(of_lengths(2), is_noisy=False), [3.0, 4.0])
    some = filled(GroupSum(of_lengths(8), is_noisy=False), [1.0, 2.0, 4.0, 5.0])
    both, alone = added_up([sure, some], 0.9), some.estimate(0.9)
    assert both[0].estimate == alone[0].estimate + 7
    assert both[0].standard_error == alone[0].standard_error and both[1] == alone[1]
    assert np.ptp(both[0].interval) == pytest.approx(np.ptp(alone[0].interval))
    assert sure.estimate(0.9)[0].interval == (7.0, 7.0)


@pytest.mark.parametrize("factor", [1.0, 1.5, 2.0, 40.0])
def test_what_more_values_leave_is_what_values_that_scatter_alike_leave(factor):
    strata = of_lengths(30, 3)
    values = [[1.0, 3.0, -2.0, 0.5], [5.0, 7.0]]
    few, many = (GroupSum(strata, is_noisy=False) for _ in range(2))
    for stratum, some in enumerate(values):
        count = min(math.ceil(factor * len(some)), len(strata[stratum]))
        spread = np.var(some, ddof=1) * (count - 1) / count
        # Two values and any number of means of both have the variance that is wanted.
        wide = np.sqrt(spread * count / 2)
        for value in some:
            few.add(stratum, value)
        for value in [wide, -wide, *[0.0] * (count - 2)]:
            many.add(stratum, value)
    value, _ = many.estimate(0.9)
    assert few.foreseen(factor, 0.9) == pytest.approx(value.interval[1] - value.estimate)
    assert few.estimate(0.9)[0].estimate != 0.0


@pytest.mark.parametrize(("samples", "counts"), [(8, [2, 2]), (7, [1, 1]), (4, [1, 1])])
def test_first_values_are_a_single_round_of_all_blocks_where_two_are_too_many(samples, counts):
    assert GroupSum(of_lengths(1, 1, samples=2), is_noisy=True).first(samples) == counts


def test_a_single_value_tells_nothing_of_how_blocks_scatter():
    total = GroupSum(of_lengths(4), is_noisy=True)
    total.add(0, 3.0, 0.25)
    value, by_choice = total.estimate(0.9)
    # Four times a value whose random vector leaves a deviation of a half.
    assert (value.estimate, value.standard_error, by_choice) == (12.0, 2.0, 0.0)
