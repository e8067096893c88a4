"""What solve cannot give, and how it says so: limits, rounding, products that are wrong, arguments."""

import warnings

import numpy as np
import pytest

import specop
import spectra
from specop.errors import AsymmetryError, ConvergenceWarning, InvalidInputError, NonFiniteError, NotConvergedError
from system_cases import DEFINITE_METHODS, INDEFINITE, POSITIVE, B, N, each_light_case, true_residuals


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
        ({"max_matvecs": 1}, "max_matvecs must be an integer of at least 2, two for each column"),
        ({"b": B, "max_matvecs": 21}, "max_matvecs must be an integer of at least 22, two for each column"),
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
