"""Rows stay orthogonal to rounding where most products are made orthogonal to their neighbours only."""

import numpy as np
import pytest
import scipy.sparse

import specop
import specop_numpy
from specop.errors import NoiseWarning
from specop.krylov import orthogonality
from specop.krylov.beginning import begin
from specop.krylov.orthogonality import Orthogonality
from specop.krylov.projected import ProjectedMatrix
from specop.krylov.run import Run
from specop.krylov.space import KrylovSpace
from tests import spectra

N = 600
SPECTRA = {
    "even": np.linspace(-1, 3, N),
    "geometric": np.geomspace(1, 1e-12, N),
    "clusters": np.repeat(np.arange(1.0, 7.0), N // 6) + 1e-9 * np.arange(N),
    "copies": np.repeat([5.0, 2.0, 1.0], N // 3),
    "outliers": np.concatenate([np.linspace(0, 1e-3, N - 5), [1.0, 1.0, 2.0, 10.0, 1e3]]),
    "low rank": np.concatenate([np.zeros(N - 20), np.arange(1.0, 21.0)]),
}


@pytest.fixture(autouse=True)
def _every_basis_is_worth_it(monkeypatch):
    monkeypatch.setattr(orthogonality, "_SMALL_BASIS", 0)


@pytest.fixture
def passes(monkeypatch):
    """Return the list of how many rows each Gram-Schmidt pass went over."""
    found = []
    original = specop_numpy.arrays.NumpyBackend.orthogonalize_

    def noting(self, x, basis, k, near):
        found.append(k)
        return original(self, x, basis, k, near)

    monkeypatch.setattr(specop_numpy.arrays.NumpyBackend, "orthogonalize_", noting)
    return found


@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize("values", SPECTRA.values(), ids=SPECTRA)
def test_rows_and_residuals_are_those_of_full_orthogonalization(values, block):
    matrix, scale = spectra.with_spectrum(values), np.abs(values).max()
    with Run(matrix, "test", symmetric=True) as run:
        space = KrylovSpace(run, 60)
        begin(space, None, 4, block, 1e-3)
        for _ in range(3):
            while space.has_room_for(1) and not space.is_closed:
                space.expand(int(space.frontier[0]))
            ritz = space.ritz()
            space.restart(ritz, np.arange(len(ritz.values))[-25:])
        ritz = space.ritz()
        vectors = space.extract(ritz, np.arange(len(ritz.values)))
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(len(vectors)), atol=5e-13)
    true = np.linalg.norm(matrix @ vectors.T - vectors.T * ritz.values, axis=0)
    np.testing.assert_allclose(true, ritz.residuals, atol=1e-12 * scale)


def test_most_products_are_not_made_orthogonal_to_all_rows(passes):
    matrix = scipy.sparse.diags([np.linspace(2, 5, 20_000), *2 * [-np.ones(19_999)]], [0, 1, -1]).tocsr()
    result = specop.eigsh(matrix, k=10, which="LA", check_multiplicity=False)
    assert sum(k > 0 for k in passes) < 0.4 * result.matvecs
    exact = scipy.linalg.eigh_tridiagonal(
        matrix.diagonal(), matrix.diagonal(1), eigvals_only=True, select="i", select_range=(19_990, 19_999)
    )
    assert (np.abs(result.eigenvalues - exact) <= result.bounds).all()


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
def test_copies_are_found(which):
    n = 700
    exact = 2 - 2 * np.cos(2 * np.pi * np.arange(n) / n)
    cycle = scipy.sparse.diags([2.0, -1.0, -1.0, -1.0, -1.0], [0, 1, -1, n - 1, 1 - n], shape=(n, n)).tocsr()
    result = specop.eigsh(cycle, k=4, which=which, tol=1e-4, max_matvecs=20_000)
    wanted = np.sort(exact)[:4] if which == "SA" else np.sort(exact)[-4:]
    assert result.converged and (np.abs(result.eigenvalues - wanted) <= result.bounds).all()


def test_a_small_asymmetry_shows_in_time():
    rng = np.random.default_rng(0)
    matrix = spectra.with_spectrum(SPECTRA["even"])
    skew = 1e-11 * (noise := rng.standard_normal((N, N)) / N**0.5) - 1e-11 * noise.T
    with pytest.warns(NoiseWarning, match="asymmetric by"):
        specop.eigsh(matrix + skew, k=4, which="LA")


@pytest.mark.parametrize(("capacity", "precision", "may"), [(10, 1e-15, True), (20, 1e-15, False), (10, 1e-7, False)])
def test_rows_wait_where_rounding_is_small_and_the_space_is_not_whole(capacity, precision, may):
    assert Orthogonality(capacity, 20, precision).may_wait(5) == may


def test_rows_of_a_small_basis_do_not_wait_and_others_not_for_long(monkeypatch):
    monkeypatch.setattr(orthogonality, "_SMALL_BASIS", 100)
    found = Orthogonality(10, 20, 1e-15)
    for _ in range(2):
        assert [found.may_wait(6) for _ in range(18)] == 15 * [True] + 3 * [False]
        found.renew(6)
    assert not found.may_wait(5)


def test_where_overlaps_have_grown_two_rows_are_renewed():
    found, G = Orthogonality(10, 20, 1e-15), ProjectedMatrix(10)
    G.append()
    assert not found.accept(G, 0, [], np.zeros(1), 1.0, 1.0)
    assert not found.may_wait(1)
    found.renew(1)
    assert not found.may_wait(1)
    found.renew(1)
    assert found.may_wait(1)
