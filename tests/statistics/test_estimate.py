"""Estimates: Student's intervals, those of a root, and how they are scaled and read."""

import numpy as np
import pytest
import scipy.stats

from specop.errors import InvalidInputError
from specop.statistics.estimate import (
    Estimate,
    agree_by_chance,
    check_confidence,
    concentration_of,
    estimate_from_samples,
    exact,
    normal_error,
    root_of_mean,
    within,
)

SAMPLES = np.array([1.0, 4.0, 2.5, 7.0, 3.0])


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_intervals_of_a_mean_are_students(confidence):
    found = estimate_from_samples(SAMPLES, confidence)
    error = scipy.stats.sem(SAMPLES)
    assert (found.estimate, found.confidence) == (SAMPLES.mean(), confidence)
    assert found.standard_error == pytest.approx(error)
    assert found.interval == pytest.approx(scipy.stats.t.interval(confidence, 4, SAMPLES.mean(), error))
    # The same width, read as that of a normal number.
    limits = scipy.stats.norm.interval(confidence, 3.0, 0.7)
    assert normal_error(limits, confidence) == pytest.approx(0.7)


@pytest.mark.parametrize("make", [estimate_from_samples, root_of_mean])
def test_a_single_sample_leaves_everything_open(make):
    found = make(np.array([4.0]), 0.9)
    assert np.isnan(found.standard_error) and found.interval[1] == np.inf
    assert (found.estimate, found.interval[0]) == ((4.0, -np.inf) if make is estimate_from_samples else (2.0, 0.0))


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e6])
def test_the_interval_of_a_root_is_that_of_the_logarithm(factor):
    found, mean = root_of_mean(factor**2 * SAMPLES, 0.9), estimate_from_samples(SAMPLES, 0.9)
    norm = factor * SAMPLES.mean() ** 0.5
    assert found.estimate == pytest.approx(norm)
    # To first order the relative error of a root is half of that of its square.
    assert found.standard_error / norm == pytest.approx(0.5 * mean.standard_error / mean.estimate)
    half = 0.5 * (mean.interval[1] - mean.estimate) / mean.estimate
    assert np.log(np.array(found.interval) / norm) == pytest.approx([-half, half])


@pytest.mark.parametrize("squares", [[-3.0, 1.0, 0.5], [-4.0, -5.0, -4.5], [0.0, 0.0]])
def test_a_mean_that_is_not_above_zero_leaves_all_up_to_its_upper_limit_open(squares):
    found = root_of_mean(np.array(squares), 0.9)
    high = max(0.0, estimate_from_samples(np.array(squares), 0.9).interval[1]) ** 0.5
    assert (found.estimate, found.interval, found.standard_error) == (0.0, (0.0, high), high)


def test_numbers_without_chance():
    assert exact(-2.0, 0.9) == Estimate(-2.0, 0.0, (-2.0, -2.0), 0.9)
    assert within(3.0, 0.5, 0.9) == Estimate(3.0, 0.0, (2.5, 3.5), 0.9)
    assert Estimate(2.0, 0.5, (1.0, 4.0), 0.9).scaled(3.0) == Estimate(6.0, 1.5, (3.0, 12.0), 0.9)
    assert str(Estimate(2.0, 0.5, (1.0, 4.0), 0.9)) == "2 +- 0.5 (90 % interval 1 to 4)"


@pytest.mark.parametrize("confidence", [0, 1, -0.1, 1.5, float("nan"), "0.9", None, True])
def test_what_is_no_probability_is_refused(confidence):
    with pytest.raises(InvalidInputError, match="confidence must lie between 0 and 1, got "):
        check_confidence(confidence)
    assert check_confidence(0.95) == 0.95


@pytest.mark.parametrize(("confidence", "least"), [(0.5, 4), (0.95, 12), (0.99, 18)])
def test_as_many_samples_that_agree_as_three_of_four_do_by_chance_tell_nothing(confidence, least):
    # (3/4) ** (least - 1) is the first power that the interval may not miss.
    assert [agree_by_chance(np.full(count, 2.0), confidence, 1e-9) for count in (2, least - 1)] == [True, True]
    assert not agree_by_chance(np.full(least, 2.0), confidence, 1e-9)
    assert not agree_by_chance(np.array([2.0]), confidence, 1e-9)
    for factor in (1.0, 1e6):
        apart = factor * np.array([2.0, 2.0 + 2e-9])
        assert agree_by_chance(apart, confidence, 2e-9) and not agree_by_chance(apart, confidence, 5e-10)


@pytest.mark.parametrize(("others", "drawn"), [(0, 8), (8, 12), (8, 36), (3, 39)])
def test_errors_of_orthogonal_directions_are_those_of_numbers_drawn_without_replacement(others, drawn):
    population = np.random.default_rng(0).exponential(size=40)
    rng, means, errors = np.random.default_rng(1), [], []
    for _ in range(2000):
        samples = np.r_[rng.choice(population, others), rng.permutation(population)[:drawn]]
        found = estimate_from_samples(samples, 0.95, orthogonal=drawn, dimension=40)
        means.append(found.estimate)
        errors.append(found.standard_error)
    assert abs(np.mean(means) - population.mean()) < 4 * np.std(means) / 2000**0.5
    assert np.mean(np.square(errors)) == pytest.approx(np.var(means), rel=0.1)


def test_all_orthogonal_directions_leave_nothing_to_chance():
    found = estimate_from_samples(np.r_[100.0, 1.0, 2.0, 6.0], 0.95, orthogonal=3, dimension=3)
    assert (found.estimate, found.standard_error, found.interval) == (3.0, 0.0, (3.0, 3.0))


def test_concentration_is_the_ratio_of_powers_about_the_mean():
    values = np.array([5.0, 1.0, 0.0, -2.0])
    away = values - 1.0
    assert concentration_of(values, np.full(4, 0.25), 4) == pytest.approx(np.sum(away**4) / np.sum(away**2) ** 2)
    assert concentration_of(np.ones(3), np.full(3, 1 / 3), 3) == 1.0
