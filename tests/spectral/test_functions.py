"""apply_function, trace_function, logdet, effective_dimension, spectral_norm, condition_number."""

import warnings

import numpy as np
import pytest

import specop
import spectra
from cases import each_algorithm_case
from specop.arrays import probes as probe_vectors
from specop.errors import ConvergenceWarning, DomainError, InvalidInputError, NotConvergedError

FUNCTIONS = {
    "sqrt": np.sqrt,
    "inverse_sqrt": lambda x: x**-0.5,
    "exp": np.exp,
    "log": np.log,
    "sign": np.sign,
    "step": lambda x: (x > 0) * 1.0,
}
POSITIVE = spectra.with_spectrum(np.linspace(0.2, 3, 120))
INDEFINITE = spectra.with_spectrum(np.concatenate([np.linspace(-2, -0.5, 60), np.linspace(0.5, 3, 60)]))
START = np.random.default_rng(3).normal(size=120)


def dense(f, matrix, vector):
    values, vectors = np.linalg.eigh(matrix.astype(float))
    return vectors @ (f(values) * (vectors.T @ vector.astype(float)))


@each_algorithm_case
@pytest.mark.parametrize("name", FUNCTIONS)
def test_named_functions_agree_with_the_eigendecomposition(case, name):
    matrix = (INDEFINITE if name in ("sign", "step") else POSITIVE).astype(case.dtype)
    result = specop.apply_function(case.array(matrix), name, case.array(START))
    expected = dense(FUNCTIONS[name], matrix, START)
    error = np.linalg.norm(case.numpy(result.x) - expected)
    assert result.converged and error <= result.error and error <= 2e-5 * np.linalg.norm(expected)
    assert result.matvecs < 120


def test_identities():
    plain = specop.apply_function(POSITIVE, lambda x: x, START)
    np.testing.assert_allclose(plain.x, POSITIVE @ START, atol=1e-12)
    assert plain.matvecs == 9  # the fewest that an error can be judged by
    operator = specop.aslinearoperator(POSITIVE)
    there = specop.apply_function(operator, "exp", START, rtol=1e-13).x
    np.testing.assert_allclose(specop.apply_function(-operator, "exp", there, rtol=1e-13).x, START, atol=1e-11)
    root = specop.apply_function(operator, "sqrt", START, rtol=1e-12).x
    np.testing.assert_allclose(specop.apply_function(operator, "sqrt", root, rtol=1e-12).x, POSITIVE @ START, atol=1e-9)
    sign = specop.apply_function(INDEFINITE, "sign", START, rtol=1e-10).x
    np.testing.assert_allclose(np.linalg.norm(sign), np.linalg.norm(START), rtol=1e-9)


@each_algorithm_case
def test_zeros_and_small_spaces(case):
    singular = case.array(np.diag([0.0, 1.0, 4.0]))
    case.close(specop.apply_function(singular, "sqrt", case.array([1.0, 1.0, 1.0])).x, [0, 1, 2])
    case.close(specop.apply_function(singular, "sign", case.array([1.0, 1.0, 1.0])).x, [0, 1, 1])
    case.close(specop.apply_function(singular, "exp", case.array([0.0, 0.0, 0.0])).x, [0, 0, 0])
    assert specop.apply_function(case.array(np.eye(5)), "exp", case.array(np.ones(5))).matvecs == 1


POLES = {
    "pole at zero": (np.r_[np.zeros(30), np.linspace(1, 2, 70)], lambda x: 1 / x),
    "even pole": (np.r_[np.zeros(99), 1.0], lambda x: x**-2.0),
    "pole inside": (np.r_[np.linspace(1, 2, 50), 3.0, np.linspace(4, 5, 49)], lambda x: 1 / (x - 3)),
    "jump": (np.r_[np.linspace(1, 2, 50), 3.0, np.linspace(4, 5, 49)], lambda x: np.sign(x - 3)),
}


def warned_or_refused(call, message):
    """Return a result that came with the warning, or None where a Ritz value is the pole itself, which is refused."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            found = call()
        except DomainError as error:
            assert "must be finite on the whole spectrum" in str(error)
            return None
    assert any(message in str(one.message) and one.category is ConvergenceWarning for one in seen)
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", POLES)
def test_poles_and_jumps_at_an_eigenvalue_are_said(name, dtype):
    """What rounding does not tell from a pole has any value; beside one the answer is right."""
    eigenvalues, f = POLES[name]
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.normal(size=(100, 100)))[0]
    A = ((Q * eigenvalues) @ Q.T).astype(dtype)
    A, v = (A + A.T) / 2, rng.normal(size=100).astype(dtype)
    found = warned_or_refused(lambda: specop.apply_function(A, f, v), "has a pole, a jump or an edge at an eigenvalue")
    assert found is None or (not found.converged and found.error > 0.1 * np.linalg.norm(found.x))
    found = warned_or_refused(lambda: specop.trace_function(A, f), "rounding leaves an error of")
    assert found is None or not found.converged
    values, vectors = np.linalg.eigh(A.astype(float) + 0.25 * np.eye(100))
    found = specop.apply_function(A + 0.25 * np.eye(100, dtype=dtype), f, v)
    expected = vectors @ (f(values) * (vectors.T @ v))
    assert found.converged
    assert np.linalg.norm(found.x - expected) < max(found.error, 1e-12) < 0.05 * np.linalg.norm(expected)


def test_deflation_takes_steps_off():
    matrix = spectra.with_spectrum(np.concatenate([[-0.001, 0.002], np.linspace(1, 3, 118)]))
    known = specop.eigsh(matrix, k=2, which="SA", tol=1e-10)
    plain = specop.apply_function(matrix, "sign", START)
    deflated = specop.apply_function(matrix, "sign", START, deflate=known)
    np.testing.assert_allclose(deflated.x, dense(np.sign, matrix, START), atol=max(1e-5, deflated.error))
    assert deflated.matvecs <= 0.5 * plain.matvecs
    everything = specop.apply_function(POSITIVE, "log", START, deflate=specop.eigsh(POSITIVE, k=120, tol=1e-12))
    np.testing.assert_allclose(everything.x, dense(np.log, POSITIVE, START), atol=1e-9)
    assert everything.matvecs == 1  # the product that checks them


def test_running_out_is_said():
    with pytest.warns(ConvergenceWarning, match="stopped after 10 products"):
        result = specop.apply_function(INDEFINITE, "sign", START, max_matvecs=10)
    truth = dense(np.sign, INDEFINITE, START)
    assert not result.converged and np.linalg.norm(result.x - truth) < 3 * result.error
    with pytest.raises(NotConvergedError) as caught:
        specop.apply_function(INDEFINITE, "sign", START, max_matvecs=10, raise_on_failure=True)
    assert caught.value.result.matvecs == 10


@pytest.mark.parametrize("name", ["log", "sqrt", "inverse_sqrt"])
def test_domains_are_checked(name):
    for call in (
        lambda: specop.apply_function(INDEFINITE, name, START),
        lambda: specop.trace_function(INDEFINITE, name),
        lambda: specop.trace_function(INDEFINITE, name, method="quadrature"),
    ):
        with pytest.raises(DomainError, match=r"smallest eigenvalue is at most -[\d.]+, below 0"):
            call()
    if name != "sqrt":
        with pytest.raises(DomainError, match="eigenvalue that is 0 up to the rounding"):
            specop.apply_function(np.diag([0.0, 1.0, 2.0]), name, np.ones(3))
    with pytest.raises(DomainError, match=r"above 2"):
        specop.logdet(INDEFINITE)
    with pytest.raises(DomainError, match=r"below -0\.1"):
        specop.effective_dimension(INDEFINITE, damping=0.1)
    with pytest.raises(DomainError, match="Ritz value"):
        specop.apply_function(INDEFINITE, np.log, START)


def test_closed_forms():
    plate = specop.logdet(spectra.laplacian_2d(30), method="exact")
    assert plate.estimate == pytest.approx(1065.00068835, abs=1e-8) and plate.matvecs == 900
    low, high = specop.logdet(spectra.laplacian_2d(30), rtol=0.01).interval
    assert low < 1065.00068835 < high
    assert specop.logdet(spectra.laplacian(100)).estimate == pytest.approx(np.log(101), abs=1e-9)
    assert specop.trace_function(spectra.laplacian(100), lambda x: x).estimate == pytest.approx(200)
    assert specop.trace_function(spectra.laplacian(100), np.square).estimate == pytest.approx(598)
    assert specop.effective_dimension(np.diag([0.0, 1.0, 3.0]), damping=1.0).estimate == pytest.approx(1.25)


def test_marchenko_pastur_moments():
    n = 1200
    samples = np.random.default_rng(0).normal(size=(2 * n, n))
    matrix = samples.T @ samples / (2 * n)
    density = specop.spectral_density(matrix, probes=4)
    assert density.nodes[0] == pytest.approx(0.08578644, abs=0.02)
    assert density.nodes[-1] == pytest.approx(2.91421356, abs=0.06)
    assert density.moment(1).estimate == pytest.approx(1.0, abs=0.05)
    assert density.moment(2).estimate == pytest.approx(1.5, abs=0.1)
    mean_log = specop.logdet(matrix, rtol=0.02)
    assert mean_log.interval[0] / n < -0.30685282 + 0.002 and mean_log.interval[1] / n > -0.30685282 - 0.002


def test_quadrature_is_exact_for_low_degrees():
    # Each probe takes m steps; x^3 needs two of them.
    result = specop.trace_function(POSITIVE, lambda x: x**3, method="quadrature", rtol=0.2)
    probe = probe_vectors.sphere(*_numpy(120), 0, 0)
    assert result.estimates[0] == pytest.approx(probe @ POSITIVE @ POSITIVE @ POSITIVE @ probe, rel=1e-9)


def _numpy(n):
    operator = specop.aslinearoperator(np.eye(n))
    return operator.backend, operator.domain


def test_a_sum_near_zero_needs_an_absolute_tolerance():
    with pytest.warns(ConvergenceWarning, match="rounding leaves an error of .* Pass an atol"):
        assert specop.logdet(np.eye(5)).estimate == pytest.approx(0, abs=1e-13)
    assert specop.logdet(np.eye(5), atol=1e-9).converged


def test_stopping_and_exact_turn():
    operator = specop.DiagonalOperator(np.linspace(1, 3, 400))
    result = specop.logdet(operator, rtol=0.02)
    assert result.converged and result.method == "quadrature"
    assert result.standard_error + result.quadrature_error <= 0.02 * abs(result.estimate)
    strict = specop.logdet(operator, rtol=1e-6)
    assert strict.method == "exact" and strict.converged
    assert strict.estimate == pytest.approx(np.log(np.linspace(1, 3, 400)).sum(), rel=1e-12)
    with pytest.warns(ConvergenceWarning, match="standard error of"):
        assert not specop.logdet(operator, rtol=1e-6, max_matvecs=100).converged
    with pytest.warns(ConvergenceWarning, match="after 1 products"):
        one = specop.trace_function(np.eye(300), "exp", method="quadrature", max_matvecs=1)
    assert one.estimate == pytest.approx(300 * np.e)
    assert np.isnan(one.standard_error) and one.interval == (-np.inf, np.inf)


SPECTRA = {
    "spiked": np.concatenate([100 * 0.75 ** np.arange(10), np.minimum(spectra.bulk()[:490], 1.3)]),
    "power": 100 / np.arange(1.0, 501),
    "flat": np.linspace(1, 3, 500),
    "low rank": np.concatenate([np.linspace(1, 5, 20), np.zeros(480)]),
}


def covered_logdets(values, runs):
    truth, operator = np.log(values + 0.1).sum(), specop.DiagonalOperator(values + 0.1)
    found = [specop.logdet(operator, method="quadrature", rtol=0.1, seed=seed).interval for seed in range(runs)]
    return sum(low <= truth <= high for low, high in found)


@pytest.mark.parametrize("name", SPECTRA)
def test_intervals_cover_in_a_few_runs(name):
    assert covered_logdets(SPECTRA[name], 20) >= 17


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECTRA)
def test_intervals_cover_in_many_runs(name):
    assert covered_logdets(SPECTRA[name], 200) >= 180


def test_norms_from_too_few_products_have_the_limits_that_are_certain():
    """Intervals were those of some eigenvalue: [0.85, 1.18] for a norm of 1.2, and [1966, 2011] without certainty."""
    highest = specop.DiagonalOperator(np.append(np.linspace(0, 1, 2000), 1.2))
    lowest = specop.DiagonalOperator(np.append(np.linspace(1, 2, 2000), 1e-3))
    with pytest.warns(ConvergenceWarning):
        norm, ratio = specop.spectral_norm(highest, max_matvecs=6), specop.condition_number(lowest, max_matvecs=10)
    assert 0.8 < norm.interval[0] < norm.estimate < 1.2 < norm.interval[1]
    assert 1500 < ratio.interval[0] < ratio.estimate < 2000 < ratio.interval[1] == np.inf


@each_algorithm_case
def test_norms(case):
    values = np.concatenate([-np.linspace(0.1, 4, 30), np.linspace(0.1, 3, 30)])
    norm = specop.spectral_norm(case.array(spectra.with_spectrum(values)))
    assert norm.interval[0] <= 4 + 1e-5 and norm.interval[1] >= 4 - 1e-5
    assert norm.estimate == pytest.approx(4, rel=1e-4)
    rectangular = np.random.default_rng(0).normal(size=(30, 12))
    expected = np.linalg.norm(rectangular, 2)
    assert specop.spectral_norm(case.array(rectangular)).estimate == pytest.approx(expected, rel=1e-4)
    ratio = specop.condition_number(case.array(POSITIVE))
    assert ratio.estimate == pytest.approx(15, rel=1e-3)
    assert ratio.interval[0] <= 15 * (1 + 1e-4) and ratio.interval[1] >= 15 * (1 - 1e-4)


def test_condition_of_singular_and_indefinite_matrices():
    singular = specop.condition_number(np.diag([0.0, 1.0, 2.0]))
    assert singular.estimate == np.inf and singular.interval[1] == np.inf and singular.interval[0] > 1e10
    assert specop.condition_number(np.diag([-1.0, -4.0])).estimate == pytest.approx(4)
    assert specop.condition_number(np.array([[3.0]])).estimate == 1
    with pytest.raises(InvalidInputError, match="indefinite"):
        specop.condition_number(INDEFINITE)
    with pytest.raises(InvalidInputError, match="is zero"):
        specop.condition_number(np.zeros((3, 3)))


@each_algorithm_case
def test_results_are_kept(case, tmp_path):
    vector = specop.apply_function(case.array(POSITIVE), "sqrt", case.array(START))
    vector.save(tmp_path / "vector.npz")
    again = specop.load(tmp_path / "vector.npz")
    np.testing.assert_array_equal(again.x, case.numpy(vector.x))
    assert "x" not in vector.summary() and "error" in str(vector)
    total = specop.logdet(case.array(POSITIVE))
    total.save(tmp_path / "total.npz")
    assert specop.load(tmp_path / "total.npz").interval == total.interval and "trace log" in str(total)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: specop.apply_function(POSITIVE, "cosine", START), "sqrt, inverse_sqrt"),
        (lambda: specop.apply_function(POSITIVE, "exp", START, rtol=-1), "rtol must"),
        (lambda: specop.apply_function(POSITIVE, "exp", START[:5]), "v must have shape"),
        (lambda: specop.apply_function(POSITIVE, "exp", START * np.inf), "finite"),
        (lambda: specop.apply_function(POSITIVE, "exp", START * 1e200), "divide v by its norm"),
        (lambda: specop.apply_function(POSITIVE, "exp", START * 1e-200), "divide v by its norm"),
        (lambda: specop.apply_function(np.ones((2, 3)), "exp", np.ones(3)), "symmetric"),
        (lambda: specop.apply_function(POSITIVE, lambda x: 1.0, START), "one value for each"),
        (lambda: specop.trace_function(POSITIVE, "exp", method="guess"), "auto, quadrature, exact"),
        (lambda: specop.trace_function(POSITIVE, "exp", rtol=-1), "rtol must"),
        (lambda: specop.trace_function(POSITIVE, "exp", method="exact", max_matvecs=5), "takes n=120"),
        (lambda: specop.effective_dimension(POSITIVE, damping=0), "damping must"),
    ],
)
def test_bad_arguments(call, text):
    with np.errstate(invalid="ignore"), pytest.raises(InvalidInputError, match=text):
        call()


@pytest.mark.parametrize("shift", [-600.0, -250.0, 250.0])
def test_errors_of_tiny_and_huge_sums_are_relative(shift):
    # Their squares, or fourth powers, are no numbers of float64.
    values = np.concatenate([np.linspace(0, 3, 299), [10.0]])
    A = spectra.by_products(np.diag(values))
    plain = specop.trace_function(A, np.exp, rtol=0.3)
    moved = specop.trace_function(A, lambda x: np.exp(x + shift), rtol=0.3)
    assert plain.method == moved.method == "quadrature"
    for name in ("estimate", "standard_error"):
        np.testing.assert_allclose(getattr(moved, name) / np.exp(shift), getattr(plain, name), rtol=1e-6)
