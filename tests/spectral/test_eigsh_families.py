"""The matrices on which eigensolvers are commonly tried: A U = U D, and eigenvalues that are known in closed form."""

import numpy as np
import pytest
import scipy.sparse

import specop
import spectra
from cases import Case, each_algorithm_case


def rod(n):
    """Return an elastic rod, fixed at one end, with lumped masses: the free end weighs half. Its top is clustered."""
    stiffness = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    stiffness[-1, -1] = 1
    mass = np.ones(n)
    mass[-1] = 0.5
    # A mode sin((2 i - 1) pi j / 2n) has the eigenvalue 2 - 2 cos of its wave number.
    exact = 2 - 2 * np.cos((2 * np.arange(1, n + 1) - 1) * np.pi / (2 * n))
    return stiffness / np.sqrt(np.outer(mass, mass)), exact


def sakurai(n):
    """Return the square of a tridiagonal matrix: five diagonals, eigenvalues 16 cos(i pi / (2 (n + 1)))^4."""
    line = spectra.laplacian(n)
    return line @ line, 16 * np.cos(np.arange(1, n + 1) * np.pi / (2 * (n + 1))) ** 4


def mikota(n):
    """Return Mikota's chain of masses 1/i and springs n - i + 1, whose eigenvalues are i^2."""
    springs = np.arange(n, 0, -1.0)
    stiffness = np.diag(springs + np.append(springs[1:], 0)) - np.diag(springs[1:], 1) - np.diag(springs[1:], -1)
    roots = np.sqrt(np.arange(1.0, n + 1))
    return stiffness * np.outer(roots, roots), np.arange(1.0, n + 1) ** 2


def path(n):
    """Return the Laplacian of a path graph, singular, with eigenvalues 2 - 2 cos(i pi / n)."""
    matrix = spectra.laplacian(n)
    matrix[0, 0] = matrix[-1, -1] = 1
    return matrix, 2 - 2 * np.cos(np.arange(n) * np.pi / n)


def diagonal(n):
    return np.diag(np.arange(1.0, n + 1)), np.arange(1.0, n + 1)


def laplacian_2d(n):
    line = 2 - 2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1))
    return spectra.laplacian_2d(n), np.add.outer(line, line).ravel()


def minimum(n):
    return np.minimum.outer(np.arange(1.0, n + 1), np.arange(1.0, n + 1)), 0.25 / np.sin(
        (2 * np.arange(1, n + 1) - 1) * np.pi / (4 * n + 2)
    ) ** 2


def clusters(n):
    """Return a matrix with five clusters of three eigenvalues, 1e-5 apart, over small ones."""
    values = np.concatenate([(np.arange(10.0, 15)[:, None] + 1e-5 * np.arange(3)).ravel(), np.linspace(0, 1, n - 15)])
    return spectra.with_spectrum(values), values


FAMILIES = {
    "rod": rod(60),
    "sakurai": sakurai(60),
    "mikota": mikota(30),
    "path": path(50),
    "diagonal": diagonal(80),
    "laplacian-2d": laplacian_2d(9),
    "minimum": minimum(50),
    "clusters": clusters(100),
}


def selection(values, k, which):
    """Indices that SciPy would return; SM and LM by magnitude."""
    order = {"LM": np.argsort(-np.abs(values)), "SM": np.argsort(np.abs(values)), "SA": np.argsort(values)}
    order["LA"] = order["SA"][::-1]
    if which == "BE":
        return np.concatenate([order["SA"][: k // 2], order["LA"][: k - k // 2]])
    return order[which][:k]


def check_pairs(result, matrix, expected, case, tol=1e-10):
    """A U = U D within the residuals, U'U = I, and the expected eigenvalues, with errors quadratic in tol."""
    vectors, scale = case.numpy(result.eigenvectors).astype(float), np.abs(matrix).sum(axis=1).max()
    rest = matrix @ vectors - vectors * result.eigenvalues
    assert (np.linalg.norm(rest, axis=0) <= 1.01 * result.residuals).all()
    # Each row of a basis is orthogonal to the others up to some roundings, and there are up to as many as dimensions.
    rounding = 2 * len(matrix) * case.eps
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(vectors.shape[1]), atol=rounding)
    np.testing.assert_allclose(result.eigenvalues, np.sort(expected), atol=max(tol, 30 * case.eps) * scale)


@each_algorithm_case
@pytest.mark.parametrize("family", FAMILIES)
def test_largest(case, family):
    matrix, exact = FAMILIES[family]
    result = specop.eigsh(case.array(matrix), k=5, which="LA", tol=1e-6)
    check_pairs(result, matrix, exact[selection(exact, 5, "LA")], case)


@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE", "SM"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", ["dense", "sparse", "operator"])
def test_every_selection(family, which, form):
    matrix, exact = FAMILIES[family]
    A = {
        "dense": lambda: matrix,
        "sparse": lambda: scipy.sparse.csr_array(matrix),
        "operator": lambda: specop.FunctionOperator(lambda x: matrix @ x, matrix.shape, like=matrix),
    }[form]()
    result = specop.eigsh(A, k=4, which=which, tol=1e-7)
    check_pairs(result, matrix, exact[selection(exact, 4, which)], Case("numpy", np.dtype("float64")))


@pytest.mark.parametrize("family", FAMILIES)
def test_both_ends_put_the_matrix_together_again(family):
    # A U = U D + R with R at rounding level, for all n pairs: A = U D U'.
    matrix, exact = FAMILIES[family]
    n = len(matrix)
    # Cut at a gap: of a multiple eigenvalue both ends would return some vectors.
    cut = n // 4 + 1 + int(np.argmax(np.diff(np.sort(exact))[n // 4 : n // 2]))
    high = specop.eigsh(matrix, k=n - cut, which="LA", tol=1e-10)
    low = specop.eigsh(matrix, k=cut, which="SA", tol=1e-10)
    values = np.concatenate([low.eigenvalues, high.eigenvalues])
    vectors = np.concatenate([low.eigenvectors, high.eigenvectors], axis=1)
    scale = np.abs(exact).max()
    np.testing.assert_allclose(values, np.sort(exact), atol=1e-12 * n * scale)
    np.testing.assert_allclose(vectors * values @ vectors.T, matrix, atol=1e-9 * scale)


@each_algorithm_case
def test_fiedler_vector_of_a_path(case):
    # The second smallest eigenvector orders the vertices; it is cos(pi (i + 1/2) / n).
    matrix, exact = path(40)
    result = specop.eigsh(case.array(matrix), k=2, which="SA", tol=1e-6)
    np.testing.assert_allclose(result.eigenvalues, exact[:2], atol=20 * case.eps + 1e-12)
    fiedler = case.numpy(result.eigenvector(1)).astype(float)
    expected = np.cos(np.pi * (np.arange(40) + 0.5) / 40)
    expected /= np.linalg.norm(expected)
    assert abs(fiedler @ expected) > 1 - 1e-5
    assert (np.diff(np.sign(expected[0]) * np.sign(fiedler[0]) * fiedler) < 1e-4).all()


def test_a_power_of_the_matrix_has_the_powers_of_the_eigenvalues():
    matrix, exact = mikota(30)
    A = specop.aslinearoperator(matrix)
    squared = specop.eigsh(A @ A, k=3, tol=1e-6)
    np.testing.assert_allclose(squared.eigenvalues, np.sort(exact)[-3:] ** 2, rtol=1e-9)
