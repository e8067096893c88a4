"""Means over samples in NumPy, whose parts can be multiplied: what an algorithm sees of an objective's Hessian."""

import numpy as np

from specop.arrays.layout import Layout
from specop.operators.operator import LinearOperator
from specop_numpy import backend


class Mean(LinearOperator):
    """The mean over samples of ``c_i x_i x_i'``, with the importance that is claimed for each sample."""

    def __init__(self, x, c, importance):
        n = x.shape[1]
        super().__init__(backend, Layout(n, np.dtype(np.float64), "cpu"), is_symmetric=True)
        self.x, self.c, self.claimed = x, c, importance
        self.largest = len(x)
        # Samples, each as often as it was multiplied.
        self.multiplied = 0
        self.free = 10**9
        self.split = None

    @property
    def samples(self):
        return len(self.x)

    @property
    def sample_mean(self):
        return self

    @property
    def dense(self):
        return self.x.T @ (self.c[:, None] * self.x) / len(self.x)

    def room(self):
        return self.free

    def importance(self):
        return self.claimed

    def groups(self, chosen):
        numbers = np.concatenate(chosen)
        assert len(set(numbers)) == len(numbers)
        for group in chosen:
            yield Group(self, group)

    def _matvec(self, x):
        return self.dense @ x


class Group:
    def __init__(self, whole, chosen):
        self.whole, self.x, self.c = whole, whole.x[chosen], whole.c[chosen]
        self.bytes = self.x.nbytes
        self.samples, self.share = len(chosen), len(chosen) / whole.samples

        self.is_expected = False

    def expect(self):
        self.is_expected = True

    def multiply(self, vector):
        self.whole.multiplied += self.samples
        return self.x.T @ (self.c * (self.x @ vector)) / self.samples


def mean(kind, samples=3000, n=30, seed=0):
    """One of the hard cases by its name.

    "even": samples much alike. "trained": most weigh next to nothing, which the importance says. "heavy": norms with a
    Pareto tail. "unlike": one batch of 50 in 60 is unlike all others, and the importance does not tell. "mislabeled":
    one in fifty weighs a hundred times as much, which it tells. "indefinite": an untrained network, half of the
    curvature negative. "misled": the importance tells nothing.
    """
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, n)) * 0.8 ** np.arange(n) @ np.linalg.qr(rng.standard_normal((n, n)))[0]
    c, told = np.ones(samples), rng.uniform(0.5, 2.0, samples)
    if kind in ("trained", "misled"):
        c = rng.gamma(0.15, 1.0, samples)
    elif kind == "heavy":
        c = rng.pareto(2.5, samples)
    elif kind == "unlike":
        x[1000:1050] *= rng.uniform(0, 4, n)
    elif kind == "mislabeled":
        c[rng.permutation(samples)[: samples // 50]] = 100.0
    elif kind == "indefinite":
        c = rng.standard_normal(samples) + 0.3
    elif kind == "near":
        x[::2] = x[::2] @ swap(n)
    return Mean(x, c, told if kind in ("even", "unlike", "misled") else np.abs(c) * told)


def swap(n):
    """Exchange the two directions of most variance, so that halves of the data have them in turn."""
    return np.roll(np.eye(n), 1, axis=1)


KINDS = ["even", "trained", "heavy", "unlike", "mislabeled", "indefinite", "misled"]
