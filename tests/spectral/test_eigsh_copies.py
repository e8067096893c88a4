"""Eigenvalues that occur several times: each bound covers the distance to the eigenvalue of the same number."""

import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest

import specop
import spectra
from cases import CASES
from specop.spectral import check


def cycle(n):
    return 2 * np.eye(n) - np.roll(np.eye(n), 1, 0) - np.roll(np.eye(n), -1, 0)


def path(n):
    return np.diag(np.full(n, 2.0)) - np.eye(n, k=1) - np.eye(n, k=-1)


MATRICES = {
    "cycle of 40": lambda: cycle(40),
    "cycle of 91": lambda: cycle(91),
    "cycle of 150": lambda: cycle(150),
    "cycle of 200": lambda: cycle(200),
    "two paths": lambda: np.kron(np.eye(2), path(60)),
    "three paths": lambda: np.kron(np.eye(3), path(40)),
    "torus": lambda: np.kron(cycle(7), np.eye(9)) + np.kron(np.eye(7), cycle(9)),
}


@pytest.mark.parametrize("which", ["LA", "SA"])
@pytest.mark.parametrize("name", MATRICES)
def test_bounds_cover_the_eigenvalue_of_the_same_number(name, which):
    """Each of the six runs may miss with a probability of one percent, two of them with one of 2e-3."""
    A = MATRICES[name]()
    exact = np.linalg.eigvalsh(A)
    missed = 0
    for seed, (k, tol) in enumerate(itertools.product((3, 6), (1e-2, 1e-3, 1e-6))):
        found = specop.eigsh(A, k=k, which=which, tol=tol, seed=seed, max_matvecs=10 * len(A))
        wanted = exact[-k:] if which == "LA" else exact[:k]
        missed += bool((np.abs(found.eigenvalues - wanted) > found.bounds + 1e-12).any())
    assert missed <= 1


@pytest.mark.parametrize("seed", [1, 2, 4])
def test_a_copy_that_shows_where_rows_have_run_out_is_found_with_rows(seed):
    """The second chain goes on without rows; once a copy shows, one with rows goes for it to the end, not in turns."""
    eigenvalues = np.repeat(np.linalg.eigvalsh(path(60)), 2)
    found = specop.eigsh(
        specop.DiagonalOperator(eigenvalues), k=2, which="LA", tol=1e-6, ncv=8, seed=seed, max_matvecs=500
    )
    assert found.converged
    np.testing.assert_allclose(found.eigenvalues, eigenvalues[-2:], rtol=1e-9)


def test_one_product_shows_what_a_closed_space_lacks():
    """Also from a start vector of the user's own, of which no rule of random vectors holds."""
    eigenvalues = np.concatenate([np.zeros(200), np.linspace(1, 2, 20)])
    v0 = np.cos(np.arange(220) * 1.7 + 0.3)
    found = specop.eigsh(specop.DiagonalOperator(eigenvalues), k=2, which="LA", tol=1e-8, v0=v0)
    np.testing.assert_allclose(found.eigenvalues, eigenvalues[-2:], rtol=1e-9)
    assert found.check_matvecs == 1


def test_a_second_chain_begins_without_the_frontier_of_a_space_that_it_does_not_believe():
    """What such a frontier holds was lost from the products of the rows kept, which then were those of no matrix."""
    eigenvalues = np.concatenate([np.zeros(100), np.repeat(np.linspace(1, 2, 10), 2)])
    found = specop.eigsh(specop.DiagonalOperator(eigenvalues), k=6, which="BE", tol=1e-3, ncv=8, seed=11)
    wanted = np.concatenate([eigenvalues[:3], eigenvalues[-3:]])
    assert (np.abs(found.eigenvalues - wanted) <= found.bounds + 1e-12).all()


def drawn(numbers):
    """Return the runs of these numbers of the benchmark, which draws matrices, ends, tolerances and seeds."""
    path = Path(__file__).parents[1] / "benchmarks" / "copies.py"
    spec = importlib.util.spec_from_file_location("copies", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [module.Run.drawn(number, seed=1) for number in numbers]


@pytest.mark.parametrize("runs", [10, pytest.param(20_000, marks=pytest.mark.slow)])
def test_eigenvalues_outside_of_their_bounds_are_as_rare_as_stated(runs):
    found = drawn(range(runs))
    assert sum(run.outside > 0 for run in found) <= 0.01 * runs
    # Where a space has closed, much more is asked for than one percent.
    assert not any(run.outside for run in found if run.is_closed)


def test_a_closed_space_is_not_taken_for_the_whole():
    # The Laplacian of a cycle has 76 different eigenvalues, all but two of them double.
    exact = np.linalg.eigvalsh(cycle(150))[-3:]
    for seed in range(4):
        found = specop.eigsh(cycle(150), k=3, which="LA", seed=seed)
        assert (np.abs(found.eigenvalues - exact) <= found.bounds + 1e-12).all()
        assert found.check_matvecs > 0


@pytest.mark.parametrize(("n", "seed"), [(92, 0), (110, 1)])
def test_a_second_space_that_converges_to_another_eigenvalue_first_is_not_believed(n, seed):
    found = specop.eigsh(cycle(n), k=3, which="LA", seed=seed)
    assert (np.abs(found.eigenvalues - np.linalg.eigvalsh(cycle(n))[-3:]) <= found.bounds + 1e-12).all()


def test_copies_on_their_way_into_the_space_are_a_reason_to_doubt():
    """Rounding kept the space from closing, and a search of ten products was believed."""
    torus = np.kron(cycle(6), np.eye(16)) + np.kron(np.eye(6), cycle(16))
    found = specop.eigsh(torus, k=3, which="SA", tol=1e-5, seed=592)
    assert (np.abs(found.eigenvalues - np.linalg.eigvalsh(torus)[:3]) <= found.bounds + 1e-12).all()


@pytest.mark.parametrize("case", [case for case in CASES if case.framework == "numpy"], ids=str)
@pytest.mark.parametrize(("bulk", "zeros"), [(3000, 0), (1000, 200_000)])
def test_an_eigenvalue_that_dominates_is_no_reason_to_doubt(case, bulk, zeros):
    """Rounding carries copies of it, and beside it products outside are small: the check took 11 to 15 products."""
    top = 22.0 * np.array([1.0, 0.08, 0.06, 0.04, 0.03, 0.025])
    rest = np.minimum(np.random.default_rng(0).exponential(0.05, bulk), 0.4)
    values = np.concatenate([np.zeros(zeros), rest, top])
    for seed in range(4):
        found = specop.eigsh(specop.DiagonalOperator(values.astype(case.dtype)), k=6, which="LA", seed=seed)
        assert found.check_matvecs <= 10


def one_copy(dtype, seed):
    """Twelve outliers close together, one of them twice, over a bulk."""
    top = 100 * 0.97 ** np.arange(12)
    copy = np.random.default_rng(seed).integers(0, 7)
    bulk = np.minimum(np.random.default_rng(5).exponential(0.2, 1500), 1.3)
    return np.concatenate([top, top[[copy]], bulk]).astype(dtype)


@pytest.mark.parametrize("case", [case for case in CASES if case.framework == "numpy"], ids=str)
def test_a_copy_that_rounding_has_put_half_into_the_space_is_found(case):
    """The search outside of the space saw only a part of it: 20 of 150 such runs in float32 missed one."""
    missed = 0
    for seed in range(40):
        values = one_copy(case.dtype, seed)
        found = specop.eigsh(specop.DiagonalOperator(values), k=7, which="LA", seed=seed)
        distance = np.abs(found.eigenvalues - np.sort(values.astype(float))[-7:])
        missed += bool((distance > found.bounds + 100 * case.eps * 100).any())
    assert missed <= 1


@pytest.mark.parametrize("seed", range(3))
def test_a_check_in_a_full_basis_finds_room(seed):
    """A restart of the second chain kept as many rows as are wanted, and the next product had no place."""
    values = np.random.default_rng(0).normal(size=4000)
    found = specop.eigsh(specop.DiagonalOperator(values), k=20, which="LA", ncv=200, seed=seed)
    assert found.converged
    np.testing.assert_allclose(found.eigenvalues, np.sort(values)[-20:], rtol=1e-3)


def test_without_a_check_bounds_are_residuals():
    found = specop.eigsh(specop.DiagonalOperator(spectra.geo10()), k=5, check_multiplicity=False)
    np.testing.assert_array_equal(found.bounds, found.residuals)
    checked = specop.eigsh(specop.DiagonalOperator(spectra.geo10()), k=5)
    assert (checked.bounds[1:] < 1e-3 * checked.residuals[1:]).any()


def test_the_bound_of_the_last_reaches_to_what_the_check_excludes(monkeypatch):
    # As if the check had excluded nothing below one percent above the last one.
    level = check.level
    monkeypatch.setattr(check, "level", lambda ladder, cleared: 1.01 * level(ladder, cleared))
    values = np.concatenate([[100.0, 60.0, 40.0], np.linspace(0, 1, 500)])
    found = specop.eigsh(specop.DiagonalOperator(values), k=3)
    assert 0.399 <= found.bounds[0] < 0.5 and (found.bounds[1:] < 1e-2).all()


def test_a_check_of_few_rows_goes_on_without_them_until_it_has_ruled_copies_out():
    """A chain that restarts rules nothing out: it took 200 products, and bounds twice as wide."""
    eigenvalues = np.concatenate([np.linspace(0, 1, 3000), [1.05, 1.05]])
    found = specop.eigsh(specop.DiagonalOperator(eigenvalues), k=2, which="LA", ncv=8, tol=1e-4)
    np.testing.assert_allclose(found.eigenvalues, 1.05, rtol=1e-6)
    assert found.check_matvecs < 100 and found.bounds.max() <= 1.05e-4
