"""What changes behind an objective's back, data or random states, is noticed in every framework."""

import random

import numpy as np
import pytest

from parity.cases import FRAMEWORKS, models
from parity.problems import PROBLEMS
from specop.errors import NondeterministicError

each_framework = pytest.mark.parametrize("framework", FRAMEWORKS)


def write_into_arrays(batches):
    batches[1][0][0] += 1


def write_into_a_view(batches):
    batches[1][0].reshape(-1)[-1:] += 1


def replace_an_array(batches):
    batches[1][0] = batches[1][0] + 1


@pytest.mark.adapter
@pytest.mark.parametrize("write", [write_into_arrays, write_into_a_view, replace_an_array], ids=lambda f: f.__name__)
@each_framework
def test_data_that_are_written_into(framework, write):
    """Products that are kept belong to the old data, gradients to the new."""
    batches = [[x.copy(), y.astype(np.int64)] for x, y in PROBLEMS["mlp"].batches]
    found = models(framework).objective(PROBLEMS["mlp"], "float64", data=batches)
    H, vector = found.hessian(), found.theta
    H @ vector
    write(batches)
    for call in (found.gradient, lambda: H @ vector):
        with pytest.raises(NondeterministicError, match="batch 1 was written into after it was read"):
            call()


@pytest.mark.parametrize(("name", "draw"), [("random", random.random), ("numpy.random", np.random.rand)])
@each_framework
def test_draws_from_global_generators_are_refused(framework, name, draw):
    """Stochastic depth and the like: a traced or recorded pass holds one draw, and the next one another."""
    found = models(framework).objective(PROBLEMS["mlp"], "float64", scaled=draw)
    for call in (found.loss, found.gradient, lambda: found.hessian() @ found.theta, lambda: found.ggn() @ found.theta):
        with pytest.raises(NondeterministicError, match=rf"draws from the global generator of Python's module {name},"):
            call()
