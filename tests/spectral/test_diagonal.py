"""diagonal and frobenius_norm: unbiased, with errors that are true, exact where that is cheap."""

import numpy as np
import pytest
import scipy.sparse

import specop
import spectra
from cases import each_algorithm_case
from specop.arrays import probes as probe_vectors
from specop.errors import ConvergenceWarning, InvalidInputError, NonFiniteError, NotConvergedError

SPECTRA = {
    "spiked": np.concatenate([100 * 0.75 ** np.arange(10), np.random.default_rng(5).exponential(0.2, 190)]),
    "power law": 100 / np.arange(1.0, 201),
    "flat": np.linspace(1, 3, 200),
    "low rank": np.concatenate([np.linspace(1, 5, 12), np.zeros(188)]),
}
MATRICES = {name: spectra.with_spectrum(values) for name, values in SPECTRA.items()}


def definition_of_xdiag(matrix, probes):
    """Average over the probes, each left out of the sketch and probing what the sketch lacks."""
    found = []
    for i in range(probes.shape[1]):
        Q = np.linalg.qr(matrix @ np.delete(probes, i, axis=1))[0]
        rest = matrix @ probes[:, i] - Q @ (Q.T @ (matrix @ probes[:, i]))
        found.append(np.diag(Q @ Q.T @ matrix) + probes[:, i] * rest)
    return np.mean(found, axis=0)


@pytest.mark.parametrize("symmetric", [True, False])
def test_xdiag_is_its_definition(symmetric):
    matrix = MATRICES["power law"][:40, :40] + (not symmetric) * np.random.default_rng(0).normal(size=(40, 40))
    result = specop.diagonal(matrix, method="xdiag", max_matvecs=20, seed=5)
    A = specop.aslinearoperator(matrix)
    probes = np.stack([probe_vectors.rademacher(A.backend, A.domain, 5, i) for i in range(10)], axis=1)
    np.testing.assert_allclose(result.x, definition_of_xdiag(matrix, probes), rtol=1e-9, atol=1e-9)
    assert result.matvecs == 20


@pytest.mark.parametrize("method", ["bekas", "xdiag", "auto"])
@pytest.mark.parametrize("name", MATRICES)
def test_errors_of_diagonals_are_true(name, method):
    matrix = MATRICES[name]
    results = [specop.diagonal(matrix, method=method, max_matvecs=48, seed=seed) for seed in range(25)]
    errors = np.array([result.x - np.diag(matrix) for result in results])
    root_mean_square = np.sqrt(np.mean(np.sum(errors**2, axis=1)))
    claimed = np.sqrt(np.mean([result.error_norm**2 for result in results]))
    assert 0.8 < claimed / root_mean_square < 2
    inside = np.mean(
        [np.abs(error) <= 2 * result.standard_errors for error, result in zip(errors, results, strict=True)]
    )
    assert inside > 0.85
    assert all(result.matvecs == 48 and result.converged for result in results)


def test_auto_takes_the_better_one():
    methods = {name: specop.diagonal(matrix, max_matvecs=60).method for name, matrix in MATRICES.items()}
    assert methods == {"spiked": "xdiag", "power law": "xdiag", "flat": "bekas", "low rank": "xdiag"}
    flat = MATRICES["flat"]
    auto, plain = (specop.diagonal(flat, method=method, max_matvecs=40) for method in ("auto", "bekas"))
    np.testing.assert_allclose(auto.x, plain.x, rtol=1e-10)


@pytest.mark.parametrize("method", ["bekas", "xdiag", "exact"])
@each_algorithm_case
def test_diagonals_on_every_framework(case, method):
    matrix = MATRICES["power law"][:50, :50].astype(case.dtype)
    settings = {"method": method, "max_matvecs": 50, "seed": 1}
    found = specop.diagonal(case.array(matrix), **settings)
    expected = specop.diagonal(matrix.astype(float), **settings)
    case.close(found.x, expected.x)
    case.close(found.standard_errors, expected.standard_errors)
    again = specop.diagonal(case.array(matrix), **settings)
    np.testing.assert_array_equal(case.numpy(found.x), case.numpy(again.x))
    if method == "exact":
        case.close(found.x, np.diag(matrix))
        assert found.error_norm == 0


@each_algorithm_case
def test_diagonal_with_known_eigenpairs(case):
    matrix = MATRICES["spiked"].astype(case.dtype)
    top = specop.eigsh(case.array(matrix), k=10, tol=1e-12)
    for method in ("bekas", "xdiag"):
        result = specop.diagonal(case.array(matrix), method=method, max_matvecs=24, deflate=top)
        error = np.linalg.norm(case.numpy(result.x) - np.diag(matrix))
        assert error < 2 * result.error_norm < 4
    exact = specop.diagonal(case.array(matrix), method="exact", deflate=top)
    case.close(exact.x, np.diag(matrix))


def test_diagonal_stops_at_its_tolerance():
    matrix = MATRICES["spiked"]
    result = specop.diagonal(matrix, rtol=0.05)
    assert result.converged and result.error_norm <= 0.05 * result.norm and result.matvecs < 120
    assert result.norm == pytest.approx(np.linalg.norm(result.x))
    with pytest.warns(ConvergenceWarning, match="diagonal stopped after 24"):
        specop.diagonal(matrix, method="bekas", rtol=0.01, max_matvecs=24)
    with pytest.raises(NotConvergedError) as caught:
        specop.diagonal(matrix, method="bekas", rtol=0.01, max_matvecs=24, raise_on_failure=True)
    assert caught.value.result.matvecs == 24


def test_one_probe_of_a_diagonal_has_no_error():
    result = specop.diagonal(MATRICES["flat"], method="bekas", max_matvecs=1)
    assert np.isnan(result.error_norm) and np.isnan(result.standard_errors).all()


@each_algorithm_case
@pytest.mark.parametrize("products", [2, 3, 5, 6])
def test_a_few_probes_that_agree_on_an_entry_say_nothing_of_its_error(case, products):
    """Two coordinates are coupled, so that their entries are off by 5, one way or the other."""
    matrix = np.diag(np.arange(1.0, 41.0)).astype(case.dtype)
    matrix[0, 1] = matrix[1, 0] = 5.0
    agreed = 0
    for seed in range(12):
        found = specop.diagonal(case.array(matrix), method="bekas", max_matvecs=products, seed=seed)
        errors, off = case.numpy(found.standard_errors), case.numpy(found.x) - np.diag(matrix)
        agrees = abs(abs(off[0]) - 5.0) < 1e-3
        agreed += agrees
        if products < 6:
            assert np.isnan(errors[0]) == np.isnan(found.error_norm) == agrees and np.isnan(errors[2:]).all()
        else:
            assert (errors[2:] < 1e-2).all()
    assert agreed > 0 or products > 3


def covered(name, runs, **goal):
    truth = np.linalg.norm(SPECTRA[name])
    A = spectra.by_products(MATRICES[name])
    intervals = [specop.frobenius_norm(A, seed=seed, **goal).interval for seed in range(runs)]
    return np.mean([low <= truth <= high for low, high in intervals])


@pytest.mark.parametrize("name", MATRICES)
def test_intervals_of_norms_cover_the_truth(name):
    assert covered(name, 40, rtol=0.05) >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize("goal", [{"rtol": 0.1}, {"rtol": 0.05}, {"max_matvecs": 24}], ids=str)
@pytest.mark.parametrize("name", MATRICES)
def test_intervals_of_norms_cover_the_truth_in_nine_of_ten_runs(name, goal):
    assert covered(name, 400, **goal) >= 0.9


@each_algorithm_case
def test_norms_on_every_framework(case):
    matrix = np.random.default_rng(0).normal(size=(30, 50)).astype(case.dtype)
    estimated = specop.frobenius_norm(case.array(matrix), max_matvecs=40, seed=2)
    expected = specop.frobenius_norm(matrix.astype(float), max_matvecs=40, seed=2)
    assert estimated.estimate == pytest.approx(expected.estimate, rel=case.tol)
    assert estimated.interval[0] < np.linalg.norm(matrix) < estimated.interval[1]
    exact = specop.frobenius_norm(case.array(matrix), max_matvecs=50)
    assert exact.method == "exact" and exact.estimate == pytest.approx(np.linalg.norm(matrix), rel=case.tol)


@each_algorithm_case
def test_norm_with_known_eigenpairs(case):
    matrix = MATRICES["spiked"].astype(case.dtype)
    top = specop.eigsh(case.array(matrix), k=10, tol=1e-5)
    plain, deflated = (specop.frobenius_norm(case.array(matrix), max_matvecs=24, deflate=d) for d in (None, top))
    assert deflated.standard_error < 0.01 * plain.standard_error
    assert deflated.estimate == pytest.approx(np.linalg.norm(matrix), rel=1e-3)


def test_norms_scale_and_are_zero_only_for_zero():
    operator = specop.aslinearoperator(MATRICES["spiked"])
    one, three = (specop.frobenius_norm(A, max_matvecs=20) for A in (operator, -3.0 * operator))
    np.testing.assert_allclose(three.interval, 3 * np.array(one.interval), rtol=1e-12)
    assert specop.frobenius_norm(np.zeros((20, 20)), method="hutchinson").interval == (0, 0)
    assert specop.frobenius_norm(MATRICES["flat"], max_matvecs=1).interval == (0, np.inf)


@pytest.mark.parametrize("estimate", [specop.diagonal, specop.frobenius_norm])
def test_bad_arguments(estimate):
    for arguments, text in [
        ({"method": "guess"}, "method must be one of"),
        ({"rtol": -1}, "rtol must be"),
        ({"seed": 1.5}, "seed must be"),
        ({"deflate": np.eye(3)}, "EigenResult"),
        ({"method": "exact", "max_matvecs": 3}, "takes n=200"),
    ]:
        with pytest.raises(InvalidInputError, match=text):
            estimate(MATRICES["flat"], **arguments)
    with pytest.raises(InvalidInputError, match="square"):
        specop.diagonal(np.ones((3, 4)))
    with pytest.raises(NonFiniteError, match="product 1 "):
        estimate(specop.DiagonalOperator(np.full(50, np.nan)))


@pytest.mark.parametrize("estimate", [specop.diagonal, specop.frobenius_norm])
def test_results_are_saved_and_say_what_they_are(estimate, tmp_path):
    result = estimate(MATRICES["flat"], max_matvecs=24)
    result.save(tmp_path / "result.npz")
    again = specop.load(tmp_path / "result.npz")
    assert str(again) == str(result) and "24 products" in str(result)
    np.testing.assert_equal(again.summary(), result.summary())
    if estimate is specop.diagonal:
        np.testing.assert_array_equal(again.x, result.x)


@each_algorithm_case
def test_entries_that_are_there_are_read(case):
    matrix = np.random.default_rng(0).normal(size=(40, 40)).astype(case.dtype)
    vector = case.array(matrix[0])
    for A, dense in ((case.array(matrix), matrix), (specop.DiagonalOperator(vector), np.diag(matrix[0]))):
        trace, norm, entries = specop.trace(A), specop.frobenius_norm(A, rtol=1e-3), specop.diagonal(A)
        for found in (trace, norm, entries):
            assert found.method == "exact" and found.matvecs == 0 and found.converged
        assert trace.estimate == pytest.approx(np.trace(dense.astype(float)), rel=1e-6)
        assert norm.estimate == pytest.approx(np.linalg.norm(dense.astype(float)), rel=1e-6)
        assert case.numpy(entries.x) == pytest.approx(np.diag(dense)) and entries.error_norm == 0.0
        assert "read" in trace.message and "read" in norm.message
        # What says how it is to be found, or by how many products, is done that way.
        assert specop.trace(A, max_matvecs=20).matvecs == 20 and specop.trace(A, method="exact").matvecs == 40


def test_entries_of_sparse_matrices_are_read():
    dense = np.where(np.random.default_rng(0).random((50, 50)) < 0.1, 3.0, 0.0)
    # Two entries at one place add up.
    for A in (scipy.sparse.csr_matrix(dense), scipy.sparse.coo_matrix(dense) + scipy.sparse.coo_matrix(dense) * 0):
        assert specop.trace(A).estimate == np.trace(dense) and specop.trace(A).matvecs == 0
        assert specop.frobenius_norm(A).estimate == pytest.approx(np.linalg.norm(dense))
        assert specop.diagonal(A).x == pytest.approx(np.diag(dense))
    twice = scipy.sparse.coo_matrix(([1.0, 2.0], ([0, 0], [0, 0])), shape=(30, 30))
    assert specop.trace(twice).estimate == specop.frobenius_norm(twice).estimate == 3.0


def test_a_rectangular_matrix_has_a_norm_that_is_read():
    assert specop.frobenius_norm(np.ones((30, 40))).matvecs == 0


def test_entries_that_are_not_finite_are_found_by_products():
    broken = np.eye(30)
    broken[3, 3] = np.nan
    for call in (specop.trace, specop.diagonal, specop.frobenius_norm):
        with pytest.raises(NonFiniteError):
            call(broken)


@pytest.mark.parametrize("n", [1, 2, 40])
def test_estimates_of_zero_and_of_matrices_as_small_as_their_sketch_are_exact(n):
    """Products that vanish give a sketch's rows no meaning; with a row for each direction, nothing is left."""
    for A in (np.zeros((n, n)), np.diag(np.arange(n) + 1.0)):
        operator = specop.FunctionOperator(lambda x, A=A: A @ x, (n, n), like=A, is_symmetric=True)
        for method in ("xtrace", "xnystrace"):
            found = specop.trace(operator, method=method, max_matvecs=2 * n)
            assert found.standard_error == 0 and found.estimate == pytest.approx(np.trace(A), rel=1e-12)
        found = specop.diagonal(operator, max_matvecs=24)
        np.testing.assert_allclose(found.x, np.diag(A), atol=4 * np.linalg.norm(found.standard_errors) + 1e-12)
        if not A.any():
            assert not specop.diagonal(operator, method="xdiag", max_matvecs=24).x.any()
