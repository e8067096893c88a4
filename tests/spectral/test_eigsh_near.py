"""Eigenvalues that are nearer to each other than the tolerance: one that was missed is found, or the bounds say so."""

import numpy as np
import pytest

import specop

SPECTRA = {
    "three near, apart from the rest": np.concatenate([[1.0, 0.955, 0.91], 0.5 * np.linspace(1, 0, 297)]),
    "each a part of the one before": 0.955 ** np.arange(300),
    "the edge of a bulk": np.concatenate([[1.045, 1.0], np.linspace(0.95, 0, 298)]),
    "negative": -np.concatenate([[1.0, 0.955, 0.91], 0.5 * np.linspace(1, 0, 297)]),
}


@pytest.mark.parametrize("tol", [0.05, 0.01])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_eigenvalues_lie_within_their_bounds(spectrum, tol):
    """At 99 percent. Before gaps below the tolerance were looked at, 16 of 60 runs on the first spectrum did not."""
    eigenvalues = SPECTRA[spectrum]
    expected = np.sort(eigenvalues)
    expected = expected[:2] if spectrum == "negative" else expected[-2:]
    outside = 0
    for seed in range(60):
        found = specop.eigsh(specop.DiagonalOperator(eigenvalues), k=2, which="LM", tol=tol, seed=seed)
        outside += bool((np.abs(found.eigenvalues - expected) > found.bounds * (1 + 1e-9)).any())
    # More than four of 60 is a chance of 1 in 3,000 where each is outside with one in a hundred.
    assert outside <= 4


@pytest.mark.parametrize(("seed", "tol"), [(77, 0.1), (93, 0.05), (113, 0.1)])
def test_the_bound_below_an_open_gap_reaches_to_the_eigenvalue_that_was_missed_there(seed, tol):
    eigenvalues = np.concatenate([[1.0, 0.955, 0.91], np.random.default_rng(seed).uniform(0, 0.5, 297)])
    found = specop.eigsh(specop.DiagonalOperator(eigenvalues), k=2, which="LA", tol=tol, seed=seed)
    assert (np.abs(found.eigenvalues - [0.955, 1.0]) <= found.bounds).all()
