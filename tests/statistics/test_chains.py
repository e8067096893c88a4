"""Chains: how many independent draws they are worth, and whether they agree."""

import numpy as np
import pytest

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
