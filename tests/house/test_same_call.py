"""Which calls processes agree on: whatever they compute together, before one of them alone refuses an argument."""

import inspect

import numpy as np
import pytest

import specop
import specop.analysis
from specop.arrays.backend import backend_of
from specop.arrays.processes import Processes
from specop.arrays.same_call import check_same_call
from specop.errors import InvalidInputError

# What makes an operator or reads a file, and multiplies by nothing.
MAKERS = [
    "aslinearoperator",
    "eigen_preconditioner",
    "identity_like",
    "load",
    "low_rank_update",
    "objective",
    "on_host",
    "plan",
    "restrict",
]
COMPUTED = [
    pytest.param(getattr(room, name), id=name)
    for room in (specop, specop.analysis, specop.landscape)
    for name in room.__all__
    if inspect.isfunction(getattr(room, name)) and name not in MAKERS
]


class Other(Processes):
    """Process 0 of two, of which process 1 has made another call."""

    count = 2

    def exchange(self, value):
        check_same_call([0, 1], lambda call: [call, ("another", {})])


class Shared(specop.DiagonalOperator):
    processes = Other()


class Objective(specop.Objective):
    """What is looked at before processes agree."""

    processes, backend, samples = Other(), backend_of(np.ones(1)), 9

    def __init__(self):
        """Has neither a model nor data."""

    def hessian(self, theta):
        return Shared(np.ones(9))


@pytest.mark.parametrize("function", COMPUTED)
def test_a_call_is_agreed_on_before_its_arguments_are_looked_at(function):
    first, *others = inspect.signature(function).parameters
    given = Objective() if first in ("objective", "a") else Shared(np.ones(9))
    with pytest.raises(InvalidInputError, match=f"different calls, {function.__name__}.* and another"):
        function(given, **dict.fromkeys(others, "none of what there is"))


def test_objectives_agree_on_a_solve_before_its_arguments_are_looked_at():
    with pytest.raises(InvalidInputError, match="different calls, solve and another"):
        Objective().solve(None, damping="none of what there is")
