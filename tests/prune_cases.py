"""Linear regression at its minimum, whose least squares solutions say what pruning is to find."""

import numpy as np
import pytest

import specop
from cases import CASES
from parity.cases import FRAMEWORKS

FEATURES, OUTPUTS, SAMPLES = 5, 2, 30
WEIGHTS = FEATURES * OUTPUTS
X, Y = (np.random.default_rng(0).standard_normal((SAMPLES, k)) for k in (FEATURES, OUTPUTS))
DERIVATIVES = [case for case in CASES if case.framework in FRAMEWORKS and case.dtype == np.float64]
# Squared errors of a linear model are quadratic, so that every expectation is exact.
EXACT = {"matrix": "hessian", "damping": 0.0}


def linear(case, weights=None):
    """Linear regression at its minimum, as an objective."""
    found = refit(np.ones(WEIGHTS, dtype=bool)) if weights is None else np.asarray(weights)
    params = [case.array(found[:WEIGHTS].reshape(FEATURES, OUTPUTS)), case.array(found[WEIGHTS:])]
    return specop.objective(
        lambda params, batch: batch[0] @ params[0] + params[1],
        lambda z, y: case.mean((z - y) ** 2),
        (case.array(X), case.array(Y)),
        params=params,
    )


def refit(mask):
    """The least squares solution with only these weights, and both biases unless the mask has them too."""
    found = np.zeros((FEATURES + 1, OUTPUTS))
    whole = np.append(mask, np.ones(WEIGHTS + OUTPUTS - len(mask), dtype=bool))
    for output, kept in enumerate(whole.reshape(FEATURES + 1, OUTPUTS).T):
        columns = np.flatnonzero(kept)
        design = np.column_stack([X, np.ones(SAMPLES)])[:, columns]
        found[columns, output] = np.linalg.lstsq(design, Y[:, output])[0]
    return found.reshape(-1)


def loss(vector):
    weights = vector.reshape(FEATURES + 1, OUTPUTS)
    return np.mean((X @ weights[:-1] + weights[-1] - Y) ** 2)


FULL = refit(np.ones(WEIGHTS, dtype=bool))
TORCH = pytest.mark.skipif("torch" not in FRAMEWORKS, reason="any one framework will do")


def one():
    return linear(DERIVATIVES[0])


# --- Guards ----------------------------------------------------------------------------------------------------------


def parameters_only(loss_of, *arrays):
    """An objective of parameters without data to speak of."""
    case = DERIVATIVES[0]
    return specop.objective(
        lambda params, _: loss_of(case, *params), params=[case.array(x) for x in arrays], data=case.array([[0.0]])
    )
