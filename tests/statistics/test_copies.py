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


@pytest.mark.parametrize(
    ("residual", "weight", "is_one"),
    [(5e-4, 5e-7, True), (9e-4, 9e-7, True), (1.5e-3, 5e-7, False), (5e-4, 1.5e-6, False)],
)
def test_a_copy_on_its_way_has_next_to_no_weight_and_a_residual_that_reaches_an_eigenvalue(residual, weight, is_one):
    rule = GaussRule(
        np.array([2.0, 2.0 + 1.9 * residual]), np.array([1.0 - weight, weight]), 2.0 * np.array([0.0, residual])
    )
    assert len(without_copies(rule, 100, 1e-8).nodes) == (1 if is_one else 2)


def test_nodes_of_no_weight_are_what_they_are_where_they_stand_alone_and_nothing_beside_each_other():
    rule = GaussRule(np.array([1.0, 3.0, 5.0, 5.0]), np.array([1.0, 0.0, 0.0, 0.0]), np.array([0.0, 0.7, 1e-9, 2e-9]))
    merged = without_copies(rule, 4, 1e-8)
    assert merged.nodes.tolist() == [1.0, 3.0, 5.0] and merged.weights.tolist() == [1.0, 0.0, 0.0]
    assert merged.couplings.tolist() == [0.0, 0.7, 1e-9]
