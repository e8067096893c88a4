"""What is free on the device decides what is held: fewer rows, no sketch, or a refusal by name."""

import dataclasses

import numpy as np
import pytest

import specop
from cases import CASES, each_algorithm_case
from specop.errors import NotEnoughMemoryError
from specop.spectral.survey import survey

N = 900
OUTLIERS = 10.0 * 1.3 ** np.arange(8)
SPECTRUM = np.concatenate([np.random.default_rng(0).uniform(0.0, 1.0, N - 8), OUTLIERS])
NUMPY = next(case for case in CASES if case.framework == "numpy" and case.dtype == np.float64)


@dataclasses.dataclass
class Device:
    """A device that has room for some vectors, and notes the most rows of a basis that were set."""

    vectors: int
    most: int = 0


@pytest.fixture
def device_of(monkeypatch):
    """Return a function that gives a case's backend a small device."""

    def make(case, vectors):
        device, kind = Device(vectors), type(case.backend)
        written = kind.set_row_

        def set_row_(self, basis, i, x, alpha):
            device.most = max(device.most, i + 1)
            return written(self, basis, i, x, alpha)

        monkeypatch.setattr(kind, "free_memory", lambda self, layout: device.vectors * self.row_bytes(layout))
        monkeypatch.setattr(kind, "set_row_", set_row_)
        return device

    return make


def operator(case):
    return specop.DiagonalOperator(case.array(SPECTRUM))


@each_algorithm_case
def test_eigsh_restarts_earlier_where_its_default_does_not_fit(case, device_of):
    device = device_of(case, 20)
    found = specop.eigsh(operator(case), k=4)
    np.testing.assert_allclose(found.eigenvalues, OUTLIERS[-4:], rtol=1e-4)
    # Nine tenths of twenty, less what a product takes, and the two that were held when the device was asked again.
    assert 11 <= device.most <= 18
    assert "vectors of " in str(found)
    assert "instead of 121" in found.notes
    assert "restarts cost products" in found.notes


FEW = {
    "decay": 0.9 ** np.arange(N),
    "slow decay": np.arange(1.0, N + 1) ** -0.5,
    "a bulk": np.random.default_rng(3).standard_normal(N),
    "beside each other": np.concatenate([np.random.default_rng(4).uniform(-1, 1, N - 12), 2 * 1.02 ** np.arange(12)]),
    "copies": np.concatenate([np.random.default_rng(5).uniform(0, 1, N - 6), [4, 5, 5, 7, 7, 7]]),
}


@pytest.mark.parametrize("name", FEW)
def test_the_fewest_vectors_take_about_twice_the_products(name, device_of):
    values = FEW[name]
    A = specop.DiagonalOperator(values.astype(np.float32))
    for k, tol in (1, 0.05), (1, 1e-2), (2, 1e-2), (3, 1e-3):
        usual, few = [], []
        for seed in range(2):
            device_of(NUMPY, 1000)
            usual.append(specop.eigsh(A, k=k, which="LA", tol=tol, seed=seed).matvecs)
            # A tenth is left free, and k + 6 rows, a product and what the check takes are the least.
            device_of(NUMPY, 13 + k)
            found = specop.eigsh(A, k=k, which="LA", tol=tol, seed=seed)
            assert "instead of" in found.notes
            assert found.converged
            assert (np.abs(found.eigenvalues - np.sort(values)[-k:]) <= found.bounds + 1e-5).all()
            few.append(found.matvecs)
        assert np.mean(few) <= 2.1 * np.mean(usual) + 2, (k, tol)


@each_algorithm_case
def test_a_check_without_rows_finds_what_was_missed(case, device_of):
    values = np.concatenate([np.random.default_rng(5).uniform(0.0, 3.0, N - 3), [6.0, 7.0, 7.0]])
    device_of(case, 15)
    found = specop.eigsh(specop.DiagonalOperator(case.array(values)), k=2, which="LA", tol=1e-3)
    np.testing.assert_allclose(found.eigenvalues, [7.0, 7.0], rtol=1e-5)
    assert found.check_matvecs > 8


def test_where_memory_is_ample_nothing_changes(device_of):
    ample = specop.eigsh(operator(NUMPY), k=4)
    device = device_of(NUMPY, 140)
    found = specop.eigsh(operator(NUMPY), k=4)
    assert (found.matvecs, found.notes) == (ample.matvecs, "")
    np.testing.assert_array_equal(found.eigenvalues, ample.eigenvalues)
    assert device.most > 10


@pytest.mark.parametrize(("arguments", "what"), [({"ncv": 30}, "ncv=30"), ({"k": 16}, "at least 22 rows")])
def test_eigsh_refuses_before_anything_is_made(device_of, arguments, what):
    device = device_of(NUMPY, 20)
    never = specop.FunctionOperator(lambda x: 1 / 0, (N, N), like=np.zeros(1), is_symmetric=True)
    with pytest.raises(NotEnoughMemoryError, match=what) as raised:
        specop.eigsh(never, **arguments)
    assert device.most == 0
    text = str(raised.value)
    assert "144 kB are free" in text
    assert "on_host" in text


def test_an_explicit_number_of_vectors_that_fits_is_obeyed(device_of):
    device = device_of(NUMPY, 20)
    found = specop.eigsh(operator(NUMPY), k=3, ncv=15, tol=1e-12)
    assert device.most == 16
    assert found.notes == ""


def test_eigsh_asks_again_when_the_first_product_has_taken_what_it_keeps(device_of):
    device = device_of(NUMPY, 40)

    def product(x):
        device.vectors = 5
        return SPECTRUM * x

    A = specop.FunctionOperator(product, (N, N), like=np.zeros(1), is_symmetric=True)
    with pytest.raises(NotEnoughMemoryError, match="at least 10 rows"):
        specop.eigsh(A, k=4)
    device.vectors = 40
    with pytest.raises(NotEnoughMemoryError, match="another"):
        # Nobody asked for more than 40 vectors' worth at first, and large rows are paid for one block at a time.
        specop.eigsh(big(device), k=1, ncv=20)


def big(device):
    n = 2**18

    def product(x):
        device.vectors = 3
        return np.linspace(0.0, 1.0, n) * x

    return specop.FunctionOperator(product, (n, n), like=np.zeros(1), is_symmetric=True)


def test_a_checkpoint_keeps_the_number_of_vectors(device_of, tmp_path):
    device_of(NUMPY, 20)
    whole = specop.eigsh(operator(NUMPY), k=4, tol=1e-10)
    path = tmp_path / "run.npz"
    with pytest.warns(specop.errors.ConvergenceWarning):
        specop.eigsh(operator(NUMPY), k=4, tol=1e-10, max_matvecs=19, checkpoint=path)
    device_of(NUMPY, 1000)
    again = specop.eigsh(operator(NUMPY), k=4, tol=1e-10, checkpoint=path)
    np.testing.assert_array_equal(again.eigenvalues, whole.eigenvalues)
    # A file takes one product for each start.
    assert again.matvecs == whole.matvecs + 2


def test_a_check_without_rows_goes_on_from_a_checkpoint(device_of, tmp_path):
    device_of(NUMPY, 14)
    A, arguments = specop.DiagonalOperator(FEW["beside each other"]), {"k": 1, "which": "LA", "tol": 1e-2}
    whole = specop.eigsh(A, **arguments)
    path = tmp_path / "run.npz"
    with pytest.warns(specop.errors.ConvergenceWarning, match="check for missed copies did not finish"):
        specop.eigsh(A, **arguments, max_matvecs=whole.matvecs - 2, checkpoint=path)
    again = specop.eigsh(A, **arguments, checkpoint=path)
    np.testing.assert_array_equal(again.eigenvalues, whole.eigenvalues)
    np.testing.assert_array_equal(again.bounds, whole.bounds)
    assert again.matvecs == whole.matvecs + 2


@each_algorithm_case
def test_trace_keeps_no_sketch_where_none_fits(case, device_of):
    device = device_of(case, 20)
    found = specop.trace(operator(case) @ operator(case), rtol=0.5)
    assert device.most == 0
    assert found.method == "hutchinson"
    assert "no sketch was kept" in str(found)
    # Signs give a diagonal matrix exactly.
    assert found.estimate == pytest.approx(np.sum(SPECTRUM**2), rel=1e-4)


def test_trace_keeps_as_much_of_a_sketch_as_fits(device_of):
    rng = np.random.default_rng(1)
    Q = np.linalg.qr(rng.standard_normal((300, 300)))[0]
    matrix = Q * 0.9 ** np.arange(300) @ Q.T
    A = specop.FunctionOperator(lambda x: matrix @ x, (300, 300), like=np.zeros(1), rmatvec=lambda y: matrix.T @ y)
    device = device_of(NUMPY, 60)
    found = specop.trace(A, rtol=0.01, max_matvecs=250)
    # Three for each probe of a matrix that is not known to be symmetric.
    assert device.most == 17
    assert "as large as fits" in found.notes
    assert abs(found.estimate - np.trace(matrix)) < 4 * found.standard_error


@pytest.mark.parametrize("method", ["xtrace", "xnystrace", "hutch++"])
def test_a_sketch_that_was_asked_for_and_does_not_fit_is_refused(device_of, method):
    device = device_of(NUMPY, 60)
    with pytest.raises(NotEnoughMemoryError, match=r"holds .* vectors"):
        specop.trace(operator(NUMPY), method=method, max_matvecs=400)
    assert device.most == 0


def test_what_else_holds_vectors_holds_what_fits(device_of):
    positive = specop.DiagonalOperator(SPECTRUM)
    whole = specop.solve(positive, np.ones(N), rtol=1e-6)
    device = device_of(NUMPY, 30)
    assert specop.solve(positive, np.ones(N), rtol=1e-6).x == pytest.approx(whole.x, rel=1e-4)
    applied = specop.apply_function(positive + specop.identity_like(positive), "sqrt", np.ones(N), rtol=0.01)
    true = np.sqrt(SPECTRUM + 1.0)
    assert np.linalg.norm(applied.x - true) <= 0.02 * np.linalg.norm(true)
    assert device.most <= 27
    exact = specop.diagonal(positive, max_matvecs=16)
    np.testing.assert_allclose(exact.x, SPECTRUM, rtol=1e-10)
    with pytest.raises(NotEnoughMemoryError, match="rank=20"):
        specop.nystrom_preconditioner(positive, damping=0.1, rank=20)
    device.vectors = 4
    with pytest.raises(NotEnoughMemoryError, match="apply_function with at least 8 rows"):
        specop.apply_function(positive, "sqrt", np.ones(N))


def test_a_first_product_is_not_verified_where_that_takes_more_than_there_is(monkeypatch):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model, data = torch.nn.Linear(3, 2), (torch.randn(8, 3), torch.randint(0, 2, (8,)))
    monkeypatch.setattr("specop.objectives.witness.free_host_memory", lambda: 700)
    H = specop.objective(model, torch.nn.functional.cross_entropy, data).hessian()
    found = specop.eigsh(H, k=1)
    # Twelve vectors of eight parameters in float64.
    assert "not verified: its differences take 768 bytes of memory, and 700 bytes are free" in found.notes
    monkeypatch.setattr("specop.objectives.witness.free_host_memory", lambda: 800)
    H = specop.objective(model, torch.nn.functional.cross_entropy, data).hessian()
    assert specop.eigsh(H, k=1).notes == ""


def test_a_survey_holds_what_fits(device_of):
    device = device_of(NUMPY, 40)
    found = survey(operator(NUMPY), 5, 2, tol=1e-3, trace_rtol=0.05, steps=40, probes=2)
    np.testing.assert_allclose(found.largest.eigenvalues, OUTLIERS[-5:], rtol=1e-6)
    low, high = found.trace.interval
    assert low < SPECTRUM.sum() < high
    assert device.most <= 36
    assert "three vectors" in found.density.notes
    assert found.density.error < 0.01
