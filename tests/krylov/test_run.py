"""Run and Task: counts, limits, nesting, and what a run says of products that cannot be used."""

import contextlib
import functools
import inspect
import itertools
import re
import sys
import time
import types
import warnings

import numpy as np
import pytest

import specop
from specop.arrays.processes import ALONE, Processes
from specop.errors import (
    AsymmetryError,
    ConvergenceWarning,
    InvalidInputError,
    NoiseWarning,
    NondeterministicError,
    NonFiniteError,
    NotConvergedError,
    NotEnoughMemoryError,
)
from specop.krylov.progress import progress_bar
from specop.krylov.run import Run
from specop.krylov.task import Task
from specop.results import FunctionResult

A = specop.DiagonalOperator(np.array([1.0, 2.0, 3.0]))


def finish(run, converged=True, message="done", **options):
    return run.result(FunctionResult, x=np.zeros(3), error=0.0, converged=converged, message=message, **options)


def test_a_run_counts_what_it_multiplies_and_knows_what_is_left():
    with Run(A, "test", limit=3) as run:
        run.multiply(np.ones(3))
        run.multiply_transposed(np.ones(3))
        assert (run.products, run.left) == (2, 1)


def test_a_run_of_the_same_operator_spends_the_outer_limit():
    with Run(A, "outer", limit=5) as outer:
        outer.multiply(np.ones(3))
        with Run(A, "inner", limit=100) as inner:
            inner.multiply(np.ones(3))
            assert (inner.products, inner.left, outer.products) == (1, 3, 2)
        with Run(2 * A, "another") as other:
            other.multiply(np.ones(3))
        assert outer.products == 2


def test_a_task_counts_all_runs_inside():
    with Task("outer", A.backend, ALONE) as task:
        for operator in (A, 2 * A):
            with Run(operator, "inner") as run:
                run.multiply(np.ones(3))
    assert task.products == 2


def test_a_run_inside_moves_the_bar_around_it(monkeypatch):
    seen, shown = [], []

    @contextlib.contextmanager
    def bar(show, name, total):
        shown.append((show, name))
        yield lambda products, note: seen.append((show, name, products, note))

    monkeypatch.setattr("specop.krylov.task.progress_bar", bar)
    with Run(A, "outer", progress=True) as outer:
        outer.multiply(np.ones(3))
        with Run(A, "inner", progress=True) as inner:
            inner.multiply(np.ones(3))
            inner.update("half")
    assert seen == [(True, "outer", 2, "half")]
    assert shown == [(True, "outer"), (False, "inner")]
    with Run(A, "quiet") as run:
        run.update()
    assert seen[1:] == [(False, "quiet", 0, "")]


def test_a_search_says_of_no_pair_that_it_has_converged_before_it_has_it(monkeypatch):
    seen = []

    @contextlib.contextmanager
    def bar(show, name, total):
        yield lambda products, note: seen.append((products, note))

    monkeypatch.setattr("specop.krylov.task.progress_bar", bar)
    specop.eigsh(np.diag(np.arange(1.0, 61.0)), k=5, progress=True)
    early = {note for products, note in seen if 0 < products < 5}
    assert early == {"0 of 5 converged"} and "checking for missed copies" in {note for _, note in seen}


LIMITED = {
    "eigsh": lambda limit: specop.eigsh(A, 1, max_matvecs=limit),
    "power_iteration": lambda limit: specop.power_iteration(A, max_matvecs=limit),
    "trace": lambda limit: specop.trace(A, max_matvecs=limit),
    "solve": lambda limit: specop.solve(A, np.ones(A.shape[0]), max_matvecs=limit),
    "solve_shifted": lambda limit: specop.solve_shifted(A, np.ones(A.shape[0]), [1.0], max_matvecs=limit),
}


@pytest.mark.parametrize("name", LIMITED)
@pytest.mark.parametrize("limit", [0, -3, 20.0, np.inf, True, "20"])
def test_a_limit_is_a_positive_integer(name, limit):
    with pytest.raises(InvalidInputError, match=f"max_matvecs must be an integer of at least .*, got {limit!r}"):
        LIMITED[name](limit)


def test_an_exception_ends_a_run():
    with pytest.raises(ValueError, match="inside"), Run(A, "outer", limit=2):
        raise ValueError("inside")
    with Run(A, "next") as run:
        assert run.left > 2


def test_the_session_of_an_operator_is_open_while_a_run_is():
    class Watched(specop.DiagonalOperator):
        is_open = False

        @contextlib.contextmanager
        def session(self):
            self.is_open = True
            try:
                yield
            finally:
                self.is_open = False

    operator = Watched(np.ones(3))
    # Both are held, so that nothing but their end closes a session.
    first, second = Run(operator, "test"), Run(operator, "test")
    with first:
        assert operator.is_open
    assert not operator.is_open
    with pytest.raises(ValueError, match="inside"), second:
        raise ValueError("inside")
    assert not operator.is_open


def test_of_the_processes_of_an_operator_one_shows_the_bar_if_it_is_asked_to(monkeypatch):
    shown = []
    bar = contextlib.nullcontext(lambda *_: None)
    monkeypatch.setattr("specop.krylov.task.progress_bar", lambda show, *_: shown.append(show) or bar)
    for index in (0, 1):
        shared = type("Shared", (specop.DiagonalOperator,), {"processes": types.SimpleNamespace(index=index, count=1)})
        with Run(shared(np.ones(3)), "test", progress=True) as run:
            assert run.processes.index == index
    with Task("test", A.backend, ALONE):
        pass
    assert shown == [True, False, False]


def test_processes_compare_the_call_of_the_user_and_not_who_shows_a_bar():
    told = []

    def exchange(value):
        told.append(value)
        # Process 1 calls something else.
        return [value, ("trace", {"seed": "1"}) if isinstance(value, tuple) else value + 1]

    processes = types.SimpleNamespace(index=0, count=2, exchange=exchange)
    shared = type("Shared", (specop.DiagonalOperator,), {"processes": processes})
    for progress in (False, True):
        with pytest.raises(InvalidInputError, match=r"of 2 make different calls, eigsh and trace\."):
            specop.eigsh(shared(np.arange(9.0)), k=2, seed=0, progress=progress)
    with pytest.raises(InvalidInputError, match=r"trace\(.*seed=0.*\) and trace\(.*seed=1.*\)\."):
        specop.trace(shared(np.arange(9.0)), seed=0)
    first, call, again, *_ = told
    assert first == again and call[1]["k"] == "2"
    # All that was given but who shows a bar, and nothing that the function has made since.
    parameters = inspect.signature(specop.eigsh).parameters.items()
    assert call[1].keys() - {"k"} == {name for name, one in parameters if one.default is not None} - {"progress"}


class Pair(Processes):
    """Process 1 of two, of which process 0 is heard as it was recorded."""

    index, count = 1, 2

    def __init__(self):
        self.told, self.heard = [], []

    def exchange(self, value):
        self.told.append(value)
        return [self.heard[len(self.told) - 1], value] if len(self.told) <= len(self.heard) else [value, value]

    def operator(self):
        return type("Shared", (specop.DiagonalOperator,), {"processes": self})(np.arange(1.0, 10.0))


@pytest.mark.parametrize(
    ("call", "arguments", "others", "words"),
    [
        (
            lambda A, shifts: specop.solve_shifted(A, np.ones(9), shifts),
            [0.1, 0.2],
            [0.1, 0.3],
            r"solve_shifted(shifts=[0.1, 0.2]) and solve_shifted(shifts=[0.1, 0.3])",
        ),
        (lambda A, seed: specop.trace(A, seed=seed), 0, 1, "trace(seed=0) and trace(seed=1)"),
    ],
)
def test_processes_agree_on_all_that_a_call_was_given_before_they_go_on(call, arguments, others, words):
    processes = Pair()
    call(processes.operator(), arguments)
    processes.heard, processes.told = processes.told[:1], []
    call(processes.operator(), arguments)
    # Of two calls that differ each process tells all that it was given.
    processes.heard, processes.told = [0], []
    with pytest.raises(InvalidInputError):
        call(processes.operator(), arguments)
    processes.heard, processes.told = [*processes.heard, processes.told[1]], []
    with pytest.raises(InvalidInputError, match=re.escape(f"processes 0 and 1 of 2 make different calls, {words}.")):
        call(processes.operator(), others)


def test_processes_agree_once_on_a_call_whatever_runs_inside():
    """What each process makes by itself agrees on nothing; what all of them make inside of that does."""
    agreed = []
    for outer, inner in itertools.product((False, True), repeat=2):
        processes = Pair()
        ours, own = processes.operator(), specop.DiagonalOperator(np.ones(9))
        with Run(ours if outer else own, "outer"), Run(ours if inner else own, "inner"):
            agreed.append(len(processes.told))
    assert agreed == [0, 1, 1, 1]


@pytest.mark.parametrize(("facts", "shape"), [({"square": True}, (2, 3)), ({"symmetric": True}, (2, 3))])
def test_a_rectangular_operator_is_refused(facts, shape):
    (kind,) = facts
    with pytest.raises(InvalidInputError, match=rf"trace needs a {kind} operator, got .*2 x 3.*\. Do that"):
        Run(np.zeros(shape), "trace", instead="Do that.", **facts)


def test_who_asks_for_nothing_is_refused_nothing():
    Run(np.zeros((2, 3)), "test")
    Run(specop.DenseOperator(np.tri(3), is_symmetric=False), "test", square=True, limit=1)
    with pytest.raises(InvalidInputError, match="needs a symmetric operator"):
        Run(specop.DenseOperator(np.tri(3), is_symmetric=False), "test", symmetric=True)
    assert Run(A, "test", symmetric=True).seed == 0


def test_the_product_that_is_not_finite_is_named():
    with Run(A, "test") as run:
        images = [run.multiply(np.array([1.0, value, 1.0])) for value in (1.0, np.nan, 1.0)]
        with pytest.raises(NonFiniteError, match="product 2 with"):
            run.scalars([run.backend.norm(image) for image in images])
        with pytest.raises(NonFiniteError, match="product 3 with"):
            run.to_host(run.backend.norm(images[1]))


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize(("dtype", "largest"), [(np.float64, 1e70), (np.float32, 1e30)])
def test_sizes_whose_powers_leave_the_range_are_refused(dtype, largest, squared):
    run = Run(specop.DiagonalOperator(np.ones(3, dtype)), "test")
    limit, options = (largest**0.5, {"squared": True}) if squared else (largest, {})
    for size in (0.0, 1.01 / limit, 0.99 * limit):
        run.check_size(size, **options)
    for size in (1.01 * limit, 0.99 / limit):
        with pytest.raises(InvalidInputError, match=f"leave the range of {np.dtype(dtype)}") as raised:
            run.check_size(size, **options)
        # What it says to multiply by makes them about one.
        assert 0.5 < size * float(re.search(r"Pass (\S+) \*", str(raised.value))[1]) < 2
    for size in (5e-324, np.inf):
        with pytest.raises(InvalidInputError, match=r"Pass \d.*e[+-]30\d \*"):
            run.check_size(size)


def test_numbers_are_finite_if_each_is():
    run = Run(A, "test")
    large = np.array([1e308, 1e308])
    assert [part.tolist() for part in run.to_host(large, np.ones(()))] == [large.tolist(), 1.0]
    for parts in ((np.ones(2), np.array([1.0, np.nan])), (np.array(np.inf), np.ones(2)), (large, np.array(-np.inf))):
        with pytest.raises(NonFiniteError, match="product 0 with"):
            run.to_host(*parts)


class Imprecise(specop.DiagonalOperator):
    """As of a product in bfloat16."""

    precision = 1e-3


@pytest.mark.parametrize(
    ("operator", "clean", "refused"),
    [
        (A, 1e-12, 1e-3),
        (specop.DiagonalOperator(np.ones(3, np.float32)), 1e-5, 1e-3),
        (Imprecise(np.ones(3, np.float32)), 1e-2, 5e-2),
    ],
)
def test_asymmetries_that_are_clean_noise_or_an_error(operator, clean, refused):
    run = Run(operator, "test")
    run.note_asymmetry(clean)
    run.note_asymmetry(0.5 * clean)
    assert run.asymmetry == clean and not run.warn_of_noise()
    run.note_asymmetry(1.01 * clean)
    with pytest.warns(NoiseWarning, match="where clean ones stay below"):
        assert run.warn_of_noise()
    run.note_asymmetry(refused)
    with pytest.raises(AsymmetryError):
        run.note_asymmetry(1.01 * refused)


@pytest.mark.parametrize(("apart", "error"), [(4e-6, AsymmetryError), (6e-6, NondeterministicError)])
def test_products_that_differ_by_less_than_their_asymmetry_are_not_random(apart, error):
    factors = iter([100.0, 100.0 * (1 + apart)])
    changing = specop.FunctionOperator(lambda x: next(factors) * x, (3, 3), like=np.zeros(3))
    with Run(changing, "test") as run, pytest.raises(error):
        run.note_asymmetry(5e-3, np.ones(3))


def test_parts_of_products_count_as_one_once_they_have_begun_it():
    run = Run(A, "test", limit=3)
    run.samples = 10
    for samples, products, left in ((4, 1, 26), (6, 1, 20), (1, 2, 19), (15, 3, 4)):
        run.count_samples(samples)
        assert (run.products, run.samples_left) == (products, left)


def test_what_fits_is_what_fits_in_the_fullest_process(monkeypatch):
    run = Run(A, "test")
    monkeypatch.setattr(run.backend, "free_memory", lambda layout: 1000)
    for other in (10**6, 500):
        told = iter([(other, 7), other, other])
        monkeypatch.setattr(
            run, "processes", types.SimpleNamespace(exchange=lambda mine, told=told: [mine, next(told)])
        )
        room = run.room()
        assert (room.free, room.reserved) == (min(other, 1000), max(7, A.working_bytes))
        monkeypatch.setattr("specop.krylov.run._LARGE", 240)
        # Rows of 24 bytes; less than 240 is not worth asking.
        assert run.pay(5, 9) == 9 and run.pay(5, 20) == 20
        with pytest.raises(NotEnoughMemoryError, match="holds 5 vectors and needs room for another 42"):
            run.pay(5, 42)


def test_asymmetry_is_told_from_noise():
    with Run(A, "eigsh", symmetric=True) as run, pytest.raises(AsymmetryError, match=r"5\.0e-03.*does not apply"):
        run.note_asymmetry(5e-3, np.ones(3))
    with Run(A, "trace", square=True) as run, pytest.raises(AsymmetryError, match="pass it with is_symmetric=False"):
        run.note_asymmetry(5e-3)
    rng = np.random.default_rng(0)
    noisy = specop.FunctionOperator(lambda x: x + rng.standard_normal(3), (3, 3), like=np.zeros(3))
    with Run(noisy, "eigsh") as run, pytest.raises(NondeterministicError, match="differ by"):
        run.note_asymmetry(5e-3, np.ones(3))


@pytest.mark.parametrize(
    "begin", [lambda **options: Run(A, "public", **options), functools.partial(Task, "public", A.backend, ALONE)]
)
def test_a_failure_warns_the_caller_of_the_public_function_or_raises(begin):
    def public(**options):
        with begin(**options) as run:
            pass
        return finish(run, converged=False, message="too few products")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = public()
    assert not result.converged
    line = finish.__code__.co_firstlineno + 1
    assert [(w.category, w.filename, w.lineno) for w in caught] == [(ConvergenceWarning, __file__, line)]
    with pytest.raises(NotConvergedError, match="too few products") as error:
        public(raise_on_failure=True)
    assert error.value.result.message == "too few products"
    # Ended where the caller wanted it to.
    assert not finish(Run(A, "public", raise_on_failure=True), converged=False, stopped=True).converged


def test_a_result_says_how_long_the_call_took():
    before = time.perf_counter()
    seconds = finish(Run(A, "test")).seconds
    assert 0 < seconds <= time.perf_counter() - before


def test_a_state_goes_on_in_another_run():
    with Run(A, "one") as run:
        run.multiply(np.ones(3))
        run.note_asymmetry(1e-5)
    with Run(A, "two", limit=4) as again:
        again.restore(run.state())
        assert (again.products, again.left, again.asymmetry) == (1, 3, 1e-5)


def test_a_bar_is_shown_in_a_notebook_and_nowhere_else_without_a_terminal(monkeypatch, capsys):
    pytest.importorskip("tqdm")
    with progress_bar(True, "in a file", 10) as update:
        update(5, "")
    assert capsys.readouterr().err == ""
    # What IPython has in a kernel of Jupyter.
    shell = types.SimpleNamespace(kernel=None)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with progress_bar(True, "in a cell", 10) as update:
        update(5, "residual 1e-3")
    assert "in a cell" in capsys.readouterr().err
