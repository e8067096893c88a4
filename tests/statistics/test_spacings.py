"""Gaps of descending numbers: the chance that a tail shows them."""

import numpy as np

from specop.statistics.spacings import gap_chances


def test_a_tail_is_rarely_taken_for_outliers():
    rng = np.random.default_rng(0)
    draws = np.sort(rng.exponential(size=(2000, 500)), axis=1)[:, ::-1]
    low = np.array([gap_chances(one[:21]).min() for one in draws])
    for level in (0.01, 0.05):
        assert (low <= level).mean() <= level + 3 * (level / 2000) ** 0.5
        # It is no more than three times too careful.
        assert (low <= level).mean() >= level / 3
