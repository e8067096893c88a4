"""Singular systems: solutions of least norm, or least-squares ones of least norm for b outside of the range."""

import warnings

import numpy as np
import pytest

import specop
import spectra
from cases import each_algorithm_case
from specop.errors import ConvergenceWarning

OUTSIDE = "singular and b is not in its range"


def graph_laplacian(n, rng, share=0.25):
    """Return the Laplacian of a random graph, whose null vectors tell its connected parts."""
    edges = np.triu(rng.random((n, n)) < share, 1).astype(float)
    edges += edges.T
    return np.diag(edges.sum(axis=1)) - edges


def least_norm(matrix, b):
    """Return the least-squares solution of least norm for a symmetric matrix, and the norms of its residuals."""
    values, vectors = np.linalg.eigh(matrix)
    kept = np.abs(values) > 1e-10 * np.abs(values).max()
    x = (vectors[:, kept] / values[kept]) @ (vectors[:, kept].T @ b)
    return x, np.linalg.norm(b - matrix @ x, axis=0)


def solved(matrix, b, method="auto", **options):
    """Solve where b may lie outside of the range: then there is one warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = specop.solve(matrix, b, method=method, **options)
    assert [w.category for w in caught] == [ConvergenceWarning] * (not result.converged)
    return result


def check_least_norm(matrix, b, result, digits):
    exact, residual = least_norm(matrix.astype(float), b.astype(float))
    size = np.linalg.norm(exact) + np.linalg.norm(b) / (np.abs(matrix).max() or 1.0)
    assert np.linalg.norm(result.x - exact) <= digits * size
    assert result.residual <= max(residual.max() * (1 + 1e-6) + digits * np.linalg.norm(b), result.goals.max())
    if (residual > 2 * result.goals).any():
        assert not result.converged and OUTSIDE in result.message


# A step of MINRES claims three times with seed 39 that it has solved what no x solves. With seed 0 A r grows again.
@pytest.mark.parametrize(("method", "seed"), [("auto", 39), ("minres", 39), ("minres", 0)])
@pytest.mark.parametrize("count", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_laplacians_of_random_graphs(method, seed, count):
    """Galerkin solutions of these grow by 1e15 where only the signs of pivots tell a singular matrix."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        n = int(rng.integers(3, 80))
        matrix, b = graph_laplacian(n, rng, rng.choice([0.05, 0.25, 0.6])), rng.normal(size=n)
        check_least_norm(matrix, b, solved(matrix, b, method), 1e-5)


@pytest.mark.parametrize("count", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_shifts_that_make_singular_systems(count):
    rng = np.random.default_rng(9)
    for _ in range(count):
        n = int(rng.integers(3, 80))
        matrix, b = graph_laplacian(n, rng), rng.normal(size=n)
        shifts = [0.0, -np.linalg.eigvalsh(matrix)[-1], 1.0]
        with pytest.warns(ConvergenceWarning, match="b is not in its range.*least norm"):
            result = specop.solve_shifted(matrix, b, shifts)
        assert result.converged_columns.tolist() == [False, False, True]
        for j, shift in enumerate(shifts):
            x, residual = least_norm(matrix + shift * np.eye(n), b)
            assert np.linalg.norm(result.x[:, j] - x) <= 1e-5 * np.linalg.norm(x)
            assert result.residuals[j] == pytest.approx(residual, abs=1e-5 * np.linalg.norm(b))


def test_what_rounding_adds_to_the_residuals_of_shifts_is_seen():
    values = np.geomspace(1e-3, 1, 200).astype(np.float32)
    b = np.random.default_rng(15).normal(size=200).astype(np.float32)
    with pytest.warns(ConvergenceWarning, match="rounding in float32 allows no less"):
        result = specop.solve_shifted(specop.DiagonalOperator(values), b, [0.0, 1e-2], rtol=1e-6)
    for j, shift in enumerate(result.shifts):
        rest = np.linalg.norm(b - (values.astype(float) + shift) * result.x[:, j])
        assert 0.3 * rest <= result.residuals[j] <= 30 * rest


def test_a_shift_next_to_an_eigenvalue_with_few_products():
    """The Galerkin residual is then longer than b, and the least one is not."""
    values = np.linspace(0, 1, 400)
    b = np.random.default_rng(10).normal(size=400)
    with pytest.warns(ConvergenceWarning, match="Raise max_matvecs=21"):
        result = specop.solve_shifted(np.diag(values), b, np.linspace(-1, 0, 101), max_matvecs=21)
    assert (result.residuals <= np.linalg.norm(b)).all()
    for j, shift in enumerate(result.shifts):
        rest = np.linalg.norm(b - (values + shift) * result.x[:, j])
        assert result.residuals[j] == pytest.approx(rest, rel=1e-6)


SINGULAR = {
    "gram": lambda n, rng: (lambda rows: rows.T @ rows)(rng.normal(size=(n // 2, n))),
    "indefinite": lambda n, rng: spectra.with_spectrum(np.r_[np.zeros(n // 3), rng.normal(size=n - n // 3)], n),
    "wide": lambda n, rng: spectra.with_spectrum(np.r_[np.zeros(n // 2), np.geomspace(1e-3, 1, n - n // 2)], n),
    "disconnected": lambda n, rng: np.kron(np.eye(2), graph_laplacian(n, rng)),
    "zero": lambda n, rng: np.zeros((n, n)),
}
SIDES = {
    "any": lambda matrix, rng: rng.normal(size=len(matrix)),
    "in the range": lambda matrix, rng: matrix @ rng.normal(size=len(matrix)),
    "next to the range": lambda matrix, rng: (
        matrix @ rng.normal(size=len(matrix)) + 1e-3 * np.linalg.norm(matrix) * rng.normal(size=len(matrix))
    ),
    "null": lambda matrix, rng: np.linalg.eigh(matrix)[1][:, np.argmin(np.abs(np.linalg.eigvalsh(matrix)))],
}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", SINGULAR)
@pytest.mark.parametrize("method", ["auto", "minres"])
def test_kinds_of_singular_systems(method, kind, side):
    rng = np.random.default_rng(1)
    for n in (4, 13, 40):
        matrix = SINGULAR[kind](n, rng)
        b = SIDES[side](matrix, rng)
        # Solutions in the range are as exact as rtol says, times the condition number.
        result = solved(matrix, b, method, rtol=1e-9)
        check_least_norm(matrix, b, result, 1e-4)
        assert result.converged == (least_norm(matrix, b)[1] <= result.goals[0]) or side == "null"


@each_algorithm_case
def test_least_norm_in_every_framework(case):
    rng = np.random.default_rng(2)
    matrix = graph_laplacian(30, rng)
    b = np.stack([rng.normal(size=30), matrix @ rng.normal(size=30), np.ones(30), np.zeros(30)], axis=1)
    exact, residuals = least_norm(matrix, b.astype(case.dtype).astype(float))
    for method in ("auto", "minres"):
        with pytest.warns(ConvergenceWarning, match=OUTSIDE):
            result = specop.solve(case.array(matrix), case.array(b), method=method)
        np.testing.assert_allclose(case.numpy(result.x), exact, atol=2e-3 if case.eps > 1e-10 else 1e-4)
        np.testing.assert_allclose(result.residuals, residuals, atol=1e-3)
        assert result.converged_columns.tolist() == [False, True, False, True]


@pytest.mark.parametrize("n", [300, 1000])
def test_a_space_that_does_not_close(n):
    rng = np.random.default_rng(3)
    matrix, b = graph_laplacian(n, rng, 6 / n), rng.normal(size=n)
    for method in ("auto", "minres"):
        result = solved(matrix, b, method)
        check_least_norm(matrix, b, result, 1e-6)
        assert result.matvecs < 250


def test_right_hand_sides_whose_null_parts_are_alike():
    """One null vector, three residuals along it: what distinguishes those is rounding."""
    rng = np.random.default_rng(11)
    for n, dtype in ((300, np.float64), (600, np.float32)):
        matrix = graph_laplacian(n, rng, 8 / n).astype(dtype)
        b = rng.normal(size=(n, 3)).astype(dtype)
        result = solved(matrix, b)
        exact, _ = least_norm(matrix.astype(float), b.astype(float))
        assert np.linalg.norm(result.x - exact) <= 5e-5 * np.linalg.norm(exact)
        assert result.matvecs < 300


@pytest.mark.parametrize("seed", [357, 671, 1060, 1212, 1301])
def test_a_long_solution_is_not_taken_for_a_little(seed):
    """Where only rounding makes A regular, solutions that are 1e15 long look a little better."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 30))
    values = np.geomspace(1, 10.0 ** rng.integers(-5, -1), n)
    values[: rng.integers(1, n)] = 0
    matrix, b = spectra.with_spectrum(values, seed), rng.normal(size=n)
    check_least_norm(matrix, b, solved(matrix, b), 1e-4)


def test_a_column_that_was_not_multiplied_yet_is_not_the_least_residual():
    matrix, b = np.diag([-1.0, 2, 3, 4, 5]), np.zeros((5, 2))
    b[0, 0], b[1:, 1] = 1.0, 1e-3
    result = specop.solve(matrix, b, atol=1e-6)
    assert result.converged
    np.testing.assert_allclose(result.x, b / np.diagonal(matrix)[:, None], atol=1e-6)


def test_eigenvalues_of_rounding_s_size_count_where_the_residual_is_small_for_them():
    matrix = spectra.with_spectrum(np.geomspace(1e-12, 1, 30), 1)
    b = np.random.default_rng(1).normal(size=30)
    result = specop.solve(matrix, b)
    assert result.converged and np.linalg.norm(b - matrix @ result.x) <= 1e-5 * np.linalg.norm(b)
    assert np.linalg.norm(result.x) > 1e8


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_cycle(dtype):
    """Its condition is 16,000 without the null vector: float32 sees that A r is small, not that it is zero."""
    n = 400
    ring = np.roll(np.eye(n), 1, axis=0)
    matrix = 2 * np.eye(n) - ring - ring.T
    b = np.random.default_rng(12).normal(size=n).astype(dtype)
    result = solved(matrix.astype(dtype), b)
    exact, residual = least_norm(matrix, b.astype(float))
    assert OUTSIDE in result.message and result.residual == pytest.approx(residual, rel=1e-3)
    assert np.linalg.norm(result.x - exact) <= (1e-3 if dtype == np.float32 else 1e-8) * np.linalg.norm(exact)


def test_minimal_residuals_in_single_precision():
    """A z is zero to three digits only there: what x loses with its part along z is solved for once more."""
    rng = np.random.default_rng(13)
    rows = rng.normal(size=(25, 40)).astype(np.float32)
    matrix, b = rows.T @ rows, rng.normal(size=40).astype(np.float32)
    result = solved(matrix, b, "minres")
    exact, residual = np.linalg.pinv(matrix.astype(float), rcond=1e-5) @ b, 0
    residual = np.linalg.norm(b - matrix.astype(float) @ exact)
    assert result.residual <= 1.001 * residual and OUTSIDE in result.message
    assert np.linalg.norm(result.x - exact) <= 2e-3 * np.linalg.norm(exact)


def test_restarts_that_gain_nothing_hand_over(monkeypatch):
    monkeypatch.setattr("specop.solvers.galerkin._MOST_ROWS", 45)
    values = np.concatenate([np.zeros(300), np.geomspace(0.01, 1, 1500), [20.0, 30.0, 50.0]])
    b = np.random.default_rng(0).normal(size=1803)
    with pytest.warns(ConvergenceWarning, match=OUTSIDE):
        result = specop.solve(specop.DiagonalOperator(values), b, method="lanczos")
    assert result.method == "minres" and result.matvecs < 400
    np.testing.assert_allclose(result.x, np.where(values, b / np.where(values, values, 1), 0), atol=1e-4)


def test_the_start_keeps_what_it_has_along_null_vectors():
    rng = np.random.default_rng(4)
    matrix, b = graph_laplacian(20, rng), rng.normal(size=20)
    result = solved(matrix, b, x0=rng.normal(size=20))
    assert result.residual == pytest.approx(least_norm(matrix, b)[1], rel=1e-6)


def test_nearly_singular_systems_converge_or_blame_rounding():
    for smallest in (1e-6, 1e-9, 1e-13):
        matrix = spectra.with_spectrum(np.r_[smallest, np.linspace(0.5, 3, 59)])
        b = np.random.default_rng(5).normal(size=60)
        for method in ("auto", "cg", "minres"):
            result = solved(matrix, b, method)
            assert result.converged == (smallest > 1e-10) or method == "minres"
            assert result.residual <= np.linalg.norm(b)
            if result.converged:
                assert np.linalg.norm(result.x - np.linalg.solve(matrix, b)) <= 1e-3 * np.linalg.norm(result.x)


def test_conjugate_gradients_of_a_singular_system_lead_nowhere():
    """Their last steps are longer than 1e10."""
    rng = np.random.default_rng(6)
    for n in (7, 12, 30, 59):
        matrix, b = graph_laplacian(n, rng), rng.normal(size=n)
        with pytest.warns(ConvergenceWarning, match="singular to rounding.*or use method='minres'"):
            result = specop.solve(matrix, b, method="cg")
        assert result.residual <= np.linalg.norm(b) and result.curvature == 0.0
        assert np.linalg.norm(matrix @ result.direction) <= 1e-6 * np.linalg.norm(matrix)
        inside = specop.solve(matrix, matrix @ b, method="cg", rtol=1e-8)
        assert inside.converged and np.linalg.norm(inside.x - least_norm(matrix, matrix @ b)[0]) <= 1e-5


def test_a_preconditioner_of_a_singular_system():
    rng = np.random.default_rng(7)
    matrix, b = graph_laplacian(30, rng), rng.normal(size=30)
    M = np.diag(1 / np.diagonal(matrix))
    for method in ("auto", "minres"):
        with pytest.warns(ConvergenceWarning, match=OUTSIDE):
            result = specop.solve(matrix, b, method=method, preconditioner=M)
        rest = b - matrix @ result.x
        # Least in the norm of the preconditioner.
        assert np.linalg.norm(matrix @ M @ rest) <= 1e-5 * np.linalg.norm(rest)
        inside = specop.solve(matrix, matrix @ b, method=method, preconditioner=M)
        assert inside.converged


def test_few_products_never_make_a_solution_worse_than_none():
    rng = np.random.default_rng(8)
    for limit in (2, 3, 4, 5, 8, 13, 21):
        for _ in range(10):
            matrix, b = graph_laplacian(20, rng), rng.normal(size=20)
            for method in ("auto", "minres"):
                result = solved(matrix, b, method, max_matvecs=limit)
                assert result.matvecs <= limit and result.residual <= np.linalg.norm(b) * (1 + 1e-12)
                assert result.residual < np.linalg.norm(b) or limit < 5
