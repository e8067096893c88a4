"""Eigenvalues that occur several times: each bound covers the distance to the eigenvalue of the same number."""

import numpy as np
import pytest

import specop


def cycle(n):
    return 2 * np.eye(n) - np.roll(np.eye(n), 1, 0) - np.roll(np.eye(n), -1, 0)


def path(n):
    return np.diag(np.full(n, 2.0)) - np.eye(n, k=1) - np.eye(n, k=-1)


MATRICES = {
    "cycle of 40": lambda: cycle(40),
    "cycle of 91": lambda: cycle(91),
    "cycle of 150": lambda: cycle(150),
    "cycle of 200": lambda: cycle(200),
    "two paths": lambda: np.kron(np.eye(2), path(60)),
    "three paths": lambda: np.kron(np.eye(3), path(40)),
    "torus": lambda: np.kron(cycle(7), np.eye(9)) + np.kron(np.eye(7), cycle(9)),
}


@pytest.mark.parametrize("which", ["LA", "SA"])
@pytest.mark.parametrize("name", MATRICES)
def test_bounds_cover_the_eigenvalue_of_the_same_number(name, which):
    """Each of the twelve runs may miss with a probability of one percent, three of them with one of 2e-4."""
    A = MATRICES[name]()
    exact = np.linalg.eigvalsh(A)
    missed = 0
    for k, tol, seed in [(k, tol, seed) for k in (3, 6) for tol in (1e-2, 1e-3, 1e-6) for seed in (0, 1)]:
        found = specop.eigsh(A, k=k, which=which, tol=tol, seed=seed, max_matvecs=10 * len(A))
        wanted = exact[-k:] if which == "LA" else exact[:k]
        missed += bool((np.abs(found.eigenvalues - wanted) > found.bounds + 1e-12).any())
    assert missed <= 2
