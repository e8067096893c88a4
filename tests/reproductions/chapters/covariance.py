"""Shir and Yehudayoff, Theoretical Computer Science 801 (2020): winners' covariance and the inverse Hessian."""

import numpy as np
import torch

import specop
from reproductions.book import Row


def quadratic(n):
    """Return the objective of a quadratic loss at its minimum, eigenvalues from 1 to 10 along rotated axes."""
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(n, n)))[0]
    matrix = torch.tensor(rotation @ np.diag(np.geomspace(10.0, 1.0, n)) @ rotation.T)
    params = {"x": torch.zeros(n, dtype=torch.float64)}
    return specop.objective(lambda p, _: 0.5 * p["x"] @ matrix @ p["x"], params=params, data=torch.zeros(1, 1))


def rows():
    """Slopes of log variance over log eigenvalue, for ever more parameters."""
    found = []
    for n in (2, 10, 40):
        slope = specop.landscape.covariance(quadratic(n), sigma=1.0, winners=100, offspring=40, k=n).slope
        text = f"{slope.estimate:.2f} +- {slope.standard_error:.2f}"
        reached = slope.interval[0] <= -1.0 <= slope.interval[1]
        found.append(Row(f"{n} parameters, best of 40, slope", "-1 for many draws", text, reached))
    return found
