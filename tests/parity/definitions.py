"""What curvature matrices are by definition, from the derivatives that a framework itself computes of the whole data.

Each framework's module gives in `derivatives` the outputs z, the Jacobian of all their entries, and the dense Hessians
of the mean loss in the parameters and in z; in `slope` the loss's gradient in z, at any labels. The rest is linear
algebra in NumPy.
"""

import numpy as np
import scipy.special

from parity.cases import models
from specop.arrays import probes

KINDS = ["hessian", "ggn", "exact", "mc", "empirical", "terms", "covariance", "jacobian"]
DRAWS, SEED = 2, 5


def definitions(framework, problem):
    """The matrices of a problem whose data are one batch, by kind; functions, because few are needed at a time."""
    module = models(framework)
    ((x, y),) = problem.batches
    z, J, hessian, curvature = (np.asarray(part) for part in module.derivatives(problem, x, y))
    m = len(z)

    def of_samples(slope):
        """Gradients as rows: of each sample, m times what it adds to the gradient."""
        return np.einsum("ij,ijn->in", m * slope.reshape(m, -1), J.reshape(m, -1, J.shape[-1]))

    def rows(labels):
        return of_samples(np.asarray(module.slope(problem, z, labels)))

    def moment(G):
        return G.T @ G / m

    def exact():
        # Labels that have the distribution's first two moments, each with its probability.
        if problem.likelihood == "categorical":
            p = scipy.special.softmax(z, axis=1)
            return sum(_weighted(rows(np.full(m, c, np.int32)), p[:, c]) for c in range(z.shape[1]))
        return sum(_weighted(rows(labels), p) for labels, p in _labels_of_two_points(problem, z))

    def sampled():
        drawn = [_labels(problem, z, draw) for draw in range(DRAWS)]
        if problem.likelihood != "gaussian":
            return sum(moment(rows(labels)) for labels in drawn) / DRAWS
        # Each entry of the outputs has a label of its own, independent of the others.
        slopes = [np.asarray(module.slope(problem, z, labels)) for labels in drawn]
        return sum(moment(m * s.reshape(-1, 1) * J) for s in slopes) / DRAWS

    def of_terms():
        if problem.likelihood == "categorical":
            return moment(rows(y))
        # Each entry has a loss of its own: all of them weigh the same, or those of a sample are one Gaussian.
        terms = z.size if problem.likelihood == "bernoulli" else m
        slope = np.asarray(module.slope(problem, z, y)).reshape(-1, 1)
        return terms * (slope * J).T @ (slope * J)

    return {
        "hessian": lambda: hessian,
        "ggn": lambda: J.T @ curvature @ J,
        "exact": exact,
        "mc": sampled,
        "empirical": lambda: moment(rows(y)),
        "terms": of_terms,
        "covariance": lambda: moment(rows(y) - rows(y).mean(0)),
        "jacobian": lambda: J,
    }


def _weighted(G, p):
    return G.T @ (p[:, None] * G) / len(G)


def _labels_of_two_points(problem, z):
    """Labels and probabilities of samples."""
    if problem.likelihood == "bernoulli":
        p = scipy.special.expit(z)
        return [(np.ones_like(z), p), (np.zeros_like(z), 1 - p)]
    # One entry after the other off by the square root of its variance times the number of entries.
    outputs = z.shape[1]
    off = np.eye(outputs) * np.sqrt(outputs * _variance(z))
    return [(z + shift, np.full(len(z), 1 / outputs)) for shift in off]


def _labels(problem, z, draw):
    """Labels as the library draws them, for all samples at once."""
    terms = len(z) if problem.likelihood == "categorical" else z.size
    numbers = probes.sample_normals if problem.likelihood == "gaussian" else probes.sample_uniforms
    noise = numbers(SEED, draw, range(len(z)), -(-terms // len(z))).reshape(-1)[:terms]
    if problem.likelihood == "categorical":
        below = scipy.special.softmax(z, axis=1).cumsum(1)
        return np.minimum((below < noise.reshape(-1, 1)).sum(1), z.shape[1] - 1).astype(np.int32)
    if problem.likelihood == "bernoulli":
        return (noise.reshape(z.shape) < scipy.special.expit(z)).astype(float)
    return z - noise.reshape(z.shape) * np.sqrt(_variance(z))


def _variance(z):
    # Of the Gaussian whose negative logarithm is the squared error's mean over the outputs.
    return z.shape[1] / 2
