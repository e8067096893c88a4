"""Matrices of any size: results scale with the matrix, or the size is refused."""

import numpy as np
import pytest

import specop
import spectra
from cases import each_algorithm_case
from specop.errors import InvalidInputError

MATRIX = spectra.with_spectrum(np.concatenate([[5.0, 4.0, 3.0], np.linspace(0.5, 1, 57)]))
CALLS = {
    "trace": lambda A: specop.trace(A, max_matvecs=40),
    "xnystrace": lambda A: specop.trace(A, method="xnystrace", max_matvecs=40),
    "hutchinson": lambda A: specop.trace(A, method="hutchinson", max_matvecs=40),
    "frobenius": lambda A: specop.frobenius_norm(A, max_matvecs=40),
}


def powers(case):
    """Powers of two whose squares float32 and whose fourth powers float64 cannot hold, or nearly so."""
    return (-90.0, 90.0) if case.dtype == np.float32 else (-220.0, 220.0)


@each_algorithm_case
@pytest.mark.parametrize("which", ["LM", "SA"])
def test_eigenvalues_scale_with_the_matrix(case, which):
    matrix = MATRIX.astype(case.dtype)
    expected = specop.eigsh(case.array(matrix), 3, which=which)
    for power in powers(case):
        found = specop.eigsh(case.array(matrix * 2.0**power), 3, which=which)
        assert found.matvecs == expected.matvecs
        np.testing.assert_allclose(found.eigenvalues / 2.0**power, expected.eigenvalues, rtol=100 * case.eps)
        np.testing.assert_allclose(found.bounds / 2.0**power, expected.bounds, rtol=0.05)


@each_algorithm_case
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_estimates_scale_with_the_matrix(case, call):
    matrix = MATRIX.astype(case.dtype)
    expected = call(case.array(matrix))
    for power in powers(case):
        found = call(case.array(matrix * 2.0**power))
        np.testing.assert_allclose(found.estimate / 2.0**power, expected.estimate, rtol=1e-3)
        np.testing.assert_allclose(found.standard_error / 2.0**power, expected.standard_error, rtol=1e-2)


@each_algorithm_case
def test_density_and_rank_scale_with_the_matrix(case):
    matrix = MATRIX.astype(case.dtype)
    matrix = matrix @ np.diag(np.arange(60) < 40).astype(case.dtype) @ matrix
    expected = specop.spectral_density(case.array(matrix), steps=20).count(0.1, 0.5)
    for power in powers(case):
        scaled = case.array(matrix * 2.0**power)
        assert specop.rank(scaled).rank == 40
        found = specop.spectral_density(scaled, steps=20).count(0.1 * 2.0**power, 0.5 * 2.0**power)
        np.testing.assert_allclose(found.interval, expected.interval, rtol=1e-2)


def test_a_small_matrix_is_not_taken_for_converged():
    # Relative to one, all of its residuals are negligible.
    values = 1e-14 * spectra.geo10()
    result = specop.eigsh(specop.DiagonalOperator(values), k=5)
    np.testing.assert_allclose(result.eigenvalues, np.sort(values)[-5:], rtol=1e-5)


@each_algorithm_case
@pytest.mark.parametrize("sign", [-1, 1])
def test_sizes_out_of_range_are_refused(case, sign):
    matrix = np.asarray(MATRIX * 10.0 ** (sign * (33 if case.dtype == np.float32 else 80)), dtype=case.dtype)
    calls = {
        **CALLS,
        "eigsh": lambda A: specop.eigsh(A, 3),
        "power_iteration": lambda A: specop.power_iteration(A),
        "density": lambda A: specop.spectral_density(A, steps=20),
        "rank": specop.rank,
        "diagonal": lambda A: specop.diagonal(A, max_matvecs=20),
    }
    for call in calls.values():
        with pytest.raises(InvalidInputError, match=r"whose squares leave the range.* Pass \S+ \* A"):
            call(case.array(matrix))


def test_a_product_that_vanishes_is_not_a_zero_matrix():
    rectangular = np.random.default_rng(0).normal(size=(30, 12))
    with pytest.raises(InvalidInputError, match="leave the range of float32"):
        specop.spectral_norm((1e-25 * rectangular).astype(np.float32))
    assert specop.spectral_norm(np.zeros((3, 4))).estimate == 0


@each_algorithm_case
@pytest.mark.parametrize("method", ["auto", "minres", "cg"])
def test_right_hand_sides_of_any_size(case, method):
    A, b = case.array(MATRIX.astype(case.dtype)), np.random.default_rng(0).normal(size=60)
    for power in (-80.0, 80.0):
        found = specop.solve(A, case.array((b * 2.0**power).astype(case.dtype)), method=method, rtol=1e-4)
        x = case.numpy(found.x).astype(float) / 2.0**power
        assert found.converged and np.linalg.norm(MATRIX @ x - b) < 2e-4 * np.linalg.norm(b)


@each_algorithm_case
@pytest.mark.parametrize("method", ["minres", "cg"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_short_recurrences_take_matrices_of_any_size(case, method, sign):
    size = 2.0 ** (sign * (100 if case.dtype == np.float32 else 900))
    A, b = case.array((MATRIX * size).astype(case.dtype)), np.random.default_rng(0).normal(size=60)
    found = specop.solve(A, case.array(b.astype(case.dtype)), method=method, rtol=1e-4)
    x = case.numpy(found.x).astype(float) * size
    assert found.converged and np.linalg.norm(MATRIX @ x - b) < 2e-4 * np.linalg.norm(b)


@pytest.mark.parametrize(("dtype", "sizes"), [("float64", (1e-160, 1e160)), ("float32", (1e-36,))])
@pytest.mark.parametrize("method", ["auto", "cg", "minres", "neumann"])
def test_right_hand_sides_out_of_range_are_refused(dtype, sizes, method):
    A, b = MATRIX.astype(dtype), np.ones((60, 2))
    for size in sizes:
        b[:, 1] = size
        for call in (
            lambda b: specop.solve(A, b, method=method),
            lambda b: specop.solve_shifted(A, np.ascontiguousarray(b[:, 1]), [0.5]),
        ):
            with pytest.raises(InvalidInputError, match=r"of b has the norm \S+, whose square leaves the range of"):
                call(b.astype(dtype))
