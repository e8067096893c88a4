"""Copies of eigenvalues in Gauss rules: which nodes are one, and what that one is."""

import numpy as np
import pytest

from specop.statistics.copies import without_copies
from specop.statistics.measure import GaussRule


def test_merging_adds_weights_and_keeps_the_rest():
    nodes, weights = np.array([1.0, 2.0, 2.0 + 1e-9, 2.001, 3.0]), np.array([0.5, 0.1, 0.2, 1e-9, 0.2 - 1e-9])
    couplings = np.array([0.4, 1e-6, 2e-6, 1.5e-3, 0.1])
    merged = without_copies(GaussRule(nodes, weights, couplings), 100, 1e-8)
    np.testing.assert_allclose(merged.nodes, [1.0, 2.0, 3.0], atol=1e-8)
    np.testing.assert_allclose(merged.weights, [0.5, 0.3 + 1e-9, 0.2 - 1e-9], rtol=1e-12)
    # A vector that has all of the weight: sqrt(1/3) and sqrt(2/3) of both.
    assert merged.couplings[1] == pytest.approx(1e-6 / 3**0.5 + 2e-6 * (2 / 3) ** 0.5, rel=0.2)
    apart = without_copies(GaussRule(nodes[[0, 1, 4]], weights[[0, 1, 4]], couplings[[0, 1, 4]]), 100, 1e-8)
    np.testing.assert_array_equal(apart.nodes, nodes[[0, 1, 4]])
