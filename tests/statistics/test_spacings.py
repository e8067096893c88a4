"""Gaps of descending numbers: the chance that a tail shows them."""

import numpy as np
import pytest

from specop.statistics.spacings import gap_chances


def test_a_tail_is_rarely_taken_for_outliers():
    rng = np.random.default_rng(0)
    draws = np.sort(rng.exponential(size=(2000, 500)), axis=1)[:, ::-1]
    low = np.array([gap_chances(one[:21]).min() for one in draws])
    for level in (0.01, 0.05):
        assert (low <= level).mean() <= level + 3 * (level / 2000) ** 0.5
        # It is no more than three times too careful.
        assert (low <= level).mean() >= level / 3


@pytest.mark.parametrize("unit", [1.0, 1e-3])
def test_chances_by_their_formula(unit):
    values = unit * np.array([10.0, 3.0, 2.0, 1.5, 1.5, 0.5])
    expected = []
    for i in range(1, 5):
        below = [j * (values[j - 1] - values[j]) for j in range(i + 1, 6)]
        spacing = i * (values[i - 1] - values[i])
        expected.append(min(1.0, 5 * (1 + spacing / sum(below)) ** -len(below)))
    found = gap_chances(values)
    np.testing.assert_allclose(found, [*expected, 1.0])
    assert found[0] < 1.0


@pytest.mark.parametrize("unit", [1.0, 1e-3])
def test_a_gap_above_equal_numbers_has_no_chance_and_none_is_no_gap(unit):
    assert gap_chances(unit * np.array([3.0, 1.0, 1.0, 1.0])).tolist() == [0.0, 1.0, 1.0]
    assert gap_chances(np.ones(4)).tolist() == [1.0, 1.0, 1.0]
