"""A linear model and its mean squared error, as a function, in every framework."""

import numpy as np
import pytest

from cases import Case
from parity.cases import FRAMEWORKS

each_framework = pytest.mark.parametrize("framework", FRAMEWORKS)

X, Y = np.random.default_rng(0).standard_normal((8, 3)), np.random.default_rng(1).standard_normal((8, 1))
# Of the mean squared error of X @ w, twice the mean of x x'.
HESSIAN = 2 * X.T @ X / 8


def case(framework):
    return Case(framework, np.dtype("float64"))


def squares(framework):
    """The mean squared error of a linear model, as a function of its parameters and a batch."""
    mean = case(framework).mean
    return lambda params, batch: mean((batch[0] @ params["w"] - batch[1]) ** 2)


def given(framework, **others):
    return {"w": case(framework).array(np.zeros((3, 1))), **others}


def batch(framework):
    return case(framework).array(X), case(framework).array(Y)


def dense(objective):
    hessian = objective.hessian()
    return hessian.backend.to_numpy(hessian.to_dense())


def mean_squares(outputs, y):
    return ((outputs - y) ** 2).mean()
