"""Which calls processes agree on: whatever they compute together, before one of them alone refuses an argument."""

import inspect

import numpy as np
import pytest

import specop
import specop.analysis
from specop.arrays.backend import backend_of
from specop.arrays.processes import Processes
from specop.arrays.same_call import check_same_call, number_of_call
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


@pytest.mark.parametrize("multiply", [lambda A, x: A @ x, lambda A, x: x @ A], ids=["A @ x", "x @ A"])
def test_products_are_told_of_as_they_are_typed(multiply):
    with pytest.raises(InvalidInputError, match="different calls, a product with @ and another"):
        multiply(Shared(np.ones(9)), np.ones(9))


@pytest.mark.parametrize("name", ["solve", "inverse_fisher"])
def test_objectives_agree_on_what_they_solve_before_arguments_are_looked_at(name):
    others = [*inspect.signature(getattr(Objective, name)).parameters][1:]
    with pytest.raises(InvalidInputError, match=f"different calls, {name} and another"):
        getattr(Objective(), name)(**dict.fromkeys(others, "none of what there is"))


class HeardError(Exception):
    """What a process tells the others of its call, and what any later message has with it."""


class Telling(Processes):
    count = 2

    def exchange(self, value):
        raise HeardError(value, number_of_call())


def heard(call, argument):
    with pytest.raises(HeardError) as raised:
        call(type("Shared", (specop.DiagonalOperator,), {"processes": Telling()})(np.ones(9)), argument)
    return raised.value.args


@pytest.mark.parametrize(
    ("call", "one", "other", "differs"),
    [
        pytest.param(lambda A, k: specop.eigsh(A, k), 2, 3, (True, True), id="number"),
        pytest.param(lambda A, x: specop.logdet(A, rtol=x), 0.1, 0.2, (True, True), id="keyword"),
        pytest.param(lambda A, x: specop.solve_shifted(A, x, x), [1.0, 2.0], [1.0, 3.0], (True, False), id="list"),
        pytest.param(lambda A, x: specop.eigsh(A, v0=x), np.zeros(9), np.ones(9), (False, False), id="array"),
        pytest.param(lambda A, x: specop.trace(A, rtol=x), [1, object()], [1, object()], (False, False), id="objects"),
        pytest.param(lambda A, x: specop.eigsh(A, checkpoint=x), "here", "there", (False, False), id="path"),
        pytest.param(lambda A, x: specop.eigsh(A, progress=x), False, True, (False, False), id="bar"),
    ],
)
def test_calls_differ_by_what_reads_the_same_in_all_processes_and_lists_where_a_call_begins(call, one, other, differs):
    assert tuple(np.not_equal(heard(call, one), heard(call, other))) == differs


def test_what_an_adapter_tells_by_itself_is_no_call_of_the_user_s():
    with pytest.raises(InvalidInputError, match="different calls, an operation with vectors and another"):
        Other().agree()
