"""Matrices with known spectra, for tests of spectral algorithms."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import specop

Spectrum = NDArray[np.float64]


def by_products(matrix: Any) -> specop.LinearOperator:
    """Return a matrix as an operator whose entries nobody can read."""
    return 1.0 * specop.aslinearoperator(matrix)


def bulk() -> Spectrum:
    """Most of a trained network's spectrum in small: exponential, cut off at 1.3."""
    return np.minimum(np.random.default_rng(5).exponential(0.2, 3990), 1.3)


def geo10() -> Spectrum:
    """Ten outliers in geometric progression over the bulk."""
    return np.concatenate([100 * 0.75 ** np.arange(10), bulk()])


def cluster10() -> Spectrum:
    """Ten outliers close together."""
    return np.concatenate([np.linspace(18, 20, 10), bulk()])


def power1() -> Spectrum:
    """100 / i."""
    return 100 / np.arange(1.0, 4001)


def mult9() -> Spectrum:
    """A nine-fold eigenvalue over the bulk."""
    return np.concatenate([np.full(9, 10.0), bulk()])


def with_spectrum(values: Spectrum, seed: int = 0) -> NDArray[np.float64]:
    """Return a dense symmetric matrix with these eigenvalues and random eigenvectors."""
    n = len(values)
    vectors = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]
    matrix = (vectors * values) @ vectors.T
    return (matrix + matrix.T) / 2


def laplacian(n: int) -> NDArray[np.float64]:
    """Return the one-dimensional Dirichlet Laplacian: eigenvalues 2 - 2 cos(pi i / (n + 1))."""
    return 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)


def laplacian_2d(n: int) -> NDArray[np.float64]:
    """Return the n^2 x n^2 Laplacian of a square, with its double eigenvalues."""
    line = laplacian(n)
    return np.kron(line, np.eye(n)) + np.kron(np.eye(n), line)


def wilkinson(n: int = 21) -> NDArray[np.float64]:
    """Return W_n^+, whose top eigenvalues come in pairs that agree to 14 digits."""
    return np.diag(np.abs(np.arange(n) - n // 2).astype(float)) + np.eye(n, k=1) + np.eye(n, k=-1)


def clement(n: int) -> NDArray[np.float64]:
    """Return the symmetrized Clement matrix, with eigenvalues n-1, n-3, ..., -(n-1)."""
    off = np.sqrt(np.arange(1.0, n) * np.arange(n - 1, 0, -1))
    return np.diag(off, 1) + np.diag(off, -1)
