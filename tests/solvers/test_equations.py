"""Equations: where solutions stand, which products that takes, and what two of them say of symmetry."""

import contextlib

import numpy as np
import pytest

import specop
from specop.krylov.run import Run
from specop.solvers.equations import Equations
from specop.solvers.operands import checked_operands

A = np.array([[2.0, 1.0, 0.0], [1.0, 3.0, 0.5], [0.0, 0.5, 4.0]])
B = np.array([[1.0, 0.0, -2.0], [2.0, 0.0, 1.0], [0.5, 0.0, 3.0]])


@pytest.fixture
def system():
    with Run(A, "test") as run:
        yield Equations(run, checked_operands(run.A, B), np.array([1e-3, 1e-3, 2e-3]))


def test_a_residual_takes_a_product_where_the_solution_is_not_zero(system):
    assert system.norms.tolist() == [np.inf, 0.0, np.inf] and not system.has_start
    np.testing.assert_array_equal(system.residuals(range(0, 2)), B[:, :2].T)
    assert system.run.products == 0
    x = np.array([1.0, -1.0, 2.0])
    system.move(2, -0.5, x)
    np.testing.assert_allclose(system.residuals(range(3)), [B[:, 0], B[:, 1], B[:, 2] + 0.5 * A @ x])
    assert system.run.products == 1
    lengths = [np.linalg.norm(B[:, 0]), 0.0, np.linalg.norm(B[:, 2] + 0.5 * A @ x)]
    np.testing.assert_allclose(system.norms, lengths)
    np.testing.assert_array_equal(system.forget(2), B[:, 2])
    assert system.run.products == 1 and not system.x[2].any() and system.norms[2] == np.linalg.norm(B[:, 2])


@pytest.mark.parametrize(("factor", "is_kept"), [(0.9, True), (2.5, False)])
def test_a_start_that_is_worse_than_none_is_forgotten(factor, is_kept):
    x = factor * np.linalg.solve(A, B[:, 0])
    with Run(A, "test") as run:
        system = Equations(run, checked_operands(run.A, B[:, 0]), np.array([1e-3]), [x.copy()])
        residual = system.begin(0)
    assert system.has_start and run.products == 1
    np.testing.assert_allclose(system.x[0], x if is_kept else np.zeros(3))
    np.testing.assert_allclose(residual, (1 - factor if is_kept else 1.0) * B[:, 0])


def test_what_a_preconditioner_returns_may_be_overwritten(system):
    residual = B[:, 0].copy()
    copied = system.precondition(residual)
    copied[:] = 0
    np.testing.assert_array_equal(residual, B[:, 0])
    with Run(np.diag([2.0, 3.0, 4.0]), "the preconditioner") as run:
        other = Equations(system.run, checked_operands(system.run.A, B), np.ones(3), preconditioner=run)
        np.testing.assert_array_equal(other.precondition(residual), [2.0, 6.0, 2.0])


@pytest.mark.parametrize(
    ("norms", "goals", "note"),
    [
        ([2e-3, 5e-2], [1e-4, 1e-2], "residual 2.0e-03, goal 1.0e-04"),
        # A goal of zero has no ratio: the longest residual counts.
        ([2e-3, 5e-2], [0.0, 1e-2], "residual 5.0e-02, goal 1.0e-02"),
    ],
)
def test_the_bar_shows_the_residual_that_is_farthest_from_its_goal(monkeypatch, norms, goals, note):
    seen = []

    @contextlib.contextmanager
    def bar(*_):
        yield lambda products, text: seen.append(text)

    monkeypatch.setattr("specop.krylov.task.progress_bar", bar)
    with Run(A, "test") as run:
        Equations(run, checked_operands(run.A, B), np.ones(3)).report(np.array(norms), np.array(goals))
    assert seen == [note]


@pytest.mark.parametrize(("skew", "is_noted"), [(0.5, True), (1e-3, False)])
def test_two_products_that_are_there_anyway_tell_an_asymmetry(skew, is_noted):
    matrix, noted = A + skew * np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 0]]), []
    x, p = np.array([1.0, 0.0, 30.0]), np.array([0.2, 1.0, 0.0])
    with Run(specop.DenseOperator(matrix), "test") as run:
        run.note_asymmetry = lambda relative, vector: noted.append((relative, vector))
        system = Equations(run, checked_operands(run.A, B[:, 0]), np.ones(1), [x.copy()])
        for direction, solution in ((p, x), (x, p)):
            system.x[0] = solution.copy()
            system.check_symmetry(0, B[:, 0] - matrix @ solution, direction, matrix @ direction)
    along, image = matrix @ x, matrix @ p
    lengths = np.linalg.norm(p) * np.linalg.norm(along), np.linalg.norm(x) * np.linalg.norm(image)
    relative = abs(p @ along - x @ image) / max(lengths)
    assert [found for found, _ in noted] == pytest.approx([relative, relative] if is_noted else [])
    assert all(vector is each for (_, vector), each in zip(noted, (p, x), strict=False))
