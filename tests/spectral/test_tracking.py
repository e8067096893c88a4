"""The largest eigenvalue from a vector of shortly before: how far it may be off is said with its probability."""

import numpy as np

import specop
from specop.spectral.tracking import largest_near


def diagonal(top, n=2000):
    entries = np.concatenate([top, np.linspace(0.0, 1.0, n - len(top))])
    return specop.DiagonalOperator(entries), np.eye(n)


def test_an_eigenvector_that_still_holds_takes_few_products():
    A, unit = diagonal([4.0, 2.0])
    found = largest_near(A, 0.995 * unit[0] + 0.0999 * unit[7], tol=1e-2)
    fresh = specop.eigsh(A, k=1, which="LA", tol=1e-2)
    assert abs(found.eigenvalues[0] - 4.0) <= found.residuals[0] <= 0.04
    assert 4.0 <= found.eigenvalues[0] + found.bounds[0] <= 40.0
    assert found.matvecs < fresh.matvecs


def test_something_larger_that_it_has_no_part_of_is_within_the_bound():
    missed = covered = 0
    for seed in range(200):
        A, unit = diagonal([1.5 + 0.02 * (seed % 50), 1.5])
        found = largest_near(A, unit[1], tol=1e-2, seed=seed)
        truth = max(A.entries[0], 1.5)
        missed += bool(found.eigenvalues[0] < truth * (1 - 2e-2))
        covered += bool(found.eigenvalues[0] + found.bounds[0] >= truth * (1 - 1e-12))
        assert found.eigenvalues[0] <= truth * (1 + 1e-12)
    # What a residual alone would call found is often not the largest.
    assert missed > 20 and covered >= 194


def test_small_and_unusual_matrices():
    for entries in ([3.0], [0.0, 0.0, 0.0], [-3.0, -1.0, -2.0], [1.0] * 5):
        A = specop.DiagonalOperator(np.array(entries))
        near = np.eye(len(entries))[-1]
        found = largest_near(A, near, tol=1e-2)
        assert abs(found.eigenvalues[0] - max(entries)) <= found.bounds[0] + 1e-10
