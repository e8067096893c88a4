"""Bounds from Gauss rules, and what the chance of random vectors leaves open."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from specop.statistics.measure import GaussRule, christoffel, cumulative_bounds, is_ruled_out, share_interval


def lanczos_rule(values, vector, steps) -> GaussRule:
    """Gauss rule of a vector, from a QR decomposition of its Krylov matrix done step by step in NumPy."""
    basis, diagonal, beside = [vector], [], []
    for _ in range(steps):
        product = values * basis[-1]
        diagonal.append(basis[-1] @ product)
        for _ in range(2):
            product = product - np.array(basis).T @ (np.array(basis) @ product)
        beside.append(np.linalg.norm(product))
        basis.append(product / beside[-1])
    nodes, vectors = scipy.linalg.eigh_tridiagonal(diagonal, beside[:-1])
    return GaussRule(nodes, vectors[0] ** 2, beside[-1] * vectors[-1] * np.sign(vectors[0]))


VALUES = np.sort(np.concatenate([np.zeros(100), np.random.default_rng(0).exponential(0.2, 190), 10 + np.arange(10.0)]))


@pytest.mark.parametrize("steps", [1, 3, 15, 40])
def test_bounds_hold_for_the_measure_of_every_vector(steps):
    for seed in range(5):
        vector = np.random.default_rng(seed).normal(size=300)
        vector /= np.linalg.norm(vector)
        rule = lanczos_rule(VALUES, vector, steps)
        x = np.sort(np.concatenate([np.linspace(-1, 20, 150), rule.nodes, VALUES[95:150]]))
        low, high = cumulative_bounds(rule, x, 1e-12)
        truth = np.array([np.sum(vector[point >= VALUES] ** 2) for point in x])
        assert (low <= truth + 1e-10).all() and (truth <= high + 1e-10).all()
        assert (low <= high + 1e-12).all() and (np.diff(low) >= -1e-10).all() and (np.diff(high) >= -1e-10).all()


@pytest.mark.parametrize("steps", [3, 30, 40, 60])
def test_bounds_are_exact_at_infinity(steps):
    rule = lanczos_rule(VALUES, np.full(300, 300**-0.5), steps)
    low, high = cumulative_bounds(rule, np.array([-np.inf, 0.3, np.inf]), 1e-12)
    assert low[[0, 2]].tolist() == high[[0, 2]].tolist() == [0.0, 1.0]
    assert 0 < low[1] <= high[1] < 1


def test_what_is_open_is_the_christoffel_number():
    vector = np.full(300, 300**-0.5)
    rule = lanczos_rule(VALUES, vector, 12)
    for point in (-0.5, 0.31, 5.0, 30.0):
        low, high = cumulative_bounds(rule, np.array([point]), 0.0)
        # The Christoffel number from its definition, the recurrence of orthonormal polynomials.
        assert (high - low)[0] == pytest.approx(christoffel(rule, point), rel=1e-6, abs=1e-14)
    assert christoffel(rule, 5.0) < 1e-6 < christoffel(rule, 0.31)


def test_the_christoffel_number_is_continuous_at_a_node():
    rule = lanczos_rule(VALUES, np.full(300, 300**-0.5), 12)
    for node, weight in zip(rule.nodes, rule.weights, strict=True):
        assert christoffel(rule, node) == weight
        assert christoffel(rule, node + 1e-12) == pytest.approx(weight, rel=1e-6)


def test_an_eigenvalue_that_is_there_is_seldom_ruled_out():
    runs, falsely = 400, 0
    for seed in range(runs):
        vector = np.random.default_rng(seed).normal(size=300)
        rule = lanczos_rule(VALUES, vector / np.linalg.norm(vector), 9)
        falsely += is_ruled_out(rule, VALUES[-1], 300, 0.9)
        assert is_ruled_out(rule, 40.0, 300, 0.9)
    # A bound that is nearly attained once the rest of the spectrum is resolved.
    assert 0.05 * runs < falsely < 0.13 * runs


@pytest.mark.parametrize("steps", [3, 6, 12])
def test_at_a_node_the_bounds_are_those_of_the_rule(steps):
    rule = lanczos_rule(VALUES, np.full(300, 300**-0.5), steps)
    sums = np.concatenate([[0.0], np.cumsum(rule.weights)])
    closest = 1e-4 * rule.couplings**2 / (np.ptp(rule.nodes) + np.abs(rule.couplings).max())
    # So close to a node the matrix that has the point as a node would overflow; what is given there still bounds.
    for x in (rule.nodes, rule.nodes + 0.3 * closest, rule.nodes - 0.3 * closest):
        low, high = cumulative_bounds(rule, x, 0.0)
        assert (low <= sums[:-1] + 1e-14).all() and (low >= sums[:-1] - 3e-5 * rule.weights).all()
        assert (high >= sums[1:] - 1e-14).all() and (high <= sums[1:] + 3e-5 * rule.weights).all()


@pytest.mark.parametrize("factor", [2.0**-40, 2.0**30])
def test_bounds_do_not_depend_on_the_unit(factor):
    rule = lanczos_rule(VALUES, np.full(300, 300**-0.5), 40)
    scaled = GaussRule(factor * rule.nodes, rule.weights, factor * rule.couplings)
    x = np.sort(np.concatenate([np.linspace(-1, 20, 50), rule.nodes[1::3] * (1 + 1e-15)]))
    for found, expected in zip(
        cumulative_bounds(scaled, factor * x, 0.0), cumulative_bounds(rule, x, 0.0), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_what_is_ruled_out_is_told_by_chi_square(confidence):
    rule = lanczos_rule(VALUES, np.full(300, 300**-0.5), 6)
    # Times the dimension, the weight of a random vector along an eigenvector has one degree of freedom.
    dimension = scipy.stats.chi2.ppf(1 - confidence, 1) / christoffel(rule, 8.0)
    assert is_ruled_out(rule, 8.0, 0.999 * dimension, confidence)
    assert not is_ruled_out(rule, 8.0, 1.001 * dimension, confidence)


def test_an_invariant_space_rules_everything_else_out():
    nodes, weights = np.array([0.0, 1.0]), np.array([0.25, 0.75])
    assert is_ruled_out(GaussRule(nodes, weights, np.zeros(2)), 0.01, 10**6, 0.5)
    assert not is_ruled_out(GaussRule(nodes, weights, np.array([0.0, 0.3])), 0.01, 10**6, 0.5)


def test_an_invariant_space_leaves_nothing_open():
    rule = GaussRule(np.array([0.0, 1.0]), np.array([0.25, 0.75]), np.zeros(2))
    low, high = cumulative_bounds(rule, np.array([-1.0, 0.5, 2.0]), 1e-14)
    np.testing.assert_allclose(low, [0, 0.25, 1])
    np.testing.assert_allclose(high, [0, 0.25, 1])
    # At an eigenvalue itself rounding decides.
    assert np.ravel(cumulative_bounds(rule, np.array([1.0]), 1e-14)).tolist() == [0.25, 1.0]


@pytest.mark.parametrize(("dimension", "part"), [(200, 1), (200, 20), (50, 25)])
def test_share_intervals_cover(dimension, part):
    rng, runs = np.random.default_rng(1), 2000
    squares = rng.normal(size=(runs, 3, dimension)) ** 2
    weight = (squares[..., :part].sum(axis=2) / squares.sum(axis=2)).mean(axis=1)
    low, high = share_interval(weight, weight, 3 * dimension, 0.95)
    assert np.mean((low <= part / dimension) & (part / dimension <= high)) > 0.94
    assert np.mean((low <= part / dimension) & (part / dimension <= high)) < 0.97


def test_shares_at_the_ends():
    low, high = share_interval(np.array([0.0, 1.0]), np.array([0.0, 1.0]), 100.0, 0.95)
    assert low[0] == 0 and high[1] == 1 and high[0] < 1e-9 and low[1] > 1 - 1e-9
    # Sums of weights are off by rounding.
    ends = np.array([-1e-12, 1 + 1e-12])
    np.testing.assert_array_equal(share_interval(ends, ends, 100.0, 0.95), (low, high))
