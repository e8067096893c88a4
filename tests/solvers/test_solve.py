"""solve: right answers of each method, and which one is chosen."""

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

import specop
import spectra
from cases import each_algorithm_case
from specop.errors import ConvergenceWarning
from system_cases import DEFINITE_METHODS, INDEFINITE, POSITIVE, B, N, each_light_case, operator, true_residuals

INDEFINITE_METHODS = ["auto", "minres"]


@each_algorithm_case
@pytest.mark.parametrize("method", DEFINITE_METHODS)
def test_positive_definite_systems(case, method):
    A, matrix = operator(case, POSITIVE)
    rtol = 1e-4 if method == "neumann" else 1e-5
    result = specop.solve(A, case.array(B[:, 0]), method=method, rtol=rtol)
    found = true_residuals(matrix, case.numpy(result.x), B[:, 0].astype(case.dtype))
    assert result.converged and result.message == "converged"
    assert found == pytest.approx(result.residual, rel=1e-2, abs=50 * case.eps * np.linalg.norm(B[:, 0]))
    assert result.residual <= rtol * np.linalg.norm(B[:, 0])
    assert result.method == ("lanczos" if method == "auto" else method)


@each_light_case
@pytest.mark.parametrize("method", INDEFINITE_METHODS)
def test_indefinite_systems(case, method):
    A, matrix = operator(case, INDEFINITE)
    result = specop.solve(A, case.array(B[:, 0]), method=method)
    assert result.converged
    assert true_residuals(matrix, case.numpy(result.x), B[:, 0]) <= 1.1e-5 * np.linalg.norm(B[:, 0])
    if method != "minres":
        assert result.curvature < 0 and "not positive definite" in result.message
        p = case.numpy(result.direction).astype(float)
        assert np.linalg.norm(p) == pytest.approx(1, abs=1e-5)
        assert p @ INDEFINITE @ p == pytest.approx(result.curvature, rel=1e-4)


@each_algorithm_case
@pytest.mark.parametrize("method", ["lanczos", "cg", "minres"])
def test_columns_are_solved_together(case, method):
    # A column of zeros, and two that are alike: the block of directions loses rank.
    b = B[:, :5].copy()
    b[:, 3], b[:, 4] = 0.0, b[:, 2]
    A, matrix = operator(case, POSITIVE)
    result = specop.solve(A, case.array(b), method=method)
    x = case.numpy(result.x)
    assert result.converged and x.shape == b.shape and result.residuals.shape == (5,)
    assert (true_residuals(matrix, x, b.astype(case.dtype)) <= 1.2e-5 * np.linalg.norm(b, axis=0)).all()
    assert not x[:, 3].any()


def test_columns_together_take_fewer_products():
    A = specop.DiagonalOperator(spectra.geo10() + 1e-1)
    b = np.random.default_rng(0).normal(size=(4000, 8))
    for method in ("lanczos", "cg"):
        alone = sum(specop.solve(A, b[:, j].copy(), method=method).matvecs for j in range(8))
        assert specop.solve(A, b, method=method).matvecs < 0.75 * alone


def test_columns_that_are_multiples_share_one_direction():
    A, b = np.diag(np.linspace(1.0, 3.0, 40)), np.random.default_rng(0).standard_normal((40, 1))
    found, alone = (specop.solve(A, b * factors, method="cg") for factors in ([1.0, -2.0, 0.125], [1.0]))
    assert found.steps == alone.steps
    # One product in each step, and one for the residual of each column at the end.
    assert found.matvecs == found.steps + 3
    np.testing.assert_allclose(found.x, alone.x * [1.0, -2.0, 0.125], rtol=1e-9)


@pytest.mark.parametrize("damping", [1.0, 1e-1])
def test_as_many_steps_as_scipy(damping):
    values = spectra.geo10() + damping
    b, steps = np.random.default_rng(0).normal(size=4000), []
    A = specop.DiagonalOperator(values)
    scipy.sparse.linalg.cg(A.to_scipy(), b, rtol=1e-5, callback=steps.append)
    assert abs(specop.solve(A, b, method="cg").steps - len(steps)) <= 1
    # Minimal residuals are never larger than those of conjugate gradients.
    assert specop.solve(A, b, method="minres").steps <= len(steps)


def test_an_orthogonal_basis_takes_half_of_the_products():
    A = specop.DiagonalOperator((spectra.geo10() + 1e-2).astype(np.float32))
    b = np.random.default_rng(0).normal(size=4000).astype(np.float32)
    kept, forgotten = specop.solve(A, b), specop.solve(A, b, method="cg")
    assert kept.converged and forgotten.converged
    assert kept.matvecs < 0.4 * forgotten.matvecs


def test_a_full_basis_is_cut_down(monkeypatch):
    monkeypatch.setattr("specop.solvers.galerkin._MOST_ROWS", 45)
    b = np.random.default_rng(0).normal(size=400)
    bulk = np.linspace(0.01, 1.3, 390)
    for values, method in ((bulk, "cg"), (np.where(np.arange(390) % 2, 0.2 + bulk, -0.2 - bulk), "minres")):
        A = specop.DiagonalOperator(np.concatenate([100 * 0.75 ** np.arange(10), values]))
        result = specop.solve(A, b, method="lanczos")
        assert result.converged and result.matvecs > 50
        assert result.method == ("lanczos" if method == "cg" else "minres")
        assert result.matvecs < 1.5 * specop.solve(A, b, method=method).matvecs


@each_light_case
def test_closed_forms_of_the_laplacian(case):
    n = 50
    i = np.arange(1, n + 1)
    A = case.array(spectra.laplacian(n))
    for method in ("lanczos", "cg", "minres"):
        x = specop.solve(A, case.array(np.ones(n)), method=method, rtol=10 * case.tol).x
        np.testing.assert_allclose(case.numpy(x), i * (n + 1 - i) / 2, rtol=3e3 * case.tol)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(0, 10_000), st.floats(0.0, 4.0))
def test_methods_agree_on_positive_definite_systems(n, seed, decades):
    rng = np.random.default_rng(seed)
    matrix, b = spectra.with_spectrum(10.0 ** rng.uniform(-decades, 0, n), seed), rng.normal(size=n)
    exact = np.linalg.solve(matrix, b)
    for method in ("lanczos", "cg", "minres"):
        result = specop.solve(matrix, b, method=method, rtol=1e-12, max_matvecs=500)
        np.testing.assert_allclose(result.x, exact, atol=1e-10 * 10.0**decades * np.linalg.norm(exact))


@each_light_case
def test_singular_systems(case):
    values = np.array([0.0, 1, 2, 3, 5])
    A, inside, outside = case.array(np.diag(values)), [0.0, 1, 1, 1, 1], [1.0, 1, 1, 1, 1]
    for method in ("auto", "cg", "minres"):
        result = specop.solve(A, case.array(inside), method=method)
        assert result.converged
        np.testing.assert_allclose(case.numpy(result.x), [0, 1, 1 / 2, 1 / 3, 1 / 5], atol=1e-4)
    for method in ("auto", "minres"):
        with pytest.warns(ConvergenceWarning, match="singular and b is not in its range") as caught:
            result = specop.solve(A, case.array(outside), method=method)
        assert not result.converged and len(caught) == 1
        assert result.residual == pytest.approx(1, rel=1e-4)
        np.testing.assert_allclose(case.numpy(result.x)[1:], [1, 1 / 2, 1 / 3, 1 / 5], atol=1e-3)
    with pytest.warns(ConvergenceWarning, match="singular to rounding: a direction of curvature"):
        assert not specop.solve(A, case.array(outside), method="cg").converged


def test_an_operator_of_low_rank():
    # As Gauss-Newton matrices have it: eigenvalues of all sizes, and many that are zero.
    rng = np.random.default_rng(0)
    matrix = spectra.with_spectrum(np.concatenate([np.geomspace(1e-4, 1, 60), np.zeros(60)]))
    inside, outside = matrix @ rng.normal(size=120), rng.normal(size=120)
    for method in ("auto", "minres"):
        assert specop.solve(matrix, inside, method=method).converged
    with pytest.warns(ConvergenceWarning, match="singular and b is not in its range"):
        result = specop.solve(matrix, outside)
    least = np.linalg.norm(outside - matrix @ np.linalg.lstsq(matrix, outside, rcond=1e-10)[0])
    assert result.residual == pytest.approx(least, rel=1e-6)
    with pytest.warns(ConvergenceWarning, match="minres"):
        assert specop.solve(matrix, outside, method="minres").residual < 20 * least


_BULK = np.linspace(0.1, 1, 60)


@each_light_case
@pytest.mark.parametrize(
    "values",
    [
        pytest.param(np.concatenate([_BULK, np.zeros(60)]), id="half"),
        pytest.param(np.concatenate([-_BULK, _BULK, np.zeros(20)]), id="indefinite"),
        pytest.param(np.append(np.linspace(0.5, 3, 199), 0.0), id="one"),
    ],
)
def test_minimal_residuals_of_a_singular_system_are_least_squares(case, values):
    """Going on when the residual is the least one, MINRES lets x grow by 1e16, and ends with less than it had."""
    n = len(values)
    matrix = spectra.with_spectrum(values)
    b = np.random.default_rng(1).normal(size=n)
    least, *_ = np.linalg.lstsq(matrix, b, rcond=1e-10)
    with pytest.warns(ConvergenceWarning, match="singular and b is not in its range") as caught:
        result = specop.solve(case.array(matrix), case.array(b), method="minres")
    assert not result.converged and result.method == "minres" and len(caught) == 1
    x = case.numpy(result.x).astype(float)
    assert result.residual == pytest.approx(np.linalg.norm(b - matrix @ least), rel=1e-5)
    assert np.linalg.norm(matrix @ (b - matrix @ x)) < 1e2 * case.eps**0.5 * np.linalg.norm(b)
    assert np.linalg.norm(x) < 50 * np.linalg.norm(least)
    assert result.matvecs < 1.2 * n
    # Stopped on the way, it says that, not that rounding allows no less.
    with pytest.warns(ConvergenceWarning, match="minres stopped after"):
        short = specop.solve(case.array(matrix), case.array(b), method="minres", max_matvecs=8)
    assert short.matvecs <= 8 and short.residual < np.linalg.norm(b)


def test_the_zero_operator():
    A = specop.DiagonalOperator(np.zeros(4))
    for method in ("auto", "minres", "cg", "neumann"):
        with pytest.warns(ConvergenceWarning):
            result = specop.solve(A, np.ones(4), method=method)
        assert not result.converged and result.residual == pytest.approx(2)


@pytest.mark.parametrize("method", ["cg", "neumann"])
def test_negative_curvature_comes_with_its_direction(method):
    with pytest.warns(ConvergenceWarning, match=r"curvature -\d.*Add damping above \d.*minres"):
        result = specop.solve(INDEFINITE, B[:, 0].copy(), method=method)
    assert not result.converged and result.curvature < 0
    assert np.linalg.norm(result.direction) == pytest.approx(1)
    assert result.direction @ INDEFINITE @ result.direction == pytest.approx(result.curvature)
    assert result.residual == pytest.approx(true_residuals(INDEFINITE, result.x, B[:, 0]))


@pytest.mark.parametrize(("rtol", "looks"), [(1e-4, 1), (1e-12, 2)])
def test_conjugate_gradients_look_at_true_residuals(rtol, looks):
    """At the goal, and before where the recurrence's has become shorter by the root of the rounding error."""
    result = specop.solve(np.diag(np.linspace(1, 10, 60)), np.ones(60), method="cg", rtol=rtol)
    assert result.converged and result.matvecs == result.steps + looks


@pytest.mark.parametrize("rtol", [3e-7, 1e-6])
def test_conjugate_gradients_go_on_where_a_recurrence_claims_too_much(rtol):
    """In single precision it reaches its goal before the true residual does; a second run from there is enough."""
    diagonal = np.geomspace(1, 1e3, 100).astype(np.float32)
    A = specop.FunctionOperator(lambda x: diagonal * x, (100, 100), like=diagonal, is_symmetric=True)
    result = specop.solve(A, np.ones(100, np.float32), method="cg", rtol=rtol)
    assert result.converged and true_residuals(np.diag(diagonal), result.x, np.ones(100)) <= 10.1 * rtol


def test_auto_goes_on_with_minimal_residuals_where_a_basis_does_not_fit(monkeypatch):
    monkeypatch.setattr("specop.solvers.solve.columns_at_once", lambda n, fitting: 0)
    result = specop.solve(INDEFINITE, B.copy())
    assert result.converged and result.method == "minres" and result.curvature < 0
    assert (true_residuals(INDEFINITE, result.x, B) <= 1e-5 * np.linalg.norm(B, axis=0)).all()
    assert specop.solve(POSITIVE, B.copy()).method == "cg"


def poisson(n):
    line = scipy.sparse.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(n, n))
    one = scipy.sparse.identity(n)
    return (scipy.sparse.kron(one, line) + scipy.sparse.kron(line, one)).tocsr()


def test_auto_leaves_a_basis_that_takes_longer_than_the_products():
    A, b = poisson(200), np.ones(40_000)
    result, alone = specop.solve(A, b), specop.solve(A, b, method="cg")
    assert result.converged and (result.method, alone.method) == ("cg", "cg")
    assert result.matvecs < 1.2 * alone.matvecs
    # Of a function nobody knows what it costs, and who asks for the basis has it.
    unknown = specop.FunctionOperator(lambda x: A @ x, A.shape, like=b, is_symmetric=True)
    for matrix, method in ((unknown, "auto"), (A, "lanczos")):
        with pytest.warns(ConvergenceWarning, match="lanczos stopped"):
            assert specop.solve(matrix, b, method=method, max_matvecs=60).method == "lanczos"


def test_auto_stays_in_a_basis_that_saves_products(monkeypatch):
    values = np.concatenate([100 * 0.75 ** np.arange(10), np.linspace(0, 1.3, 99_990)]) + 1e-2
    A, b = scipy.sparse.diags_array(values).tocsr(), np.random.default_rng(0).normal(size=100_000)
    result = specop.solve(A, b)
    assert result.converged and result.method == "lanczos"
    assert result.matvecs < 0.7 * specop.solve(A, b, method="cg").matvecs
    monkeypatch.setattr("specop.solvers.galerkin._LONG", 2e8)
    assert specop.solve(A, b).method == "cg"


@each_light_case
def test_zero_takes_no_product(case):
    for method in DEFINITE_METHODS:
        result = specop.solve(case.array(POSITIVE), case.array(np.zeros(N)), method=method, x0=case.array(B[:, 0]))
        assert result.converged and result.matvecs == 0 and not case.numpy(result.x).any()
    assert specop.solve_shifted(case.array(POSITIVE), case.array(np.zeros(N)), [1.0]).matvecs == 0


@each_light_case
def test_warm_starts(case):
    A, b = case.array(POSITIVE), case.array(B[:, 0])
    for method in DEFINITE_METHODS:
        first = specop.solve(A, b, method=method, rtol=1e-4)
        again = specop.solve(A, b, method=method, rtol=1e-4, x0=first.x)
        assert again.converged and again.steps == 0
        assert again.matvecs == 1 or method == "neumann"
        rough = specop.solve(A, b, method=method, rtol=1e-2)
        near = specop.solve(A, b, method=method, rtol=1e-4, x0=rough.x)
        assert near.converged and near.steps < first.steps
    np.testing.assert_array_equal(case.numpy(b), B[:, 0].astype(case.dtype))
