"""Run and Task: counts, limits, nesting, and what a run says of products that cannot be used."""

import contextlib
import sys
import types
import warnings

import numpy as np
import pytest

import specop
from specop.errors import (
    AsymmetryError,
    ConvergenceWarning,
    InvalidInputError,
    NondeterministicError,
    NonFiniteError,
    NotConvergedError,
)
from specop.krylov.progress import progress_bar
from specop.krylov.run import Run
from specop.krylov.task import Task
from specop.results import FunctionResult

A = specop.DiagonalOperator(np.array([1.0, 2.0, 3.0]))


def finish(run, converged=True, message="done"):
    return run.result(FunctionResult, x=np.zeros(3), error=0.0, converged=converged, message=message)


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
    with Task("outer", A.backend) as task:
        for operator in (A, 2 * A):
            with Run(operator, "inner") as run:
                run.multiply(np.ones(3))
    assert task.products == 2


def test_a_run_inside_moves_the_bar_around_it(monkeypatch):
    seen = []

    @contextlib.contextmanager
    def bar(show, name, total):
        yield lambda products, note: seen.append((show, name, products, note))

    monkeypatch.setattr("specop.krylov.task.progress_bar", bar)
    with Run(A, "outer", progress=True) as outer:
        outer.multiply(np.ones(3))
        with Run(A, "inner", progress=True) as inner:
            inner.multiply(np.ones(3))
            inner.update("half")
    assert seen == [(True, "outer", 2, "half")]


def test_a_search_says_of_no_pair_that_it_has_converged_before_it_has_it(monkeypatch):
    seen = []

    @contextlib.contextmanager
    def bar(show, name, total):
        yield lambda products, note: seen.append((products, note))

    monkeypatch.setattr("specop.krylov.task.progress_bar", bar)
    specop.eigsh(np.diag(np.arange(1.0, 61.0)), k=5, progress=True)
    early = {note for products, note in seen if 0 < products < 5}
    assert early == {"0 of 5 converged"} and "checking for missed copies" in {note for _, note in seen}


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_is_positive(limit):
    with pytest.raises(InvalidInputError, match=f"max_matvecs must be positive, got {limit}"):
        Run(A, "test", limit=limit)


def test_an_exception_ends_a_run():
    with pytest.raises(ValueError, match="inside"), Run(A, "outer", limit=2):
        raise ValueError("inside")
    with Run(A, "next") as run:
        assert run.left > 2


@pytest.mark.parametrize(("facts", "shape"), [({"square": True}, (2, 3)), ({"symmetric": True}, (2, 3))])
def test_a_rectangular_operator_is_refused(facts, shape):
    (kind,) = facts
    with pytest.raises(InvalidInputError, match=rf"trace needs a {kind} operator, got .*2 x 3.*\. Do that"):
        Run(np.zeros(shape), "trace", instead="Do that.", **facts)


def test_the_product_that_is_not_finite_is_named():
    with Run(A, "test") as run:
        images = [run.multiply(np.array([1.0, value, 1.0])) for value in (1.0, np.nan, 1.0)]
        with pytest.raises(NonFiniteError, match="product 2 with"):
            run.scalars([run.backend.norm(image) for image in images])
        with pytest.raises(NonFiniteError, match="product 3 with"):
            run.to_host(run.backend.norm(images[1]))


@pytest.mark.parametrize(("size", "refused"), [(0.0, False), (1e60, False), (1e80, True), (1e-80, True)])
def test_sizes_whose_powers_leave_the_range_are_refused(size, refused):
    run = Run(A, "test")
    if refused:
        with pytest.raises(InvalidInputError, match="leave the range of float64"):
            run.check_size(size)
    else:
        run.check_size(size)


def test_asymmetry_is_told_from_noise():
    with Run(A, "eigsh", symmetric=True) as run, pytest.raises(AsymmetryError, match=r"5\.0e-03.*does not apply"):
        run.note_asymmetry(5e-3, np.ones(3))
    with Run(A, "trace", square=True) as run, pytest.raises(AsymmetryError, match="pass it with is_symmetric=False"):
        run.note_asymmetry(5e-3)
    rng = np.random.default_rng(0)
    noisy = specop.FunctionOperator(lambda x: x + rng.standard_normal(3), (3, 3), like=np.zeros(3))
    with Run(noisy, "eigsh") as run, pytest.raises(NondeterministicError, match="differ by"):
        run.note_asymmetry(5e-3, np.ones(3))


def test_a_failure_warns_the_caller_of_the_public_function_or_raises():
    def public(**options):
        with Run(A, "public", **options) as run:
            pass
        return finish(run, converged=False, message="too few products")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = public()
    assert not result.converged
    assert [(w.category, w.filename) for w in caught] == [(ConvergenceWarning, __file__)]
    with pytest.raises(NotConvergedError, match="too few products") as error:
        public(raise_on_failure=True)
    assert error.value.result.message == "too few products"


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
