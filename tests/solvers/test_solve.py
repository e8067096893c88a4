"""solve, solve_shifted and preconditioners."""

import warnings

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

import specop
import spectra
from cases import CASES, each_algorithm_case
from specop.errors import AsymmetryError, ConvergenceWarning, InvalidInputError, NonFiniteError, NotConvergedError

N = 80
POSITIVE = spectra.with_spectrum(np.concatenate([[50.0, 30.0, 20.0], np.linspace(0.5, 3, N - 3)]))
INDEFINITE = spectra.with_spectrum(
    np.concatenate([[50.0, 30.0, -20.0], np.linspace(-3, -0.5, 30), np.linspace(0.5, 3, 47)])
)
B = np.random.default_rng(3).normal(size=(N, 11))
DEFINITE_METHODS = ["auto", "cg", "minres", "neumann"]
INDEFINITE_METHODS = ["auto", "minres"]


# Solvers see a backend through a few primitives, which three of the tests below put to use in every framework; where
# eager operations or compilation take seconds, the others are slow.
each_light_case = pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[] if case.framework in ("numpy", "torch") else pytest.mark.slow) for case in CASES],
    ids=str,
)


def true_residuals(matrix, x, b):
    return np.linalg.norm(np.asarray(b, float) - np.asarray(matrix, float) @ np.asarray(x, float), axis=0)


def operator(case, matrix):
    """An operator known by products only, and the matrix that it has in the case's dtype."""
    dense = specop.DenseOperator(case.array(matrix), is_symmetric=True)
    rounded = matrix.astype(case.dtype)
    return specop.FunctionOperator(dense._matvec, dense.shape, like=case.array([0.0]), is_symmetric=True), rounded


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
    for operator, method in ((unknown, "auto"), (A, "lanczos")):
        with pytest.warns(ConvergenceWarning, match="lanczos stopped"):
            assert specop.solve(operator, b, method=method, max_matvecs=60).method == "lanczos"


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


def test_preconditioners_take_as_many_steps_as_published():
    H = specop.DiagonalOperator(spectra.geo10())
    A = H + 1e-2 * specop.identity_like(H)
    b = np.random.default_rng(0).normal(size=4000)
    exact = specop.eigen_preconditioner(H, specop.eigsh(H, 20, tol=1e-6), damping=1e-2)
    sketched = specop.nystrom_preconditioner(H, damping=1e-2, rank=20)

    def steps(preconditioner, method="cg"):
        return specop.solve(A, b, rtol=1e-6, method=method, preconditioner=preconditioner).steps

    assert steps(None) == pytest.approx(163, abs=12)
    assert steps(sketched) == pytest.approx(88, abs=12)
    assert steps(exact) == pytest.approx(67, abs=8)
    assert steps(exact, "minres") <= steps(exact)
    assert specop.solve(A, b, preconditioner=exact).method == "cg"


@each_light_case
def test_preconditioned_systems(case):
    H, matrix = operator(case, POSITIVE)
    A = H + 0.5 * specop.identity_like(H)
    dense = matrix.astype(float) + 0.5 * np.eye(N)
    eigen = specop.eigen_preconditioner(H, specop.eigsh(H, 3), damping=0.5)
    for M in (eigen, specop.nystrom_preconditioner(H, damping=0.5, rank=10)):
        for method in ("cg", "minres"):
            result = specop.solve(A, case.array(B[:, :2]), method=method, preconditioner=M)
            assert result.converged and (true_residuals(dense, case.numpy(result.x), B[:, :2]) <= 1.5e-5 * 11).all()
    # The known eigenvectors are taken to the damping, the others stay.
    _, vectors = np.linalg.eigh(POSITIVE)
    for vector, factor in ((vectors[:, -1], 0.5 / 50.5), (vectors[:, 0], 1.0)):
        np.testing.assert_allclose(case.numpy(eigen @ case.array(vector)), factor * vector, atol=1e-2)


def test_an_indefinite_preconditioner_is_named():
    with pytest.raises(InvalidInputError, match="not positive definite: r'M r = -"):
        specop.solve(POSITIVE, B[:, 0].copy(), method="minres", preconditioner=-np.eye(N))


@each_algorithm_case
def test_shifts_share_a_krylov_space(case):
    A, matrix = operator(case, POSITIVE)
    shifts = [0.0, 0.5, 2.0, 30.0]
    result = specop.solve_shifted(A, case.array(B[:, 0]), shifts, rtol=1e-4)
    x = case.numpy(result.x).astype(float)
    assert result.converged and not result.negative.any()
    for j, shift in enumerate(shifts):
        found = true_residuals(matrix + shift * np.eye(N), x[:, j], B[:, 0])
        assert found <= 1.1e-4 * np.linalg.norm(B[:, 0])
        assert found == pytest.approx(result.residuals[j], rel=0.1, abs=10 * case.tol)
    alone = specop.solve_shifted(A, case.array(B[:, 0]), [0.0], rtol=1e-4)
    assert result.matvecs == alone.matvecs


def test_indefinite_and_singular_shifts_are_named():
    A = np.diag([0.0, 1, 2, 3])
    result = specop.solve_shifted(A, np.ones(4), [-2.5, 1.0])
    assert result.converged and result.negative.tolist() == [3, 0]
    assert "indefinite: 3 negative" in str(result)
    np.testing.assert_allclose(result.x[:, 0], 1 / (np.arange(4) - 2.5))
    with pytest.warns(ConvergenceWarning, match="singular for the shift -2, and b is not in its range"):
        assert not specop.solve_shifted(A, np.ones(4), [-2.0, 1.0]).converged
    inside = specop.solve_shifted(A, np.array([1.0, 1, 0, 1]), [-2.0])
    np.testing.assert_allclose(inside.x[:, 0], [-1 / 2, -1, 0, 1], atol=1e-12)


@each_light_case
@pytest.mark.parametrize("method", DEFINITE_METHODS)
def test_not_a_number_is_named_with_its_product(case, method):
    products = []

    def broken(x):
        products.append(0)
        y = dense._matvec(x)
        return case.backend.scale_(y, np.nan) if len(products) == 4 else y

    dense = specop.DenseOperator(case.array(POSITIVE), is_symmetric=True)
    A = specop.FunctionOperator(broken, (N, N), like=case.array([0.0]), is_symmetric=True)
    with pytest.raises(NonFiniteError, match=r"product 4 with .*NaN or infinity"):
        specop.solve(A, case.array(B[:, 0]), method=method)


def test_asymmetry_is_noticed():
    skew = POSITIVE + np.triu(np.ones((N, N)), 1)
    for method in ("auto", "cg", "minres"):
        with pytest.raises(AsymmetryError, match=r"not symmetric.*\(A \+ A.T\) / 2"):
            specop.solve(skew, B[:, 0].copy(), method=method)


def test_what_float32_cannot_give_is_said():
    values = np.geomspace(1e-6, 1, 200).astype(np.float32)
    matrix = spectra.with_spectrum(values).astype(np.float32)
    for method in ("auto", "cg", "minres"):
        with pytest.warns(ConvergenceWarning, match="float32|stopped after"):
            result = specop.solve(matrix, np.ones(200, np.float32), method=method, rtol=1e-7)
        assert not result.converged
    # One that keeps the true residual from getting smaller ends the run, and the limit does not.
    values = np.geomspace(1e-3, 1, 200).astype(np.float32)
    matrix = spectra.with_spectrum(values).astype(np.float32)
    for method in ("auto", "cg", "minres"):
        with pytest.warns(ConvergenceWarning, match="products in float32 with a relative error of .* allow no less"):
            result = specop.solve(matrix, np.ones(200, np.float32), method=method, rtol=1e-7)
        assert result.matvecs < 1000 and result.residual < 1e-4 * 200**0.5


def test_limits():
    A = specop.DiagonalOperator(np.geomspace(1e-4, 1, 500))
    for method in ("auto", "cg", "minres", "neumann"):
        with pytest.warns(ConvergenceWarning, match=r"stopped after \d+ products \(max_matvecs=20.*Raise max_matvecs"):
            result = specop.solve(A, np.ones(500), method=method, max_matvecs=20)
        assert result.matvecs <= 20
        assert result.residual == pytest.approx(np.linalg.norm(1 - A.entries * result.x))
    with pytest.raises(NotConvergedError) as raised:
        specop.solve(A, np.ones(500), max_matvecs=20, raise_on_failure=True)
    assert raised.value.result.matvecs <= 20
    with pytest.warns(ConvergenceWarning, match=r"solve_shifted stopped after 20 products.*at the shift 0,"):
        assert specop.solve_shifted(A, np.ones(500), [0.0, 1.0], max_matvecs=20).matvecs == 20


@pytest.mark.parametrize("method", ["auto", "cg", "minres", "neumann"])
def test_the_limit_is_on_all_products_of_the_call(method):
    b = np.random.default_rng(0).normal(size=(500, 11))
    b[:, 4] = 0.0
    A = specop.DiagonalOperator(np.geomspace(1e-3, 1, 500))
    with pytest.warns(ConvergenceWarning, match=r"stopped after \d+ products \(max_matvecs=150\)"):
        result = specop.solve(A, b, method=method, max_matvecs=150)
    assert 100 < result.matvecs <= 150
    np.testing.assert_allclose(result.residuals, true_residuals(np.diag(A.entries), result.x, b), atol=1e-9)
    # Every column has its share, the last ones too.
    assert result.x.any(axis=0).tolist() == [j != 4 for j in range(11)]


def test_each_column_says_whether_it_converged():
    values = np.geomspace(1e-4, 1, 500)
    b = np.stack([np.zeros(500), (values == 1) * 1.0, np.ones(500)], axis=1)
    with pytest.warns(ConvergenceWarning):
        result = specop.solve(specop.DiagonalOperator(values), b, max_matvecs=60)
    assert result.converged_columns.tolist() == [True, True, False] and not result.converged
    shifted = specop.solve_shifted(np.diag([0.0, 1, 2]), np.array([0.0, 1, 1]), [1.0, 2.0])
    assert shifted.converged and shifted.converged_columns.tolist() == [True, True]
    with pytest.warns(ConvergenceWarning, match="singular for the shift -2"):
        assert specop.solve_shifted(np.diag([1.0, 2, 5]), np.ones(3), [0.0, -2.0]).converged_columns.tolist() == [1, 0]


def test_a_preconditioner_that_is_not_finite_is_named():
    broken = specop.FunctionOperator(lambda x: x * np.nan, (N, N), like=np.zeros(1), is_symmetric=True)
    for method in ("cg", "minres"):
        with pytest.raises(NonFiniteError, match="with the preconditioner <FunctionOperator"):
            specop.solve(POSITIVE, B[:, 0].copy(), method=method, preconditioner=broken)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"b": np.ones(3)}, r"b must have shape \(80,\), got \(3,\)"),
        ({"b": np.ones((3, 2))}, r"each column of b must have shape \(80,\)"),
        ({"b": np.ones((N, 0))}, "no columns"),
        ({"b": [1.0]}, r"native array of shape \(80,\) or \(80, k\).*got list"),
        ({"b": np.full(N, np.nan)}, "b must be finite; the norm of its column 0 is nan"),
        ({"A": np.ones((3, 4))}, r"solve needs a symmetric operator.*A.T A x"),
        ({"method": "gmres"}, "method must be one of auto, lanczos, cg, minres, neumann, got 'gmres'"),
        ({"rtol": -1.0}, "rtol must be a finite number >= 0, got -1.0"),
        ({"rtol": 0.0}, "one of rtol and atol above 0"),
        ({"rtol": 2.0}, "rtol must lie below 1"),
        ({"max_matvecs": 1}, "max_matvecs must be at least 2"),
        ({"b": B, "max_matvecs": 21}, "max_matvecs must be at least 2 for each of 11 columns"),
        ({"x0": np.ones((N, 2))}, "x0 must have the form of b: 1 columns, got 2"),
        ({"x0": np.full(N, np.nan)}, "x0 must be finite"),
        ({"preconditioner": np.eye(3)}, "preconditioner must be a symmetric operator on the vectors of"),
        ({"preconditioner": np.eye(N), "method": "neumann"}, "takes no preconditioner"),
        ({"preconditioner": np.eye(N), "method": "lanczos"}, "takes no preconditioner"),
    ],
)
def test_wrong_arguments_are_named(arguments, text):
    given = {"A": POSITIVE, "b": B[:, 0].copy(), **arguments}
    with pytest.raises(InvalidInputError, match=text):
        specop.solve(given.pop("A"), given.pop("b"), **given)


@pytest.mark.parametrize("kind", ["solve", "shifted"])
def test_results_are_saved(kind, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        result = specop.solve(INDEFINITE, B.copy(), method="cg")
    if kind == "shifted":
        result = specop.solve_shifted(POSITIVE, B[:, 0].copy(), [0.1, 1.0])
    result.save(tmp_path / "x.npz")
    again = specop.load(tmp_path / "x.npz")
    np.testing.assert_array_equal(again.x, result.x)
    np.testing.assert_equal(again.summary(), result.summary())
    assert str(again) == str(result)
    assert kind == "shifted" or "not positive definite" in str(result)
