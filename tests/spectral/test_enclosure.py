"""What is too large for an eigenvalue: the largest that is left where directions are taken out."""

import numpy as np
import pytest

from specop.spectral.part import enclosure
from specop_numpy import backend


def end(values, vectors):
    return enclosure.End(1.0, values, np.zeros(len(values)), vectors)


def test_the_upper_side_is_the_largest_eigenvalue_of_the_projected_matrix():
    rng = np.random.default_rng(0)
    values = np.array([5.0, 3.0, 2.5, 1.0, 0.2, -1.0])
    vectors = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    H = vectors.T * values @ vectors
    others = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    found = enclosure._upper(backend, end(values, others), end(values, vectors))
    for i in range(6):
        P = np.eye(6) - others[:i].T @ others[:i]
        # What was taken out has the eigenvalue 0, which does not count.
        assert found[i] == pytest.approx(np.linalg.eigvalsh(P @ H @ P - 9.0 * (np.eye(6) - P))[-1])
        assert found[i] >= values[i] - 1e-12


def test_parts_that_agree_enclose_exactly():
    values, vectors = np.array([5.0, 3.0, 2.5]), np.eye(6)[:3]
    assert enclosure._upper(backend, end(values, vectors), end(values, vectors)) == pytest.approx(values)
