"""galerkin: what right-hand sides have of the Krylov space that they share, after any number of products."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse

import specop
import spectra
from specop.errors import NoiseWarning
from specop.krylov.run import Run
from specop.solvers.equations import Equations
from specop.solvers.galerkin import columns_at_once, galerkin
from specop.solvers.operands import checked_operands

SPECTRA = {
    "definite": np.geomspace(0.01, 1, 14),
    "indefinite": np.concatenate([-np.geomspace(0.1, 1, 6), np.geomspace(0.05, 2, 8)]),
    "one negative": np.append(-0.01, np.geomspace(0.1, 1, 13)),
    "singular": np.append(np.zeros(4), np.geomspace(0.1, 1, 10)),
}


def reduced(A, b, allowance, rtol=1e-10, **options):
    """Return the system and how it ended, after a product that is none of the allowance's."""
    run = Run(A, "test", symmetric=True)
    operands = checked_operands(run.A, b)
    with run:
        run.multiply(operands.columns[0])
        system = Equations(run, operands, rtol * operands.lengths)
        outcome = galerkin(system, range(len(operands.columns)), allowance, **options)
    assert run.products <= allowance + 1
    return system, outcome


def krylov_basis(matrix, b, steps):
    rows = [b / np.linalg.norm(b)]
    while len(rows) < steps:
        found = matrix @ rows[-1]
        for _ in range(2):
            found -= np.array(rows).T @ (np.array(rows) @ found)
        rows.append(found / np.linalg.norm(found))
    return np.array(rows).T


@pytest.mark.parametrize("kind", SPECTRA)
def test_a_run_that_is_cut_short_has_the_best_of_its_krylov_space(kind):
    """The iterate of conjugate gradients where those are defined and better than nothing, or that of MINRES."""
    matrix, b = spectra.with_spectrum(SPECTRA[kind], 1), np.random.default_rng(2).normal(size=14)
    curvature = None
    for steps in range(1, 9):
        V = krylov_basis(matrix, b, steps)
        values, vectors = np.linalg.eigh(V.T @ matrix @ V)
        if values[0] <= 0 and curvature is None:
            curvature = values[0], V @ vectors[:, 0]
        expected = V @ np.linalg.solve(V.T @ matrix @ V, V.T @ b)
        if curvature or np.linalg.norm(b - matrix @ expected) > np.linalg.norm(b):
            expected = V @ np.linalg.lstsq(matrix @ V, b)[0]
        system, outcome = reduced(matrix, b, steps + 1)
        assert (outcome.reason, outcome.steps, system.run.products) == ("limit", steps, steps + 2)
        np.testing.assert_allclose(system.x[0], expected, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(system.norms, np.linalg.norm(b - matrix @ expected), rtol=1e-8)
        assert (outcome.curvature is None) == (curvature is None)
        if curvature:
            assert outcome.curvature == pytest.approx(curvature[0])
            assert abs(outcome.direction @ curvature[1]) == pytest.approx(1)


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("kind", SPECTRA)
def test_as_many_products_as_a_run_takes_are_enough_and_fewer_leave_what_is_better_than_nothing(kind, columns):
    matrix, b = spectra.with_spectrum(1e3 * SPECTRA[kind], 3), np.random.default_rng(4).normal(size=(14, columns))
    lengths, least = np.linalg.norm(b, axis=0), np.linalg.pinv(matrix, rcond=1e-8) @ b
    free, outcome = reduced(matrix, b, 100)
    taken = free.run.products - 1
    # Those for the residuals at the end, and for what A makes of them where they stay.
    assert taken == outcome.steps + columns * (2 if kind == "singular" else 1)
    assert outcome.reason == ("least squares" if kind == "singular" else "converged")
    np.testing.assert_allclose(np.array(free.x).T, least, atol=1e-9)
    lowest = 1e3 * SPECTRA[kind].min()
    assert outcome.curvature is None if lowest > 0 else lowest <= outcome.curvature <= 0
    assert outcome.curvature == 0 or kind != "singular"
    for allowance in range(2 * columns, taken + 1):
        system, found = reduced(matrix, b, allowance)
        assert found.reason == (outcome.reason if allowance == taken else "limit")
        rest = np.linalg.norm(b - matrix @ np.array(system.x).T, axis=0)
        np.testing.assert_allclose(system.norms, rest, atol=1e-10)
        assert (rest <= lengths * (1 + 1e-12)).all()
    np.testing.assert_allclose(system.x, free.x, atol=1e-12)


@pytest.mark.parametrize("n", range(20, 28))
def test_a_space_that_closes_between_two_looks(n):
    """Least squares are solved every few steps; a space that holds all products of its rows ends the run at once."""
    values = np.linspace(1, 2, n) * (-1.0) ** np.arange(n)
    b = np.random.default_rng(8).normal(size=n)
    system, outcome = reduced(specop.DiagonalOperator(values), b, 5 * n, rtol=1e-12)
    assert (outcome.reason, outcome.steps) == ("converged", n)
    np.testing.assert_allclose(system.x[0], b / values, rtol=1e-10)


@pytest.mark.parametrize(("n", "condition"), [(10, 1e3), (40, 1e2)])
def test_goals_near_rounding_are_reached_or_rounding_is_named(n, condition):
    """What the space claims is looked at, and solved for once more as long as that helps."""
    matrix = spectra.with_spectrum(np.geomspace(1 / condition, 1, n), 1).astype(np.float32)
    A, b = specop.DenseOperator(matrix, is_symmetric=True), np.random.default_rng(0).normal(size=n).astype(np.float32)
    reasons, looks = [], []
    for rtol in 1e-7 * condition**0.5 * np.geomspace(1, 100, 12):
        system, outcome = reduced(A, b, 5 * n, rtol=rtol)
        reasons.append(outcome.reason)
        looks.append(system.run.products - 1 - outcome.steps)
        # Another try and what it is judged by are made where there are products for both.
        for fewer in range(1, looks[-1] if outcome.reason == "rounding" else 1):
            assert reduced(A, b, system.run.products - 1 - fewer, rtol=rtol)[1].reason in ("limit", "rounding")
        assert (outcome.reason == "converged") == (system.norms <= system.goals).all()
    first = reasons.index("converged")
    assert reasons == ["rounding"] * first + ["converged"] * (12 - first) and first < 8
    # At least one look for each answer, two where a claim was wrong, and those of the last try.
    assert 1 in looks and 2 in looks[first:] and max(looks) <= 6


@pytest.mark.parametrize("seed", [1, 7, 15, 27])
def test_rounding_divided_by_rounding_is_tried_where_there_are_products_to_tell(seed):
    """The space of a graph's Laplacian closes, and by rounding alone it seems to hold the solution for any b."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(6, 20))
    edges = np.triu(rng.random((n, n)) < 0.4, 1).astype(float)
    edges += edges.T
    matrix, b = np.diag(edges.sum(axis=1)) - edges, rng.normal(size=n)
    least = np.linalg.norm(b - matrix @ np.linalg.pinv(matrix, rcond=1e-10) @ b)
    for beside in range(2, 7):
        system, outcome = reduced(matrix, b, n + beside, rtol=1e-5)
        assert (outcome.reason, outcome.steps) == ("least squares", n)
        assert system.norms[0] == pytest.approx(least)
        # Of the long solution, of another try, of the short one, and what A makes of that; or the last two alone.
        assert system.run.products - 1 - n == 2 or beside >= 4


def test_noise_of_products_is_told():
    matrix = spectra.with_spectrum(SPECTRA["definite"]) + 1e-8 * np.triu(np.ones((14, 14)), 1)
    with pytest.warns(NoiseWarning, match="asymmetric by"):
        reduced(specop.DenseOperator(matrix), np.ones(14), 10)


def test_products_that_are_less_exact_than_they_say_do_not_make_solutions_worse_than_none():
    """The space says that the residual is short, and the product with a long solution that it is not."""
    values, b = np.geomspace(1e-8, 1, 20), np.random.default_rng(5).normal(size=20)

    def rounded(x):
        return (values * x).astype(np.float16).astype(float) if np.abs(x).max() > 1 else values * x

    A = specop.FunctionOperator(rounded, (20, 20), like=b, is_symmetric=True)
    for allowance in range(2, 40, 3):
        system, _ = reduced(A, b, allowance, rtol=1e-3)
        assert system.norms[0] <= np.linalg.norm(b)


@pytest.mark.parametrize(
    ("n", "fitting", "columns"),
    [
        (1000, 10**6, 8),
        (1000, 319, 7),
        (1000, 80, 2),
        (1000, 39, 0),
        (1000, -50, 0),
        (200_000, 10**6, 5),
        (10**6, 10**6, 1),
        (10**6 + 1, 10**6, 0),
    ],
)
def test_as_many_columns_share_a_space_as_leave_each_the_rows_that_pay(n, fitting, columns):
    assert columns_at_once(n, fitting) == columns


@pytest.mark.parametrize(
    ("n", "entries", "wished", "least"), [(30, 10**6, 30, 30), (600, 10**6, 500, 40), (600, 60_000, 100, 40)]
)
def test_how_many_rows_it_asks_for(monkeypatch, n, entries, wished, least):
    asked = []
    monkeypatch.setattr("specop.solvers.galerkin._ENTRIES", entries)
    monkeypatch.setattr("specop.solvers.galerkin.rows_that_fit", lambda run, *rows: asked.append(rows) or rows[0])
    reduced(specop.DiagonalOperator(np.ones(n)), np.ones(n), 5)
    assert asked == [(wished, least)]


LINE = scipy.sparse.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(400, 400)).tocsr()
WITH_OUTLIERS = specop.DiagonalOperator(np.append(2.01 - 2 * np.cos(np.linspace(0, np.pi, 398)), [50.0, 100.0]))


@pytest.mark.parametrize(
    ("A", "short", "long", "reason", "steps"),
    [
        # No Ritz pair has converged.
        pytest.param(LINE, 1000, 1e9, "dear", 40, id="at the first look"),
        pytest.param(LINE, 20_000, 1e9, "dear", 51, id="not before a step takes long"),
        pytest.param(LINE, 170 * 400, 1e9, "limit", 119, id="never"),
        pytest.param(LINE - 2 * scipy.sparse.identity(400), 1000, 1e9, "limit", 119, id="indefinite"),
        # Two have: others that have taken long so far, at looks a quarter of the steps apart.
        pytest.param(WITH_OUTLIERS, 1000, 44**2 * 400, "dear", 50, id="at the second look"),
        pytest.param(WITH_OUTLIERS, 1000, 1e9, "limit", 119, id="a short run"),
        pytest.param(specop.DenseOperator(LINE.toarray()), 1000, 1e9, "limit", 119, id="slow products"),
        pytest.param(
            specop.FunctionOperator(lambda x: LINE @ x, (400, 400), like=np.zeros(1), is_symmetric=True),
            1000,
            1e9,
            "limit",
            119,
            id="of unknown cost",
        ),
    ],
)
def test_it_leaves_a_basis_that_takes_longer_than_products(monkeypatch, A, short, long, reason, steps):
    monkeypatch.setattr("specop.solvers.galerkin._SHORT", short)
    monkeypatch.setattr("specop.solvers.galerkin._LONG", long)
    b = np.random.default_rng(6).normal(size=400)
    _, outcome = reduced(A, b, 120, may_leave=True)
    assert (outcome.reason, outcome.steps) == (reason, steps)
    assert reduced(A, b, 120)[1].steps == 119


@pytest.mark.parametrize("seed", range(3))
def test_a_long_solution_stays_where_it_is_far_better_than_one_without_eigenvalues_of_roundings_size(seed):
    """The short one leaves all that b has along the smallest eigenvalue, which is three roundings of the largest."""
    matrix = spectra.with_spectrum(np.append(np.geomspace(0.1, 1, 13), 3e-15), seed)
    b = np.random.default_rng(seed).normal(size=14)
    system, _ = reduced(matrix, b, 100)
    assert system.norms[0] <= 0.1 * abs(np.linalg.eigh(matrix)[1][:, 0] @ b)


@pytest.mark.parametrize("seed", range(4))
def test_a_goal_below_rounding_does_not_make_a_least_squares_problem_of_a_regular_system(seed):
    """Its space closes, and what is left there is rounding of x, not what no x can have less of."""
    matrix, b = spectra.with_spectrum(np.geomspace(1e-4, 1, 12), seed), np.random.default_rng(seed).normal(size=12)
    for allowance in range(14, 22):
        system, outcome = reduced(matrix, b, allowance, rtol=1e-17)
        assert outcome.reason in ("rounding", "limit") and system.norms[0] <= 1e-9
