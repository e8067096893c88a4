"""Rows, and the inverse of their damped second moment by other means."""

import numpy as np
import scipy.sparse.linalg


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def matrix(rows, damping, count=None):
    return damping * np.eye(rows.shape[1]) + rows.T @ rows / (count or len(rows))


def kappa(rows, damping, count=None):
    return np.linalg.norm(rows, 2) ** 2 / ((count or len(rows)) * damping)


def recurrence(rows, damping, x):
    """F^-1 x by the formula of Sherman and Morrison, row after row."""
    m, solved = len(rows), []
    for g in rows:
        h = g / damping
        for other, denominator in solved:
            h = h - other * (other @ g) / denominator
        solved.append((h, m + g @ h))
    return x / damping - sum(h * (h @ x) / denominator for h, denominator in solved)


def conjugate_gradients(rows, damping, x):
    A = scipy.sparse.linalg.LinearOperator(
        (len(x), len(x)), lambda v: damping * v + rows.T @ (rows @ v) / len(rows), dtype=float
    )
    return scipy.sparse.linalg.cg(A, x, rtol=1e-15, maxiter=20 * len(x))[0]


def dense(inverse):
    return inverse.operator().to_dense()
