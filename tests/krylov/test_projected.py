"""The small matrix of a Krylov space: what it says of itself is so, and one pair costs no more than one."""

import numpy as np
import pytest

import specop
import spectra
from specop.krylov.projected import ProjectedMatrix
from specop.krylov.run import Run
from specop.krylov.space import KrylovSpace
from specop.spectral.search import Search

MATRIX = spectra.with_spectrum(np.linspace(-1, 2, 120) ** 3)
CALLS = {
    "chain": {"k": 4},
    "restarts": {"k": 4, "ncv": 20},
    "block": {"k": 4, "block_size": 3},
    "ends": {"k": 5, "which": "BE", "ncv": 24},
    "smallest": {"k": 3, "which": "SA", "ncv": 20, "tol": 1e-8},
}


def space_of(values, steps):
    run = Run(specop.DiagonalOperator(values), "test")
    space = KrylovSpace(run, len(values))
    space.start()
    for _ in range(steps):
        space.expand()
    return space


@pytest.mark.parametrize("name", CALLS)
def test_what_is_called_tridiagonal_is(name, monkeypatch):
    seen, ritz = [], ProjectedMatrix.ritz

    def watched(self, first=0):
        block = self.entries[self.chain : self.size, self.chain : self.size]
        assert not np.triu(block, 2).any()
        assert self.multiplied[self.chain : max(self.size - 1, 0)].all()
        seen.append(self.chain == 0)
        return ritz(self, first)

    monkeypatch.setattr(ProjectedMatrix, "ritz", watched)
    specop.eigsh(MATRIX, **CALLS[name])
    assert any(seen) or name == "block"


@pytest.mark.parametrize(("side", "rank"), [(1, 1), (1, 5), (-1, 1), (-1, 3)])
def test_one_pair_is_that_of_the_whole_decomposition(side, rank):
    space = space_of(np.linspace(-1, 2, 120) ** 3, 30)
    ritz, recurrence = space.ritz(), space.recurrence()
    i = len(ritz.values) - rank if side > 0 else rank - 1
    value, residual = recurrence.pair(side, rank)
    assert value == pytest.approx(ritz.values[i], rel=1e-12, abs=1e-13)
    assert residual == pytest.approx(ritz.residuals[i], rel=1e-6, abs=1e-13)
    beyond = side * (ritz.values - ritz.values[i]) > 1e-9
    assert recurrence.count(side, ritz.values[i] + side * 1e-10) == beyond.sum() == rank - 1


def test_where_there_is_no_chain_there_is_no_recurrence():
    space = space_of(np.arange(40.0), 10)
    assert space.recurrence().pair(1, 11) is None
    space.start()
    assert space.recurrence() is None


@pytest.mark.parametrize("name", CALLS)
def test_looking_at_one_pair_takes_no_more_products(name, monkeypatch):
    one = specop.eigsh(MATRIX, **CALLS[name])
    monkeypatch.setattr(Search, "_still_lags", lambda self: False)
    every = specop.eigsh(MATRIX, **CALLS[name])
    assert one.matvecs == every.matvecs
    np.testing.assert_array_equal(one.eigenvalues, every.eigenvalues)


def test_few_decompositions_tell_when_all_have_converged(monkeypatch):
    count, ritz = [], ProjectedMatrix.ritz
    monkeypatch.setattr(ProjectedMatrix, "ritz", lambda self, first=0: count.append(1) or ritz(self, first))
    values = np.concatenate([np.linspace(5, 6, 40), np.random.default_rng(0).uniform(0, 4.5, 3960)])
    found = specop.eigsh(specop.DiagonalOperator(values), k=20, which="LA", tol=1e-6, check_multiplicity=False)
    assert found.converged and len(count) < 0.5 * found.matvecs


def test_rounding_carries_copies_into_a_space_as_their_eigenvalue_converges():
    values = np.concatenate([[100.0, 100.0, 75.0, 56.0], np.linspace(0, 1, 396)])
    early, late = space_of(values, 8), space_of(values, 14)
    top = early.ritz().values[-1:]
    noise = 100 * np.finfo(float).eps
    assert np.abs(early.recurrence().drift(np.array([100.0]), noise)).max() < 1e-3
    # It has come in: a second Ritz value says so.
    assert np.abs(late.recurrence().drift(np.array([100.0]), noise)).max() > 1
    assert top[0] == pytest.approx(100, abs=1e-6)


def test_what_is_removed_is_lost_and_no_more_than_that():
    space = space_of(np.concatenate([[9.0, 8.0], np.linspace(0, 1, 98)]), 20)
    ritz = space.ritz()
    keep = np.array([18, 19])
    directions = np.zeros((20, 2))
    directions[[18, 19], [0, 1]] = 1.0
    space.remove(ritz, keep, directions)
    assert (space.size, space.steps, space.is_closed) == (18, 18, True)
    after = space.ritz()
    np.testing.assert_allclose(after.values[-2:], ritz.values[-2:], rtol=1e-10)
    A = np.diag(np.concatenate([[9.0, 8.0], np.linspace(0, 1, 98)]))
    for i in range(18):
        x = space.combine(after.coefficients[:, i])
        assert np.linalg.norm(A @ x - after.values[i] * x) <= after.residuals[i] + 1e-12
    # Nothing to remove but what the chosen vectors have: the frontier alone goes.
    other = space_of(np.concatenate([[9.0, 8.0], np.linspace(0, 1, 98)]), 20)
    other.remove(other.ritz(), keep, np.zeros((20, 1)))
    assert other.size == 20 and np.isfinite(other.ritz().residuals).all()


def is_of_the_rows(space, A):
    V = np.array([space.row(i) for i in range(space.size)])
    known = np.setdiff1d(range(space.size), space.frontier)
    whole, found = V @ A @ V.T, space.projected()
    np.testing.assert_allclose(found[:, known], whole[:, known], atol=1e-12)
    np.testing.assert_allclose(found[known], whole[known], atol=1e-12)
    assert not found[np.ix_(space.frontier, space.frontier)].any()


@pytest.mark.parametrize("starts", [1, 2])
def test_the_matrix_is_that_of_the_rows_whatever_was_done_with_them(starts):
    A = MATRIX
    with Run(A, "test", symmetric=True) as run:
        space = KrylovSpace(run, 24)
        for _ in range(starts):
            space.start()
        for keep in (5, 6):
            while space.has_room_for(1):
                space.expand(int(space.frontier[0]))
            is_of_the_rows(space, A)
            ritz = space.ritz()
            space.restart(ritz, np.arange(len(ritz.values))[-keep:])
            is_of_the_rows(space, A)
        # A run of its own behind these rows, which stay.
        space.start()
        first = space.size - 1
        for _ in range(6):
            space.expand()
        assert space.recurrence(first) is not None and space.recurrence(first - 1) is None
        ritz = space.ritz(first)
        space.restart(ritz, np.array([0, 5]))
        is_of_the_rows(space, A)
        space.neglect()
        ritz = space.ritz()
        space.restart(ritz, np.array([0, 1, 4]), forget_frontier=True)
        is_of_the_rows(space, A)
        space.remove(space.ritz(), np.array([0]), np.eye(3)[:, 2:])
        is_of_the_rows(space, A)
        assert space.size == 2


def test_a_recurrence_begins_where_the_matrix_is_tridiagonal():
    G = ProjectedMatrix(5)
    G.append()
    G.record(0, np.array([1.0]))
    G.join(0, 0.5)
    G.append()
    G.record(1, np.array([0.5, 2.0, 0.7]))
    G.record(2, np.array([0.3, 0.7, 3.0]))
    G.join(2, 0.4)
    # Row 2 was not made of the products before it, and row 3 is of no length yet.
    assert G.recurrence(0) is G.recurrence(1) is G.recurrence(3) is None
    found = G.recurrence(2)
    assert (found.diagonal, len(found.beside), found.coupling) == (3.0, 0, 0.4)
    G.lost[2] = 1e-3
    assert G.recurrence(2) is None
