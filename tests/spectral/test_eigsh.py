"""eigsh: right answers, honest errors, few products, and nothing missed."""

import numpy as np
import pytest
import scipy.sparse.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

import specop
import spectra
from cases import CASES, each_algorithm_case
from specop.errors import (
    AsymmetryError,
    ConvergenceWarning,
    InvalidInputError,
    NoiseWarning,
    NondeterministicError,
    NonFiniteError,
    NotConvergedError,
)


def wanted(values, k, which):
    """Select as SciPy does; by magnitude, ties go either way, so compare magnitudes there."""
    values = np.sort(values)
    low = {"LA": 0, "SA": k, "BE": k // 2}.get(which)
    if low is not None:
        return np.concatenate([values[:low], values[len(values) - (k - low) :]])
    order = np.argsort(np.abs(values), kind="stable")
    return np.sort(values[order[-k:] if which == "LM" else order[:k]])


def check_result(result, matrix, case):
    """The identities that hold for every result: A X = X L within the residuals, X'X = I, errors within bounds."""
    vectors, values = case.numpy(result.eigenvectors).astype(float), result.eigenvalues
    exact = np.linalg.eigvalsh(np.asarray(matrix, dtype=float))
    scale = max(np.abs(exact).max(), 1e-300)
    assert values.dtype == np.float64 and (np.diff(values) >= 0).all()
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(len(values)), atol=100 * case.eps)
    assert (np.linalg.norm(matrix @ vectors - vectors * values, axis=0) <= 1.01 * result.residuals + 1e-300).all()
    assert (distances(result, exact) <= result.bounds + 20 * 2.3e-16 * scale).all()


def distances(result, exact):
    """Return how far each eigenvalue is from that of the same number, copies counted; by size, of the same size."""
    expected, found = wanted(exact, len(result.eigenvalues), result.which), result.eigenvalues
    if result.which not in ("LM", "SM"):
        return np.abs(found - expected)
    order, distance = np.argsort(np.abs(found), kind="stable"), np.empty(len(found))
    distance[order] = np.abs(np.sort(np.abs(expected)) - np.abs(found)[order])
    return distance


@each_algorithm_case
@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
@pytest.mark.parametrize("k", [1, 4, 30, 60])
def test_matches_dense_eigenvalues(case, which, k):
    matrix = spectra.with_spectrum(np.random.default_rng(k).normal(size=60)).astype(case.dtype)
    result = specop.eigsh(case.array(matrix), k=k, which=which, tol=1e-5)
    assert result.converged and len(result.eigenvalues) == k
    check_result(result, matrix, case)
    expected = wanted(np.linalg.eigvalsh(matrix.astype(float)), k, which)
    np.testing.assert_allclose(result.eigenvalues, expected, atol=max(1e-5, 30 * case.eps) * 4)


@each_algorithm_case
def test_smallest_magnitude(case):
    matrix = spectra.with_spectrum(np.arange(1.0, 51)).astype(case.dtype)
    result = specop.eigsh(case.array(matrix), k=3, which="SM")
    np.testing.assert_allclose(result.eigenvalues, [1, 2, 3], atol=1e-3)


# Every kind of spectrum that has broken an eigensolver: repeated, zero, tiny, one-point, fast and slow decay.
spectra_of_all_kinds = st.one_of(
    st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=30),
    st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=30),
    st.integers(1, 40).map(lambda n: [100 * 0.7**i for i in range(n)]),
    st.integers(1, 40).map(lambda n: [5.0] * n),
    st.integers(1, 40).map(lambda n: [1.0] * (n // 2) + [0.0] * (n - n // 2)),
)


@settings(max_examples=150)
@given(values=spectra_of_all_kinds, seed=st.integers(0, 99), data=st.data())
def test_laws_on_any_spectrum(values, seed, data):
    matrix = spectra.with_spectrum(np.array(values), seed)
    n = len(values)
    k = data.draw(st.integers(1, n))
    which = data.draw(st.sampled_from(["LM", "LA", "SA", "BE"]))
    result = specop.eigsh(matrix, k=k, which=which, tol=1e-8, seed=seed)
    check_result(result, matrix, CASES[1])
    scale = max(np.abs(values).max(), 1e-3)
    expected, found = wanted(np.array(values), k, which), result.eigenvalues
    if which == "LM":
        expected, found = np.sort(np.abs(expected)), np.sort(np.abs(found))
    np.testing.assert_allclose(found, expected, atol=1e-7 * scale)
    shifted = specop.eigsh(matrix + 2 * scale * np.eye(n), k=k, which="LA", tol=1e-8, seed=seed).eigenvalues
    np.testing.assert_allclose(shifted, np.sort(values)[-k:] + 2 * scale, atol=1e-7 * scale)
    mirrored = specop.eigsh(-matrix, k=k, which="LA", tol=1e-8, seed=seed).eigenvalues
    np.testing.assert_allclose(-mirrored[::-1], np.sort(values)[:k], atol=1e-7 * scale)


@pytest.mark.parametrize(
    ("matrix", "which", "expected"),
    [
        (spectra.laplacian_2d(30), "LA", [7.89801716, 7.91811977, 7.94879853, 7.94879853, 7.97947729]),
        (spectra.laplacian_2d(30), "SA", [0.02052271, 0.05120147, 0.05120147]),
        (spectra.wilkinson(), "LA", [8.03894112, 8.03894112, 9.21067865, 9.21067865, 10.74619418, 10.74619418]),
        (spectra.wilkinson(), "SA", [-1.12544152]),
        (spectra.clement(11), "BE", [-10, -8, 6, 8, 10]),
        (np.minimum.outer(np.arange(1.0, 51), np.arange(1.0, 51)), "LM", [41.42652999, 114.92530233, 1033.6607317]),
    ],
    ids=["laplacian-top", "laplacian-bottom", "wilkinson-top", "wilkinson-bottom", "clement", "min"],
)
def test_closed_forms(matrix, which, expected):
    result = specop.eigsh(matrix, k=len(expected), which=which, tol=1e-6, max_matvecs=5000)
    np.testing.assert_allclose(result.eigenvalues, expected, atol=2e-7)


@each_algorithm_case
def test_nine_fold_eigenvalue_is_returned_as_often_as_asked(case):
    for seed in range(3):
        result = specop.eigsh(specop.DiagonalOperator(case.array(spectra.mult9())), k=5, seed=seed)
        np.testing.assert_allclose(result.eigenvalues, 10, rtol=1e-4)
    unchecked = specop.eigsh(specop.DiagonalOperator(case.array(spectra.mult9())), k=5, check_multiplicity=False)
    assert unchecked.eigenvalues[0] < 2 and unchecked.check_matvecs == 0


def test_gauss_newton_of_a_regression_is_found_with_its_copies():
    # I_C (x) S: every eigenvalue C times.
    factor = spectra.with_spectrum(10 * 0.5 ** np.arange(40))
    result = specop.eigsh(np.kron(np.eye(3), factor), k=9)
    np.testing.assert_allclose(result.eigenvalues, np.repeat([2.5, 5, 10], 3), rtol=1e-5)


@pytest.mark.parametrize(("k", "limit"), [(1, 15), (5, 19), (10, 22)])
def test_products_on_separated_outliers_check_included(k, limit):
    operator = specop.DiagonalOperator(spectra.geo10())
    runs = [specop.eigsh(operator, k=k, seed=seed) for seed in range(20)]
    assert max(run.matvecs for run in runs) <= limit
    expected = np.sort(spectra.geo10())[-k:]
    assert max(np.abs(run.eigenvalues / expected - 1).max() for run in runs) < 1e-4


@pytest.mark.parametrize(
    ("spectrum", "k"),
    [(spectra.geo10, 1), (spectra.geo10, 5), (spectra.geo10, 10), (spectra.cluster10, 10), (spectra.power1, 20)],
    ids=["geo10-1", "geo10-5", "geo10-10", "cluster10", "power1"],
)
def test_no_more_products_than_arpack_but_for_the_check(spectrum, k):
    values, count = spectrum(), []

    def matvec(x):
        count.append(1)
        return values * x.ravel()

    n = len(values)
    start = np.random.default_rng(0).normal(size=n)
    scipy.sparse.linalg.eigsh(scipy.sparse.linalg.LinearOperator((n, n), matvec, dtype=float), k=k, tol=1e-3, v0=start)
    result = specop.eigsh(specop.DiagonalOperator(values), k=k, v0=start)
    assert result.matvecs - result.check_matvecs <= len(count)


@each_algorithm_case
def test_products_are_counted_and_exchange_is_one_transfer_a_step(case, monkeypatch):
    count, transfers = [], []
    values = case.array(spectra.geo10())
    operator = specop.FunctionOperator(lambda x: count.append(1) or values * x, (4000, 4000), like=values)
    to_host = case.backend.to_host

    def counted(*arrays):
        transfers.append(sum(int(np.prod(array.shape)) for array in arrays))
        return to_host(*arrays)

    monkeypatch.setattr(case.backend, "to_host", counted)
    result = specop.eigsh(operator, k=5)
    assert result.matvecs == len(count)
    # Beyond one a product: the norms of the two start vectors.
    assert len(transfers) <= len(count) + 6 and max(transfers) < 200


@pytest.mark.parametrize(("gap", "k"), [(0.01, 5), (0.0125, 8)])
def test_no_eigenvalue_between_others_is_missed(gap, k):
    # A Ritz value may still be on its way when k others, one of them too low, have converged.
    rng = np.random.default_rng(7)
    values = np.concatenate([20 * (1 - gap * np.arange(10)), rng.exponential(0.2, 3990)])
    for seed in range(60):
        found = specop.eigsh(specop.DiagonalOperator(values), k=k, seed=seed).eigenvalues
        np.testing.assert_allclose(found, np.sort(values)[-k:], rtol=2e-3)


@each_algorithm_case
def test_start_vectors(case):
    values = spectra.geo10()
    operator = specop.DiagonalOperator(case.array(values))
    cold = specop.eigsh(operator, k=10)
    warm = specop.eigsh(specop.DiagonalOperator(case.array(values * 1.001)), k=10, v0=cold)
    assert warm.matvecs < cold.matvecs
    np.testing.assert_allclose(warm.eigenvalues, np.sort(values * 1.001)[-10:], rtol=1e-4)
    # An eigenvector of the wrong eigenvalue converges at once, and must not be believed.
    wrong = case.array(np.eye(4000)[7])
    np.testing.assert_allclose(specop.eigsh(operator, k=1, v0=wrong).eigenvalues, [100], rtol=1e-4)
    for bad, text in [(case.array(np.zeros(4000)), "not zero"), (case.array(np.full(4000, np.nan)), "finite")]:
        with pytest.raises(InvalidInputError, match=text):
            specop.eigsh(operator, k=1, v0=bad)
    with pytest.raises(InvalidInputError, match="v0 must have shape"):
        specop.eigsh(operator, k=1, v0=case.array(np.ones(7)))


@each_algorithm_case
def test_same_seed_gives_the_same_bits(case):
    operator = specop.DiagonalOperator(case.array(spectra.power1()))
    first, second = (specop.eigsh(operator, k=4, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.eigenvalues, second.eigenvalues)
    np.testing.assert_array_equal(case.numpy(first.rows), case.numpy(second.rows))


@each_algorithm_case
def test_small_basis_restarts(case):
    matrix = spectra.with_spectrum(np.linspace(-1, 2, 400)).astype(case.dtype)
    result = specop.eigsh(case.array(matrix), k=2, which="LA", ncv=6, tol=1e-3)
    assert result.matvecs > 20
    np.testing.assert_allclose(result.eigenvalues, np.linspace(-1, 2, 400)[-2:], atol=1e-4)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [(np.zeros((50, 50)), 0.0), (np.eye(50), 1.0), (np.array([[4.0]]), 4.0), (1e-30 * np.eye(9), 1e-30)],
    ids=["zero", "identity", "one", "tiny"],
)
def test_trivial_operators(matrix, expected):
    k = min(4, len(matrix))
    result = specop.eigsh(matrix, k=k)
    np.testing.assert_allclose(result.eigenvalues, np.full(k, expected), rtol=1e-12)
    assert result.converged


def test_asymmetry_is_refused_or_warned_of():
    symmetric = spectra.with_spectrum(np.linspace(0, 1, 100))
    noise = np.random.default_rng(0).normal(size=(100, 100)) / 10
    with pytest.raises(AsymmetryError, match="symmetrize"):
        specop.eigsh(symmetric + 0.3 * noise, k=3)
    with pytest.warns(NoiseWarning, match="asymmetric by"):
        result = specop.eigsh(symmetric + 1e-6 * noise, k=3)
    assert np.abs(result.eigenvalues - [98 / 99 - 1 / 99, 98 / 99, 1]).max() <= result.bounds.max()
    with pytest.raises(InvalidInputError, match="symmetric"):
        specop.eigsh(specop.FunctionOperator(lambda x: x, (3, 3), like=np.zeros(3), is_symmetric=False), k=1)


def test_rounding_of_zero_products_is_no_asymmetry():
    """From a start vector in the null space the first products are rounding, and so is what they differ by."""
    matrix = np.diag([0.0, 0, 0, 1, 2, 3])
    matrix[[0, 1, 2], [1, 2, 0]] = 1e-17
    operator, null = specop.DenseOperator(matrix, is_symmetric=True), np.eye(6)[0]
    np.testing.assert_allclose(specop.eigsh(operator, k=2, v0=null).eigenvalues, [2, 3])
    matrix[[3, 4, 5], [4, 5, 3]] = 1.0
    with pytest.raises(AsymmetryError, match="is not symmetric"):
        specop.eigsh(specop.DenseOperator(matrix, is_symmetric=True), k=2, v0=null)


def test_noisy_products_are_told_from_asymmetric_ones():
    symmetric, rng = spectra.with_spectrum(np.linspace(0, 1, 100)), np.random.default_rng(0)
    operator = specop.FunctionOperator(
        lambda x: symmetric @ x + 0.05 * rng.normal(size=100), (100, 100), like=symmetric
    )
    with pytest.raises(NondeterministicError, match="same vector differ"):
        specop.eigsh(operator, k=3)


@each_algorithm_case
def test_noise_widens_the_bounds_over_the_true_error(case):
    # Products rounded to eight bits, as on 16-bit hardware, by an operator that says so.
    class Rounded(specop.DenseOperator):
        precision = 2.0**-8

        def _matvec(self, x):
            product = case.numpy(super()._matvec(x))
            mantissa, exponent = np.frexp(product)
            return case.array(np.ldexp(np.round(mantissa * 256) / 256, exponent))

    matrix = spectra.with_spectrum(np.concatenate([[20.0, 15, 11], np.linspace(0, 0.5, 300)])).astype(case.dtype)
    result = specop.eigsh(Rounded(case.array(matrix)), k=3)
    assert (np.abs(result.eigenvalues - [11, 15, 20]) <= np.maximum(result.bounds, 0.05)).all()


@each_algorithm_case
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_products_that_are_not_finite(case, poison):
    values = np.ones(50)
    values[3] = poison
    with pytest.raises(NonFiniteError, match="product 1 "):
        specop.eigsh(specop.DiagonalOperator(case.array(values)), k=1)


def test_running_out_of_products_is_said():
    operator = specop.DiagonalOperator(np.linspace(0, 1, 2000))
    with pytest.warns(ConvergenceWarning, match="of 3 eigenvalues converged"):
        result = specop.eigsh(operator, k=3, tol=1e-8, max_matvecs=20)
    assert not result.converged and result.matvecs <= 20
    with pytest.raises(NotConvergedError) as caught:
        specop.eigsh(operator, k=3, tol=1e-8, max_matvecs=20, raise_on_failure=True)
    assert caught.value.result.eigenvalues.shape == (3,)
    with pytest.warns(ConvergenceWarning, match="missed copies"):
        specop.eigsh(specop.DiagonalOperator(spectra.geo10()), k=10, max_matvecs=17)
    # Where k is nearly n, the space is completed instead of searched, and that takes products too.
    for matrix, k, limit in [(np.diag([1.0] * 40 + [2.0] * 10), 4, 9), (np.diag([1.0] * 30 + [2.0] * 5), 24, 30)]:
        with pytest.warns(ConvergenceWarning, match="missed copies"):
            assert not specop.eigsh(matrix, k=k, max_matvecs=limit).converged


def test_what_running_out_of_products_means_inside_a_spectrum():
    # Half of the eigenvalues at zero: the smallest in magnitude have no individual meaning.
    values = np.concatenate([np.zeros(1000), np.random.default_rng(0).normal(size=1000)])
    with pytest.warns(ConvergenceWarning, match="near zero there is no end to it"):
        specop.eigsh(specop.DiagonalOperator(values + 1e-3 * values**2 + 1e-4), k=3, which="SM", max_matvecs=60)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"k": 0}, "from 1 to n=5, got 0"),
        ({"k": 6}, "from 1 to n=5, got 6"),
        ({"k": 1.5}, "got 1.5"),
        ({"which": "LR"}, "LM, LA, SA, SM, BE"),
        ({"tol": -1}, "tol must be"),
        ({"tol": float("nan")}, "tol must be"),
        ({"ncv": 2, "k": 3}, "ncv must lie above k=3"),
        ({"max_matvecs": 1, "k": 3}, "at least 3, the number"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_bad_arguments(arguments, text):
    with pytest.raises(InvalidInputError, match=text):
        specop.eigsh(np.eye(5), **{"k": 2, **arguments})


def test_rectangular_operator_is_refused():
    with pytest.raises(InvalidInputError, match=r"A\.T @ A"):
        specop.eigsh(np.ones((3, 4)), k=1)
