"""Weights of recognized eigenvalues, and the distance to a spectrum that rules of random vectors leave open."""

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from specop.statistics.measure import GaussRule
from specop.statistics.transport import known_weights, open_transport, transport_errors

NODES = np.array([1.0, 2.0, 4.0, 8.0])
NONE = np.zeros(0)


def rule(weights, couplings):
    return GaussRule(NODES, np.array(weights), np.array(couplings))


def test_a_simple_eigenvalue_weighs_one_of_all():
    # The second node is no eigenvalue yet, and the third weighs as much as many copies do.
    found = known_weights(rule([0.001, 0.5, 0.489, 0.01], [0.0, 1.0, 0.0, 1e-3]), 1000)
    assert found[0] == found[3] == 1e-3
    np.testing.assert_allclose(found[1:3], np.array([0.5, 0.489]) / 0.989 * 0.998)
    assert found.sum() == pytest.approx(1)


@pytest.mark.parametrize(("coupling", "is_one"), [(0.0079, True), (0.0081, False)])
def test_a_node_is_an_eigenvalue_if_its_residual_is_a_thousandth(coupling, is_one):
    found = known_weights(rule([0.3, 0.3, 0.399, 0.001], [1.0, 1.0, 1.0, coupling]), 500)
    assert (found[3] == 1 / 500) == is_one


@pytest.mark.parametrize(("weight", "is_one"), [(10.8, True), (10.9, False)])
def test_a_weight_of_many_copies_is_left_to_the_rule(weight, is_one):
    found = known_weights(rule([0.3, 0.3, 0.4 - weight / 500, weight / 500], [1.0, 1.0, 1.0, 0.0]), 500)
    assert (found[3] == 1 / 500) == is_one


def test_as_many_nodes_as_eigenvalues_leave_nothing_open():
    every = rule([0.7, 0.1, 0.1, 0.1], np.zeros(4))
    np.testing.assert_array_equal(known_weights(every, 4), 0.25)
    assert transport_errors([every], NONE, 4) == (0, 0)
    assert transport_errors([], np.array([1.0, 2.0]), 0) == (0, 0)


def test_mass_moves_by_its_residual_or_half_way_to_the_next_node():
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    moved = weights @ [0.2, 0.5, 1.0, 2.0]
    assert open_transport([rule(weights, [0.2, 9.0, 9.0, 9.0])], NONE, 1000) == pytest.approx(moved / 7)
    # Known eigenvalues widen the spread and dilute what is open.
    both = open_transport([rule(weights, [0.2, 9.0, 9.0, 9.0])], np.full(1000, 15.0), 1000)
    assert both == pytest.approx(0.5 * moved / 14)


@pytest.mark.parametrize("recognized", [0, 300])
@pytest.mark.parametrize("probes", [1, 4])
def test_the_error_of_chance_is_that_of_random_weights(probes, recognized):
    n, rng = 400, np.random.default_rng(0)
    values = np.linspace(1, 3, n)
    stated, true = [], []
    for _ in range(60):
        squares = rng.normal(size=(probes, n)) ** 2
        # None that looks like several copies.
        squares[:, :recognized] = 1.0
        weights = squares / squares.sum(axis=1, keepdims=True)
        # Nodes with a residual are not taken for eigenvalues, the others have the weight that they should have.
        rules = [GaussRule(values, each, np.where(np.arange(n) < recognized, 0.0, 1.0)) for each in weights]
        stated.append(transport_errors(rules, NONE, n + 1)[1])
        weights = np.mean([known_weights(one, n + 1) for one in rules], axis=0)
        true.append(wasserstein_distance(values, np.append(values, 2.75), weights, np.ones(n + 1)) / 2)
    assert np.mean(stated) == pytest.approx(np.mean(true), rel=0.15)


def test_rounding_is_not_scaled_to_the_mass_of_what_is_unknown():
    # Two eigenvalues with copies, light enough to pass for simple, and nodes of rounding at them.
    found = rule([0.5, 0.5, 0.0, 1e-33], [0.0, 1e-9, 1.0, 1.0])
    np.testing.assert_array_equal(known_weights(found, 20), found.weights)
    assert 0 < sum(transport_errors([found], NONE, 20)) < 1
