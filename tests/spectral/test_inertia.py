"""inertia: the signs of all eigenvalues, counted with a certificate or estimated with intervals that cover."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import specop
import spectra
from cases import each_algorithm_case
from specop.errors import ConvergenceWarning, InvalidInputError, NotConvergedError


def clement(n):
    """Eigenvalues n - 1, n - 3, ..., 1 - n."""
    beside = np.sqrt(np.arange(1, n) * np.arange(n - 1, 0, -1))
    return np.diag(beside, 1) + np.diag(beside, -1)


def signs(found):
    return found.negative.estimate, found.zero.estimate, found.positive.estimate


def is_certain(found):
    parts = (found.negative, found.zero, found.positive)
    return found.method == "exact" and all(part.interval == (part.estimate,) * 2 for part in parts)


@each_algorithm_case
@pytest.mark.parametrize("n", [1, 2, 11, 12, 41])
def test_clement_matrices(case, n):
    found = specop.inertia(case.array(clement(n)))
    assert signs(found) == (n // 2, n % 2, n // 2) and is_certain(found)
    assert sum(signs(found)) == found.n == n and found.matvecs <= n


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0, 3.9, 5.0])
def test_shifted_path_laplacians(shift):
    n = 80
    values = 2 - 2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1)) - shift
    found = specop.inertia(spectra.laplacian(n) - shift * np.eye(n))
    assert signs(found) == (np.sum(values < 0), 0, np.sum(values > 0)) and is_certain(found)


@each_algorithm_case
def test_a_saddle_as_of_adapters_at_zero(case):
    # At B = 0 the Hessian in (A, B) is zero but for the blocks beside the diagonal: as many ways down as up.
    block = np.random.default_rng(0).normal(size=(60, 8)) @ np.random.default_rng(1).normal(size=(8, 40))
    matrix = np.block([[np.zeros((60, 60)), block], [block.T, np.zeros((40, 40))]])
    found = specop.inertia(case.array(matrix))
    assert signs(found) == (8, 84, 8) and is_certain(found) and found.matvecs <= 40
    assert "8 negative, 84 zero, 8 positive of 100 eigenvalues" in str(found)


@given(
    counts=st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6)).filter(any),
    copies=st.integers(1, 4),
    seed=st.integers(0, 10_000),
)
def test_signs_do_not_depend_on_the_basis(counts, copies, seed):
    rng = np.random.default_rng(seed)
    negative, zero, positive = counts
    sizes = rng.uniform(0.1, 5, size=negative + positive)
    values = np.repeat(np.concatenate([-sizes[:negative], np.zeros(zero), sizes[negative:]]), copies)
    matrix = spectra.with_spectrum(values, seed=seed)
    found, opposite = specop.inertia(matrix), specop.inertia(-matrix)
    assert signs(found) == tuple(copies * count for count in counts) and is_certain(found)
    assert signs(opposite) == signs(found)[::-1]
    assert specop.rank(matrix).rank == copies * (negative + positive)


def test_few_signs_of_a_large_matrix_take_few_products():
    values = np.zeros(5000)
    values[:50], values[50:57] = np.linspace(1, 9, 50), -3.0
    found = specop.inertia(specop.DiagonalOperator(values))
    assert signs(found) == (7, 4943, 50) and is_certain(found) and found.matvecs < 110


def test_a_threshold_of_ones_own():
    values = np.concatenate([1.0 / np.arange(1, 201) ** 2, -0.5 / np.arange(1, 101) ** 2])
    found = specop.inertia(specop.DiagonalOperator(values), 1e-3)
    expected = np.sum(values < -1e-3), np.sum(np.abs(values) <= 1e-3), np.sum(values > 1e-3)
    assert signs(found) == expected and found.threshold == 1e-3
    assert found.gap[0] <= 1e-3 < found.gap[1]
    # Rounding cannot tell the sign of what is as small as that.
    loose = specop.inertia(np.diag([1.0, 1e-20, -1e-8]), 0.0)
    assert (loose.negative.interval, loose.zero.interval, loose.positive.interval) == ((1, 2), (0, 1), (1, 2))


LARGE = {
    "indefinite": np.concatenate([-np.linspace(0.5, 2, 400), np.zeros(900), np.linspace(0.2, 5, 700)]),
    "definite": np.concatenate([np.linspace(1, 3, 1000), np.zeros(1000)]),
    "spiked": np.concatenate([[-3.0], 100 * 0.75 ** np.arange(10), np.linspace(1, 2, 600), np.zeros(1389)]),
}


def estimated(values, seed, products=200):
    with pytest.warns(ConvergenceWarning, match="inertia did not find all nonzero eigenvalues"):
        return specop.inertia(specop.DiagonalOperator(values), max_matvecs=products, seed=seed)


def covered(values, runs):
    truth = np.sum(values < 0), np.sum(values == 0), np.sum(values > 0)
    held = np.zeros(3)
    for seed in range(runs):
        found = estimated(values, seed)
        parts = (found.negative, found.zero, found.positive)
        assert not found.converged and found.method == "quadrature" and found.matvecs <= 200
        assert sum(signs(found)) == pytest.approx(len(values))
        held += [part.interval[0] <= n <= part.interval[1] for part, n in zip(parts, truth, strict=True)]
    return held.min()


@pytest.mark.parametrize("name", LARGE)
def test_intervals_cover_in_a_few_runs(name):
    assert covered(LARGE[name], 5) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_intervals_cover_in_many_runs(name):
    assert covered(LARGE[name], 200) >= 180


def test_estimates_are_narrow_where_a_gap_is():
    found = estimated(LARGE["indefinite"], 0, products=600)
    assert found.gap[0] < found.gap[1] <= 0.5
    assert abs(found.negative.estimate - 400) < 60 and found.negative.standard_error < 60
    assert 0 < np.ptp(found.negative.interval) < 200


@pytest.mark.parametrize("products", [1, 2, 7, 50])
def test_the_limit_is_that_of_all_products(products):
    found = estimated(LARGE["indefinite"], 1, products)
    assert found.matvecs <= products
    for part in (found.negative, found.zero, found.positive):
        assert 0 <= part.interval[0] <= part.estimate <= part.interval[1] <= 2000


def test_kept(tmp_path):
    found = estimated(LARGE["definite"], 3)
    found.save(tmp_path / "inertia.npz")
    again = specop.load(tmp_path / "inertia.npz")
    assert again.negative == found.negative and again.positive.interval == found.positive.interval
    json.dumps(found.summary())
    assert found.summary()["zero"]["estimate"] == found.zero.estimate
    assert str(again) == str(found) and "quadrature" in str(found)
    row = found.to_frame().iloc[0]
    assert (row["zero"], row["zero_low"]) == (found.zero.estimate, found.zero.interval[0])
    assert row["zero_standard_error"] == found.zero.standard_error


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"threshold": -1}, "threshold must"),
        ({"threshold": np.inf}, "threshold must"),
        ({"confidence": 1}, "between 0 and 1"),
        ({"max_matvecs": 0}, "an integer of at least 1"),
        ({"seed": -1}, "seed must"),
    ],
)
def test_bad_arguments(arguments, text):
    with pytest.raises(InvalidInputError, match=text):
        specop.inertia(np.eye(3), **arguments)
    with pytest.raises(InvalidInputError, match="symmetric"):
        specop.inertia(np.ones((3, 4)))


def test_failure_raises_on_request():
    with pytest.raises(NotConvergedError, match="Raise max_matvecs=100"):
        specop.inertia(specop.DiagonalOperator(LARGE["definite"]), max_matvecs=100, raise_on_failure=True)
