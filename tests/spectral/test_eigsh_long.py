"""eigsh for long and repeated work: earlier results, blocks, callbacks, and runs that are killed and go on."""

import random
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import scipy.sparse

import specop
import spectra
from cases import CASES, each_algorithm_case
from specop.errors import ConvergenceWarning, InvalidInputError, NonFiniteError
from specop.krylov import checkpoint


def changed(values, size, case):
    """Return diag(values) plus a random symmetric matrix of rank 60 and norm `size`, and its eigenvalues."""
    rng = np.random.default_rng(1)
    factor = np.linalg.qr(rng.normal(size=(len(values), 60)))[0]
    weights = rng.normal(size=60)
    weights *= size / np.abs(weights).max()
    matrix = (np.diag(values) + (factor * weights) @ factor.T).astype(case.dtype)
    return specop.aslinearoperator(case.array(matrix)), np.linalg.eigvalsh(matrix.astype(float))


@each_algorithm_case
def test_an_earlier_result_saves_products(case):
    values = 100 / np.arange(1.0, 401)
    old = specop.eigsh(specop.DiagonalOperator(case.array(values)), k=10)
    # Nothing is believed: one product for each pair, even where nothing has changed.
    same = specop.eigsh(specop.DiagonalOperator(case.array(values)), k=10, v0=old)
    assert same.matvecs - same.check_matvecs == 10
    # A change of one in a thousand leaves the residuals within tol; after a larger one the sum is a good start.
    for size, most in [(0.02, 10), (0.5, 20)]:
        operator, exact = changed(values, size, case)
        cold = specop.eigsh(operator, k=10)
        warm = specop.eigsh(operator, k=10, v0=old)
        assert warm.matvecs - warm.check_matvecs <= most < cold.matvecs - cold.check_matvecs
        assert warm.matvecs <= cold.matvecs
        np.testing.assert_allclose(warm.eigenvalues, exact[-10:], rtol=1e-4)
        assert (np.abs(warm.eigenvalues - exact[-10:]) <= warm.bounds).all()
    # After a change of a fifth of the norm a product for each pair would help nothing: it took 85 with them.
    assert specop.eigsh(changed(values, 20.0, case)[0], k=10, v0=old).matvecs < 65


@each_algorithm_case
def test_more_pairs_from_an_earlier_result(case):
    values = 100 / np.arange(1.0, 401)
    operator = specop.DiagonalOperator(case.array(values))
    ten = specop.eigsh(operator, k=10)
    cold, more = specop.eigsh(operator, k=20), specop.eigsh(operator, k=20, v0=ten)
    np.testing.assert_allclose(more.eigenvalues, np.sort(values)[-20:], rtol=1e-4)
    assert more.matvecs - more.check_matvecs <= cold.matvecs - cold.check_matvecs + 2
    # Where a space has not grown from one random vector, its recurrence rules nothing out, and the check takes more.
    assert more.matvecs <= cold.matvecs + 5
    # Earlier ones that are more than wanted are not worth a product each.
    fewer = specop.eigsh(operator, k=3, v0=ten)
    np.testing.assert_allclose(fewer.eigenvalues, np.sort(values)[-3:], rtol=1e-4)
    assert fewer.matvecs < 20


@pytest.mark.parametrize(("ncv", "most"), [(42, 62), (100, 46)])
def test_pairs_of_an_earlier_result_are_multiplied_one_by_one_where_what_they_leave_has_room(ncv, most):
    values = np.concatenate([np.linspace(0, 0.1, 360), np.linspace(1, 2, 40)])
    operator = specop.DiagonalOperator(values)
    old = specop.eigsh(operator, k=40, which="LA")
    found = specop.eigsh(operator, k=40, which="LA", v0=old, ncv=ncv)
    np.testing.assert_allclose(found.eigenvalues, values[-40:], rtol=1e-4)
    assert found.matvecs - found.check_matvecs <= most


def test_an_earlier_result_starts_a_block():
    operator = specop.DiagonalOperator(np.concatenate([np.linspace(0, 1, 114), np.arange(2.0, 8.0)]))
    old = specop.eigsh(operator, k=6, tol=1e-9)
    found = specop.eigsh(operator, k=6, v0=old, block_size=2)
    np.testing.assert_allclose(found.eigenvalues, np.arange(2.0, 8.0), rtol=1e-6)
    assert found.matvecs - found.check_matvecs == 6


def test_an_earlier_result_of_another_matrix_is_not_believed():
    old = specop.eigsh(specop.DiagonalOperator(np.arange(500.0)), k=4)
    found = specop.eigsh(specop.DiagonalOperator(np.arange(500.0)[::-1].copy()), k=4, tol=1e-5, v0=old)
    np.testing.assert_allclose(found.eigenvalues, [496, 497, 498, 499], rtol=1e-5)
    # Eigenvectors still, but of the wrong end.
    low = specop.eigsh(specop.DiagonalOperator(np.arange(500.0)), k=4, which="SA", v0=old)
    np.testing.assert_allclose(low.eigenvalues, [0, 1, 2, 3], atol=1e-2)
    with pytest.raises(InvalidInputError, match="each eigenvector of v0"):
        specop.eigsh(np.eye(7), k=2, v0=old)


@each_algorithm_case
def test_a_block_shows_as_many_copies_as_it_has_vectors(case):
    values = np.concatenate([np.repeat([40.0, 30, 20], 3), spectra.bulk()])
    operator = specop.DiagonalOperator(case.array(values))
    seen = [specop.eigsh(operator, k=3, block_size=size, check_multiplicity=False).eigenvalues for size in (1, 3)]
    np.testing.assert_allclose(seen, [[20, 30, 40], [40, 40, 40]], rtol=1e-4)
    checked = specop.eigsh(operator, k=6, block_size=2)
    np.testing.assert_allclose(checked.eigenvalues, [30, 30, 30, 40, 40, 40], rtol=1e-4)


@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
@pytest.mark.parametrize("ncv", [None, 14])
def test_blocks_find_what_single_vectors_find(which, ncv):
    matrix = spectra.with_spectrum(np.linspace(-1, 2, 120) ** 3)
    one, three = (specop.eigsh(matrix, k=4, which=which, ncv=ncv, block_size=size, tol=1e-6) for size in (1, 3))
    np.testing.assert_allclose(three.eigenvalues, one.eigenvalues, atol=1e-9)
    assert (np.linalg.norm(matrix @ three.eigenvectors - three.eigenvectors * three.eigenvalues, axis=0) < 1e-5).all()


def test_both_ends_in_one_run_take_no_more_products_than_two_runs():
    values = np.concatenate([spectra.geo10(), -0.5 * spectra.geo10()[:20]])
    both, high, low = (
        specop.eigsh(specop.DiagonalOperator(values), k=k, which=which)
        for k, which in [(10, "BE"), (5, "LA"), (5, "SA")]
    )
    np.testing.assert_allclose(both.eigenvalues, np.concatenate([low.eigenvalues, high.eigenvalues]), rtol=1e-5)
    assert both.matvecs <= 0.75 * (high.matvecs + low.matvecs)


@each_algorithm_case
def test_callback_sees_every_product_and_can_stop(case):
    operator, states = specop.DiagonalOperator(case.array(spectra.geo10())), []
    result = specop.eigsh(operator, k=5, callback=states.append)
    assert result.converged and [state.matvecs for state in states][-1] in (result.matvecs, result.matvecs - 1)
    top = [state.eigenvalues[-1] for state in states]
    assert (np.diff(top) >= -1e-3).all() and len(states[0].eigenvalues) == 1
    assert states[-1].residuals.max() < states[5].residuals.max()

    stopped = specop.eigsh(operator, k=5, callback=lambda state: state.matvecs >= 4)
    assert (stopped.matvecs, stopped.converged, stopped.message) == (4, False, "stopped by the callback")
    assert len(stopped.eigenvalues) == 4 and np.isfinite(stopped.residuals).all()


class KilledError(Exception):
    """What a test raises in the middle of a run."""


def failing(operator, after):
    """Return the operator, but its product number `after` raises."""
    count = iter(range(after))

    def product(x):
        if next(count, None) is None:
            raise KilledError
        return operator @ x

    like = operator.backend.zeros(operator.domain)
    return specop.FunctionOperator(product, operator.shape, like=like, is_symmetric=True)


# Restarts, missed copies that are found late, a start from a block, both ends.
RUNS = {
    "plain": (spectra.geo10, {"k": 10}),
    "restarts": (spectra.power1, {"k": 12, "ncv": 24}),
    "copies": (spectra.mult9, {"k": 5}),
    "block": (spectra.cluster10, {"k": 8, "block_size": 2}),
    "ends": (lambda: np.linspace(-1, 1, 300) ** 3, {"k": 4, "which": "BE", "ncv": 30}),
}


# All runs in NumPy; elsewhere one tells whether rows survive as they were.
RUNS_OF_CASES = [(case, name) for case in CASES for name in RUNS if str(case) == "numpy-float64" or name == "copies"]


@pytest.mark.parametrize(("case", "name"), RUNS_OF_CASES, ids=lambda value: str(value))
def test_a_run_goes_on_from_its_checkpoint_with_the_same_result(case, name, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    monkeypatch.setattr(checkpoint, "_LARGEST_SHARE", 1e9)
    make, arguments = RUNS[name]
    operator, path = specop.DiagonalOperator(case.array(make())), tmp_path / "run.npz"
    whole = specop.eigsh(operator, **arguments, checkpoint=path)
    assert list(tmp_path.iterdir()) == []

    starts, rng = 0, random.Random(name)
    while True:
        starts += 1
        try:
            victim = failing(operator, rng.randrange(5, 9 if starts < 3 else 30))
            again = specop.eigsh(victim, **arguments, checkpoint=path)
            break
        except KilledError:
            continue
    assert starts > 1 and again.matvecs == whole.matvecs + starts - 1
    if case.has_mutable_arrays:
        np.testing.assert_array_equal(again.eigenvalues, whole.eigenvalues)
        np.testing.assert_array_equal(again.bounds, whole.bounds)
        np.testing.assert_array_equal(case.numpy(again.rows), case.numpy(whole.rows))
    # Immutable rows come back at other addresses, and the last digit is the framework's.
    rounding = 4 * case.eps * np.abs(whole.eigenvalues).max()
    np.testing.assert_allclose(again.eigenvalues, whole.eigenvalues, rtol=0, atol=max(1e-3 * case.tol, rounding))
    assert list(tmp_path.iterdir()) == []


def test_a_run_out_of_products_goes_on_with_more(tmp_path):
    operator, path = specop.DiagonalOperator(spectra.power1()), tmp_path / "run.npz"
    with pytest.warns(ConvergenceWarning):
        first = specop.eigsh(operator, k=10, max_matvecs=15, checkpoint=path)
    assert first.matvecs == 15 and path.exists()
    second = specop.eigsh(operator, k=10, checkpoint=path)
    whole = specop.eigsh(operator, k=10, checkpoint=tmp_path / "other.npz")
    assert second.matvecs == whole.matvecs + 1 and not path.exists()
    np.testing.assert_array_equal(second.eigenvalues, whole.eigenvalues)
    specop.eigsh(operator, k=10, checkpoint=path, callback=lambda state: state.matvecs > 6)
    assert path.exists()


def test_foreign_checkpoints_are_refused(tmp_path):
    operator, path = specop.DiagonalOperator(spectra.power1()), tmp_path / "run.npz"
    stop = {"checkpoint": path, "callback": lambda state: state.matvecs > 6}
    specop.eigsh(operator, k=10, **stop)
    left = path.read_bytes()
    for arguments, text in [
        ({"k": 9}, "k=10, not 9"),
        ({"which": "SA"}, "which='LM', not 'SA'"),
        ({"tol": 1e-6}, "tol=0.001, not 1e-06"),
        ({"seed": 1}, "seed=0, not 1"),
        ({"block_size": 2}, "block_size=1, not 2"),
    ]:
        with pytest.raises(InvalidInputError, match=text):
            specop.eigsh(operator, **{"k": 10, **stop, **arguments})
    for other in (1.001 * operator, operator + 0.01 * specop.identity_like(operator)):
        with pytest.raises(InvalidInputError, match="another matrix"):
            specop.eigsh(other, k=10, **stop)
    with pytest.raises(InvalidInputError, match="dtype='float64', not 'float32'"):
        specop.eigsh(specop.DiagonalOperator(spectra.power1().astype(np.float32)), k=10, **stop)
    assert path.read_bytes() == left

    for content in (b"", b"text", left[: len(left) // 2], left[:-10]):
        path.write_bytes(content)
        with pytest.raises(InvalidInputError, match="checkpoint of eigsh"):
            specop.eigsh(operator, k=10, **stop)
    path.unlink()
    specop.eigsh(operator, k=10).save(path)
    with pytest.raises(InvalidInputError, match="no checkpoint"):
        specop.eigsh(operator, k=10, **stop)
    with pytest.raises(InvalidInputError, match=r"run\.npz"):
        specop.eigsh(operator, k=10, checkpoint=tmp_path / "run.bin")


def test_what_a_killed_process_left_is_written_over(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    (tmp_path / "run.npz.part").write_bytes(b"half of it")
    specop.eigsh(
        np.diag(np.arange(300.0)), k=4, checkpoint=tmp_path / "run.npz", callback=lambda state: state.matvecs > 5
    )
    assert [path.name for path in tmp_path.iterdir()] == ["run.npz"]


def test_an_error_in_a_product_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    values, path, count = spectra.power1(), tmp_path / "run.npz", []

    def product(x):
        count.append(1)
        return values * x if len(count) < 12 else np.nan * x

    with pytest.raises(NonFiniteError):
        specop.eigsh(
            specop.FunctionOperator(product, (4000, 4000), like=values, is_symmetric=True), k=10, checkpoint=path
        )
    found = specop.eigsh(specop.DiagonalOperator(values), k=10, checkpoint=path)
    np.testing.assert_allclose(found.eigenvalues, np.sort(values)[-10:], rtol=1e-4)


_VICTIM = f"""
import sys, time
sys.path[:] = {sys.path!r}
import numpy as np, specop
from specop.krylov import checkpoint
checkpoint.INTERVAL, checkpoint._LARGEST_SHARE = 0.0, 1e9
values = 100 / np.arange(1.0, 2001)

def product(x):
    time.sleep(0.002)
    return values * x

A = specop.FunctionOperator(product, (2000, 2000), like=values, is_symmetric=True)
print("ready", flush=True)
result = specop.eigsh(A, k=12, ncv=24, tol=1e-6, checkpoint=sys.argv[1])
print(result.eigenvalues.tobytes().hex(), flush=True)
"""


def killed_and_restarted(path, kills, rng):
    """Run the victim to the end, after as many kills at random moments; return what it prints."""
    while True:
        command = [sys.executable, "-c", _VICTIM, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            # A victim that hangs ends too.
            end = threading.Timer(600, process.kill)
            end.start()
            try:
                assert process.stdout.readline() == "ready\n"
                if not kills:
                    return process.stdout.readline()
                kills -= 1
                time.sleep(rng.uniform(0.02, 0.2))
            finally:
                end.cancel()
                process.kill()


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_processes_go_on(kills, tmp_path):
    found = killed_and_restarted(tmp_path / "run.npz", kills, random.Random(kills))
    expected = specop.eigsh(specop.DiagonalOperator(100 / np.arange(1.0, 2001)), k=12, ncv=24, tol=1e-6)
    assert found == expected.eigenvalues.tobytes().hex() + "\n"
    assert list(tmp_path.iterdir()) == []


# --- Many eigenvalues -------------------------------------------------------------------------------------------------


def path(n):
    """Return the Laplacian of a path of nodes between fixed ends, and its eigenvalues."""
    matrix = scipy.sparse.diags([np.full(n, 2.0), *2 * [-np.ones(n - 1)]], [0, 1, -1]).tocsr()
    return matrix, 2 - 2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1))


def test_a_crowded_end_of_the_spectrum_is_searched_until_the_eigenvalues_are_the_outermost():
    """The first pairs that converge to the tolerance are others, which the check finds."""
    n, k = 3000, 24
    matrix, exact = path(n)
    # That takes more than 50 k products.
    result = specop.eigsh(matrix, k=k, ncv=60, seed=1)
    assert (np.abs(result.eigenvalues - exact[-k:]) <= result.bounds).all()


def test_rows_that_were_multiplied_again_leave_room_for_wanted_pairs():
    """What such products led to took the room of the last pairs, which every restart gave up."""
    matrix, exact = path(1000)
    result = specop.eigsh(matrix, k=24, ncv=37, seed=1)
    assert (np.abs(result.eigenvalues - exact[-24:]) <= result.bounds).all()


@pytest.mark.parametrize("products", [40, 250])
def test_a_search_that_ends_early_knows_no_numbers_of_eigenvalues(products):
    """Ritz values on their way, or converged, to others than those of their numbers had residuals for bounds."""
    matrix, exact = path(1000)
    with pytest.warns(ConvergenceWarning):
        found = specop.eigsh(matrix, k=8, max_matvecs=products)
    assert not found.converged and (np.abs(found.eigenvalues - exact[-8:]) <= found.bounds).all()
    nearest = np.abs(found.eigenvalues[:, None] - exact).min(axis=1)
    assert (nearest <= found.residuals).all() and np.isfinite(found.residuals).all()


@pytest.mark.parametrize("seed", [1, 3, 5])
def test_no_value_of_the_check_takes_the_place_of_a_converged_pair(seed):
    values = np.append(np.zeros(70), 10.0 ** -np.random.default_rng(seed).uniform(0, 14, 30)).astype(np.float32)
    found = specop.eigsh(specop.DiagonalOperator(values), k=6, which="BE", ncv=8, seed=seed)
    assert found.converged and found.converged_pairs.all()


@pytest.mark.parametrize("seed", [8, 29, 36])
def test_rows_of_the_check_leave_converged_pairs_as_they_are(seed):
    """What these pairs have given up is counted twice along such rows."""
    rng = np.random.default_rng(seed)
    values = rng.choice(rng.standard_normal(4), 100)
    found = specop.eigsh(specop.DiagonalOperator(values), k=12, which="LA", tol=1e-12, seed=seed)
    assert found.converged and found.converged_pairs.all()


@pytest.mark.parametrize("seed", [16, 21])
def test_what_a_check_gives_up_of_converged_pairs_is_made_up_for(seed):
    rng = np.random.default_rng(seed)
    values = np.append(rng.uniform(0, 1e-3, 95), 1e3 * rng.uniform(1, 2, 5))
    rows = np.linalg.qr(rng.standard_normal((100, 100)))[0]
    matrix = (rows * values) @ rows.T
    found = specop.eigsh((matrix + matrix.T) / 2, k=12, which="LA", tol=1e-12, seed=seed)
    assert found.converged and found.converged_pairs.all()


# --- A basis in host memory -------------------------------------------------------------------------------------------


@each_algorithm_case
def test_a_basis_in_host_memory(case, monkeypatch):
    diagonal = spectra.geo10()
    A = specop.DiagonalOperator(case.array(diagonal))
    expected = specop.eigsh(A, k=4)
    if case.framework != "numpy":
        # Nothing of the length of a vector is kept where products are computed.
        monkeypatch.setattr(type(A.backend), "allocate", None)
    found = specop.eigsh(specop.on_host(A), k=4)
    np.testing.assert_allclose(found.eigenvalues, expected.eigenvalues, rtol=10 * case.tol)
    assert isinstance(found.rows, np.ndarray) and found.rows.dtype == case.dtype
