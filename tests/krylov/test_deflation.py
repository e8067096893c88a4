"""Known eigenpairs enter estimates as they are, once one product has shown whose they are."""

import numpy as np
import pytest

import specop
import spectra
from cases import each_algorithm_case
from specop.errors import InvalidInputError

MATRIX = spectra.with_spectrum(np.concatenate([[50.0, 40.0, 30.0], np.linspace(0.5, 1, 97)]))
# As after an optimizer step: other eigenvectors, and eigenvalues off by a few percent.
LATER = MATRIX + 0.5 * spectra.with_spectrum(np.linspace(0, 4, 100), seed=1)
START = np.random.default_rng(0).normal(size=100)
CALLS = {
    "trace": lambda A, case, known: specop.trace(A, max_matvecs=40, deflate=known),
    "diagonal": lambda A, case, known: specop.diagonal(A, max_matvecs=40, deflate=known),
    "frobenius_norm": lambda A, case, known: specop.frobenius_norm(A, max_matvecs=40, deflate=known),
    "trace_function": lambda A, case, known: specop.trace_function(A, "sqrt", method="quadrature", deflate=known),
    "spectral_density": lambda A, case, known: specop.spectral_density(A, deflate=known),
    "apply_function": lambda A, case, known: specop.apply_function(A, "sqrt", case.array(START), deflate=known),
}
ARGUMENTS = {"trace_function": ("sqrt",), "apply_function": ("sqrt", START)}


@each_algorithm_case
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_eigenpairs_of_another_matrix_are_refused(case, call):
    A, later = (case.array(matrix.astype(case.dtype)) for matrix in (MATRIX, LATER))
    known = specop.eigsh(A, 3)
    call(A, case, known)
    with pytest.raises(InvalidInputError, match="deflate holds eigenpairs of another matrix"):
        call(later, case, known)


@pytest.mark.parametrize("call", CALLS)
def test_the_product_that_checks_counts(call):
    known = specop.eigsh(MATRIX, 3)
    with pytest.raises(InvalidInputError, match=rf"{call} has 1 product.* takes one to check"):
        getattr(specop, call)(MATRIX, *ARGUMENTS.get(call, ()), max_matvecs=1, deflate=known)


@pytest.mark.parametrize("call", CALLS)
def test_eigenpairs_that_are_all_there_are(call):
    known = specop.eigsh(MATRIX, 100, tol=1e-10)
    found = getattr(specop, call)(MATRIX, *ARGUMENTS.get(call, ()), max_matvecs=1, deflate=known)
    assert found.converged and found.matvecs == 1
    expected = {
        "trace": lambda: np.trace(MATRIX),
        "diagonal": lambda: np.diag(MATRIX),
        "frobenius_norm": lambda: np.linalg.norm(MATRIX),
        "trace_function": lambda: np.sqrt(known.eigenvalues).sum(),
        "spectral_density": lambda: known.eigenvalues,
        "apply_function": lambda: known.rows.T @ (np.sqrt(known.eigenvalues) * (known.rows @ START)),
    }[call]()
    value = {"diagonal": "x", "apply_function": "x", "spectral_density": "nodes"}.get(call, "estimate")
    np.testing.assert_allclose(getattr(found, value), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("tol", [0.3, 1e-2, 1e-12])
def test_eigenpairs_are_believed_as_far_as_their_residuals(tol):
    for seed in range(10):
        known = specop.eigsh(MATRIX, 3, tol=tol, seed=seed, check_multiplicity=False)
        found = specop.trace(MATRIX, max_matvecs=20, deflate=known)
        assert found.matvecs == 20  # one shows whose they are
        # To first order only products of residuals enter.
        slack = 5 * found.standard_error + 2 * np.sum(known.residuals**2) / 20
        assert abs(found.estimate - np.trace(MATRIX)) < slack


@pytest.mark.parametrize("values", [np.zeros(40), np.r_[np.full(4, 2.0), np.zeros(36)]], ids=["zero", "low rank"])
def test_eigenvectors_of_copies_may_be_spanned_by_the_probes_themselves(values):
    # The same seed: what the search drew for eigenvalues with copies is what the probes would be.
    known = specop.eigsh(np.diag(values), 15)
    found = specop.spectral_density(np.diag(values), deflate=known)
    np.testing.assert_allclose(found.moment(1).estimate, values.mean(), atol=1e-12)


def of(matrix):
    """Return a matrix as an operator that calls itself symmetric, whatever its products say."""
    return specop.FunctionOperator(lambda x: matrix @ x, matrix.shape, like=np.zeros(len(matrix)), is_symmetric=True)


@pytest.mark.parametrize("size", [1e-6, 1e-13])
@pytest.mark.parametrize(
    "find",
    [
        lambda A: specop.eigsh(A, k=4, tol=1e-12),
        lambda A: specop.eigsh(A, k=60, tol=1e-12),
        lambda A: specop.power_iteration(A, k=3, tol=1e-12),
    ],
    ids=["some", "all", "one after the other"],
)
@pytest.mark.filterwarnings("ignore::specop.errors.NoiseWarning")
def test_residuals_know_of_noise_wherever_it_is(size, find):
    """Softmax far from its bends: products are rounding beside the Hessian, but not along its null space."""
    exact = spectra.with_spectrum(np.r_[np.zeros(50), 0.5 ** np.arange(10)])
    vectors = np.linalg.eigh(exact)[1]
    noisy = exact + size * np.outer(np.random.default_rng(1).normal(size=60), vectors[:, -1] - vectors[:, -2])
    known = find(of(noisy))
    true = np.linalg.norm(noisy @ known.rows.T - known.rows.T * known.eigenvalues, axis=0)
    assert (true <= 2.0 * known.residuals).all()
    np.testing.assert_allclose(specop.trace(of(noisy), deflate=known).estimate, np.trace(exact), rtol=0.1)
    with pytest.raises(InvalidInputError, match="deflate holds eigenpairs of another matrix"):
        specop.trace(of(noisy + 0.01 * MATRIX[:60, :60]), deflate=known)
