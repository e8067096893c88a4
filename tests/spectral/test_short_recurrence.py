"""Densities and sums from three vectors, held against known spectra and against the stored basis."""

import warnings

import numpy as np
import pytest
import scipy.stats

import specop
from cases import CASES, each_algorithm_case
from specop.errors import DomainError, InvalidInputError, NoiseWarning, NotEnoughMemoryError

N = 1000
RNG = np.random.default_rng(0)
SPECTRA = {
    "outliers over a bulk": np.concatenate([RNG.uniform(0.0, 1.0, N - 10), 10.0 * 1.5 ** np.arange(10)]),
    "decay": 100.0 * 0.97 ** np.arange(N),
    "both sides": np.concatenate([0.01 * RNG.standard_normal(N - 10), [5, 3, 2, 1.5, 1, 0.8, 0.6, -0.3, -0.5, -0.6]]),
    "low rank": np.concatenate([np.zeros(N - 20), 2.0 ** -np.arange(20)]),
    "copies": np.concatenate([RNG.uniform(0.0, 1.0, N - 6), [7, 7, 7, 5, 5, 4]]),
    "a bulk": RNG.standard_normal(N),
}
NUMPY = [case for case in CASES if case.framework == "numpy"]


def distance(density, values):
    """Wasserstein-1 distance to the true spectrum, relative to its spread."""
    return scipy.stats.wasserstein_distance(density.nodes, values, density.weights) / np.ptp(values)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("case", NUMPY, ids=str)
def test_three_vectors_find_the_spectrum_and_say_how_well(case, name):
    values = SPECTRA[name]
    A = specop.DiagonalOperator(case.array(values))
    distances = []
    for seed in range(3):
        stored = specop.spectral_density(A, steps=60, seed=seed, stored_basis=True)
        short = specop.spectral_density(A, steps=60, seed=seed, stored_basis=False)
        assert short.matvecs <= 60
        assert short.weights.sum() == pytest.approx(1.0)
        found = distance(short, values)
        rounding = short.rounding / np.ptp(values) + 1e-6
        distances.append((found, max(distance(stored, values), rounding)))
        # The estimate is of a typical distance, and rounding moves every node.
        assert name == "copies" or found < 2.0 * short.error + short.rounding / np.ptp(values)
        points = np.quantile(values, [0.1, 0.5, 0.9, 0.995]) + 1e-3 * np.ptp(values)
        low, high = short.cdf_interval(points)
        least, most = stored.cdf_interval(points)
        # Intervals claim no more than those of the stored basis, which are held against spectra elsewhere.
        assert (low <= least + 2e-3).all()
        assert (high >= most - 2e-3).all()
    # Copies of a multiple eigenvalue are found by a stored basis; here they count by a random vector's weights. Of
    # single runs rounding decides whether a copy has begun to show; the mean is up to 4.4 times that of the other.
    found, expected = np.mean(distances, axis=0)
    assert found < (0.02 if name == "copies" else 6.0 * expected)


@pytest.mark.parametrize("case", NUMPY, ids=str)
def test_each_eigenvalue_that_was_found_again_counts_once(case):
    values = SPECTRA["outliers over a bulk"]
    short = specop.spectral_density(specop.DiagonalOperator(case.array(values)), steps=120, stored_basis=False)
    near = np.abs(short.nodes[:, None] - values[-10:]) < 1e-3
    # As exactly as the count below: a copy on its way may be too heavy to be taken for one.
    np.testing.assert_allclose(short.weights @ near, 1.0 / N, rtol=1e-2)
    count = short.count(5.0, np.inf)
    assert count.interval[0] == 10.0
    assert count.estimate == pytest.approx(10.0, abs=0.01)
    # Without merging there would be as many of them as copies.
    assert short.probes == 1
    assert len(short.nodes) < 100


@each_algorithm_case
def test_the_recurrence_is_the_same_in_every_framework(case):
    values = SPECTRA["a bulk"]
    A = specop.DiagonalOperator(case.array(values))
    short = specop.spectral_density(A, steps=12, probes=2, stored_basis=False)
    stored = specop.spectral_density(A, steps=12, probes=2, stored_basis=True)
    assert "three vectors" in str(short)
    assert stored.notes == ""
    assert (
        scipy.stats.wasserstein_distance(short.nodes, stored.nodes, short.weights, stored.weights) < 100 * case.eps * 5
    )
    A = specop.DiagonalOperator(case.array(SPECTRA["both sides"]))
    deflated = specop.spectral_density(A, steps=10, deflate=specop.eigsh(A, k=3, tol=1e-6), stored_basis=False)
    np.testing.assert_allclose(np.sort(deflated.nodes[deflated.probe < 0]), [2.0, 3.0, 5.0], rtol=1e-5)
    assert deflated.nodes[deflated.probe >= 0].max() < 1.6


def test_memory_decides_where_nobody_says(monkeypatch):
    case = NUMPY[-1]
    kind, written, most = type(case.backend), type(case.backend).set_row_, [0]

    def set_row_(self, basis, i, x, alpha):
        most[0] = max(most[0], i + 1)
        return written(self, basis, i, x, alpha)

    monkeypatch.setattr(kind, "set_row_", set_row_)
    A = specop.DiagonalOperator(case.array(SPECTRA["decay"]))
    with monkeypatch.context() as small:
        small.setattr(kind, "free_memory", lambda self, layout: 20 * self.row_bytes(layout))
        density = specop.spectral_density(A)
        assert "31 vectors of 8 kB (248 kB) do not fit into 160 kB" in density.notes
        total = specop.trace_function(A, "exp", rtol=0.5, max_matvecs=1000)
        assert "three vectors" in total.notes
        assert most[0] == 2
        with pytest.raises(NotEnoughMemoryError, match="stored_basis=True"):
            specop.spectral_density(A, stored_basis=True)
        with pytest.raises(NotEnoughMemoryError, match="method='exact'"):
            specop.trace_function(A, "exp", method="exact")
    stored = specop.spectral_density(A)
    assert (stored.notes, most[0]) == ("", 31)


@pytest.mark.parametrize("case", NUMPY, ids=str)
@pytest.mark.parametrize("shift", [1.0, 0.01])
def test_logdet_from_three_vectors_lies_in_its_interval(case, shift):
    values = SPECTRA["outliers over a bulk"] + shift
    A = specop.DiagonalOperator(case.array(values))
    found = specop.logdet(A, stored_basis=False, atol=40.0, confidence=0.99)
    assert found.method == "quadrature"
    low, high = found.interval
    assert low < np.sum(np.log(values)) < high


def test_sums_are_refused_where_three_vectors_leave_them_open():
    case = NUMPY[0]
    A = specop.DiagonalOperator(case.array(np.concatenate([np.full(N - 30, 1e-6), np.geomspace(1e-6, 1.0, 30)])))
    with pytest.raises(DomainError, match="Without a stored basis"):
        specop.logdet(A, stored_basis=False, method="quadrature")
    for f in ("sign", "step"):
        with pytest.raises(InvalidInputError, match="has a jump"):
            specop.trace_function(A, f, stored_basis=False)


def test_an_operator_that_is_not_symmetric_is_noticed():
    A = np.diag(np.arange(60.0)) + np.triu(np.ones((60, 60)), 1)
    wrong = specop.FunctionOperator(lambda x: A @ x, A.shape, like=np.zeros(1), is_symmetric=True)
    with pytest.raises(specop.errors.AsymmetryError):
        specop.spectral_density(wrong, steps=10, stored_basis=False)


# Products are exact up to rounding: what is said of noise, or of a matrix that is not symmetric, is wrong.
EXACT = {
    "low rank": lambda rng: np.r_[np.zeros(50), rng.uniform(1.0, 2.0, 20)],
    "few": lambda rng: rng.choice(rng.standard_normal(4), 70),
    "two clusters": lambda rng: np.repeat([1.0, -1.0], 35) * (1 + 1e-9 * rng.standard_normal(70)),
    "one cluster": lambda rng: 1.0 + 1e-13 * rng.standard_normal(70),
    "four and next to nothing": lambda rng: np.r_[rng.uniform(1.0, 2.0, 4), 1e-9 * rng.standard_normal(66)],
    "four": lambda rng: np.r_[rng.uniform(1.0, 2.0, 4), np.zeros(66)],
}
EXACT_CALLS = {
    "eigsh": lambda A, seed: specop.eigsh(A, k=6, which="BE", ncv=8, seed=seed),
    "eigsh of blocks": lambda A, seed: specop.eigsh(A, k=3, which="LA", ncv=7, tol=1e-8, block_size=3, seed=seed),
    "density": lambda A, seed: specop.spectral_density(A, steps=40, seed=seed, stored_basis=False),
    "density of the rest": lambda A, seed: specop.spectral_density(
        A, steps=40, seed=seed, stored_basis=False, deflate=specop.eigsh(A, k=4, seed=seed)
    ),
    "stored density of the rest": lambda A, seed: specop.spectral_density(
        A, steps=20, seed=seed, stored_basis=True, deflate=specop.eigsh(A, k=4, seed=seed)
    ),
    "trace of the rest": lambda A, seed: specop.trace(
        A, method="xtrace", max_matvecs=40, seed=seed, deflate=specop.eigsh(A, k=4, seed=seed)
    ),
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("call", EXACT_CALLS)
def test_rounding_of_exact_products_is_no_noise(call, name):
    """A coupling of a few roundings makes a row of rounding errors, which lies in known eigenvectors, too."""
    for seed in range(2):
        rng = np.random.default_rng(seed)
        values = EXACT[name](rng)
        turn = np.linalg.qr(rng.standard_normal((70, 70)))[0]
        dense = (turn * values) @ turn.T
        EXACT_CALLS[call](specop.DiagonalOperator(rng.permutation(values)), seed)
        EXACT_CALLS[call]((dense + dense.T) / 2, seed)


@pytest.mark.parametrize("skew", [1e-10, 1e-6])
def test_noise_shows_beside_known_eigenvectors(skew):
    rng = np.random.default_rng(0)
    noise, turn = rng.standard_normal((70, 70)) / 8, np.linalg.qr(rng.standard_normal((70, 70)))[0]
    for values in (EXACT["low rank"](rng), EXACT["few"](rng)):
        matrix = (turn * values) @ turn.T + skew * (noise - noise.T)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoiseWarning)
            known = specop.eigsh(matrix, k=4)
        with pytest.warns(NoiseWarning, match="asymmetric by"):
            specop.spectral_density(matrix, steps=30, stored_basis=False, deflate=known)


@pytest.mark.parametrize("stored", [True, False])
def test_copies_beside_eigenvectors_from_the_same_seed_are_counted(stored):
    """The vector that found an eigenvector has nothing else along the copies of its eigenvalue."""
    values = np.r_[np.full(10, 5.0), np.random.default_rng(0).uniform(0.0, 1.0, 190)]
    A = specop.DiagonalOperator(values)
    covered = 0
    for seed in range(8):
        known = specop.eigsh(A, k=1, seed=seed)
        density = specop.spectral_density(A, steps=25, deflate=known, seed=seed, stored_basis=stored)
        low, high = density.count(4.0, 6.0).interval
        covered += low <= 10 <= high
    assert covered >= 7


def test_a_network_has_the_density_that_the_stored_basis_gives():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, stride=2), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(36, 5)
    )
    data = (torch.randn(60, 1, 8, 8), torch.randint(0, 5, (60,)))
    H = specop.objective(model, torch.nn.functional.cross_entropy, data).hessian()
    values = np.linalg.eigvalsh(H.to_dense().double().numpy())
    for seed in range(2):
        short = specop.spectral_density(H, steps=40, probes=3, seed=seed, stored_basis=False)
        stored = specop.spectral_density(H, steps=40, probes=3, seed=seed, stored_basis=True)
        assert distance(short, values) < 1.5 * distance(stored, values) + 1e-3
        assert distance(short, values) < 2.0 * short.error
