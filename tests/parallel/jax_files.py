"""Checks of what two processes of jax.distributed share besides vectors: files, clocks, callbacks, warnings."""

import os
import warnings
from pathlib import Path

import numpy as np

import specop
from parallel.jax_problems import hosted, mesh
from parallel.jax_together import RANK, everywhere, processes, same_everywhere, told_by_all
from specop.errors import ConvergenceWarning
from specop.krylov import checkpoint

FOLDER = Path(os.environ["SPECOP_GROUP"])
# 51 is no multiple of four, and the length of the other checks' vectors: what is compiled for it serves both.
Q = np.linalg.qr(np.random.default_rng(9).standard_normal((51, 51)))[0]
MATRIX = (Q * np.concatenate([np.geomspace(1.0, 30.0, 50), [-10.0]])) @ Q.T
MATRIX = (MATRIX + MATRIX.T) / 2
SIZE = 30.0
OPTIONS = {"k": 3, "ncv": 9, "tol": 1e-9, "seed": 4}


def ours():
    return specop.DenseOperator(everywhere(MATRIX, mesh("data")), is_symmetric=True)


def alone():
    return specop.DenseOperator(MATRIX, is_symmetric=True)


def files(pattern):
    """The names of files, as the process sees them that makes and removes them."""
    return sorted(one.name for one in FOLDER.glob(pattern)) if RANK == 0 else None


def begun(A, path):
    """A run that has used up its products, with restarts, and is kept in a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return specop.eigsh(A, **OPTIONS, max_matvecs=30, checkpoint=path)


def check_results_are_saved_once_and_read_anywhere():
    path = FOLDER / "result.npz"
    found = specop.eigsh(ours(), k=3, ncv=9, tol=1e-10)
    found.save(path)
    kept = specop.load(path)
    assert np.array_equal(kept.rows, hosted(found.rows)) and np.array_equal(kept.eigenvalues, found.eigenvalues)
    assert files("result*") in (["result.npz"], None)
    for A, known in ((alone(), kept), (alone(), found), (ours(), kept)):
        again = specop.eigsh(A, k=3, v0=known, tol=1e-8, check_multiplicity=False)
        assert again.matvecs <= 8 and np.allclose(again.eigenvalues, found.eigenvalues, atol=1e-9)
    told = told_by_all(lambda: found.save(FOLDER / "nowhere" / "result.npz"), FileNotFoundError)
    assert all("nowhere" in text for text in told)


def check_checkpoints_go_on_with_as_many_processes_and_with_others():
    path = FOLDER / "run.npz"
    whole = specop.eigsh(ours(), **OPTIONS, max_matvecs=4000)
    assert whole.matvecs > 40

    def same(found):
        # One product for each of the two starts shows that the file belongs to the matrix.
        assert np.abs(found.eigenvalues - whole.eigenvalues).max() < 1e-12 * SIZE
        assert whole.matvecs <= found.matvecs <= whole.matvecs + 4

    begun(ours(), path)
    assert files("run*") in (["run.npz"], None)
    same(specop.eigsh(ours(), **OPTIONS, max_matvecs=4000, checkpoint=path))
    assert not files("run*")
    # One process alone goes on from what two have saved, and two from what one has.
    begun(ours(), path)
    processes().exchange(None)
    if RANK == 0:
        same(specop.eigsh(alone(), **OPTIONS, max_matvecs=4000, checkpoint=path))
        begun(alone(), path)
    processes().exchange(None)
    found = specop.eigsh(ours(), **OPTIONS, max_matvecs=4000, checkpoint=path)
    same(found)
    same_everywhere(found.eigenvalues, np.array(found.matvecs))


def check_clocks_callbacks_and_warnings_are_the_first_process_s():
    path = FOLDER / "clock.npz"
    before = checkpoint.INTERVAL
    # Without the first clock the second would never save, and the other way round they would wait for each other.
    checkpoint.INTERVAL = -1.0 if RANK == 0 else 1e9
    seen = []

    def callback(state):
        seen.append(state.matvecs)
        # The other process would never stop, or too early.
        return state.matvecs >= (12 if RANK == 0 else 5)

    try:
        found = specop.eigsh(ours(), k=2, checkpoint=path, callback=callback)
    finally:
        checkpoint.INTERVAL = before
    assert found.matvecs == 12 and seen[-1] == 12
    same_everywhere(found.eigenvalues)
    assert files("clock*") in (["clock.npz"], None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        specop.eigsh(ours(), k=3, ncv=9, max_matvecs=14, progress=True)
    assert [one.category for one in caught] == [ConvergenceWarning] * (RANK == 0)
