"""Chains: how many independent draws they are worth, and whether they agree."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specop.statistics.chains import effective_draws, scale_reduction


def test_diagnoses_of_chains_on_an_autoregression():
    rng, a = np.random.default_rng(0), 0.8
    chains = np.zeros((4, 20_000))
    noise = rng.normal(size=chains.shape)
    for t in range(1, chains.shape[1]):
        chains[:, t] = a * chains[:, t - 1] + noise[:, t]
    assert effective_draws(chains) == pytest.approx(80_000 * (1 - a) / (1 + a), rel=0.1)
    assert scale_reduction(chains) == pytest.approx(1.0, abs=0.01)
    assert scale_reduction(chains + 5 * np.arange(4)[:, None]) > 2
    assert scale_reduction(np.cumsum(noise, axis=1)) > 1.2
    assert effective_draws(rng.normal(size=(4, 5000))) == pytest.approx(20_000, rel=0.1)


@pytest.mark.parametrize("draws", [[0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 99.0, 2.0, 3.0]])
def test_scale_reduction_by_hand(draws):
    # Halves of variance 1/2 and means 1/2 and 5/2, without the draw between them.
    assert scale_reduction(np.array([draws])) == pytest.approx((1 / 2 + 2 / 0.5) ** 0.5)


def test_chains_that_do_not_move():
    still, apart = np.ones((3, 10)), np.arange(3.0)[:, None] + np.zeros((3, 10))
    assert (scale_reduction(still), scale_reduction(apart)) == (1.0, np.inf)
    assert effective_draws(still) == 30 and effective_draws(apart) < 4


def test_a_single_chain_is_worth_what_its_correlation_leaves():
    """Of draws that come in pairs half are worth something, whatever the unit."""
    draws = np.repeat(np.random.default_rng(0).normal(size=20_000), 2)
    for factor in (1.0, 1e-3):
        assert effective_draws(factor * draws[None]) == pytest.approx(20_000, rel=0.1)


def worth_by_definition(chains):
    count, length = chains.shape
    centred = chains - chains.mean(axis=1, keepdims=True)
    covariance = [sum(one[: length - lag] @ one[lag:] for one in centred) / (count * length) for lag in range(length)]
    variance = covariance[0] + (np.var(chains.mean(axis=1), ddof=1) if count > 1 else 0.0)
    correlation, total = 1 - (covariance[0] - np.array(covariance)) / variance, 0.0
    for lag in range(0, length - 1, 2):
        if correlation[lag] + correlation[lag + 1] < 0:
            break
        total += correlation[lag] + correlation[lag + 1]
    return count * length / max(2 * total - 1, 1)


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(2, 12)),
    apart=st.sampled_from([0.0, 1.0, 30.0]),
    walk=st.booleans(),
    seed=st.integers(0, 99),
)
def test_draws_are_worth_what_the_first_pairs_of_their_correlations_leave(shape, apart, walk, seed):
    chains = np.random.default_rng(seed).normal(size=shape) + apart * np.arange(shape[0])[:, None]
    chains = np.cumsum(chains, axis=1) if walk else chains
    assert effective_draws(chains) == pytest.approx(worth_by_definition(chains))
