"""The recurrence of a Lanczos run: what it says of a point or of a pair is what its matrix says."""

from decimal import Decimal

import numpy as np
import pytest

import specop
import spectra
from specop.krylov.recurrence import Recurrence, eigenpairs
from specop.krylov.run import Run
from specop.krylov.space import KrylovSpace
from specop.spectral.check import Check

VALUES = np.concatenate([np.linspace(-1, 2, 110) ** 3, [9.0, 9.5]])


def lanczos(steps, v):
    """Return a recurrence by its definition, with every row made orthogonal to all others twice."""
    rows, diagonal, beside = [v / np.linalg.norm(v)], [], []
    for _ in range(steps):
        w = VALUES * rows[-1]
        diagonal.append(rows[-1] @ w)
        for _ in range(2):
            w -= np.array(rows).T @ (np.array(rows) @ w)
        beside.append(np.linalg.norm(w))
        rows.append(w / beside[-1])
    return Recurrence(np.array(diagonal), np.array(beside[:-1]), beside[-1])


def dense(found):
    return np.diag(found.diagonal) + np.diag(found.beside, 1) + np.diag(found.beside, -1)


@pytest.mark.parametrize("steps", [1, 2, 7, 25])
def test_no_eigenvector_has_more_of_the_start_vector_than_the_christoffel_number(steps):
    v = np.random.default_rng(0).normal(size=len(VALUES))
    found = lanczos(steps, v)
    weights = v**2 / (v @ v)
    numbers = np.array([found.christoffel(x) for x in VALUES])
    assert (weights <= numbers * (1 + 1e-9)).all() and numbers.max() <= 1


@pytest.mark.parametrize("steps", [1, 2, 7, 25])
@pytest.mark.parametrize("x", [-3.0, 0.3, 1.7, 9.4, 12.0])
def test_the_christoffel_number_is_that_of_the_orthonormal_polynomials(steps, x):
    found = lanczos(steps, np.random.default_rng(1).normal(size=len(VALUES)))
    after = np.append(found.beside, found.coupling)
    p = [0.0, 1.0]
    for j in range(steps):
        before = after[j - 1] if j else 0.0
        p.append(((x - found.diagonal[j]) * p[-1] - before * p[-2]) / after[j])
    assert found.christoffel(x) == pytest.approx(1 / np.sum(np.square(p)), rel=1e-6)


def test_at_a_ritz_value_itself_nothing_is_ruled_out():
    assert Recurrence(np.array([2.0, 2.0]), np.array([0.0]), 1.0).christoffel(2.0) == 1.0
    assert Recurrence(np.array([2.0]), np.array([]), 0.5).christoffel(2.0) == 1.0


@pytest.mark.parametrize("steps", [1, 2, 3, 30])
def test_pairs_and_counts_are_those_of_the_matrix(steps):
    found = lanczos(steps, np.random.default_rng(2).normal(size=len(VALUES)))
    values, vectors = eigenpairs(found.diagonal, found.beside)
    np.testing.assert_allclose(vectors.T @ dense(found) @ vectors, np.diag(values), atol=1e-13)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(steps), atol=1e-13)
    for rank in range(1, steps + 1):
        for side, i in ((1, steps - rank), (-1, rank - 1)):
            value, residual = found.pair(side, rank)
            assert value == pytest.approx(values[i], abs=1e-12)
            assert residual == pytest.approx(abs(found.coupling * vectors[-1, i]), rel=1e-5, abs=1e-13)
            assert found.count(side, value - side * 1e-9) == rank
    assert found.pair(1, steps + 1) is None


def test_a_space_gives_the_recurrence_of_its_newest_run_alone():
    with Run(specop.DiagonalOperator(VALUES), "test") as run:
        space = KrylovSpace(run, len(VALUES))
        space.start()
        for _ in range(6):
            space.expand()
        space.neglect()
        assert space.recurrence() is None  # what was given up leads elsewhere
        first = space.size
        space.start()
        for _ in range(5):
            space.expand()
        found = space.recurrence(first)
        np.testing.assert_allclose(found.diagonal, np.diag(space.projected())[first:-1])
        assert len(found.beside) == 4 and found.coupling == space.coupling
        ritz = space.ritz(first)
        np.testing.assert_allclose(eigenpairs(found.diagonal, found.beside)[0], ritz.values)


CALLS = {
    "cycle": ({"k": 4, "tol": 1e-4}, 2 - 2 * np.cos(2 * np.pi * np.arange(300) / 300)),
    "copies": ({"k": 5, "which": "LA"}, spectra.mult9()[:500]),
    "bulk": ({"k": 12, "which": "LM"}, spectra.geo10()[:600]),
    "both ends": ({"k": 6, "which": "BE"}, np.linspace(-1, 2, 500) ** 3),
    "restarts": ({"k": 6, "which": "SA", "ncv": 20}, np.linspace(-1, 2, 500) ** 3),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_the_recurrence_says_of_a_check_spares_no_product_and_costs_none(name, monkeypatch):
    options, values = CALLS[name]
    looked = []
    says_nothing = Check._says_nothing
    monkeypatch.setattr(
        Check, "_says_nothing", lambda self, chain: looked.append(says_nothing(self, chain)) or looked[-1]
    )
    found = specop.eigsh(specop.DiagonalOperator(values), max_matvecs=5000, **options)
    monkeypatch.setattr(Check, "_says_nothing", lambda self, chain: False)
    every = specop.eigsh(specop.DiagonalOperator(values), max_matvecs=5000, **options)
    assert (found.matvecs, found.check_matvecs) == (every.matvecs, every.check_matvecs)
    np.testing.assert_array_equal(found.eigenvalues, every.eigenvalues)
    np.testing.assert_array_equal(found.bounds, every.bounds)
    assert any(looked)


# At a hundred a row two hundred rows leave the range of a float, and sixty do not.
@pytest.mark.parametrize("m", [60, 200])
def test_drift_follows_the_recurrence_from_rounding_on_however_far_it_grows(m):
    noise = 1e-16
    rng = np.random.default_rng(3)
    found = Recurrence(rng.normal(size=m), rng.uniform(0.5, 1.0, m - 1), 0.7)
    drift = found.drift(np.array([100.0, 0.3]), noise)
    after = [Decimal(b) for b in (*found.beside, found.coupling)]
    for column, value in zip(drift.T, (100.0, 0.3), strict=True):
        exact = [Decimal(0)]
        for j in range(m):
            carried = (Decimal(value) - Decimal(found.diagonal[j])) * exact[j]
            carried -= after[j - 1] * exact[j - 1] if j else 0
            exact.append((carried + Decimal(noise).copy_sign(carried)) / after[j])
        # Only ratios count where numbers leave their range.
        ratios = [float(one / exact[-1]) for one in exact]
        np.testing.assert_allclose(column / column[-1], ratios, rtol=1e-8, atol=1e-300)
        if exact[-1] < Decimal("1e90"):
            np.testing.assert_allclose(column[-1], float(exact[-1]), rtol=1e-8)
    assert np.isfinite(drift).all() and len(drift) == m + 1
