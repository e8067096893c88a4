"""How much of a control variate to take: the slope, drawn towards a prior while few pairs tell."""

import numpy as np
import pytest

from specop.statistics.regression import Regression


def test_the_slope_is_that_of_least_squares_between_many_pairs_and_the_prior():
    rng = np.random.default_rng(0)
    controls = rng.standard_normal(400)
    values = 3.0 * controls + 5.0 + 0.1 * rng.standard_normal(400)
    found = Regression(np.var(controls))
    assert found.slope(2.0) == 2.0
    for pair in zip(values, controls, strict=True):
        found.add(*pair)
    right = np.polyfit(controls, values, 1)[0]
    assert found.slope(right) == pytest.approx(right)
    assert found.slope(0.0) == pytest.approx(right / 1.01)


def test_few_pairs_weigh_as_much_as_the_prior():
    found = Regression(0.25)
    found.add(1.0, 2.0)
    assert found.slope(7.0) == 7.0
    found.add(4.0, 3.0)
    # A slope of 3 from two pairs, of which four would weigh as much as the prior.
    assert found.slope(7.0) == pytest.approx((2 * 3.0 + 4 * 7.0) / 6)


@pytest.mark.parametrize("variance", [0.0, 2.0])
def test_a_control_that_does_not_move_says_nothing(variance):
    found = Regression(variance)
    for value in range(10):
        found.add(float(value), 1.0)
    assert found.slope(0.5) == 0.5


def test_controls_that_are_next_to_each_other_by_chance_say_next_to_nothing():
    found = Regression(1.0)
    found.add(0.0, 1.0)
    found.add(1.0, 1.0 + 1e-6)
    assert found.slope(0.5) == pytest.approx(0.5, abs=1e-6)
