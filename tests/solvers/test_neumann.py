"""Neumann's series: plain, as a method of solve, and from mini-batches."""

import numpy as np
import pytest

import specop
import spectra
from cases import each_algorithm_case
from specop.errors import ConvergenceWarning, DomainError, InvalidInputError

N = 30
H = spectra.with_spectrum(np.linspace(0.1, 4, N))
B = np.random.default_rng(1).normal(size=N)
PARTS = [spectra.with_spectrum(np.linspace(0.1, 1 + seed, N), seed) for seed in range(4)]


def solution(matrix, damping):
    return np.linalg.solve(matrix + damping * np.eye(N), B)


@each_algorithm_case
def test_the_series_inverts_with_damping_in_units_of_the_matrix(case):
    A = specop.DenseOperator(case.array(H), is_symmetric=True)
    for scale in (None, 8.0):
        result = specop.lissa(A, case.array(B), damping=0.8, scale=scale)
        case.close(result.x, solution(H, 0.8))
        assert result.scale == scale or (scale is None and 4.6 <= result.scale < 5.8)
        assert result.damping == 0.8
        assert result.residual <= 1e3 * case.eps * np.linalg.norm(B)


@each_algorithm_case
def test_mini_batches(case):
    operators = [specop.DenseOperator(case.array(part), is_symmetric=True) for part in PARTS]
    result = specop.lissa(operators, case.array(B), damping=0.8, steps=400, repeats=12, seed=5)
    mean = sum(PARTS) / 4
    error = np.linalg.norm(case.numpy(result.x) - solution(mean, 0.8))
    assert error <= 4 * result.standard_error <= 0.5 * np.linalg.norm(case.numpy(result.x))
    left = B - mean @ case.numpy(result.x) - 0.8 * case.numpy(result.x)
    assert result.residual == pytest.approx(np.linalg.norm(left), rel=1e-4)
    assert len(result.lengths) == 12 and result.matvecs >= 12 * 400 + 4


def test_the_standard_error_covers():
    operators = [specop.DenseOperator(part, is_symmetric=True) for part in PARTS]
    covered = 0
    for seed in range(40):
        result = specop.lissa(operators, B, damping=1.5, steps=80, repeats=10, seed=seed)
        covered += np.linalg.norm(result.x - solution(sum(PARTS) / 4, 1.5)) <= 2 * result.standard_error
    assert covered >= 34


def test_batches_are_drawn_by_their_weights():
    operators = [specop.DenseOperator(part, is_symmetric=True) for part in PARTS]
    weights = np.array([8.0, 1.0, 1.0, 2.0])
    result = specop.lissa(operators, B, damping=1.5, steps=100, repeats=60, weights=weights)
    mean = sum(weight * part for weight, part in zip(weights / 12, PARTS, strict=True))
    error = np.linalg.norm(result.x - solution(mean, 1.5))
    assert error <= 3 * result.standard_error
    assert result.standard_error < 0.2 * np.linalg.norm(result.x - solution(sum(PARTS) / 4, 1.5))


def test_the_same_seed_gives_the_same_bits():
    operators = [specop.DenseOperator(part, is_symmetric=True) for part in PARTS]
    first, again, other = (
        specop.lissa(operators, B, damping=1.5, steps=30, repeats=2, seed=seed).x for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_scale_that_diverges_is_refused_with_one_that_works():
    A = specop.DenseOperator(H, is_symmetric=True)
    with pytest.raises(
        InvalidInputError, match=r"largest eigenvalue of a batch is about [34].*below 2\. Use scale="
    ) as bad:
        specop.lissa(A, B, damping=1.2, scale=2.5)
    scale = float(str(bad.value).rsplit("=", 1)[1].rstrip("."))
    result = specop.lissa(A, B, damping=1.2, scale=scale)
    np.testing.assert_allclose(result.x, solution(H, 1.2), rtol=1e-9)
    # The damping counts: without it this scale would do.
    assert specop.lissa(A, B, damping=1e-3, scale=2.5).converged
    # The largest of any batch counts, not that of the mean.
    operators = [specop.DenseOperator(part, is_symmetric=True) for part in PARTS]
    with pytest.raises(InvalidInputError, match=r"about [34]"):
        specop.lissa(operators, B, damping=0.1, scale=1.5)


def test_negative_curvature_that_damping_does_not_cover():
    shifted = specop.DenseOperator(H - 1.0 * np.eye(N), is_symmetric=True)
    with pytest.raises(DomainError, match=r"diverged.*below -damping = -0.3.*Raise damping"):
        specop.lissa(shifted, B, damping=0.3, scale=3.0, steps=2000)
    covered = specop.lissa(shifted, B, damping=1.2, scale=3.0, steps=2000)
    np.testing.assert_allclose(covered.x, solution(H - np.eye(N), 1.2), rtol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"damping": 0.0}, "damping must be a positive number, got 0.0"),
        ({"scale": -1.0}, "scale must be a positive number, got -1.0"),
        ({"steps": 0}, "steps must be a positive integer, got 0"),
        ({"repeats": 1.5}, "repeats must be a positive integer, got 1.5"),
        ({"weights": [1.0, 2.0]}, "weights must be 1 positive numbers"),
        ({"operators": []}, "operators is empty"),
        ({"operators": [np.eye(N), np.eye(3)]}, "must be symmetric and alike"),
        ({"b": np.full(N, np.inf)}, "b must be finite; the norm of its column 0 is inf"),
        ({"b": np.ones((N, 2))}, "takes one right-hand side"),
    ],
)
def test_wrong_arguments_are_named(arguments, text):
    given = {"operators": [H], "b": B, "damping": 0.1, **arguments}
    with pytest.raises(InvalidInputError, match=text):
        specop.lissa(given.pop("operators"), given.pop("b"), **given)


def test_neumann_takes_condition_number_many_steps():
    values = np.geomspace(1e-2, 1, N)
    b = np.ones(N)
    series = specop.solve(np.diag(values), b, method="neumann")
    assert series.converged and 200 < series.steps < 2000
    assert series.steps > 10 * specop.solve(np.diag(values), b, method="cg").steps
    with pytest.warns(ConvergenceWarning, match="method='auto', which takes far fewer"):
        specop.solve(np.diag(values), b, method="neumann", max_matvecs=50)


def test_lissa_results_are_saved(tmp_path):
    result = specop.lissa(specop.DenseOperator(H, is_symmetric=True), B, damping=1.5, steps=50, repeats=2)
    result.save(tmp_path / "x.npz")
    again = specop.load(tmp_path / "x.npz")
    np.testing.assert_array_equal(again.x, result.x)
    assert str(again) == str(result) and "standard error" in str(result)
