"""Where n products leave nothing to chance and an estimate would take more, they are made."""

import numpy as np
import pytest

import specop
import spectra

CALLS = {
    "trace": (specop.trace, np.trace),
    "diagonal": (specop.diagonal, np.diag),
    "frobenius_norm": (specop.frobenius_norm, np.linalg.norm),
}
each_call = pytest.mark.parametrize("name", CALLS)


def dense(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, n))


def by_products(matrix):
    """A matrix whose entries nobody can read."""
    return specop.FunctionOperator(
        lambda v: matrix @ v, matrix.shape, like=np.zeros(1), rmatvec=lambda v: matrix.T @ v, is_symmetric=False
    )


def value(found):
    return found.x if hasattr(found, "x") else found.estimate


@each_call
@pytest.mark.parametrize("n", range(1, 17))
def test_small_matrices_take_n_products(name, n):
    call, truth = CALLS[name]
    found = call(by_products(dense(n)))
    assert (found.matvecs, found.method, found.converged) == (n, "exact", True)
    np.testing.assert_allclose(value(found), truth(dense(n)), rtol=1e-12)


@each_call
@pytest.mark.parametrize("n", [17, 25, 60, 300, 960])
def test_a_sharp_goal_takes_little_more_than_n_products(name, n):
    call, truth = CALLS[name]
    found = call(by_products(dense(n)), rtol=1e-6)
    assert found.converged and found.method == "exact"
    assert n < found.matvecs <= max(n + 32, n + n / 4) and found.matvecs <= 1000
    np.testing.assert_allclose(value(found), truth(dense(n)), rtol=1e-11)


@each_call
@pytest.mark.parametrize("spare", [0, 1, 5, 7, 8, 15, 16, 31, 40])
def test_the_first_stage_leaves_what_the_exact_way_takes(name, spare):
    call, truth = CALLS[name]
    found = call(by_products(dense(200)), rtol=1e-6, max_matvecs=200 + spare)
    assert found.converged and found.matvecs <= 200 + spare
    np.testing.assert_allclose(value(found), truth(dense(200)), rtol=1e-11)


@each_call
def test_a_goal_that_few_probes_reach_takes_few(name):
    call, _ = CALLS[name]
    found = call(by_products(spectra.with_spectrum(np.linspace(1, 1.1, 900))), rtol=0.05)
    assert found.method != "exact" and found.matvecs <= 32


@pytest.mark.parametrize(("name", "stage"), [("trace", 8), ("diagonal", 16), ("frobenius_norm", 16)])
def test_a_stage_is_tried_where_the_exact_way_stays_open(name, stage):
    call, _ = CALLS[name]
    easy = by_products(spectra.with_spectrum(np.linspace(1, 1.1, 100)))
    assert call(easy, rtol=0.05, max_matvecs=100 + stage).matvecs <= 32
    assert call(easy, rtol=0.05, max_matvecs=99 + stage).matvecs == 100


@each_call
def test_known_eigenpairs_leave_the_exact_way_open(name):
    call, truth = CALLS[name]
    matrix = spectra.with_spectrum(np.linspace(-1, 1, 40))
    known = specop.eigsh(matrix, 3, tol=0.1)  # which need not be accurate for that
    found = call(matrix, rtol=1e-7, max_matvecs=45, deflate=known)
    assert found.converged and found.method == "exact" and found.matvecs == 41
    np.testing.assert_allclose(value(found), truth(matrix), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "method"), [("trace", "hutchinson"), ("diagonal", "bekas"), ("diagonal", "xdiag")])
def test_a_method_that_is_asked_for_is_kept(name, method):
    call, _ = CALLS[name]
    found = call(dense(12), method=method, max_matvecs=10)
    assert found.method == method


# Condition numbers up to 1e10: eight probes take more than n products.
HARD = {"wide": np.geomspace(1e-3, 1e4, 450), "deep": np.geomspace(1e-10, 1, 500)}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("spare", [0, 1, 10, 100, None])
def test_a_first_probe_that_is_long_becomes_a_part_of_all_eigenvalues(name, spare):
    values = HARD[name]
    limit = None if spare is None else len(values) + spare
    found = specop.logdet(specop.DiagonalOperator(values), max_matvecs=limit)
    assert (found.method, found.converged, found.matvecs, found.probes) == ("exact", True, len(values), 0)
    assert found.estimate == pytest.approx(np.log(values).sum(), rel=1e-9)
    assert "quadrature would take more" in found.message


@pytest.mark.parametrize("spare", [0, 5, 20, 40, 60, 100, 200, 400])
def test_probes_leave_what_all_eigenvalues_take(spare):
    # A sum near zero takes many probes of few steps each.
    values = np.linspace(0.5, 2.2, 300)
    found = specop.logdet(specop.DiagonalOperator(values), rtol=1e-3, max_matvecs=300 + spare)
    assert found.converged and found.method == "exact" and found.matvecs <= 300 + spare
    assert found.estimate == pytest.approx(np.log(values).sum(), rel=1e-9)


def test_quadrature_that_takes_few_products_is_kept():
    values = np.linspace(1, 3, 900)
    for limit in (None, 950, 1000, 1500):
        found = specop.logdet(specop.DiagonalOperator(values), max_matvecs=limit)
        assert found.method == "quadrature" and found.matvecs < 100 and found.converged
    asked = specop.logdet(specop.DiagonalOperator(HARD["wide"]), method="quadrature", rtol=0.5)
    assert asked.method == "quadrature"


def test_known_eigenpairs_are_not_a_part_of_all_eigenvalues():
    values = HARD["wide"]
    operator = specop.DiagonalOperator(values)
    known = specop.eigsh(operator, 3, tol=0.1)
    found = specop.logdet(operator, rtol=1e-4, deflate=known)
    assert found.method == "exact" and 450 < found.matvecs < 520
    assert found.estimate == pytest.approx(np.log(values).sum(), rel=1e-9)


def test_an_effective_dimension_turns_too():
    values = np.geomspace(1e-6, 1e3, 400)
    found = specop.effective_dimension(specop.DiagonalOperator(values), damping=1e-4, rtol=1e-5)
    assert found.method == "exact" and found.matvecs <= 800
    assert found.estimate == pytest.approx(np.sum(values / (values + 1e-4)), rel=1e-9)


@pytest.mark.parametrize("rtol", [0.03, 0.01, 0.003])
@pytest.mark.parametrize(("name", "first"), [("trace", 32), ("frobenius_norm", 16)])
def test_probes_take_no_more_than_all_directions_and_the_first_look(name, first, rtol):
    call, truth = CALLS[name]
    values = np.r_[np.geomspace(30.0, 1.0, 6), np.random.default_rng(1).normal(size=114) * 0.3 + 0.02]
    matrix = spectra.with_spectrum(values)
    taken, covered = [], 0
    for seed in range(20):
        found = call(spectra.by_products(matrix), rtol=rtol, seed=seed)
        taken.append(found.matvecs)
        slack = 1e-9 * truth(matrix)
        covered += found.interval[0] - slack <= truth(matrix) <= found.interval[1] + slack
        assert found.converged
    assert max(taken) <= 120 + first and covered >= 17


def test_a_trace_that_probes_alone_would_take_longer_for_takes_fewer_products_than_the_exact_way():
    """Of independent ones it takes about 600."""
    matrix = spectra.with_spectrum(np.random.default_rng(1).normal(size=365) + 0.3)
    for seed in range(5):
        found = specop.trace(spectra.by_products(matrix), rtol=0.01, seed=seed)
        assert found.matvecs < 365 and found.method.endswith("orthogonal")
        assert abs(found.estimate - np.trace(matrix)) < 4 * found.standard_error


@each_call
def test_known_eigenpairs_that_are_not_accurate_enter_no_exact_result(name):
    call, truth = CALLS[name]
    matrix = spectra.with_spectrum(np.linspace(-1, 1, 40))
    found = call(spectra.by_products(matrix), rtol=1e-9, deflate=specop.eigsh(matrix, 3, tol=0.1))
    assert found.converged and found.method == "exact"
    np.testing.assert_allclose(value(found), truth(matrix), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [17, 18, 20])
def test_few_signs_that_lie_in_the_span_of_others_are_drawn_anew(n):
    for seed in range(30):
        found = specop.frobenius_norm(by_products(dense(n)), rtol=1e-9, seed=seed)
        assert found.matvecs == 16 + n and found.estimate == pytest.approx(np.linalg.norm(dense(n)), rel=1e-11)
